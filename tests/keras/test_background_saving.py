"""`ModelCheckpoint` writes while training goes on: what is in the files, and what is left behind."""

import copy
import gc
import io
import mmap
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import weakref
import zipfile

import h5py
import numpy as np
import pytest

import keras
import peakhold.keras as pk
from conftest import BACKEND
from keras_helpers import (
    Curve,
    Recorder,
    data,
    epoch_of,
    fit,
    in_two_threads,
    model,
    same,
    saved_weights,
)
from leftovers import check_nothing_is_left
from peakhold import files
from peakhold.checkpoint_files import queue as checkpoint_queue
from peakhold.errors import SaveError, SaveWarning
from peakhold.files import background

of_no_framework = pytest.mark.torch_is_enough(
    "who writes, when, and what is told is Python's; what is written is looked at on every backend"
)


@pytest.fixture(autouse=True)
def nothing_is_left_behind(tmp_path):
    yield
    check_nothing_is_left(tmp_path)


@pytest.fixture
def commits(monkeypatch):
    """`(name, thread)` of each model's file that is committed, in order."""
    seen, commit = [], files.commit

    def noting(path, *args, **kwargs):
        done = commit(path, *args, **kwargs)
        if not str(path).endswith(".peakhold.json"):
            seen.append((os.path.basename(path), threading.current_thread().name))
        return done

    monkeypatch.setattr(files, "commit", noting)
    return seen


def saver(path, **arguments):
    weights = str(path).endswith(".weights.h5")
    return pk.ModelCheckpoint(path, save_weights_only=weights, **arguments)


# What is in the files


@keras.saving.register_keras_serializable("test_background_saving")
class Scalar(keras.layers.Layer):
    """A weight without dimensions."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        return x * self.scale


def rich(functional=False):
    layers = [
        keras.layers.Dense(8, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.25, seed=3),
        Scalar(),
        keras.layers.Dense(1),
    ]
    if functional:
        x = entry = keras.Input((3,))
        for layer in layers:
            x = layer(x)
        net = keras.Model(entry, x)
    else:
        net = keras.Sequential([keras.Input((3,)), *layers])
    net.compile(keras.optimizers.Adam(0.01), keras.losses.MeanSquaredError(), metrics=["mae"])
    return net


def content(path):
    """Every array and attribute of a file, and whatever else a zip holds, without its date."""
    parts = {}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        parts.pop("metadata.json")
        stream = io.BytesIO(parts.pop("model.weights.h5"))
    else:
        stream = path
    with h5py.File(stream) as file:
        parts["attributes"] = {key: str(value) for key, value in file.attrs.items()}

        def note(name, node):
            array = np.array(node) if isinstance(node, h5py.Dataset) else None
            attributes = {key: str(value) for key, value in node.attrs.items()}
            told = None if array is None else (array.dtype.str, array.shape, array.tobytes())
            parts[name] = told, attributes

        file.visititems(note)
    return parts


class StockFiles(keras.callbacks.Callback):
    """A user's callback before ours: Keras's own file of each epoch; then the writer is held."""

    def __init__(self, folder, suffix, hold):
        super().__init__()
        self.folder, self.suffix, self.hold = folder, suffix, hold

    def on_epoch_end(self, epoch, logs=None):
        path = self.folder / f"{epoch + 1}{self.suffix}"
        if self.suffix == ".weights.h5":
            self.model.save_weights(path)
        else:
            self.model.save(path)
        self.hold.close()

    def on_train_batch_end(self, batch, logs=None):
        self.hold.open()  # the weights have been changed since the save was asked for

    def on_train_end(self, logs=None):
        self.model.set_weights([w + 1 for w in self.model.get_weights()])
        self.hold.open()


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize(
    ("suffix", "n_saves"),
    [
        (".weights.h5", 10),
        (".keras", 10),
        (".h5", 10),
        pytest.param(".weights.h5", 200, marks=pytest.mark.exhaustive),
        pytest.param(".keras", 30, marks=pytest.mark.exhaustive),
        pytest.param(".h5", 30, marks=pytest.mark.exhaustive),
    ],
)
def test_no_file_is_torn(suffix, n_saves, tmp_path, hold, commits):
    """The writer begins when the next batch has changed the weights: each file is its epoch's."""
    stock = tmp_path / "stock"
    stock.mkdir()
    x, y = data(16)
    callback = saver(tmp_path / f"{{epoch}}{suffix}", background=True)
    rich().fit(
        x, y, batch_size=8, epochs=n_saves, verbose=0,
        callbacks=[StockFiles(stock, suffix, hold), callback],
    )  # fmt: skip

    assert commits == [(f"{n}{suffix}", "peakhold-writer") for n in range(1, n_saves + 1)]
    contents = [content(tmp_path / name) for name, _ in commits]
    assert contents == [content(stock / name) for name, _ in commits]
    arrays = [[told for told in parts.values() if isinstance(told, tuple)] for parts in contents]
    assert all(one != other for one, other in zip(arrays, arrays[1:], strict=False))
    assert any(told[0] and told[0][1] == () for told in arrays[0]), "one without dimensions"


@pytest.mark.filterwarnings("ignore:Skipping variable loading", "ignore:You are saving")
@pytest.mark.parametrize(
    ("functional", "suffix"),
    [
        (True, ".weights.h5"), (False, ".keras"), (True, ".h5"),
        *(pytest.param(*one, marks=of_no_framework)
          for one in [(False, ".weights.h5"), (True, ".keras"), (False, ".h5")]),
    ],
)  # fmt: skip
def test_usual_models_are_written_in_the_background(functional, suffix, tmp_path, commits):
    path = tmp_path / f"last{suffix}"
    net = rich(functional)
    fit(net, [saver(path)], 2)

    assert commits[-1] == (path.name, "peakhold-writer")
    assert same(saved_weights(path, rich(functional)), net.get_weights())


# Which thread


@of_no_framework
def test_a_users_callback_behind_it_finds_the_file(tmp_path, commits):
    found = []
    behind = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: found.append(os.path.exists(tmp_path / "w1.keras"))
    )
    fit(model(), [saver(tmp_path / "w{epoch}.keras"), behind], 1)

    assert found == [True]
    assert commits == [("w1.keras", "MainThread")]


@of_no_framework
def test_who_overrides_a_hook_finds_the_file(tmp_path):
    class Uploads(pk.ModelCheckpoint):
        found = None

        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            self.found = os.path.exists(self.filepath)

    callback = Uploads(tmp_path / "m.keras")
    fit(model(), [callback], 1)

    assert callback.found


@of_no_framework
@pytest.mark.parametrize(
    ("arguments", "behind", "thread"),
    [
        ({}, [], "peakhold-writer"),
        ({}, [Recorder], "MainThread"),
        ({"background": True}, [Recorder], "peakhold-writer"),
        ({"background": False}, [], "MainThread"),
        ({"background": True, "memory_budget": 10}, [], "MainThread"),
    ],
)
def test_the_thread_can_be_chosen(arguments, behind, thread, tmp_path, commits):
    path = tmp_path / "w{epoch}.keras"
    fit(model(), [Recorder(), saver(path, **arguments), *(kind() for kind in behind)], 2)

    assert commits == [("w1.keras", thread), ("w2.keras", thread)]


@of_no_framework
def test_a_loop_by_hand_reads_right_after_the_event(tmp_path):
    callbacks = pk.CallbackList(saver(tmp_path / "w{epoch}.keras"), model=model(), epochs=1)
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    callbacks.on_epoch_end(0, {"loss": 1.0})

    assert (tmp_path / "w1.keras").exists()
    callbacks.on_train_end()


@of_no_framework
def test_a_model_with_its_own_save_is_written_directly_and_that_is_said_once(
    tmp_path, commits, capsys
):
    class Own(keras.Sequential):
        def save_weights(self, filepath, overwrite=True):
            super().save_weights(filepath, overwrite=overwrite)

    net = Own([keras.Input((3,)), keras.layers.Dense(1)])
    net.compile("sgd", "mse")
    fit(net, [saver(tmp_path / "{epoch}.weights.h5")], 3, verbose=2)

    assert [thread for _, thread in commits] == ["MainThread"] * 3
    assert capsys.readouterr().out.count("has a save_weights() of its own") == 1


@of_no_framework
def test_a_memory_budget_is_kept_and_said_once(tmp_path, commits, capsys):
    net = rich()
    fit(net, [saver(tmp_path / "{epoch}.keras", memory_budget=100)], 3, verbose=2)

    assert [thread for _, thread in commits] == ["MainThread"] * 3
    assert capsys.readouterr().out.count("memory_budget=100") == 1


@of_no_framework
def test_no_memory_for_a_copy_is_said_once_and_the_file_is_there(
    tmp_path, commits, capsys, monkeypatch
):
    real = mmap.mmap

    def refusing(fd, length, **named):
        if length > 1 << 20:
            raise OSError(12, "Cannot allocate memory")
        return real(fd, length, **named)

    monkeypatch.setattr(mmap, "mmap", refusing)
    fit(model(units=100_000), [saver(tmp_path / "{epoch}.keras")], 2, verbose=2)

    assert [thread for _, thread in commits] == ["MainThread"] * 2
    assert capsys.readouterr().out.count("there is no memory for a copy of its state") == 1
    assert len(list(tmp_path.glob("*.keras"))) == 2


# What is dropped, and what is not


class Holds(keras.callbacks.Callback):
    """The writer is held from the end of one epoch to that of another."""

    def __init__(self, hold, first, last):
        super().__init__()
        self.hold, self.first, self.last = hold, first, last

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.first:
            self.hold.close()

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.last + 1:
            self.hold.open()

    def on_train_end(self, logs=None):
        self.hold.open()


@of_no_framework
def test_a_fixed_name_is_written_once_for_several_epochs(tmp_path, hold, commits):
    recorder, path = Recorder(), tmp_path / "last.weights.h5"
    callback = saver(path)
    fit(model(), [recorder, Holds(hold, 0, 8), callback], 9)

    assert len(commits) == 2, "the one that had its place first, and the last"
    assert epoch_of(saved_weights(path), recorder) == 8
    assert callback.latest_path == str(path)


@of_no_framework
def test_no_file_of_its_own_name_is_dropped(tmp_path, hold, commits, monkeypatch):
    """Training waits when two are under way: only then the writer goes on."""
    waits = checkpoint_queue.SaveQueue.wait_for_room

    def wait_for_room(self, limit):
        if len([s for s in self._saves if not s.task.done]) >= limit:
            hold.open()
        waits(self, limit)

    monkeypatch.setattr(checkpoint_queue.SaveQueue, "wait_for_room", wait_for_room)
    recorder = Recorder()
    fit(model(), [recorder, Holds(hold, 0, 99), saver(tmp_path / "{epoch}.weights.h5")], 9)

    assert [name for name, _ in commits] == [f"{n}.weights.h5" for n in range(1, 10)]
    for epoch in range(9):
        weights = saved_weights(tmp_path / f"{epoch + 1}.weights.h5")
        assert epoch_of(weights, recorder) == epoch


class Explodes(keras.callbacks.Callback):
    def __init__(self, *epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        if epoch in self.epochs:
            self.good = self.model.get_weights()
            self.model.set_weights([w * np.nan for w in self.good])

    def on_epoch_begin(self, epoch, logs=None):
        if epoch - 1 in self.epochs:
            self.model.set_weights(self.good)


@pytest.mark.parametrize("background", [True, False])
def test_what_is_not_finite_takes_nobodys_place(background, tmp_path, hold):
    """Neither that of a file, nor that of a save that waits."""
    recorder, path = Recorder(), tmp_path / "last.weights.h5"
    callbacks = [Explodes(3), recorder, saver(path, background=background)]
    if background:
        callbacks.insert(0, Holds(hold, 0, 3))
    with pytest.warns(SaveWarning, match="does not save epoch 4: .* NaN or infinity"):
        fit(model(), callbacks, 4)

    assert epoch_of(saved_weights(path), recorder) == 2


@of_no_framework
@pytest.mark.parametrize("background", [True, False])
def test_what_is_not_finite_is_never_the_best(background, tmp_path):
    recorder, path = Recorder(), tmp_path / "best.weights.h5"
    callback = saver(path, monitor="m", mode="min", save_best_only=True, background=background)
    curve = Curve(m=[0.5, 0.1, 0.4, 0.45])
    with pytest.warns(SaveWarning, match="does not save epoch 2"):
        fit(model(), [curve, Explodes(1), recorder, callback], 4)

    assert (callback.best, callback.best_epoch) == (0.4, 2)
    assert epoch_of(saved_weights(path), recorder) == 2


def test_the_optimizer_is_looked_at_too(tmp_path):
    class Breaks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            for variable in self.model.optimizer.variables:
                if "momentum" in variable.path:
                    variable.assign(keras.ops.convert_to_tensor(variable) * np.nan)

    with pytest.warns(SaveWarning, match="momentum.* holds NaN or infinity"):
        fit(
            model(keras.optimizers.SGD(0.01, momentum=0.9)),
            [Breaks(), saver(tmp_path / "m.keras")],
            1,
        )

    assert os.listdir(tmp_path) == []


# What is known, and when


@of_no_framework
def test_the_value_to_beat_includes_what_is_under_way_and_paths_do_not(tmp_path, hold):
    path, seen = tmp_path / "best{epoch}.weights.h5", []
    callback = saver(path, monitor="m", mode="min", save_best_only=True, background=True)
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(
            (callback.best, callback.best_path, callback.latest_path)
        )
    )
    fit(model(), [Curve(m=[0.5, 0.6, 0.4]), Holds(hold, 0, 2), callback, look], 3)

    assert seen == [(0.5, None, None), (0.5, None, None), (0.4, None, None)]
    assert sorted(p.name for p in tmp_path.glob("*.h5")) == ["best1.weights.h5", "best3.weights.h5"]
    assert callback.best_path == callback.latest_path == str(path).format(epoch=3)
    assert (callback.best, callback.best_epoch) == (0.4, 2)


class Waits(keras.callbacks.Callback):
    def __init__(self, callback):
        super().__init__()
        self.callback = callback

    def on_epoch_begin(self, epoch, logs=None):
        assert self.callback.wait()


@of_no_framework
@pytest.mark.parametrize("background", [True, False])
def test_a_failed_save_gives_best_back(background, tmp_path):
    """A folder stands where the second file should go."""
    template = str(tmp_path / "w{epoch}.weights.h5")
    os.mkdir(template.format(epoch=2))
    callback = saver(template, monitor="m", mode="min", save_best_only=True, background=background)
    with pytest.warns(SaveWarning, match="could not save epoch 2 .*training goes on"):
        fit(model(), [Curve(m=[0.5, 0.3, 0.4]), Waits(callback), callback], 3)

    assert (callback.best, callback.best_path) == (0.4, template.format(epoch=3))


class Obstacle(keras.callbacks.Callback):
    """A folder stands where a file should go, until an epoch begins."""

    def __init__(self, path, until):
        super().__init__()
        self.path, self.until = path, until
        os.mkdir(path)

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.until:
            os.rmdir(self.path)


REFUSED = r"could not save epoch 2 .*A copy of its state is kept, to try once more\."


@of_no_framework
@pytest.mark.parametrize("name", ["w{epoch}.weights.h5", "w{epoch}.keras"])
def test_a_best_that_the_disk_refused_once_is_not_lost(name, tmp_path):
    """It was heard of before epoch 3, which is better than what is there, and is saved first."""
    template, recorder = str(tmp_path / name), Recorder()
    callback = saver(template, monitor="m", mode="min", save_best_only=True)
    blocked = Obstacle(template.format(epoch=2), until=2)
    with pytest.warns(SaveWarning, match=REFUSED):
        fit(
            model(),
            [Curve(m=[0.5, 0.3, 0.4, 0.6]), recorder, Waits(callback), blocked, callback],
            4,
        )

    assert (callback.best, callback.best_epoch) == (0.3, 1)
    assert callback.best_path == template.format(epoch=2)
    for epoch in (1, 2, 3):
        assert epoch_of(saved_weights(template.format(epoch=epoch)), recorder) == epoch - 1


@of_no_framework
def test_an_epoch_that_did_not_beat_a_save_that_failed_later_is_made_up_for(
    tmp_path, hold, commits
):
    """The writer gets to epoch 2 when epochs 3 and 4 have been found to be no better; at the end."""
    path, recorder = tmp_path / "best.keras", Recorder()
    callback = saver(path, monitor="m", mode="min", save_best_only=True)

    class Blocks(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                callback.wait()
                os.rename(path, path.with_suffix(".first"))
                os.mkdir(path)

    class Clears(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            hold.open()
            callback._peakhold_link.participant._writer.queue.wait()
            os.rmdir(path)

    curve = Curve(m=[0.5, 0.3, 0.4, 0.45])
    with pytest.warns(SaveWarning, match=REFUSED):
        fit(model(), [curve, recorder, Blocks(), Holds(hold, 1, 9), Clears(), callback], 4)

    assert epoch_of(saved_weights(path), recorder) == 1
    assert (callback.best, callback.best_epoch, callback.best_path) == (0.3, 1, str(path))
    assert [name for name, _ in commits] == ["best.keras"] * 2


@of_no_framework
def test_what_was_refused_is_let_go_for_a_better_one(tmp_path, commits):
    template = str(tmp_path / "w{epoch}.weights.h5")
    callback = saver(template, monitor="m", mode="min", save_best_only=True)
    allocations = []
    look = Curve()
    look.on_epoch_begin = lambda epoch, logs=None: allocations.append(
        callback.session.pool.n_allocations
    )
    blocked = Obstacle(template.format(epoch=2), until=2)
    with pytest.warns(SaveWarning, match=REFUSED):
        fit(model(), [Curve(m=[0.5, 0.3, 0.2, 0.1]), Waits(callback), look, blocked, callback], 4)

    assert sorted(name for name, _ in commits) == [f"w{epoch}.weights.h5" for epoch in (1, 3, 4)]
    assert len(set(allocations)) == 1
    assert callback._peakhold_link.participant._writer.queue.refused is None


@of_no_framework
def test_a_disk_that_refuses_twice_is_asked_no_more(tmp_path):
    template = str(tmp_path / "w{epoch}.weights.h5")
    os.mkdir(template.format(epoch=2))
    callback = saver(template, monitor="m", mode="min", save_best_only=True)
    with pytest.warns(SaveWarning) as said:
        fit(model(), [Curve(m=[0.5, 0.3, 0.4, 0.6]), Waits(callback), callback], 4)

    told = [str(w.message) for w in said if "could not save" in str(w.message)]
    assert ["once more" in text for text in told] == [True, False]
    assert (callback.best, callback.best_path) == (0.4, template.format(epoch=3))
    assert callback._peakhold_link.participant._writer.queue.refused is None


@of_no_framework
def test_what_a_fit_that_raised_could_not_save_is_not_saved_in_the_next_one(tmp_path):
    path, recorder = tmp_path / "best.weights.h5", Recorder()
    callback = saver(path, monitor="m", mode="min", save_best_only=True)
    blocks = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: path.mkdir(exist_ok=True)
    )
    with pytest.warns(SaveWarning, match="once more"), pytest.raises(ZeroDivisionError):
        fit(model(), [Curve(m=[0.1]), blocks, Waits(callback), Raises(1), callback], 3)
    path.rmdir()
    fit(model(), [Curve(m=[0.5, 0.6]), recorder, callback], 2)

    assert (callback.best, callback.best_epoch) == (0.5, 0)
    assert epoch_of(saved_weights(path), recorder) == 0


@of_no_framework
def test_a_failed_save_may_end_training(tmp_path):
    template = str(tmp_path / "w{epoch}.keras")
    os.mkdir(template.format(epoch=1))
    with pytest.raises(SaveError):
        fit(model(), [saver(template, on_save_error="raise")], 3)


@of_no_framework
def test_what_only_the_writer_cannot_do_is_done_directly_from_then_on(
    tmp_path, commits, monkeypatch
):
    from peakhold.keras.files.planned_file import PlannedKerasFile

    def fails(self, file, held):
        raise KeyError("not written")

    monkeypatch.setattr(PlannedKerasFile, "write", fails)
    callback = saver(tmp_path / "{epoch}.keras")
    with pytest.warns(SaveWarning, match="could not save epoch 1"):
        fit(model(), [Waits(callback), callback], 3)

    assert commits == [("2.keras", "MainThread"), ("3.keras", "MainThread")]


@of_no_framework
def test_a_relative_path_means_where_the_process_was_when_the_save_was_asked_for(
    tmp_path, hold, monkeypatch
):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    callback = saver("last.keras", background=True)
    moves = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: os.chdir(tmp_path / "there") if epoch else None
    )
    with pytest.raises(ZeroDivisionError):
        fit(model(), [Holds(hold, 0, 9), moves, Raises(1), callback], 2)
    hold.open()
    assert callback.wait()

    assert callback.latest_path == "last.keras"
    assert os.listdir(tmp_path / "there") == []
    assert sorted(os.listdir(tmp_path / "here")) == ["last.keras", "last.keras.peakhold.json"]


# Ends of all kinds


class Raises(keras.callbacks.Callback):
    def __init__(self, at):
        super().__init__()
        self.at = at

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.at:
            raise ZeroDivisionError


@of_no_framework
def test_after_a_fit_that_raised_the_file_comes_and_can_be_waited_for(tmp_path, hold):
    recorder, path = Recorder(), tmp_path / "last.weights.h5"
    callback = saver(path, background=True)
    with pytest.raises(ZeroDivisionError):
        fit(model(), [recorder, Holds(hold, 1, 9), Raises(2), callback], 4)
    assert not callback.wait(timeout_s=0)
    hold.open()
    assert callback.wait()

    assert callback.latest_path == str(path)
    assert epoch_of(saved_weights(path), recorder) == 1


@of_no_framework
@pytest.mark.parametrize("again", ["same", "new"])
def test_a_fit_on_the_path_of_one_that_raised_finds_its_file(again, tmp_path, hold):
    path, recorder = tmp_path / "last.weights.h5", Recorder()
    first = saver(path, background=True)
    with pytest.raises(ZeroDivisionError):
        fit(model(), [recorder, Holds(hold, 0, 9), Raises(1), first], 4)

    class Opens(keras.callbacks.Callback):
        def set_params(self, params):  # before any train begin
            hold.open()

    second = first if again == "same" else saver(path, background=True)
    fit(model(), [Opens(), second], 1)

    assert epoch_of(saved_weights(tmp_path / "previous" / "last.weights.h5"), recorder) == 0
    assert second.latest_path == str(path)


def test_the_end_of_the_process_waits_for_the_file(tmp_path):
    program = f"""
        import sys
        {"import torch" if BACKEND == "torch" else ""}
        sys.path[:0] = {[os.path.dirname(os.path.dirname(__file__))]!r}
        import keras
        import peakhold.keras as pk
        from keras_helpers import fit, model
        from peakhold.files import background
        import threading

        class Raises(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch:
                    raise ZeroDivisionError

        gate = threading.Event()
        background.submit(gate.wait)
        threading.Timer(0.2, gate.set).start()
        fit(model(), [Raises(), pk.ModelCheckpoint("last.keras", background=True)], 2)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert "ZeroDivisionError" in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["last.keras", "last.keras.peakhold.json"]
    keras.models.load_model(tmp_path / "last.keras")


@of_no_framework
def test_a_callback_that_is_gone_leaves_a_file_and_nothing_else(tmp_path, hold):
    recorder, path = Recorder(), tmp_path / "last.weights.h5"

    def train():
        callback, net = saver(path, background=True), model()
        with pytest.raises(ZeroDivisionError):
            fit(net, [recorder, Holds(hold, 0, 9), Raises(1), callback], 2)
        return weakref.ref(callback)

    gone = train()
    keras.utils.clear_session()
    for _ in range(3):
        gc.collect()
    assert not path.exists()
    assert gone() is None, "the save does not keep the callback"
    hold.open()
    background.drain()

    assert epoch_of(saved_weights(path), recorder) == 0


class RaisesInABatch(Raises):
    def on_epoch_begin(self, epoch, logs=None):
        """Not yet."""
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == (self.at, 1):
            raise ZeroDivisionError


@pytest.mark.parametrize(
    ("suffix", "place", "settings"),
    [
        (".keras", Raises, {}),
        (".weights.h5", RaisesInABatch, {"check_finite": False, "keep_last": 2}),
        (".keras", RaisesInABatch, {"check_finite": False, "keep_best": 2, "monitor": "loss"}),
    ],
)
def test_what_was_accepted_comes_though_its_run_and_model_are_gone(
    suffix, place, settings, tmp_path, hold
):
    """Or it is told, if it cannot be written."""
    recorder = Recorder()

    def train():
        callback = saver(tmp_path / f"w{{epoch}}{suffix}", background=True, **settings)
        with pytest.raises(ZeroDivisionError):
            fit(model(), [recorder, Holds(hold, 0, 9), callback, place(2)], 9)
        recorder.set_model(None)

    train()
    keras.utils.clear_session()
    for _ in range(3):
        gc.collect()
    assert not list(tmp_path.glob("w*"))
    (tmp_path / f"w1{suffix}").mkdir()
    with pytest.warns(SaveWarning, match="could not save epoch 1"):
        hold.open()
        background.drain()
        gc.collect()

    assert epoch_of(saved_weights(tmp_path / f"w2{suffix}"), recorder) == 1


@of_no_framework
def test_a_forked_child_writes_nothing_and_does_not_hang(tmp_path, hold):
    path = tmp_path / "last.keras"
    callback, codes = saver(path, background=True), []

    class Forks(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch != 1:
                return
            pid = os.fork()
            if pid == 0:
                quiet = callback.wait() and not checkpoint_queue._under_way and not path.exists()
                os._exit(0 if quiet else 1)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            hold.open()

    fit(model(), [Forks(), Holds(hold, 0, 9), callback], 2)

    assert codes == [0]
    assert path.exists()


@of_no_framework
@pytest.mark.parametrize("how", [copy.deepcopy, lambda cb: pickle.loads(pickle.dumps(cb))])
def test_a_copy_has_no_part_in_the_saves(how, tmp_path, hold):
    path, copies = tmp_path / "last.keras", []
    callback = saver(path, background=True)
    taker = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: copies.append(how(callback)) if epoch else None
    )
    fit(model(), [taker, Holds(hold, 0, 9), callback], 2)

    assert copies[0].wait(0)
    fit(model(), [copies[0]], 1)
    assert path.exists()


@of_no_framework
def test_fits_in_two_threads_share_the_writer(tmp_path, commits):
    def train(name):
        fit(model(), [saver(tmp_path / f"{name}{{epoch}}.weights.h5", background=True)], 5)

    assert in_two_threads(train) == []
    for name in "ab":
        mine = [file for file, _ in commits if file.startswith(name)]
        assert mine == [f"{name}{n}.weights.h5" for n in range(1, 6)]


@of_no_framework
def test_the_summary_speaks_of_the_file_that_is_there(tmp_path, capsys, hold):
    path = tmp_path / "best.keras"
    callback = saver(path, monitor="m", mode="min", save_best_only=True)
    fit(model(), [Curve(m=[0.5, 0.4]), Holds(hold, 0, 9), callback], 2, verbose=2)

    assert f"best m 0.40000 at epoch 2, saved in {path}" in capsys.readouterr().out
