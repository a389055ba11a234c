"""P24: `fit(epochs=1)` in an outer loop, with one checkpoint: stateful nets, curricula, folds."""

import copy
import gc
import multiprocessing
import os
import pickle
import weakref

import numpy as np
import pytest

import keras
import peakhold.keras
from keras_helpers import Curve, Recorder, fit, model, same, saved_weights
from peakhold.keras import BackupAndRestore, EarlyStopping, ModelCheckpoint, ReduceLROnPlateau

of_no_framework = pytest.mark.torch_is_enough(
    "what carries over from one fit to the next is Python's; that it is this model's is looked at on every backend"
)

LIBS = {"keras": keras.callbacks, "peakhold": peakhold.keras}
BEST = {"monitor": "val_loss", "save_best_only": True}


@pytest.fixture(params=LIBS)
def lib(request):
    return LIBS[request.param]


def turns(net, saver, values, *more, **arguments):
    """One `fit(epochs=1)` for each value; the weights at the end of each."""
    weights = []
    for value in values:
        fit(net, [Curve(val_loss=[value]), saver, *more], 1, **arguments)
        weights.append(net.get_weights())
    return weights


def models(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.keras"))


# As Keras does it: each of these runs with Keras's class, too


def test_the_file_keeps_the_best_over_the_turns(lib, tmp_path):
    path = tmp_path / "best.keras"
    saver = lib.ModelCheckpoint(path, **BEST)
    weights = turns(model(), saver, [0.5, 0.3, 0.4, 0.6])

    assert saver.best == 0.3
    assert same(saved_weights(path), weights[1])
    assert models(tmp_path) == ["best.keras"]


@of_no_framework
@pytest.mark.parametrize("mode", ["auto", "max"])
def test_so_it_does_where_more_is_better(lib, mode, tmp_path):
    path = tmp_path / "best.keras"
    saver = lib.ModelCheckpoint(path, "val_accuracy", save_best_only=True, mode=mode)
    net, weights = model(metrics=["accuracy"]), []
    for value in (0.5, 0.7, 0.6):
        fit(net, [Curve(val_accuracy=[value]), saver], 1)
        weights.append(net.get_weights())

    assert saver.best == 0.7
    assert same(saved_weights(path), weights[1])


def test_a_curriculum_compiles_and_changes_its_data_between_the_stages(lib, tmp_path):
    path = tmp_path / "best.keras"
    saver = lib.ModelCheckpoint(path, **BEST)
    net, weights = model(), []
    rng = np.random.default_rng(1)
    for size, values in ((8, [0.9, 0.4]), (16, [0.6, 0.5]), (32, [0.3, 0.35])):
        net.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse", metrics=["mae"])
        x = rng.normal(size=(size, 3)).astype("float32")
        recorder = Recorder()
        net.fit(
            x, x.sum(axis=1), validation_data=(x, x.sum(axis=1)), epochs=2, verbose=0, batch_size=8,
            callbacks=[Curve(val_loss=values), saver, recorder],
        )  # fmt: skip
        weights.append(recorder.weights)

    assert saver.best == 0.3
    assert same(saved_weights(path), weights[2][0])
    assert models(tmp_path) == ["best.keras"]


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Keras cannot train a stateful layer on PyTorch"
)
def test_a_stateful_net_whose_state_is_reset_after_each_epoch(lib, tmp_path):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(16, 2, 1)).astype("float32")
    y = x.sum(axis=1)
    net = keras.Sequential(
        [
            keras.Input(batch_shape=(4, 2, 1)),
            keras.layers.LSTM(3, stateful=True),
            keras.layers.Dense(1),
        ]
    )
    net.compile(optimizer="sgd", loss="mse")
    path, weights = tmp_path / "best.keras", []
    saver = lib.ModelCheckpoint(path, **BEST)
    for value in (0.5, 0.2, 0.3, 0.4):
        net.fit(
            x, y, batch_size=4, epochs=1, shuffle=False, verbose=0, validation_data=(x, y),
            validation_batch_size=4, callbacks=[Curve(val_loss=[value]), saver],
        )  # fmt: skip
        net.layers[0].reset_state()
        weights.append(net.get_weights())

    assert saver.best == 0.2
    assert same(saved_weights(path), weights[1])


@of_no_framework
@pytest.mark.parametrize("first", [0, 1], ids=["each from 0", "counted on"])
def test_the_first_epoch_makes_no_difference(lib, first, tmp_path):
    path = tmp_path / "best.keras"
    saver = lib.ModelCheckpoint(path, **BEST)
    net, weights = model(), []
    for turn, value in enumerate((0.3, 0.5, 0.4)):
        curve = Curve(val_loss=[value] * 9)
        fit(net, [curve, saver], first * turn + 1, initial_epoch=first * turn)
        weights.append(net.get_weights())

    assert saver.best == 0.3
    assert same(saved_weights(path), weights[0])
    assert models(tmp_path) == ["best.keras"]


@of_no_framework
@pytest.mark.parametrize(
    ("given", "best", "file"), [(0.05, 0.05, 1), (None, 0.35, 3)], ids=["a bar", "none"]
)
def test_what_is_set_between_two_turns_counts(lib, given, best, file, tmp_path):
    path = tmp_path / "best.keras"
    saver, net = lib.ModelCheckpoint(path, **BEST), model()
    weights = turns(net, saver, [0.5, 0.2])
    saver.best = given
    weights += turns(net, saver, [0.4, 0.35])

    assert saver.best == best
    assert same(saved_weights(path), weights[file])


@of_no_framework
def test_another_path_between_two_turns(lib, tmp_path):
    saver, net = lib.ModelCheckpoint(tmp_path / "a.keras", **BEST), model()
    weights = turns(net, saver, [0.5, 0.2])
    saver.filepath = str(tmp_path / "b.keras")
    weights += turns(net, saver, [0.3])
    assert models(tmp_path) == ["a.keras"]
    weights += turns(net, saver, [0.1])

    assert models(tmp_path) == ["a.keras", "b.keras"]
    assert same(saved_weights(tmp_path / "a.keras"), weights[1])
    assert same(saved_weights(tmp_path / "b.keras"), weights[3])


@of_no_framework
def test_batches_are_counted_over_the_turns(lib, tmp_path):
    """Four batches in each turn, and a save after every six: the sixth, twelfth, eighteenth."""
    saver = lib.ModelCheckpoint(tmp_path / "{batch}-{loss}.keras", save_freq=6)
    net, seen = model(), []
    for _ in range(5):
        before = set(models(tmp_path))
        fit(net, [saver], 1)
        seen.append({name.split("-")[0] for name in set(models(tmp_path)) - before})
    ours_at_the_end = set() if lib is keras.callbacks else {"4"}

    expected = [set(), {"2"}, {"4"}, set(), {"2"}]
    assert seen == [each | ours_at_the_end for each in expected]


@of_no_framework
def test_files_of_earlier_turns_are_written_over(lib, tmp_path):
    saver, net = lib.ModelCheckpoint(tmp_path / "{epoch}.keras"), model()
    weights = turns(net, saver, [0.5, 0.2, 0.4])

    assert models(tmp_path) == ["1.keras"]
    assert same(saved_weights(tmp_path / "1.keras"), weights[2])


@of_no_framework
def test_another_model_begins_afresh_here_and_loses_nothing(tmp_path):
    path = tmp_path / "best.keras"
    saver = ModelCheckpoint(path, **BEST)
    first = turns(model(), saver, [0.2])
    second = turns(model(), saver, [0.9, 0.8])

    assert saver.best == 0.8
    assert same(saved_weights(path), second[1])
    assert same(saved_weights(tmp_path / "previous/best.keras"), first[0])


@of_no_framework
def test_and_so_does_the_first_one_when_it_comes_back(tmp_path):
    saver, one, other = ModelCheckpoint(tmp_path / "best.keras", **BEST), model(), model()
    turns(one, saver, [0.2])
    turns(other, saver, [0.9])
    turns(one, saver, [0.5])

    assert saver.best == 0.5


@of_no_framework
def test_cross_validation_with_one_checkpoint_begins_afresh_in_each_fold(tmp_path):
    saver = ModelCheckpoint(tmp_path / "{run_id}.keras", **BEST)
    for fold in range(3):
        net = model()
        weights = turns(net, saver, [0.5 + fold, 0.4 + fold, 0.6 + fold])
        assert saver.best == 0.4 + fold
        assert same(saved_weights(saver.best_path), weights[1])


@of_no_framework
@pytest.mark.parametrize(
    "way", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))],
    ids=["copy", "deepcopy", "pickle"],
)  # fmt: skip
def test_a_copy_begins_afresh(way, tmp_path):
    saver, net = ModelCheckpoint(tmp_path / "best.keras", **BEST), model()
    first = turns(net, saver, [0.2])
    copied = way(saver)
    second = turns(net, copied, [0.9])

    assert copied.best == 0.9
    assert saver.best == 0.2
    assert same(saved_weights(tmp_path / "best.keras"), second[0])
    assert same(saved_weights(tmp_path / "previous/best.keras"), first[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the others' threads do not fork")
def test_another_process_begins_afresh(tmp_path):
    saver, net = ModelCheckpoint(tmp_path / "best.keras", **BEST), model()
    turns(net, saver, [0.2])
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def child():
        turns(net, saver, [0.9])
        queue.put(saver.best)

    process = context.Process(target=child)
    process.start()
    process.join(120)

    assert queue.get() == 0.9
    assert models(tmp_path) == ["best.keras", "previous/best.keras"]


def test_the_model_is_not_kept_alive_and_no_other_is_taken_for_it(tmp_path):
    def train():
        saver, net = ModelCheckpoint(tmp_path / "best.keras", **BEST), model()
        turns(net, saver, [0.2])
        trained = saver._peakhold_link.participant._turns
        assert trained.continue_on(net)
        return trained, weakref.ref(net)

    trained, gone = train()
    keras.utils.clear_session(free_memory=True)
    gc.collect()

    assert gone() is None
    assert not trained.continue_on(None)
    assert not trained.continue_on(model())


@of_no_framework
def test_it_is_said_once_what_it_goes_on_from(tmp_path, capsys):
    path = tmp_path / "best.keras"
    saver, net = ModelCheckpoint(path, **BEST), model()
    turns(net, saver, [0.5, 0.3, 0.4])
    said = [line for line in capsys.readouterr().out.splitlines() if line]

    words = (
        "Peakhold: ModelCheckpoint goes on from its earlier fits of this model: the value to beat is val_loss "
        f"0.50000, saved in {path}. A new ModelCheckpoint starts afresh."
    )
    assert said == [words]
    turns(model(), saver, [0.4, 0.3])
    assert "goes on from" not in capsys.readouterr().out


@of_no_framework
def test_another_metric_between_two_turns_has_no_best_yet(tmp_path):
    """Keras compares an accuracy with a loss."""
    saver, net = ModelCheckpoint(tmp_path / "best.keras", **BEST), model()
    turns(net, saver, [0.01])
    saver.monitor = "val_mae"
    fit(net, [Curve(val_mae=[0.7]), saver], 1)

    assert saver.best == 0.7
    assert models(tmp_path) == ["best.keras"], "its own file, still"


@of_no_framework
def test_another_direction_between_two_turns_has_no_best_yet(tmp_path):
    saver, net = (
        ModelCheckpoint(tmp_path / "best.keras", "m", save_best_only=True, mode="min"),
        model(),
    )
    fit(net, [Curve(m=[0.5]), saver], 1)
    saver.mode = "max"
    fit(net, [Curve(m=[0.4]), saver], 1)

    assert saver.best == 0.4


@of_no_framework
def test_only_the_checkpoint_goes_on(tmp_path):
    """Keras's own tests want `EarlyStopping` and `ReduceLROnPlateau` fresh in each fit."""
    stopping, plateau = EarlyStopping(patience=5), ReduceLROnPlateau(patience=2)
    turns(model(), ModelCheckpoint(tmp_path / "b.keras", **BEST), [0.2, 0.5], stopping, plateau)

    assert stopping.best == plateau.best == 0.5


@of_no_framework
@pytest.mark.parametrize(
    "more", [{"keep_best": 2}, {"keep_last": 2}, {"keep_best": 2, "keep_last": 2}]
)
def test_files_of_earlier_turns_count_among_those_that_stay(more, tmp_path):
    saver = ModelCheckpoint(tmp_path / "{val_loss}.keras", "val_loss", **more)
    turns(model(), saver, [0.1, 0.9, 0.2, 0.8])
    kept = {
        "keep_best": {"0.1.keras", "0.2.keras", "0.8.keras"},  # and the newest
        "keep_last": {"0.2.keras", "0.8.keras"},
    }

    assert set(models(tmp_path)) == set().union(*(kept[name] for name in more))


@of_no_framework
def test_a_backup_brings_the_turn_back_and_the_next_goes_on(tmp_path):
    """Killed in the second epoch of its second turn, and the cell is run again."""

    class Breaks(keras.callbacks.Callback):
        at = None

        def on_epoch_end(self, epoch, logs=None):
            if epoch == self.at:
                raise KeyError(epoch)

    saver, net, breaks = ModelCheckpoint(tmp_path / "best.keras", **BEST), model(), Breaks()

    def turn(values):
        backup = BackupAndRestore(tmp_path / "backup")
        fit(net, [Curve(val_loss=values), saver, backup, breaks], len(values))

    turn([0.5, 0.3])
    breaks.at = 1
    with pytest.raises(KeyError):
        turn([0.4, 0.2, 0.6])
    breaks.at = None
    turn([0.4, 0.2, 0.6])
    assert saver.best == 0.2
    turn([0.25, 0.3])

    assert saver.best == 0.2
    assert models(tmp_path) == ["best.keras"]


@of_no_framework
def test_a_file_that_somebody_moved_is_not_said_to_be_there(tmp_path, capsys):
    """A curriculum that takes each stage's best away: the value stays, as with Keras's class."""
    saver, net = ModelCheckpoint(tmp_path / "best.keras", **BEST), model()
    turns(net, saver, [0.2])
    os.replace(tmp_path / "best.keras", tmp_path / "stage-1.keras")
    fit(net, [Curve(val_loss=[0.5]), saver], 1, verbose=2)

    assert saver.best == 0.2
    text = capsys.readouterr().out
    assert "which is not there any more" in text
    turns(net, saver, [0.1])
    assert models(tmp_path) == ["best.keras", "stage-1.keras"]
