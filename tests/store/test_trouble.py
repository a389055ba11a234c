"""Damage, trouble and emptiness are three things, whichever call fails, and whatever with."""

import contextlib
import errno
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import pytest

from leftovers import descriptors
from peakhold.errors import (
    CheckpointDamagedError,
    CheckpointDamagedWarning,
    CheckpointNotFoundError,
    PeakholdWarning,
)
from peakhold.store import Reader, Store
from peakhold.testing import FailingDisk
from store_support import assert_same, quietly, state
from store_troubles import ACTIONS, DAMAGE, ERRORS, begin, calls_of, try_each

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    return begin(tmp_path_factory.mktemp("begun") / "store")


@pytest.mark.parametrize("action", ACTIONS)
def test_any_call_failing_gives_the_truth_or_the_trouble(begun, tmp_path, action):
    """Each call of the disk fails once; the errors take turns. `make crash` tries all with all."""
    n_calls = calls_of(begun, tmp_path, action)
    pairs = [(at, ERRORS[at % len(ERRORS)]) for at in range(1, n_calls + 1)]
    told = try_each(begun, tmp_path, action, pairs)
    assert sum(told.values()) == n_calls >= 5
    assert told["trouble"] > 0, "nothing that failed was told"


LOOKS = {
    "list": lambda reader: [entry.step for entry in reader.list()],
    "latest": lambda reader: reader.latest.step,
    "load": lambda reader: reader.load().entry.step,
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("error", [e for e in ERRORS if e not in DAMAGE], ids=errno.errorcode.get)
def test_trouble_with_the_newest_serves_no_older_one(folder, look, error):
    """It is raised as what it is, of its builtin class, with the path."""

    class Sick(FailingDisk):
        def open(self, name, at):
            if os.readlink(f"/proc/self/fd/{at}").endswith("step-00000003"):
                raise OSError(error, os.strerror(error))
            return super().open(name, at)

    with warnings.catch_warnings():
        warnings.simplefilter("error", PeakholdWarning)
        with pytest.raises(OSError, match="step-00000003/manifest.json") as caught:
            LOOKS[look](Reader(folder, disk=Sick()))
        assert caught.value.errno == error
        assert type(caught.value) is type(OSError(error, "")) and caught.value.__notes__
        assert LOOKS[look](Reader(folder)) in (3, [1, 2, 3])
        assert Reader(folder, disk=Sick()).load(2).entry.step == 2  # in nobody else's way


def test_a_bad_block_is_damage(folder):
    class Sick(FailingDisk):
        def read_into(self, fd, views, offset):
            if "step-00000003" in os.readlink(f"/proc/self/fd/{fd}"):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read_into(fd, views, offset)

    with pytest.warns(CheckpointDamagedWarning, match="step-00000003.*Input/output error"):
        assert Reader(folder, disk=Sick()).load().entry.step == 2


@pytest.mark.parametrize("look", LOOKS)
def test_with_no_descriptor_left_nothing_is_said_to_be_empty(folder, look):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    for more in range(4):  # none, and one to three: each place runs out of them
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, hard))
        try:
            with contextlib.suppress(OSError):
                assert LOOKS[look](Reader(folder)) in (3, [1, 2, 3])
                assert more >= 3
                continue
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert more < 3
    assert descriptors(folder) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs rights that we lack")
@pytest.mark.parametrize("look", LOOKS)
def test_another_users_folders_are_not_empty(folder, look):
    with tempfile.TemporaryDirectory() as base:  # a folder that others may enter
        os.chmod(base, 0o755)
        shared = Path(shutil.copytree(folder, Path(base, "store")))
        for checkpoint in shared.glob("step-*"):
            os.chmod(checkpoint, 0o700)
        os.seteuid(65534)
        try:
            with pytest.raises(PermissionError, match="step-0000000"):
                LOOKS[look](Reader(shared))
        finally:
            os.seteuid(0)


def test_a_folder_where_all_is_damaged_is_not_empty(folder):
    for checkpoint in folder.glob("step-*"):
        (checkpoint / "manifest.json").write_text("{}")
    asked = [*LOOKS.values(), lambda r: r.best("loss", "min")]
    for look in asked:
        with pytest.raises(CheckpointDamagedError, match="step-0000000") as caught:
            quietly(look, Reader(folder))
        assert "all of them are damaged" in caught.value.__notes__[0]
    with quietly(Store, folder) as store:  # and yet one can go on saving
        assert quietly(store.save, 4, state(4)).result().step == 4
        assert [entry.step for entry in quietly(store.list)] == [4]


def test_nothing_is_said_to_be_nothing(tmp_path):
    Store(tmp_path).close()
    assert (Reader(tmp_path).list(), Reader(tmp_path).latest) == ([], None)
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(CheckpointNotFoundError):
            Reader(folder).load()


def test_a_step_whose_newest_revision_is_damaged_is_not_its_older_one(folder):
    with Store(folder) as store:
        store.save(3, state(3)).result()
    (folder / "step-00000003.r2" / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointDamagedError, match=r"step-00000003\.r2"):
        Reader(folder).load(3)
    with pytest.warns(CheckpointDamagedWarning, match=r"step-00000003\.r2"):
        loaded = Reader(folder).load(3, if_damaged="older")
    assert loaded.entry.revision == 1 and len(loaded.passed_over) == 1
    assert Reader(folder).load(loaded.entry).entry.revision == 1


@pytest.mark.parametrize("harm", ["damaged", "bad block"])
def test_commit_numbers_never_go_back(folder, harm):
    """What cannot be read when a store is opened counts all the same: it may be the newest."""

    class Sick(FailingDisk):
        sick = harm == "bad block"

        def open(self, name, at):
            if self.sick and "step-00000003" in os.readlink(f"/proc/self/fd/{at}"):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().open(name, at)

    manifest = folder / "step-00000003" / "manifest.json"
    whole = manifest.read_bytes()
    if harm == "damaged":
        manifest.write_bytes(b"{}")
    store = quietly(Store, folder, disk=Sick())
    store._disk.sick = False
    entry = quietly(store.save, 1, state(1)).result()
    quietly(store.close)
    manifest.write_bytes(whole)  # it comes back
    assert_same(Reader(folder).load().parts, state(1))
    commits = [e.commit for e in Reader(folder).list()]
    assert commits[:3] == [1, 2, 3] and entry.commit == commits[3] > 3


def test_what_is_in_the_trash_counts_although_it_cannot_be_read(folder):
    with Store(folder) as store:
        store.delete(3)
    (deleted,) = (folder / ".trash").iterdir()
    whole = (deleted / "manifest.json").read_bytes()
    (deleted / "manifest.json").write_bytes(whole[:-5])
    with Store(folder) as store:
        assert store.save(9, state(9)).result().commit > 3
        (deleted / "manifest.json").write_bytes(whole)
        store.undelete(3)
        assert store.latest.step == 9


def test_numbers_that_are_used_up_are_said(folder, monkeypatch):
    """A manifest that claims the last number there is: no save is acknowledged and then refused."""
    store = Store(folder)
    store._last_commit = 2**62 - 1
    with pytest.raises(OSError, match="commit number"):
        store.save(4, state(4)).result()
    store.close()
    assert [entry.step for entry in Reader(folder).list()] == [1, 2, 3]


def test_a_store_copies_of_which_are_open_forgets_nothing(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "step-00000002" / "manifest.json").unlink()
    assert [entry.step for entry in quietly(Reader(tmp_path / "copy").list)] == [1, 3]
