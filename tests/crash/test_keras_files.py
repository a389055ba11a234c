"""Files that `ModelCheckpoint` writes, under `kill -9`, full disks and disks that fail.

How the kills are done is described in `file_kills.py`. `make test` runs a short form of them, and
`make crash` all.
"""

import contextlib
import errno
import os
import pathlib
import resource
import signal
import stat
import warnings

import numpy as np
import pytest
import xxhash

import keras
import peakhold.keras as ours
from crash.file_kills import (
    BETWEEN,
    FORMATS,
    TEMPORARY,
    Range,
    beside,
    build,
    in_child,
    saver,
    set_version,
    small_disk,
    version_of,
)
from peakhold import files
from peakhold.errors import SaveError, SaveWarning
from peakhold.files.scratch import FOLDER as SCRATCH

stock = keras.callbacks


@pytest.fixture(scope="module")
def net():
    return build()


@pytest.fixture(params=FORMATS)
def suffix(request):
    return request.param


both_ways = pytest.mark.parametrize("background", [False, True], ids=["direct", "background"])


# kill -9


def kill(folder, suffix, net, n_kills, seed, background):
    target = Range(folder, suffix, net, seed=seed, background=background)
    target.calibrate()
    while target.hits.total() < n_kills:
        target.fire()
        assert target.missed < n_kills + 10, target.report()
    print(f"\n{target.report()}", end="")
    assert sum(target.hits[phase] for phase in BETWEEN) * 2 >= n_kills, target.report()


@both_ways
def test_kill_9_during_saves_leaves_the_old_file_or_the_new_one(tmp_path, suffix, net, background):
    kill(tmp_path, suffix, net, 15, seed=1, background=background)


@pytest.mark.exhaustive
@both_ways
def test_kill_9_during_200_saves_leaves_the_old_file_or_the_new_one(
    tmp_path, suffix, net, background
):
    kill(tmp_path, suffix, net, 200, seed=2, background=background)


def kill_before_every_call(folder, suffix, n_runs_before, *, stranger, goes_on, background=False):
    """Kill a first save before each of its calls to the kernel; then the next run repeats it whole.

    The folder is the same each time; the run after the kill shows that nothing was left behind.
    """
    start = folder / "start"
    start.mkdir()
    begin = Range(
        start, suffix, build(units=16), seed=3, stranger=stranger, n_saves=1, background=background
    )
    for _ in range(n_runs_before):
        begin.complete(goes_on=False)
    n_calls, died = 0, True
    while died:
        target = begin.copy_to(folder / str(n_calls))
        died = target.die_before(n_calls, goes_on=goes_on)
        target.complete(goes_on=goes_on)
        assert not target.found.leftovers
        n_calls += 1
    assert n_calls > 8, "the calls were not seen"


CASES = {
    "nothing there": (0, False, False),
    "a stranger's file": (0, True, False),
    "a stranger's file and a run that goes on": (0, True, True),
    "one of ours": (1, False, False),
    "one of ours and a run that goes on": (1, False, True),
    "one of ours and two kept aside": (3, True, False),
}
"""Runs before, whether there was a file that Peakhold did not write, whether the run goes on."""


@pytest.mark.parametrize(
    ("case", "background"),
    [("a stranger's file", True), ("one of ours and two kept aside", False)],
)
def test_kill_9_before_every_call_of_a_save(tmp_path, case, background):
    n_runs_before, stranger, goes_on = CASES[case]
    kill_before_every_call(
        tmp_path,
        ".weights.h5",
        n_runs_before,
        stranger=stranger,
        goes_on=goes_on,
        background=background,
    )


@pytest.mark.exhaustive
@both_ways
@pytest.mark.parametrize("case", CASES)
def test_kill_9_before_every_call_of_a_save_in_every_format(tmp_path, suffix, case, background):
    n_runs_before, stranger, goes_on = CASES[case]
    kill_before_every_call(
        tmp_path,
        suffix,
        n_runs_before,
        stranger=stranger,
        goes_on=goes_on,
        background=background,
    )


# Sweeping and locks


def slow_writer(path, started, go_on):
    def write(file):
        file.write(b"half of it, ")
        file.flush()
        os.write(started, b"!")
        os.read(go_on, 1)
        file.write(b"all of it")

    files.commit(path, write)


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_temporary_file_is_swept_only_when_its_writer_is_dead(tmp_path, net, is_killed):
    path = tmp_path / "best.keras"
    (started, tell_started), (go_on, tell_go_on) = os.pipe(), os.pipe()
    with beside(slow_writer, str(path), tell_started, go_on) as pid:
        assert os.read(started, 1) == b"!"
        callbacks = ours.CallbackList(saver(path), model=net, epochs=2, verbose=0)
        callbacks.on_train_begin()  # another run in the same folder, while that one writes
        assert files.sweep(str(tmp_path)) == []
        (temporary,) = [name for name in os.listdir(tmp_path) if name.endswith(TEMPORARY)]

        if is_killed:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            callbacks.on_train_begin()

            assert not (tmp_path / temporary).exists()
            assert not path.exists()
        else:
            os.write(tell_go_on, b"!")
            os.waitpid(pid, 0)

            assert path.read_bytes() == b"half of it, all of it"
            assert os.listdir(tmp_path) == [path.name]


class OwnSave(keras.Sequential):
    """Its `save` writes a folder beside the file, says where it is, and waits."""

    pipes = None

    def save(self, filepath, overwrite=True, **arguments):
        assets = pathlib.Path(filepath).parent / "assets" / "deep"
        assets.mkdir(parents=True)
        (assets / "vocabulary.txt").write_text("more than one file")
        super().save(filepath, overwrite=overwrite, **arguments)
        started, go_on = self.pipes
        os.write(started, b"!")
        os.read(go_on, 1)


def save_by_its_own_method(path, started, go_on):
    net = OwnSave([keras.Input((3,)), keras.layers.Dense(1)])
    net.compile("sgd", keras.losses.MeanSquaredError())
    net.pipes = started, go_on
    callbacks = ours.CallbackList(saver(path), model=net, epochs=1, verbose=0)
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    callbacks.on_epoch_end(0, {"loss": 1.0})
    callbacks.on_train_end()


@pytest.mark.parametrize("is_killed", [False, True])
def test_what_a_models_own_save_leaves_is_swept_only_when_its_process_is_dead(
    tmp_path, net, is_killed
):
    path = tmp_path / "best.keras"
    (started, tell_started), (go_on, tell_go_on) = os.pipe(), os.pipe()
    with beside(save_by_its_own_method, path, tell_started, go_on) as pid:
        assert os.read(started, 1) == b"!"
        callbacks = ours.CallbackList(saver(path), model=net, epochs=2, verbose=0)
        callbacks.on_train_begin()  # another run in the same folder, while that one saves
        (scratch,) = [name for name in os.listdir(tmp_path) if name.endswith(SCRATCH)]
        assert (tmp_path / scratch / "assets" / "deep" / "vocabulary.txt").exists()

        if is_killed:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            callbacks.on_train_begin()

            assert os.listdir(tmp_path) == []
        else:
            os.write(tell_go_on, b"!")
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

            keras.models.load_model(path, custom_objects={"OwnSave": OwnSave})
            assert sorted(os.listdir(tmp_path)) == [path.name, f"{path.name}.peakhold.json"]


def test_no_save_fails_because_another_run_sweeps(tmp_path):
    """Between the creation of a file and its lock, and while a file is linked, a sweep may strike."""
    path, aside = str(tmp_path / "best.keras"), str(tmp_path / "aside.keras")
    files.commit(path, lambda file: file.write(b"first"))

    def sweep_until_killed():
        while True:
            files.sweep(str(tmp_path))

    with beside(sweep_until_killed):
        for number in range(150):
            files.commit(path, lambda file, n=number: file.write(f"number {n}".encode()))
            files.keep_aside(path, aside)
    files.sweep(str(tmp_path))

    assert sorted(os.listdir(tmp_path)) == ["aside.keras", "best.keras"]
    assert (tmp_path / "aside.keras").read_text() == "number 149"


# Disks that are full, and disks that fail


class Versions(keras.callbacks.Callback):
    """A user's callback, first in the list: each epoch's weights and loss tell its number."""

    def __init__(self, path, breaks, mends):
        super().__init__()
        self.path, self.breaks, self.mends, self.seen = path, breaks, mends, []

    def on_epoch_end(self, epoch, logs=None):
        set_version(self.model, epoch + 1)
        logs["loss"] = 1 / (epoch + 1)

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(self.look())
        if epoch == 1:
            self.breaks()
        elif epoch == 3:
            self.mends()

    def look(self):
        """The file's content, as a checksum; and what the folder holds."""
        folder = os.path.dirname(self.path)
        return {
            "file": _checksum(self.path),
            "names": sorted(n for n in os.listdir(folder) if n != "filler"),
        }


def _checksum(path):
    try:
        with open(path, "rb") as file:
            return xxhash.xxh3_128_hexdigest(file.read())
    except OSError:
        return None


def train_on_a_bad_disk(lib, path, breaks, mends=lambda: None, background=False):
    """Four epochs, each better than the one before; the disk breaks after the first one's save.

    What it returns was seen at the beginning of each epoch, and at the end.
    """
    net = build(units=256)
    more = {"background": background} if lib is ours else {}
    versions, callback = Versions(str(path), breaks, mends), saver(path, lib=lib, **more)
    bests = []

    def look(epoch, logs):
        if background:
            callback.wait()
        bests.append(callback.best)

    watch = keras.callbacks.LambdaCallback(on_epoch_end=look)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = net.fit(
            np.zeros((8, 64)),
            np.zeros((8, 1)),
            epochs=4,
            verbose=0,
            callbacks=[versions, callback, watch],
        )
    return {
        "epochs": len(history.epoch),
        "bests": bests,
        "seen": [*versions.seen, versions.look()],
        "warnings": [str(w.message) for w in caught if issubclass(w.category, SaveWarning)],
    }


def limit_file_size():
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))


def lift_limit():
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def assert_old_file_stayed(told, path, reason):
    """Two saves failed, and all is as if they had not been tried; the third, mended, is there."""
    assert told["epochs"] == 4
    assert told["bests"] == [1, 1, 1, 1 / 4]
    _, first, second, third, last = told["seen"]
    assert first == second == third
    assert first["file"] is not None
    assert first["names"] == last["names"] == [path.name, f"{path.name}.peakhold.json"]
    assert len(told["warnings"]) == 2
    for epoch, text in zip((2, 3), told["warnings"], strict=True):
        assert f"could not save epoch {epoch} to {str(path)!r}: {reason}" in text
    assert last["file"] != first["file"]
    assert version_of(path, build(units=256)) == 4


@pytest.mark.parametrize(
    "lib",
    [
        pytest.param(ours, id="peakhold"),
        pytest.param(
            stock, id="keras", marks=pytest.mark.xfail(strict=True, raises=AssertionError)
        ),
    ],
)
def test_a_full_disk_costs_no_file_that_was_there(lib, tmp_path, suffix):
    """The same program with Keras's own class loses it."""
    path = tmp_path / f"best{suffix}"

    def train():
        with contextlib.suppress(OSError):  # Keras's class ends training with it
            train_on_a_bad_disk(lib, path, limit_file_size)

    in_child(train)  # what HDF5 does on a full disk may end it by a signal, too

    assert loads(path)
    assert version_of(path, build(units=256)) == 1


def loads(path):
    try:
        version_of(path, build(units=256))
    except Exception:  # what Keras and HDF5 raise for a broken file is of any kind
        return False
    return True


@both_ways
def test_a_full_disk_is_said_and_training_goes_on(tmp_path, suffix, background):
    path = tmp_path / f"best{suffix}"
    told = in_child(train_on_a_bad_disk, ours, path, limit_file_size, lift_limit, background)

    assert_old_file_stayed(told, path, os.strerror(errno.EFBIG))


@pytest.fixture
def small_folder(tmp_path):
    with small_disk(tmp_path, 4 << 20) as folder:
        if folder is None:
            pytest.skip("no file system can be mounted here")
        yield folder


@both_ways
def test_a_full_file_system_is_said_and_training_goes_on(small_folder, suffix, background):
    path, filler = small_folder / f"best{suffix}", small_folder / "filler"

    def fill():
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 14))
            except OSError as error:
                assert error.errno == errno.ENOSPC

    told = in_child(train_on_a_bad_disk, ours, path, fill, filler.unlink, background)

    assert_old_file_stayed(told, path, os.strerror(errno.ENOSPC))


def test_a_file_system_without_room_for_the_model_is_told_before_training(small_folder, suffix):
    net = build(units=2048)
    with pytest.raises(SaveError, match="a folder with room for the model"):
        net.fit(
            np.zeros((8, 64)),
            np.zeros((8, 1)),
            verbose=0,
            callbacks=[saver(small_folder / f"best{suffix}")],
        )


def failing_fsync(fails):
    """Two functions: `os.fsync` with an input/output error for the files of which `fails` is true
    (folders are spared), and the way back."""
    fsync = os.fsync

    def fsync_or_fail(descriptor):
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and fails(status.st_size):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    return lambda: setattr(os, "fsync", fsync_or_fail), lambda: setattr(os, "fsync", fsync)


@pytest.mark.parametrize(
    "fails",
    [
        pytest.param(lambda n_bytes: n_bytes > 1 << 14, id="of-the-model"),
        # Its entry is written before the file gets its name: not the one without the other.
        pytest.param(lambda n_bytes: n_bytes < 1 << 14, id="of-the-sidecar"),
    ],
)
@both_ways
def test_an_fsync_that_fails_is_a_save_that_failed(tmp_path, suffix, fails, background):
    path = tmp_path / f"best{suffix}"
    told = in_child(train_on_a_bad_disk, ours, path, *failing_fsync(fails), background)

    assert_old_file_stayed(told, path, os.strerror(errno.EIO))


# SIGTERM


class Stuck:
    """In the victim: the first write to a model's file waits until it is let go."""

    def __init__(self, tell, go_on):
        self.tell, self.go_on, self._open, self._write = tell, go_on, os.open, os.write
        self.armed, self.model = False, None
        os.open, os.write = self.open, self.write

    def open(self, path, *args, **kwargs):
        descriptor = self._open(path, *args, **kwargs)
        name = os.path.basename(path) if isinstance(path, str) else ""
        if self.armed and name.endswith(TEMPORARY) and ".peakhold.json" not in name:
            self.model = descriptor
        return descriptor

    def write(self, descriptor, data):
        if descriptor == self.model:
            self.armed, self.model = False, None
            self._write(self.tell, b"!")
            os.read(self.go_on, 1)
        return self._write(descriptor, data)


def train_until_terminated(path, stuck, timeout):
    """The save of the second epoch gets stuck while training goes on."""
    net, made = build(units=256), saver(path, background=True, sigterm_timeout=timeout)
    stuck = Stuck(*stuck)

    class Epochs(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            set_version(self.model, epoch + 1)
            logs["loss"] = 1 / (epoch + 1) if epoch < 2 else 5.0

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                stuck.armed = made.wait()

    net.fit(
        np.zeros((8, 64)), np.zeros((8, 1)), epochs=10**6, verbose=0, callbacks=[Epochs(), made]
    )


@pytest.mark.parametrize(("timeout", "version"), [(60.0, 2), (0.2, 1)])
def test_sigterm_waits_for_the_file_that_is_being_written(tmp_path, suffix, timeout, version):
    """Then the process dies of the signal, as it would have; in either case a whole file is there."""
    path = tmp_path / f"best{suffix}"
    (started, tell), (go_on, tell_go_on) = os.pipe(), os.pipe()
    with beside(train_until_terminated, path, (tell, go_on), timeout) as pid:
        assert os.read(started, 1) == b"!"
        os.kill(pid, signal.SIGTERM)
        if version == 2:
            os.write(tell_go_on, b"!")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM

    assert version_of(path, build(units=256)) == version
    leftovers = [name for name in os.listdir(tmp_path) if name.endswith(TEMPORARY)]
    assert (leftovers == []) == (version == 2)
