"""Something else where a file of ours belongs, for each reader of a run's own folders.

Backups, the best that was spilled, and the lock: damage falls back to what is older, or is raised by
its name; nothing hangs, nothing outside is read or written, and no memory is asked for that is not
there.
"""

import errno
import os
import resource
import shutil
import warnings

import numpy as np
import pytest

import hostile_folders
import hostile_places
from hostile_folders import Hostile
from peakhold import BackupAndRestore, CallbackList, EarlyStopping, LoopHost
from peakhold.errors import (
    CheckpointDamagedError,
    CheckpointDamagedWarning,
    PartMissingError,
    SaveError,
    StoreOwnedError,
)
from peakhold.store import Store, drain

pytestmark = pytest.mark.timeout(60)
MEMORY = 64 << 20


class Loop:
    """Two arrays; each epoch adds one to them."""

    def __init__(self, *callbacks):
        self.params = {"v": np.zeros(40, np.float32), "w": np.zeros((25, 4), np.float32)}
        host = LoopHost(get_state=lambda: self.params, set_state=self.params.update)
        self.run = CallbackList(callbacks, host=host, verbose=0)

    def train(self, epochs, *, crash=False):
        self.run.on_train_begin()
        self.began = self.run.initial_epoch
        for epoch in range(self.began, epochs):
            self.run.on_epoch_begin(epoch)
            for array in self.params.values():
                array += 1
            self.run.on_epoch_end(epoch, {"loss": float(epoch + 1)})
        if crash:
            self.run.on_epoch_begin(epochs)
            raise ZeroDivisionError
        self.run.on_train_end()


def contents(folder):
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 30
    }


def peak():
    """The most bytes of memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Outside:
    """What is beside the folder stays as it is, and what is read takes no more than there is."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        self.before, self.peak = self.look(), peak()

    def __exit__(self, *_):
        assert peak() - self.peak < MEMORY
        assert self.look() == self.before
        assert not os.path.exists(hostile_folders.MARK)

    def look(self):
        return {
            path: data
            for path, data in contents(self.folder.parent).items()
            if self.folder not in path.parents
        }


# Backups


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The folder of a run that was killed in its fourth epoch, with two backups."""
    folder = tmp_path_factory.mktemp("interrupted") / "backup"
    with pytest.raises(ZeroDivisionError):
        Loop(BackupAndRestore(folder)).train(3, crash=True)
    drain()
    return folder


@pytest.fixture
def killed(interrupted, tmp_path):
    """A copy of it, which nobody owns."""
    folder = shutil.copytree(interrupted, tmp_path / "runs" / "backup")
    (tmp_path / "outside.safetensors").write_bytes(hostile_places.SECRET)
    return folder


def resumed(folder):
    """What a run that goes on ends with, where it began, and what it has warned of."""
    loop = Loop(BackupAndRestore(folder))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loop.train(5)
    return loop.params["w"], loop.began, [one.category for one in told]


def backups(folder):
    return sorted(folder.glob("step-*"))


FILES = ["manifest.json", "weights.safetensors", "train_state.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("case", hostile_places.CASES)
def test_a_backup_that_is_damaged_falls_back_to_the_one_before(killed, case, name):
    hostile_places.CASES[case](backups(killed)[-1] / name)
    with Outside(killed):
        weights, begin, told = resumed(killed)

    assert (weights == 5.0).all() and begin == 2
    assert CheckpointDamagedWarning in told


@pytest.mark.parametrize("case", hostile_folders.CASES)
def test_a_backup_that_was_made_to_hurt_falls_back_to_the_one_before(killed, case):
    one = Hostile(backups(killed)[-1], killed.parents[1] / "outside.safetensors", "weights",
                  "train_state")  # fmt: skip
    hostile_folders.CASES[case](one)
    with Outside(killed):
        weights, begin, told = resumed(killed)

    assert (weights == 5.0).all() and begin == 2
    assert CheckpointDamagedWarning in told


@pytest.mark.parametrize("case", hostile_places.CASES)
def test_where_all_are_damaged_it_is_said_before_the_first_batch(killed, case):
    for one in backups(killed):
        hostile_places.CASES[case](one / "manifest.json")
    with Outside(killed), pytest.raises(CheckpointDamagedError) as caught:
        resumed(killed)

    assert str(killed) in str(caught.value) and "\nHint: " in str(caught.value)


# The best, where there is no memory for it


@pytest.fixture
def spilling(tmp_path, monkeypatch):
    """A loop whose best is on disk, and where."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    stopper = EarlyStopping("loss", patience=9, restore_best_weights=True, memory_budget=10)
    loop = Loop(stopper)
    loop.run.on_train_begin()
    for epoch in range(2):  # the first is the best
        loop.run.on_epoch_begin(epoch)
        loop.params["w"] += 1
        loop.run.on_epoch_end(epoch, {"loss": float(epoch)})
    (tmp_path / "outside.safetensors").write_bytes(hostile_places.SECRET)
    (folder,) = (tmp_path / "temporary").iterdir()
    return loop, folder


def the_end_is_told(loop, folder):
    with Outside(folder), warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((CheckpointDamagedError, PartMissingError)) as caught:
            loop.run.on_train_end()
    assert str(folder) in str(caught.value) and "\nHint: " in str(caught.value)
    assert "The model has its last weights" in caught.value.__notes__[0]
    assert (loop.params["w"] == 2.0).all()


@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors"])
@pytest.mark.parametrize("case", hostile_places.CASES)
def test_a_spilled_best_that_is_damaged_is_told_and_the_last_weights_stay(spilling, case, name):
    loop, folder = spilling
    (one,) = folder.glob("step-*")
    hostile_places.CASES[case](one / name)
    the_end_is_told(loop, folder)


@pytest.mark.parametrize("case", hostile_folders.CASES)
def test_a_spilled_best_that_was_made_to_hurt_is_told(spilling, case):
    if case in ("tree_two_for_one_part", "required_gone", "files_thousands_of_parts"):
        pytest.skip("only the one part is asked for")
    loop, folder = spilling
    (one,) = folder.glob("step-*")
    hostile_folders.CASES[case](Hostile(one, folder.parents[1] / "outside.safetensors", "weights"))
    the_end_is_told(loop, folder)


# The lock


@pytest.fixture
def locked(tmp_path):
    """The lock of a folder that nobody owns any more."""
    folder = tmp_path / "runs" / "store"
    with Store(folder) as store:
        store.save(1, {"model": {"w": np.arange(3)}})
    return folder / ".lock"


@pytest.mark.parametrize("case", hostile_places.HOLDS)
def test_whatever_a_lock_says_it_can_be_locked(locked, case):
    hostile_places.CASES[case](locked)
    with Outside(locked.parent), Store(locked.parent) as store:
        assert store.latest.step == 1 and locked.stat().st_size < 4096
        hostile_places.CASES[case](locked)
        with pytest.raises(StoreOwnedError, match="in use by .*process"):
            Store(locked.parent)


@pytest.mark.parametrize("case", hostile_places.STANDS)
def test_what_is_no_file_is_no_lock(locked, case):
    hostile_places.CASES[case](locked)
    before = sorted(locked.parent.rglob("*"))
    for make in (Store, resumed):
        with Outside(locked.parent), pytest.raises(SaveError) as caught:
            make(locked.parent)
        text = str(caught.value)
        assert str(locked.parent) in text and ".lock" in text and "\nHint: " in text
    assert sorted(locked.parent.rglob("*")) == before


def test_a_lock_that_is_somebody_s_file_by_another_name_is_not_written_into(locked, tmp_path):
    """A copy made of hard links has such a lock, too: it locks, and has no owner's name."""
    theirs = tmp_path / "theirs"
    theirs.write_bytes(hostile_places.SECRET)
    theirs.chmod(0o600)
    locked.unlink()
    os.link(theirs, locked)
    with Outside(locked.parent), Store(locked.parent) as store:
        assert store.latest.step == 1
        with pytest.raises(StoreOwnedError):
            Store(locked.parent)
    assert theirs.read_bytes() == hostile_places.SECRET
    assert theirs.stat().st_mode & 0o777 == 0o600


TROUBLE = [errno.EACCES, errno.EMFILE, errno.ENOMEM, errno.ESTALE, errno.EINTR]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("error", TROUBLE, ids=errno.errorcode.get)
def test_trouble_with_the_newest_backup_serves_no_older_one(killed, monkeypatch, name, error):
    newest, real = backups(killed)[-1] / name, os.open

    def failing(path, flags, *args, **kwargs):
        there = newest.exists() and os.path.basename(path) == name
        descriptor = real(path, flags, *args, **kwargs)
        if there and os.path.samestat(os.fstat(descriptor), newest.stat()):
            os.close(descriptor)
            raise OSError(error, os.strerror(error), str(path))
        return descriptor

    before = contents(killed)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="step-") as caught:
        patch.setattr(os, "open", failing)
        resumed(killed)

    assert caught.value.errno == error
    assert not isinstance(caught.value, CheckpointDamagedError)
    assert {k: v for k, v in contents(killed).items() if k.name != ".lock"} == {
        k: v for k, v in before.items() if k.name != ".lock"
    }


def test_where_none_has_what_it_requires_that_is_said_before_the_first_batch(killed):
    for one in backups(killed):
        hostile_folders.CASES["required_gone"](
            Hostile(one, killed.parents[1] / "outside.safetensors", "weights", "train_state")
        )
    with pytest.raises(CheckpointDamagedError, match="'optimizer'.*are not listed"):
        resumed(killed)
