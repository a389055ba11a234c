"""Every call to the operating system fails once, and for ever; and a disk is really full."""

import ctypes
import errno
import os
import shutil

import numpy as np
import pytest

from peakhold.errors import DiskFullError, SaveError, SaveWarning
from peakhold.store import KeepLast, Store
from peakhold.testing import CALLS, FailingDisk
from store_support import assert_same, quietly, state, survey


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A store with three commits, so that the next save makes retention delete and unlink."""
    folder = tmp_path_factory.mktemp("begun") / "store"
    with Store(folder, keep=KeepLast(2)) as store:
        for step in (1, 2, 3):
            store.save(step, state(step))
            store.wait()
    return folder


def copy_of(folder, target):
    shutil.copytree(folder, target)
    return target


def save_one(folder, disk):
    """Save step 4 on a failing disk; return what was raised, and check that the store goes on."""
    store = quietly(Store, folder, KeepLast(2))
    store._disk = disk  # the disk fails only once the store is open
    store._reader._disk = store._trash._disk = disk
    raised = None
    try:
        pending = store.save(4, state(4))
        try:
            pending.result()
        except SaveError as error:
            raised = error
        quietly(store.wait)
        at_fault = list(disk.failed)
        disk.at = 0
        newest = survey(folder)[-1]
        # On a disk that refuses everything from the last flush on, the rename cannot be taken back:
        # the failed save turns up, whole, and is only not promised to survive a power cut.
        stuck = disk.forever and at_fault[:2] == ["sync", "rename"]
        assert newest == (4 if stuck or not raised else 3)
        quietly(store.save, 5, state(5)).result()  # the object is usable after any failure
        quietly(store.wait)
        assert survey(folder)[-1] == 5
    finally:
        disk.at = 0
        quietly(store.close)
    return raised, at_fault


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES], ids=errno.errorcode.get)
@pytest.mark.parametrize("forever", [False, True], ids=["once", "for ever"])
def test_every_call_of_a_save_and_of_retention_fails(begun, tmp_path, error, forever):
    counter = FailingDisk()
    raised, _ = save_one(copy_of(begun, tmp_path / "count"), counter)
    assert raised is None
    # `counter` went on counting after step 4; the calls of one save and its retention are half.
    failed_saves, failed_calls = 0, set()
    calls = counter.count // 2
    for at in range(1, calls + 1):
        folder = copy_of(begun, tmp_path / f"{at}")
        raised, names = save_one(folder, FailingDisk(at, error, forever=forever))
        if raised is not None:
            failed_saves += 1
            assert raised.errno is None and str(folder) in str(raised)
        steps = survey(folder)
        assert len(steps) >= 2 and steps[-1] == 5, (at, names, steps)
        failed_calls |= set(names)
        shutil.rmtree(folder)
    print(
        f"{calls} calls failed, {failed_saves} of them made the save fail; {sorted(failed_calls)}"
    )
    assert calls > 60 and 20 < failed_saves <= calls
    assert {"write", "sync", "rename", "make_folder", "create", "close"} <= failed_calls


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES], ids=errno.errorcode.get)
def test_every_call_of_opening_fails(begun, tmp_path, error):
    """Opening with leftovers to sweep either fails with a reason or gives a good store."""
    left = copy_of(begun, tmp_path / "left")
    shutil.copytree(left / "step-00000003", left / ".tmp-step-00000004-01234567")
    counter = FailingDisk()
    quietly(Store, copy_of(left, tmp_path / "count"), disk=counter).close()
    refused = 0
    for at in range(1, counter.count + 1):
        folder = copy_of(left, tmp_path / f"{at}")
        disk = FailingDisk(at, error)
        try:
            quietly(quietly(Store, folder, disk=disk).close)
        except OSError:
            refused += 1
        assert survey(folder) == [2, 3]
        with Store(folder):  # nothing was left locked or broken
            assert not list(folder.glob(".tmp-*"))
        shutil.rmtree(folder)
    print(f"{counter.count} calls failed, {refused} of them refused the store")
    assert counter.count > 30 and refused > 3


def test_short_writes_are_carried_on(tmp_path):
    with Store(tmp_path, disk=FailingDisk(short_writes=True)) as store:
        store.save(1, state(1)).result()
    assert survey(tmp_path) == [1]


@pytest.mark.parametrize("tail", [0, 1, 4095, 4096, 8 << 20])
def test_large_parts_go_past_the_cache_and_come_back(tmp_path, tail):
    """Whatever is refused on the way: the flag, the writes, or all but a few bytes of each."""

    class NoFlag(FailingDisk):
        def bypass_cache(self, fd, *, on):
            return False

    class NoWrites(FailingDisk):
        direct = False

        def bypass_cache(self, fd, *, on):
            self.direct = on
            return True

        def write(self, fd, data):
            if self.direct:
                raise OSError(errno.EINVAL, "Invalid argument")
            return super().write(fd, data)

    class Odd(NoWrites):
        """Takes an odd number of bytes, and then no unaligned write."""

        begun = False

        def write(self, fd, data):
            if self.direct and self.begun:
                raise OSError(errno.EINVAL, "Invalid argument")
            self.begun = self.direct
            return os.write(fd, data[:5000] if self.direct else data)

    data = np.random.default_rng(tail).integers(0, 255, (9 << 20) + tail, np.uint8)
    for number, disk in enumerate((FailingDisk(), NoFlag(), NoWrites(), Odd())):
        folder = tmp_path / f"{number}"
        with Store(folder, disk=disk) as store:
            entry = store.save(1, {"m": {"x": data, "y": data[:3]}}).result()
        got = Store(folder).load(entry)["m"]
        assert got["x"].tobytes() == data.tobytes() and got["y"].tobytes() == data[:3].tobytes()
        assert (entry.path / "m.safetensors").stat().st_size == 4096 + len(data) + 3


def test_a_write_that_writes_nothing_is_an_error(tmp_path):
    class Dead(FailingDisk):
        def write(self, fd, data):
            return 0 if len(data) > 500 else super().write(fd, data)

    with Store(tmp_path, disk=Dead()) as store:
        with pytest.raises(SaveError, match="wrote nothing"):
            store.save(1, state(1)).result()
    assert os.listdir(tmp_path) == [".lock"]


def test_a_failed_flush_is_never_tried_again(tmp_path):
    """After a failed fsync the kernel may have dropped the pages and say yes the next time."""
    disk = FailingDisk(at=1, error=errno.EIO, calls=["sync"])
    with Store(tmp_path) as store:
        store._disk = disk
        with pytest.raises(SaveError, match="Input/output error"):
            store.save(1, state(1)).result()
    assert (disk.count, os.listdir(tmp_path)) == (1, [".lock"])


def test_the_last_flush_failing_takes_the_commit_back(tmp_path):
    for at in range(1, 20):
        disk = FailingDisk(at=at, error=errno.EIO, calls=["sync"])
        with Store(tmp_path) as store:
            store._disk = disk
            try:
                store.save(at, state(at)).result()
            except SaveError:
                assert survey(tmp_path) == []
                continue
        assert survey(tmp_path) == [at]
        break
    assert at == 8  # four files, the manifest, the folder and its parent: seven flushes


def test_what_was_committed_is_not_read_back_to_be_listed(tmp_path):
    disk = FailingDisk(calls=["read_into"])
    with Store(tmp_path, KeepLast(2), disk=disk) as store:
        for step in range(1, 5):
            store.save(step, state(step)).result()
        store.wait()
        assert [entry.step for entry in store.list()] == [3, 4]
        assert disk.count == 0
    assert survey(tmp_path) == [3, 4]


def test_small_arrays_of_a_part_are_written_by_one_call(tmp_path):
    disk = FailingDisk(calls=["write"])
    tensors = {"m": {str(n): np.full(n, n, np.float32) for n in range(100)}}
    with Store(tmp_path) as store:
        store._disk = disk
        store.save(1, tensors, immutable=True).result()
        assert disk.count == 3  # the tensors, their structure, the manifest
        assert_same(store.load(1).parts, tensors)


def test_failures_come_out_once(tmp_path):
    disk = FailingDisk(at=1, calls=["make_folder"], forever=True)
    with Store(tmp_path) as store:
        store._disk = disk
        store.save(1, state(1)).task.wait()
        with pytest.warns(SaveWarning, match="save of step 1 failed"):
            store.save(2, state(2))  # nobody asked for step 1: it is said
        with pytest.raises(SaveError, match="step-00000002"):
            store.wait()
        store.wait()  # said once
        store.save(3, state(3))
        with pytest.raises(SaveError, match="step-00000003"):
            store.close()
        assert store.stats.failed == 3


def test_an_error_in_the_with_block_is_the_one_that_is_seen(tmp_path):
    with pytest.raises(KeyError) as caught, Store(tmp_path) as store:
        store._disk = FailingDisk(at=1, calls=["make_folder"])
        store.save(1, state(1))
        raise KeyError("mine")
    assert "a save failed" in caught.value.__notes__[0]


def test_no_room_is_seen_before_anything_is_written(tmp_path):
    class Small(FailingDisk):
        free = 1000

        def free_bytes(self, at):
            return self.free

    disk = Small()
    with Store(tmp_path, disk=disk) as store:
        with pytest.raises(DiskFullError, match="got path=.* with 1,000 bytes free") as caught:
            store.save(1, state(1)).result()
        assert (caught.value.free_bytes, os.listdir(tmp_path)) == (1000, [".lock"])
        with pytest.raises(DiskFullError):
            store.prepare(state(1))


def test_undo_gives_way_to_a_checkpoint(tmp_path):
    """When room is short the trash is emptied first."""

    class Tight(FailingDisk):
        def free_bytes(self, at):
            return 10 << 20 if not os.listdir(tmp_path / ".trash") else 10

    with Store(tmp_path, disk=FailingDisk()) as store:
        for step in (1, 2):
            store.save(step, state(step)).result()
        store.delete(1)
        assert len(os.listdir(tmp_path / ".trash")) == 1
        store._disk = Tight()
        store.save(3, state(3)).result()
    assert survey(tmp_path) == [2, 3]


def mounted(path, size):
    libc = ctypes.CDLL(None, use_errno=True)
    path.mkdir()
    if libc.mount(b"tmpfs", bytes(path), b"tmpfs", 0, f"size={size}".encode()) != 0:
        pytest.skip(f"mounting needs rights that we lack: {os.strerror(ctypes.get_errno())}")
    return lambda: libc.umount2(bytes(path), 2)


def test_a_disk_that_is_really_full(tmp_path):
    """Ten megabytes of file system, checkpoints of four: the third does not fit, nor does any later."""
    path = tmp_path / "small"
    unmount = mounted(path, 10 << 20)
    try:
        big = {"model": {"w": np.arange(500_000, dtype=np.float64)}}

        class Blind(FailingDisk):
            """Does not see that there is no room, so that the writes themselves fail."""

            def free_bytes(self, at):
                return 1 << 40

        with Store(path / "store", disk=Blind()) as store:
            outcomes = []
            for step in range(4):
                try:
                    outcomes.append(store.save(step, big).result().step)
                except SaveError as error:
                    assert "No space left on device" in str(error) and "Hint: free" in str(error)
                    outcomes.append(None)
            assert outcomes == [0, 1, None, None]
            assert all(finding.ok for finding in store.verify())
            assert not list((path / "store").glob(".tmp*"))
            store.delete(0)
            store._disk = store._trash._disk = FailingDisk()
            assert store.save(4, big).result().step == 4  # the trash made room
            assert [entry.step for entry in store.list()] == [1, 4]
    finally:
        unmount()


def test_calls_are_all_of_the_disk():
    assert len(CALLS) == 29 and {"write", "sync", "rename", "link", "lock"} <= set(CALLS)
