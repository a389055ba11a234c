"""The folder that a model's own `save` writes to: gone at the end, swept after a kill, never else."""

import contextlib
import errno
import os
import signal

import pytest

from peakhold import files
from peakhold.disk.path_disk import PathDisk
from peakhold.files.scratch import FOLDER, scratch_folder
from peakhold.testing import FailingDisk, WatchedDisk

USERS = (
    ".peakhold-dir",
    ".x.peakhold-dir",
    ".x.0123abc.peakhold-dir",
    ".x.0123abcg.peakhold-dir",
    "x.0123abcd.peakhold-dir",
    ".x.0123abcd.peakhold-tmp",
)
"""Folders of users that are almost called so."""


def fill(folder):
    """What a method of a user's may leave: files, folders, and links to elsewhere."""
    os.makedirs(os.path.join(folder, "assets", "deep"))
    for name in ("model.keras", "assets/vocabulary.txt", "assets/deep/more"):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(b"x" * 1000)


def link_out(folder, outside):
    os.symlink(outside, os.path.join(folder, "link to a folder"))
    os.symlink(outside / "kept.txt", os.path.join(folder, "link to a file"))
    os.symlink("nowhere", os.path.join(folder, "assets", "dangling"))


@pytest.fixture
def outside(tmp_path):
    """A user's folder, which a link may lead to."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "kept.txt").write_text("a user's")
    yield folder
    assert (folder / "kept.txt").read_text() == "a user's"
    assert os.listdir(folder) == ["kept.txt"]


@pytest.fixture
def here(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("disk", [FailingDisk, PathDisk], ids=["descriptors", "paths"])
@pytest.mark.parametrize("raises", [False, True])
def test_it_is_gone_at_the_end_with_all_that_is_in_it(here, outside, disk, raises):
    before = len(os.listdir("/proc/self/fd"))
    with contextlib.suppress(ZeroDivisionError):
        with scratch_folder(str(here), "model.keras", disk=disk()) as folder:
            assert [os.path.basename(folder)] == os.listdir(here)
            fill(folder)
            link_out(folder, outside)
            if raises:
                raise ZeroDivisionError

    assert os.listdir(here) == []
    assert len(os.listdir("/proc/self/fd")) == before


def killed_in_it(here, prepare=lambda folder: None, at=0):
    """A fork that is killed in the block, or before its N-th call; its status."""

    class Deadly(WatchedDisk):
        count = 0

        def before(self, name, arguments):
            self.count += 1
            if self.count == at:
                os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            with scratch_folder(str(here), "model.keras", disk=Deadly()) as folder:
                fill(folder)
                prepare(folder)
                if not at:
                    os.kill(os.getpid(), signal.SIGKILL)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_what_a_killed_process_left_is_swept_and_links_are_not_followed(here, outside):
    assert killed_in_it(here, lambda folder: link_out(folder, outside)) == -signal.SIGKILL
    (left,) = os.listdir(here)

    assert left.endswith(FOLDER)
    assert files.sweep(str(here)) == [left]
    assert os.listdir(here) == []


def test_kill_9_before_every_call(here):
    at, left = 0, 0
    while True:
        at += 1
        status = killed_in_it(here, at=at)
        left += bool(os.listdir(here))
        files.sweep(str(here))
        assert os.listdir(here) == []
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert at > 20 and left > 15


@pytest.mark.parametrize("forever", [False, True])
def test_every_call_fails(here, forever):
    """Either it is an error at once, or the block runs; what stays is swept."""
    counter = FailingDisk()
    with scratch_folder(str(here), "model.keras", disk=counter) as folder:
        fill(folder)
    errors, blocks = 0, 0
    for at in range(1, counter.count + 1):
        disk = FailingDisk(at, errno.EIO, forever=forever)
        try:
            with scratch_folder(str(here), "model.keras", disk=disk) as folder:
                blocks += 1
                fill(folder)
        except OSError:
            errors += 1
        files.sweep(str(here))
        assert os.listdir(here) == []
    assert errors >= 3 and blocks > 15


def test_every_call_of_a_sweep_fails_once(here):
    killed_in_it(here)
    at = 0
    while os.listdir(here):
        at += 1
        disk = FailingDisk(at, errno.EIO)
        files.sweep(str(here), disk=disk)
        if os.listdir(here):
            assert disk.failed
    assert at > 8


def test_a_folder_that_is_in_use_stays(here):
    """Of this process, and of another, also from the one's forked child's point of view."""
    with scratch_folder(str(here), "model.keras") as folder:
        fill(folder)
        assert files.sweep(str(here)) == []
        pid = os.fork()
        if pid == 0:
            swept = files.sweep(str(here))
            os._exit(1 if swept or not os.path.exists(f"{folder}/assets/deep/more") else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert os.path.exists(f"{folder}/assets/deep/more")


def test_a_forked_child_neither_removes_it_nor_keeps_its_lock(here):
    """The child outlives the killed process, as a DataLoader's worker may."""
    (gone, tell_gone), (go_on, tell_go_on) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException), scratch_folder(str(here), "model.keras"):
            if os.fork() == 0:
                os.read(go_on, 1)  # and leaves the block after its parent's death
            else:
                os.write(tell_gone, b"!")
                os.kill(os.getpid(), signal.SIGKILL)
        os.write(tell_gone, b"!")
        os._exit(0)
    assert os.read(gone, 1) == b"!"
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    (left,) = os.listdir(here)

    assert files.sweep(str(here)) == [left], "the child holds the lock"
    (here / left).mkdir()  # as if it were still there when the child leaves the block
    os.write(tell_go_on, b"!")
    assert os.read(gone, 1) == b"!"
    assert os.listdir(here) == [left], "the child removed it"


def test_what_is_called_almost_so_is_a_users(here, outside):
    for name in USERS:
        (here / name).mkdir()
        (here / name / "file").write_text("a user's")
    (here / ".x.0123abcd.peakhold-dir").write_text("a file of this name")
    (here / ".y.0123abcd.peakhold-dir").symlink_to(outside)
    before = sorted(os.listdir(here))

    assert files.sweep(str(here)) == []
    assert sorted(os.listdir(here)) == before
    assert all((here / name / "file").exists() for name in USERS)


def test_it_is_made_and_kept_although_another_run_sweeps(here):
    """Between its creation and its lock a sweep may strike."""
    pid = os.fork()
    if pid == 0:
        while True:
            files.sweep(str(here))
    try:
        for _ in range(200):
            with scratch_folder(str(here), "model.keras") as folder:
                fill(folder)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    files.sweep(str(here))

    assert os.listdir(here) == []


def test_a_sweep_right_after_its_creation_makes_it_try_again(here):
    class Sweeping(WatchedDisk):
        swept = ()

        def after(self, name, arguments, result):
            if name == "make_folder" and not self.swept:
                self.swept = files.sweep(str(here))

    disk = Sweeping()
    with scratch_folder(str(here), "model.keras", disk=disk) as folder:
        fill(folder)
        assert len(disk.swept) == 1
        assert os.listdir(here) == [os.path.basename(folder)] != disk.swept


def test_without_locks_it_is_made_and_removed(here):
    class Bare(FailingDisk):
        def lock(self, fd):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with scratch_folder(str(here), "model.keras", disk=Bare()) as folder:
        fill(folder)
        assert files.sweep(str(here), disk=Bare()) == [], "whether it is in use cannot be known"

    assert os.listdir(here) == []
