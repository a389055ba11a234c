"""One `ModelCheckpoint` in a list that is begun again, on the same thing or on another."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from peakhold import CallbackList, EarlyStopping, LoopHost, ModelCheckpoint


def saver(folder, **more):
    more = {"monitor": "loss", "save_best_only": True, **more}
    return ModelCheckpoint(str(folder / "best.safetensors"), **more)


def turn(callbacks, *losses):
    callbacks.on_train_begin()
    for epoch, loss in enumerate(losses):
        callbacks.on_epoch_begin(epoch)
        callbacks.on_epoch_end(epoch, {"loss": loss})
        if callbacks.stop_training:
            break
    callbacks.on_train_end()


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*.safetensors"))


def arrays():
    weights = {"w": np.zeros(3)}
    return LoopHost(get_state=lambda: weights, set_state=weights.update)


def module():
    return torch.nn.Linear(2, 1)


WAYS = {
    "one list": lambda one, made: lambda: made,
    "a list for each turn": lambda one, made: lambda: CallbackList(one["saver"], **one["what"]),
}
THINGS = {
    "a module": lambda: {"model": module()},
    "a host": lambda: {"host": arrays()},
    "a host of a module": lambda: {"host": LoopHost(module())},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("thing", THINGS)
def test_it_goes_on_on_the_same_thing(way, thing, tmp_path):
    what = THINGS[thing]()
    one = {"saver": saver(tmp_path), "what": what}
    lists = WAYS[way](one, CallbackList(one["saver"], **what))
    for losses in ((0.5, 0.3), (0.4,), (0.35, 0.6)):
        turn(lists(), *losses)

    assert one["saver"].best == 0.3
    assert names(tmp_path) == ["best.safetensors"]
    turn(lists(), 0.2)
    assert one["saver"].best == 0.2
    assert names(tmp_path) == ["best.safetensors"]


@pytest.mark.parametrize("thing", THINGS)
def test_it_begins_afresh_on_another(thing, tmp_path):
    one = saver(tmp_path)
    turn(CallbackList(one, **THINGS[thing]()), 0.3)
    turn(CallbackList(one, **THINGS[thing]()), 0.4)

    assert one.best == 0.4
    assert names(tmp_path) == ["best.safetensors", "previous/best.safetensors"]


def test_a_new_host_of_the_same_module_is_the_same_module(tmp_path):
    one, net = saver(tmp_path), module()
    turn(CallbackList(one, host=LoopHost(net)), 0.3)
    turn(CallbackList(one, net), 0.4)

    assert one.best == 0.3


def test_what_cannot_be_held_weakly_is_known_by_its_list(tmp_path):
    class Slotted:
        __slots__ = ("weights",)

        def get_weights(self):
            return [np.zeros(2)]

        def set_weights(self, weights):
            pass

    one, thing = saver(tmp_path), Slotted()
    callbacks = CallbackList(one, thing)
    turn(callbacks, 0.3)
    turn(callbacks, 0.4)
    assert one.best == 0.3
    turn(CallbackList(one, thing), 0.4)
    assert one.best == 0.4


def test_a_state_that_was_loaded_counts_before_what_the_object_knows(tmp_path):
    one, net = saver(tmp_path), module()
    other = saver(tmp_path)
    callbacks = CallbackList(one, net)
    turn(callbacks, 0.3)
    turn(CallbackList(other, module()), 0.5)
    one.load_state_dict(other.state_dict())
    turn(callbacks, 0.45)

    assert one.best == 0.45


# `best` with `keep_best`


@pytest.fixture
def kept(tmp_path):
    return ModelCheckpoint(str(tmp_path / "w_{epoch}_{loss}.safetensors"), "loss", keep_best=2)


def of(path):
    return float(path.removesuffix(".safetensors").rpartition("_")[2])


def test_keep_best_tells_the_best_file_that_is_kept(kept, tmp_path):
    net, seen = module(), []
    callbacks = CallbackList(kept, net)
    callbacks.on_train_begin()
    assert (kept.best, kept.best_path, kept.latest_path) == (None, None, None)
    for epoch, loss in enumerate((0.5, 0.3, 0.4, float("nan"), 0.6)):
        callbacks.on_epoch_begin(epoch)
        callbacks.on_epoch_end(epoch, {"loss": loss})
        kept.wait()
        seen.append((kept.best, kept.best_epoch, of(kept.best_path), of(kept.latest_path)))
    callbacks.on_train_end()

    assert seen == [
        (0.5, 0, 0.5, 0.5), (0.3, 1, 0.3, 0.3), (0.3, 1, 0.3, 0.4), (0.3, 1, 0.3, 0.4),
        (0.3, 1, 0.3, 0.6),
    ]  # fmt: skip
    there = [of(name) for name in names(tmp_path)]
    assert min(there) == kept.best


def test_keep_best_knows_them_in_a_run_that_goes_on(kept, tmp_path):
    turn(CallbackList(kept, module()), 0.3, 0.4, 0.5)
    later = ModelCheckpoint(kept.filepath, "loss", keep_best=2)
    callbacks = CallbackList(later, module())
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(3)
    callbacks.on_train_batch_end(0, {})
    callbacks.on_epoch_end(3, {"loss": 0.6})
    later.wait()

    assert (later.best, later.best_epoch, of(later.best_path)) == (0.3, 0, 0.3)
    assert of(later.latest_path) == 0.6
    callbacks.on_train_end()


def test_a_run_that_goes_on_knows_the_newest_file(tmp_path):
    path = str(tmp_path / "w_{epoch}.safetensors")
    turn(CallbackList(ModelCheckpoint(path), module()), 0.3, 0.4)
    later = ModelCheckpoint(path)
    callbacks = CallbackList(later, module())
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(2)
    callbacks.on_train_end()

    assert later.latest_path == path.format(epoch=2)


def test_keep_best_goes_on_over_the_turns(kept, tmp_path):
    callbacks = CallbackList(kept, module())
    turn(callbacks, 0.3)
    turn(callbacks, 0.5)
    assert (kept.best, of(kept.best_path)) == (0.3, 0.3)
    turn(callbacks, 0.2)
    assert (kept.best, of(kept.best_path)) == (0.2, 0.2)


def test_best_of_keep_best_follows_the_files(tmp_path):
    """Each turn writes `w_1` over the one before: the best is what is there."""
    one = ModelCheckpoint(str(tmp_path / "w_{epoch}.safetensors"), "loss", keep_best=2)
    callbacks = CallbackList(one, module())
    turn(callbacks, 0.3)
    turn(callbacks, 0.5)

    assert (one.best, one.best_path) == (0.5, str(tmp_path / "w_1.safetensors"))


# The last lines, of real loops


def lines(capsys):
    said = capsys.readouterr().out.splitlines()
    return [line.removeprefix("Peakhold: ") for line in said if line.startswith("Peakhold: best")]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def best_only(**more):
    return ModelCheckpoint("m.safetensors", "loss", save_best_only=True, **more)


def test_a_worse_run_names_the_file_that_is_better(here, capsys):
    net = module()
    turn(CallbackList(best_only(), net), 0.3, 0.1)
    first = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for losses, best in (((0.5, 0.4), "0.40000 at epoch 2"), ((0.6,), "0.60000 at epoch 1")):
        capsys.readouterr()
        turn(CallbackList(best_only(), module()), *losses)
        (line,) = lines(capsys)
        assert line == (
            f"best loss {best}, saved in m.safetensors; "
            "an earlier run's loss 0.10000 is better, saved in previous/m.safetensors."
        )
    loaded = load_file("previous/m.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in first.items())


def test_a_better_run_names_no_other(here, capsys):
    for losses in ((0.3,), (0.2,)):
        capsys.readouterr()
        turn(CallbackList(best_only(), module()), *losses)
    assert lines(capsys) == ["best loss 0.20000 at epoch 1, saved in m.safetensors."]


@pytest.mark.parametrize(
    "name", ["w_{epoch}_{loss}.safetensors", "{run_id}.safetensors", "{run_id}/w.safetensors"]
)
def test_a_better_file_of_another_name_is_named_too(name, here, capsys):
    first = ModelCheckpoint(name, "loss", save_best_only=True)
    turn(CallbackList(first, module()), 0.1)
    capsys.readouterr()
    turn(CallbackList(ModelCheckpoint(name, "loss", save_best_only=True), module()), 0.5)

    (line,) = lines(capsys)
    assert line.endswith(f"; an earlier run's loss 0.10000 is better, saved in {first.best_path}.")


def test_a_better_file_that_is_gone_is_not_named(here, capsys):
    turn(CallbackList(best_only(), module()), 0.1)
    turn(CallbackList(best_only(), module()), 0.5)
    (here / "previous/m.safetensors").unlink()
    capsys.readouterr()
    turn(CallbackList(best_only(), module()), 0.4)

    assert "0.10000" not in lines(capsys)[0]


def test_a_turn_that_was_no_better_says_whose_the_best_is(here, capsys):
    saver, net = best_only(), module()
    stopping = EarlyStopping("loss", patience=1, restore_best_weights=True)
    for losses in ((0.3, 0.5), (0.4, 0.6)):
        capsys.readouterr()
        turn(CallbackList([saver, stopping], net), *losses)

    (line,) = lines(capsys)
    assert line == (
        "best loss 0.30000 at epoch 1 of an earlier fit, saved in m.safetensors; "
        "best loss 0.40000 at epoch 1, restored to the model."
    )


def test_saved_nothing_says_whose_the_file_is_that_is_there(here, capsys):
    turn(CallbackList(best_only(), module()), 0.3)
    turn(CallbackList(best_only(initial_value_threshold=0.01), module()), 0.5)

    assert capsys.readouterr().out.splitlines()[-2] == (
        "Peakhold: ModelCheckpoint saved nothing to 'm.safetensors' (the file that is there is an "
        "earlier run's): loss did not improve from 0.01."
    )


def test_a_turn_without_an_epoch_says_what_is_there(here, capsys):
    saver, net = ModelCheckpoint("w.safetensors"), module()
    turn(CallbackList(saver, net), 0.3)
    turn(CallbackList(saver, net))

    assert capsys.readouterr().out.splitlines()[-2] == (
        "Peakhold: ModelCheckpoint saved nothing: no epoch has ended; its newest file is w.safetensors."
    )


def test_a_loop_that_is_left_by_a_break(here, capsys):
    turn(CallbackList(best_only(), module(), epochs=5), 0.3)

    assert (
        "Peakhold: training ended after epoch 1 of 5: the loop was left." in capsys.readouterr().out
    )
