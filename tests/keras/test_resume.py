"""A run that is interrupted and started again decides, and ends, as one that was not."""

import copy
import json
import os
import pickle
import shutil
import signal

import numpy as np
import pytest

import keras
import peakhold.keras as pk
import resume_runs
from conftest import BACKEND
from peakhold.errors import (
    BackupMismatchError,
    CheckpointDamagedError,
    CheckpointDamagedWarning,
    SaveWarning,
)
from peakhold.store import drain
from resume_runs import KINDS, build, data, start

of_no_framework = pytest.mark.torch_is_enough(
    "what lies in the folder and what is said of it is Python's"
)


class Crash(keras.callbacks.Callback):
    """Raises at one moment."""

    def __init__(self, hook, epoch, batch=None):
        super().__init__()
        self.at, self.epoch = (hook, epoch, batch), 0

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

    def reached(self, hook, batch=None):
        if self.at == (hook, self.epoch, batch):
            raise ZeroDivisionError

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.reached("epoch begin")

    def on_train_batch_end(self, batch, logs=None):
        self.reached("batch", batch)

    def on_test_begin(self, logs=None):
        self.reached("test")

    def on_epoch_end(self, epoch, logs=None):
        self.reached("epoch end")


def crash(folder, kind="scripted", *moment, **arguments):
    with pytest.raises(ZeroDivisionError):
        start(folder, kind, also=[Crash(*moment)], **arguments)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """What each kind of run leaves if nothing happens."""
    return {kind: start(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def test_the_unbroken_run_is_the_one_of_the_research(unbroken):
    result = unbroken["scripted"]

    assert result["stopped"][:3] == [8, 2, 0.20]
    assert result["best epoch of the file"] == 2
    assert result["best file"] == result["weights"]
    assert result["epochs"] == list(range(9))
    rates = [float(line.split(",")[4]) for line in result["csv"].splitlines()[1:]]
    assert rates.index(min(rates)) == 8  # cut at the end of 7
    assert not result["backup"]
    assert result["leftovers"] == []


MOMENTS = [
    ("epoch begin", 1),
    ("batch", 5, 1),
    ("test", 7),
    ("epoch end", 5),
    ("epoch end", 8),
    ("epoch end", 7),
]


@pytest.mark.parametrize(
    ("kind", "moment"),
    [
        # Every moment on every backend, and each kind of run in the half of them.
        pytest.param(kind, moment, marks=of_no_framework if (i + j) % 2 else [])
        for i, kind in enumerate(KINDS)
        for j, moment in enumerate(MOMENTS)
    ],
    ids=str,
)
def test_an_exception_changes_nothing(tmp_path, unbroken, kind, moment):
    crash(tmp_path, kind, *moment)

    assert start(tmp_path, kind, seed=2) == unbroken[kind]


# Two crashes, the same objects again, positions within epochs


def small(folder, also=(), *, epochs=4, ours=None, net=None, seed=1, before=(), **backup):
    """A run with nothing but a backup and an early stopping; returns model, history, callbacks."""
    keras.utils.set_random_seed(seed if BACKEND != "tensorflow" else 1)
    net = net() if callable(net) and not isinstance(net, keras.Model) else net or build("real")
    ours = ours or [
        pk.BackupAndRestore(folder / "backup", **backup),
        pk.EarlyStopping("loss", patience=50),
    ]
    x, y = data(32)
    history = net.fit(
        x, y, epochs=epochs, batch_size=8, verbose=0, callbacks=[*before, *ours, *also]
    )
    return net, history, ours


def state_of(net):
    arrays = [*net.variables, *net.optimizer.variables]
    return resume_runs.digest(keras.ops.convert_to_numpy(v) for v in arrays)


def crash_small(folder, *moment, also=(), **arguments):
    with pytest.raises(ZeroDivisionError):
        small(folder, [Crash(*moment), *also], **arguments)


class Epochs(keras.callbacks.Callback):
    """What a user's callback sees."""

    def __init__(self):
        super().__init__()
        self.begun, self.n_batches, self.at_train_begin = [], 0, None

    def on_train_begin(self, logs=None):
        self.at_train_begin = self.model.get_weights() if self.model.built else None

    def on_epoch_begin(self, epoch, logs=None):
        self.begun.append(epoch)

    def on_train_batch_end(self, batch, logs=None):
        self.n_batches += 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    net, history, _ = small(tmp_path_factory.mktemp("whole"))
    return state_of(net), history.history


def test_two_crashes_in_a_row(tmp_path, whole):
    crash_small(tmp_path, "epoch end", 1)
    crash_small(tmp_path, "batch", 2, 1, seed=2)
    net, history, _ = small(tmp_path, seed=3)

    assert (state_of(net), history.history) == whole
    assert history.epoch == [0, 1, 2, 3]


@of_no_framework
def test_the_same_objects_after_a_fit_that_raised(tmp_path, whole):
    backup = pk.BackupAndRestore(tmp_path / "backup")
    crash_small(tmp_path, "epoch end", 1, ours=[backup])
    net, history, _ = small(tmp_path, ours=[backup], seed=2)

    assert (state_of(net), history.history) == whole


@of_no_framework
def test_a_second_fit_with_the_same_objects_begins_anew(tmp_path):
    net, _, ours = small(tmp_path, epochs=2)
    assert not (tmp_path / "backup").exists()
    _, history, _ = small(tmp_path, epochs=3, ours=ours, net=net)

    assert history.epoch == [0, 1, 2]
    assert not (tmp_path / "backup").exists()


@of_no_framework
def test_the_first_epoch_of_a_resume_does_not_leak_into_later_fits(tmp_path):
    crash_small(tmp_path, "epoch begin", 2)
    net, _, _ = small(tmp_path)
    x, y = data(16)
    assert net.fit(x, y, epochs=2, verbose=0).epoch == [0, 1]

    crash_small(tmp_path, "epoch begin", 2)
    net = build("real")
    with pytest.raises(ZeroDivisionError):
        small(tmp_path, [Crash("batch", 2, 0)], net=net, seed=2)
    assert net.fit(x, y, epochs=2, verbose=0).epoch == [0, 1]


@of_no_framework
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_it_can_be_copied_and_pickled_unused_and_used(tmp_path, clone):
    backup = clone(pk.BackupAndRestore(tmp_path / "backup"))
    crash_small(tmp_path, "epoch end", 1, ours=[backup])
    assert small(tmp_path, ours=[clone(backup)])[1].epoch == [0, 1, 2, 3]


def test_callbacks_see_the_restored_model_wherever_they_stand(tmp_path):
    crash_small(tmp_path, "epoch begin", 2)
    first, last = Epochs(), Epochs()
    crash_small(tmp_path, "epoch begin", 2, before=[first], also=[last], seed=2)

    assert first.begun == [2]
    for one in (first, last):
        assert resume_runs.digest(one.at_train_begin) == resume_runs.digest(last.at_train_begin)


def test_batches_as_save_freq_replay_the_epoch_on_its_weights(tmp_path, capsys):
    """Keras's meaning: K-R3; and the epoch is right after a second crash, too: K-R4."""
    crash_small(tmp_path, "batch", 2, 3, save_freq=3, exact=False)
    crash_small(tmp_path, "batch", 2, 2, save_freq=3, exact=False)
    seen = Epochs()
    net, history, _ = small(tmp_path, [seen], save_freq=3, exact=False)

    assert seen.begun == [2, 3]
    assert history.epoch == [0, 1, 2, 3]
    assert int(keras.ops.convert_to_numpy(net.optimizer.iterations)) > 16


@of_no_framework
def test_a_run_killed_in_its_first_epoch_begins_anew_with_any_model(tmp_path):
    crash_small(tmp_path, "batch", 0, 1)
    net = build("scripted")

    assert small(tmp_path, net=net)[1].epoch == [0, 1, 2, 3]


# No epoch is left


def test_killed_after_the_last_commit_nothing_is_trained(tmp_path, whole):
    crash_small(tmp_path, "epoch end", 3)
    seen = Epochs()
    net, history, _ = small(tmp_path, [seen], seed=2)

    assert (state_of(net), history.history, seen.begun) == (*whole, [])
    assert net.history is history
    assert not (tmp_path / "backup").exists()


@of_no_framework
def test_a_stop_is_recorded(tmp_path, unbroken):
    result = start(tmp_path, delete_checkpoint=False)
    again = start(tmp_path, seed=2, delete_checkpoint=False)

    for one in (result, again):
        assert one["backup"]
        assert {**one, "backup": False} == unbroken["scripted"]


def test_an_average_of_the_weights_is_the_result_of_a_run_without_epochs_too(tmp_path):
    def averaging():
        net = build("scripted")
        net.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5), "mse")
        return net

    whole, _, _ = small(tmp_path / "whole", net=averaging)
    crash_small(tmp_path, "epoch end", 3, net=averaging)
    net, _, _ = small(tmp_path, net=averaging, seed=2)

    assert resume_runs.digest(net.get_weights()) == resume_runs.digest(whole.get_weights())


@pytest.mark.parametrize("restore_optimizer", [pytest.param(False, marks=of_no_framework), True])
def test_averages_of_the_weights_are_in_a_backup_once(tmp_path, restore_optimizer):
    x = np.linspace(-1, 1, 24, dtype="float32").reshape(8, 3)

    def run(folder, *also):
        ones = {"kernel_initializer": "ones"}
        net = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(2, **ones), keras.layers.Dense(1, **ones)]
        )
        net.compile(keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.5), "mse")
        worse = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: logs.update(m=epoch)
        )
        stopper = pk.EarlyStopping(
            "m", mode="min", patience=9, restore_best_weights=True,
            restore_optimizer=restore_optimizer,
        )  # fmt: skip
        ours = [worse, stopper, pk.BackupAndRestore(folder / "backup"), *also]
        net.fit(x, x[:, :1], batch_size=4, epochs=3, shuffle=False, verbose=0, callbacks=ours)
        return [*net.weights, *net.optimizer.variables]

    whole = run(tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, Crash("epoch end", 0))
    manifest = json.loads((newest(tmp_path) / "manifest.json").read_text())
    parts = {file["part"] for file in manifest["files"]}
    saved = [t for t in manifest["tensors"] if not t["file"].startswith("train_state")]

    assert parts == {"weights", "average", "optimizer", "train_state"}
    assert len(saved) == len(whole)
    large = [t["xxh3_128"] for t in saved if t["offsets"][1] - t["offsets"][0] > 4]
    assert len(set(large)) == len(large)
    for one, other in zip(run(tmp_path), whole, strict=True):  # the best of before is put back
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, other)))


@of_no_framework
@pytest.mark.parametrize(("before", "now"), [(True, False), (False, True)])
def test_a_backup_with_averages_is_of_another_model_than_one_without(tmp_path, before, now):
    def net(use_ema):
        one = build("scripted")
        one.compile(keras.optimizers.SGD(0.1, use_ema=use_ema), "mse")
        return one

    crash_small(tmp_path, "epoch end", 1, net=lambda: net(before))
    with pytest.raises(BackupMismatchError, match=r"average: .*nothing in the"):
        small(tmp_path, net=lambda: net(now))


def test_a_model_that_is_not_built_is_built(tmp_path):
    """K-R13."""

    def unbuilt():
        return build("scripted", with_input=False)

    assert not unbuilt().built
    whole, history, _ = small(tmp_path / "whole", net=unbuilt)
    for moment in (("epoch end", 1), ("epoch end", 3)):
        crash_small(tmp_path, *moment, net=unbuilt)
        net, resumed, _ = small(tmp_path, net=unbuilt, seed=2)
        assert resume_runs.digest(net.get_weights()) == resume_runs.digest(whole.get_weights())
        assert resumed.history == history.history


# What is not a backup of this run


@of_no_framework
def test_a_backup_of_another_model_is_an_error_that_names_tensors(tmp_path):
    crash_small(tmp_path, "epoch end", 1)
    wide = keras.Sequential([keras.Input((4,)), keras.layers.Dense(9), keras.layers.Dense(1)])
    wide.compile("adam", "mse")
    with pytest.raises(BackupMismatchError, match=r"float32\(4, 8\).*float32\(4, 9\)") as caught:
        small(tmp_path, net=wide)

    assert caught.value.mismatches
    assert small(tmp_path)[1].epoch == [0, 1, 2, 3]


def newest(folder):
    drain()  # the last save of a fit that raised may still be under way
    return max(p for p in (folder / "backup").iterdir() if p.name.startswith("step-"))


@of_no_framework
def test_a_damaged_backup_falls_back_loudly(tmp_path, whole):
    crash_small(tmp_path, "epoch end", 2)
    file = newest(tmp_path) / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.warns(CheckpointDamagedWarning, match="optimizer"):
        net, history, _ = small(tmp_path, seed=2)

    assert (state_of(net), history.history) == whole
    assert not (tmp_path / "backup").exists()


@of_no_framework
def test_if_everything_is_damaged_it_is_an_error(tmp_path):
    crash_small(tmp_path, "epoch end", 2)
    drain()
    for file in (tmp_path / "backup").glob("step-*/train_state.json"):
        file.write_bytes(b"{}")
    with pytest.raises(CheckpointDamagedError):
        small(tmp_path)


@of_no_framework
def test_foreign_files_are_never_touched(tmp_path):
    (tmp_path / "backup").mkdir()
    notes = tmp_path / "backup" / "notes.txt"
    notes.write_text("mine")
    small(tmp_path)

    assert [p.name for p in (tmp_path / "backup").iterdir()] == ["notes.txt"]
    assert notes.read_text() == "mine"


def stock(folder, net, *, epochs=4, at=None):
    x, y = data(32)
    ours = [keras.callbacks.BackupAndRestore(folder / "backup"), *([Crash(*at)] if at else [])]
    return net.fit(x, y, epochs=epochs, batch_size=8, verbose=0, callbacks=ours)


def test_a_backup_of_keras_own_class_is_taken_over(tmp_path):
    (tmp_path / "backup").mkdir()
    net = build("scripted")
    with pytest.raises(ZeroDivisionError):
        stock(tmp_path, net, at=("epoch begin", 2))
    seen = Epochs()
    small(tmp_path, [seen], net=build("scripted"))

    assert seen.begun == [2, 3]
    assert resume_runs.digest(seen.at_train_begin) == resume_runs.digest(net.get_weights())
    assert not (tmp_path / "backup").exists()


@of_no_framework
def test_a_damaged_backup_of_keras_own_class_is_refused_in_words(tmp_path):
    (tmp_path / "backup").mkdir()
    with pytest.raises(ZeroDivisionError):
        stock(tmp_path, build("scripted"), at=("epoch begin", 2))
    (tmp_path / "backup" / "training_metadata.json").write_text('{"epo')
    with pytest.raises(CheckpointDamagedError, match=r"keras\.callbacks\.BackupAndRestore"):
        small(tmp_path, net=build("scripted"))


# How a run ended


@of_no_framework
def test_the_backup_of_a_run_that_ended_badly_is_kept(tmp_path):
    class Explode(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                self.model.set_weights([w * np.nan for w in self.model.get_weights()])

    net = build("scripted")
    net.compile("sgd", "mse")
    ours = [pk.BackupAndRestore(tmp_path / "backup"), pk.TerminateOnNaN()]
    small(tmp_path, ours=ours, before=[Explode()], net=net)

    assert json.loads((newest(tmp_path) / "manifest.json").read_text())["epoch"] == 2
    net = build("scripted")
    net.compile("sgd", "mse")
    _, history, _ = small(tmp_path, ours=[pk.BackupAndRestore(tmp_path / "backup")], net=net)
    assert history.epoch == [0, 1, 2, 3]
    assert np.isfinite(history.history["loss"]).all()


@of_no_framework
def test_callbacks_without_a_state_are_named_once(tmp_path, capsys):
    class Remembers(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.seen = 0

        def on_epoch_end(self, epoch, logs=None):
            self.seen += 1

    x, y = data(16)
    build("scripted").fit(
        x, y, epochs=1, verbose=2, callbacks=[pk.BackupAndRestore(tmp_path / "b"), Remembers()]
    )

    said = [line for line in capsys.readouterr().out.splitlines() if "BackupAndRestore" in line]
    assert len([line for line in said if "Remembers" in line]) == 1
    assert not any("History" in line or "Progbar" in line for line in said)


def test_what_the_framework_cannot_repeat_is_said(tmp_path, capsys):
    """K-R14: only TensorFlow, only unseeded."""
    from keras.src.backend.common import global_state

    if BACKEND == "tensorflow":
        from tensorflow.python.eager import context

        context.set_global_seed(None)
        context.context()._seed = None
    global_state.set_global_attribute("global_random_seed", None)
    x, y = data(16)
    for shuffle in (True, False):
        build("scripted").fit(
            x,
            y,
            epochs=1,
            verbose=2,
            shuffle=shuffle,
            callbacks=pk.BackupAndRestore(tmp_path / "b"),
        )
        assert ("set_random_seed" in capsys.readouterr().out) == (
            shuffle and BACKEND == "tensorflow"
        )


@of_no_framework
def test_a_folder_that_somebody_deletes_costs_the_backup_and_not_the_run(tmp_path):
    class Delete(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                drain()
                shutil.rmtree(tmp_path / "backup")

    with pytest.warns(SaveWarning, match="backup"):
        _, history, _ = small(tmp_path, [Delete()])

    assert history.epoch == [0, 1, 2, 3]


# SIGTERM


class Terminate(keras.callbacks.Callback):
    """Sends SIGTERM at a batch, as a supervisor would."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.at, self.epoch = (epoch, batch), 0

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def supervisor():
    """A handler as users install it: it ends the program in its own way."""
    called = []

    def handle(number, frame):
        called.append(number)
        raise SystemExit(3)

    before = signal.signal(signal.SIGTERM, handle)
    yield called
    assert signal.getsignal(signal.SIGTERM) is handle
    signal.signal(signal.SIGTERM, before)


def terminate(folder, *at, **backup):
    """Train until SIGTERM has taken its course: at the latest at the end, when it is ours no more."""
    with pytest.raises(SystemExit) as ended:
        small(folder, [Terminate(*at)], epochs=400, **backup)
    return ended.value.code


def test_sigterm_finishes_the_backup_and_takes_its_usual_course(tmp_path, supervisor):
    assert terminate(tmp_path, 2, 1) == 3
    assert supervisor == [signal.SIGTERM]
    seen = Epochs()
    n_epochs = json.loads((newest(tmp_path) / "manifest.json").read_text())["epoch"]
    net, history, _ = small(tmp_path, [seen], epochs=n_epochs + 1, seed=2)
    whole, one, _ = small(tmp_path / "whole", epochs=n_epochs + 1)

    assert n_epochs >= 2
    assert seen.begun == [n_epochs]
    assert (state_of(net), history.history) == (state_of(whole), one.history)


def test_without_save_freq_sigterm_saves_at_the_end_of_a_batch(tmp_path, supervisor):
    assert terminate(tmp_path, 2, 1, save_freq=False) == 3
    manifest = json.loads((newest(tmp_path) / "manifest.json").read_text())
    seen = Epochs()
    small(tmp_path, [seen], epochs=manifest["epoch"] + 2, save_freq=False)

    assert manifest["reason"].startswith(("batch", "after epoch"))
    assert manifest["epoch"] >= 2
    assert seen.begun == [manifest["epoch"], manifest["epoch"] + 1]


def test_without_save_freq_nothing_is_written_and_batches_stay_asynchronous(tmp_path):
    modes = []

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            modes.append((list((tmp_path / "b").glob("step*")), driver_of(backup)._async_train))

    def driver_of(callback):
        return callback._peakhold_link.driver

    backup = pk.BackupAndRestore(tmp_path / "b", save_freq=False)
    x, y = data(16)
    build("scripted").fit(x, y, epochs=2, verbose=0, callbacks=[backup, Look()])

    idle = keras.callbacks.CallbackList([keras.callbacks.Callback()])._async_train
    assert modes == [([], idle)] * 2
    assert not (tmp_path / "b").exists()


@of_no_framework
def test_a_fit_that_raised_leaves_no_handler_that_swallows(tmp_path, supervisor):
    crash_small(tmp_path, "batch", 1, 1)
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)

    assert supervisor == [signal.SIGTERM]


@of_no_framework
def test_sigterm_that_is_ignored_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        _, history, _ = small(tmp_path, [Terminate(1, 1)])
        assert history.epoch == [0, 1, 2, 3]
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
