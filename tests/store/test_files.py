"""Single files under disks that fail, kills and power cuts: at every call that is made."""

import contextlib
import errno
import gc
import io
import os
import signal
import stat
import threading
import zipfile

import pytest
import xxhash

from peakhold import files
from peakhold.disk.disk import Disk
from peakhold.disk.path_disk import PathDisk
from peakhold.files.deletion import delete
from peakhold.testing import FailingDisk, WatchedDisk
from store.test_power import DISKS, Node, Platter, Recorder

OLD, NEW = b"old " * 3000, b"new " * 5000
ERRORS = [errno.ENOSPC, errno.EIO, errno.EACCES]


def write_new(file):
    file.write(NEW[:100])
    file.flush()
    file.write(NEW[100:])


def hidden(folder):
    return sorted(n for n in os.listdir(folder) if n.endswith((".peakhold-tmp", ".peakhold-old")))


def begin(folder, *, old=True):
    folder.mkdir()
    path = folder / "best.bin"
    if old:
        path.write_bytes(OLD)
    return path


def content(path):
    return path.read_bytes() if path.exists() else None


class KillingDisk(WatchedDisk):
    """Kills its process right before the N-th call."""

    def __init__(self, at):
        self.at, self.count = at, 0

    def before(self, name, arguments):
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(work, at):
    """Run it in a fork that dies before its N-th call; False if there was no such call."""
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            work(KillingDisk(at))
            status = 0
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


class NoLinks(FailingDisk):
    """A file system without hard links."""

    def link(self, old, new, old_at, new_at):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


# A commit


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("old", [True, False], ids=["old", "nothing"])
def test_every_call_fails_once(tmp_path, error, old):
    """The file is the one that the answer says, whole, and nothing else is left."""
    counter = FailingDisk()
    files.commit(str(begin(tmp_path / "count", old=old)), write_new, disk=counter)
    failed, kept = set(), 0
    for at in range(1, counter.count + 1):
        path = begin(tmp_path / str(at), old=old)
        disk = FailingDisk(at, error)
        try:
            files.commit(str(path), write_new, disk=disk)
        except OSError as caught:
            assert caught.errno == error
            assert not hasattr(caught, "__notes__")
            assert content(path) == (OLD if old else None), (at, disk.failed)
            kept += 1
        else:
            assert content(path) == NEW, (at, disk.failed)
        # What must not be removed stays until the next run begins.
        assert not hidden(path.parent) or disk.failed == ["remove"]
        files.sweep(str(path.parent))
        assert os.listdir(path.parent) == ([path.name] if content(path) else [])
        failed |= set(disk.failed)
    assert {"create", "lock", "write", "sync", "rename", "close"} <= failed
    assert not old or {"link", "remove", "set_mode"} <= failed
    assert 8 <= kept < counter.count


@pytest.mark.parametrize("old", [True, False], ids=["old", "nothing"])
def test_from_some_call_on_everything_fails(tmp_path, old):
    """On such a disk a rename cannot be taken back: then the error says which file stands there."""
    counter = FailingDisk()
    files.commit(str(begin(tmp_path / "count", old=old)), write_new, disk=counter)
    noted = 0
    for at in range(1, counter.count + 1):
        path = begin(tmp_path / str(at), old=old)
        try:
            files.commit(str(path), write_new, disk=FailingDisk(at, errno.EIO, forever=True))
        except OSError as caught:
            is_new = any("is the new file, whole" in n for n in getattr(caught, "__notes__", ()))
            noted += is_new
            assert content(path) == (NEW if is_new else OLD if old else None), at
        else:
            assert content(path) == NEW
        files.sweep(str(path.parent))
        assert not hidden(path.parent)
    assert noted == 1, "it is the folder's flush, after the rename"


@pytest.mark.parametrize("old", [True, False], ids=["old", "nothing"])
def test_a_failed_flush_of_the_folder_takes_the_rename_back(tmp_path, old):
    path = begin(tmp_path / "x", old=old)
    before = path.stat() if old else None
    with pytest.raises(OSError, match="Input/output error"):
        files.commit(str(path), write_new, disk=FailingDisk(2, errno.EIO, calls=["sync"]))

    assert os.listdir(path.parent) == ([path.name] if old else [])
    if before is not None:
        assert (content(path), path.stat().st_ino) == (OLD, before.st_ino)


def test_without_hard_links_the_new_file_stays_and_the_error_says_so(tmp_path):
    path = begin(tmp_path / "x")
    with pytest.raises(OSError) as caught:
        files.commit(str(path), write_new, disk=NoLinks(2, errno.EIO, calls=["sync"]))
    assert "is the new file, whole" in caught.value.__notes__[0]
    assert (content(path), os.listdir(path.parent)) == (NEW, [path.name])

    path = begin(tmp_path / "y", old=False)  # there is nothing to bring back: it can be removed
    with pytest.raises(OSError):
        files.commit(str(path), write_new, disk=NoLinks(2, errno.EIO, calls=["sync"]))
    assert os.listdir(path.parent) == []


def test_a_rename_that_loses_the_old_name_gives_it_back(tmp_path):
    """It is not atomic everywhere: some file systems unlink first, and then fail."""

    class Clumsy(FailingDisk):
        def rename(self, old, new, old_at, new_at):
            if old.endswith("-tmp"):
                os.unlink(new, dir_fd=new_at)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            super().rename(old, new, old_at, new_at)

    path = begin(tmp_path / "x")
    with pytest.raises(OSError, match="Input/output error"):
        files.commit(str(path), write_new, disk=Clumsy())
    assert (content(path), os.listdir(path.parent)) == (OLD, [path.name])

    path = begin(tmp_path / "y")
    with pytest.raises(OSError):  # and if that fails, too, the next run gives it back
        files.commit(str(path), write_new, disk=Clumsy(1, calls=["rename"]))
    files.sweep(str(path.parent))
    assert (content(path), os.listdir(path.parent)) == (OLD, [path.name])


def test_without_hard_links_and_locks_files_are_committed(tmp_path):
    class Bare(NoLinks):
        def lock(self, fd):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    path, aside = begin(tmp_path / "x"), tmp_path / "x" / "best.previous.bin"
    files.keep_aside(str(path), str(aside), disk=Bare())
    files.commit(str(path), write_new, disk=Bare())

    assert (content(path), content(aside), hidden(path.parent)) == (NEW, OLD, [])


@pytest.mark.parametrize("old", [True, False], ids=["old", "nothing"])
@pytest.mark.parametrize("fails", [False, True], ids=["", "and the flush of the folder fails"])
def test_kill_9_before_every_call(tmp_path, old, fails):
    """Also of those that take a rename back."""

    class KillingAndFailing(KillingDisk):
        def sync(self, fd):
            super().sync(fd)
            if fails and stat.S_ISDIR(os.fstat(fd).st_mode):
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    def commit(path, disk):
        disk.__class__ = KillingAndFailing
        with contextlib.suppress(OSError):
            files.commit(str(path), write_new, disk=disk)

    at, found, left = 1, [], 0
    while True:
        path = begin(tmp_path / str(at), old=old)
        died = killed(lambda disk, path=path: commit(path, disk), at)
        found.append(content(path))
        left += bool(hidden(path.parent))
        files.sweep(str(path.parent))
        assert content(path) == found[-1], "a sweep changes no file"
        assert os.listdir(path.parent) == ([path.name] if found[-1] else [])
        if not died:
            break
        at += 1
    before = OLD if old else None
    assert set(found) == {before, NEW}
    assert found[-1] == (before if fails else NEW)
    assert at > 10 and left > 5


def test_the_last_copy_gets_its_name_back_and_no_other(tmp_path):
    gone, there = (
        tmp_path / ".a.bin.0123abcd.peakhold-old",
        tmp_path / ".b.bin.0123abcd.peakhold-old",
    )
    gone.write_bytes(b"the only one")
    there.write_bytes(b"an older one")
    (tmp_path / "b.bin").write_bytes(b"the newer one")
    foreign = [
        ".peakhold-old",
        ".x.peakhold-old",
        ".a.bin.xyz.peakhold-tmp",
        "a.0123abcd.peakhold-tmp",
    ]
    for name in foreign:
        (tmp_path / name).write_bytes(b"a user's")
    (tmp_path / ".dir.0123abcd.peakhold-tmp").mkdir()

    assert sorted(files.sweep(str(tmp_path))) == sorted([gone.name, there.name])
    assert (tmp_path / "a.bin").read_bytes() == b"the only one"
    assert (tmp_path / "b.bin").read_bytes() == b"the newer one"
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["a.bin", "b.bin", ".dir.0123abcd.peakhold-tmp", *foreign]
    )


@pytest.mark.parametrize("at", range(1, 9))
def test_a_sweep_that_fails_loses_no_last_copy(tmp_path, at):
    copy = tmp_path / ".a.bin.0123abcd.peakhold-old"
    copy.write_bytes(b"the only one")
    disk = FailingDisk(at, errno.EIO)
    files.sweep(str(tmp_path), disk=disk)
    assert disk.failed

    files.sweep(str(tmp_path))
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_second_link_is_not_swept_while_its_writer_lives(tmp_path):
    path = begin(tmp_path / "x")
    swept = []

    class Sweeping(WatchedDisk):
        def after(self, name, arguments, result):
            if name in ("link", "rename"):
                assert any(n.endswith("-old") for n in os.listdir(path.parent))
                swept.extend(files.sweep(str(path.parent)))

    files.commit(str(path), write_new, disk=Sweeping())
    assert (swept, os.listdir(path.parent)) == ([], [path.name])


def test_modes_and_links_stay(tmp_path):
    target = begin(tmp_path / "x")
    target.chmod(0o604)
    link = tmp_path / "link.bin"
    link.symlink_to(target)
    files.commit(str(link), write_new)

    assert link.is_symlink()
    assert (content(target), stat.S_IMODE(target.stat().st_mode)) == (NEW, 0o604)
    assert os.listdir(tmp_path) == ["link.bin", "x"] or os.listdir(tmp_path) == ["x", "link.bin"]


def test_an_interrupt_takes_it_back(tmp_path):
    path = begin(tmp_path / "x")

    class Interrupted(Disk):
        def sync(self, fd):
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise KeyboardInterrupt
            super().sync(fd)

    with pytest.raises(KeyboardInterrupt):
        files.commit(str(path), write_new, disk=Interrupted())
    assert (content(path), os.listdir(path.parent)) == (OLD, [path.name])


def test_no_descriptor_is_left_open(tmp_path):
    path = begin(tmp_path / "x")
    before = len(os.listdir("/proc/self/fd"))
    for at in range(40):
        with contextlib.suppress(OSError):
            files.commit(str(path), write_new, disk=FailingDisk(at, errno.EIO))
    files.sweep(str(path.parent))
    assert len(os.listdir("/proc/self/fd")) == before


# What is written, and its checksum


def patched(file):
    file.write(b"????" + b"x" * 100_000)
    file.seek(0)
    file.write(b"head")
    file.seek(0, os.SEEK_END)
    file.write(b"tail")


def zipped(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("one", b"1" * 300_000)
        with archive.open("two", "w") as member:
            member.write(b"2" * 300_000)


def read_while_writing(file):
    file.write(b"abc" * 1000)
    file.seek(1)
    assert file.read(3) == b"bca"
    file.seek(0, os.SEEK_END)
    file.write(b"end")
    assert file.tell() == 3003


def cut(file):
    file.write(b"abc" * 100_000)
    file.seek(10)
    file.truncate()
    file.seek(0, os.SEEK_END)
    file.write(b"end")


def with_a_hole(file):
    file.write(b"begin")
    file.seek(200_000)
    file.write(b"end")


def by_descriptor(file):
    file.write(b"abc")
    file.flush()
    os.write(file.fileno(), b"def")


def in_one(file):
    file.write(memoryview(bytes(range(256)) * 80_000))  # 20 MB: several calls


def zipped_small(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("one", b"1" * 3000)
        with archive.open("two", "w") as member:
            member.write(b"2" * 3000)


def zipped_like_a_model(file):
    """What is small comes first."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", b"1" * 3000)
        with archive.open("model.weights.h5", "w") as member:
            for _ in range(3):
                member.write(b"2" * 300_000)


def patched_on_the_border(file):
    """Into what the disk has already, into what it has not, and across the two."""
    file.write(b"x" * 200_000)
    for place in (5, 199_990, 131_070, 200_000):
        file.seek(place)
        file.write(b"0123456789")
        file.flush()


WRITERS = [
    lambda file: None, write_new, in_one, patched, zipped, read_while_writing, cut, with_a_hole,
    by_descriptor, zipped_small, zipped_like_a_model, patched_on_the_border,
]  # fmt: skip


@pytest.mark.parametrize("disk", [FailingDisk, PathDisk], ids=["descriptors", "paths"])
@pytest.mark.parametrize("write", WRITERS)
def test_the_checksum_is_that_of_the_file(tmp_path, write, disk):
    expected = io.BytesIO()
    if write is not by_descriptor:
        write(expected)
    else:
        expected.write(b"abcdef")
    path = begin(tmp_path / "x")
    seen = []
    done = files.commit(str(path), write, before_rename=seen.append, disk=disk())

    data = path.read_bytes()
    assert data == expected.getvalue()
    assert (done.size, done.checksum) == (len(data), xxhash.xxh3_128_hexdigest(data))
    assert done.mtime_ns == path.stat().st_mtime_ns
    assert seen == [done]
    assert files.hash_file(str(path)) == done.checksum
    assert os.listdir(path.parent) == [path.name]


def test_short_writes_are_carried_on(tmp_path):
    path = begin(tmp_path / "x")
    files.commit(str(path), lambda f: f.write(NEW), disk=FailingDisk(short_writes=True))
    assert content(path) == NEW


def test_what_is_appended_is_not_read_again(tmp_path):
    disk = FailingDisk(1, calls=["read_into"])
    files.commit(str(begin(tmp_path / "x")), in_one, disk=disk)
    assert disk.count == 0


def test_a_small_zip_is_written_by_one_call_and_not_read_again(tmp_path):
    disk = FailingDisk(calls=["read_into", "write", "seek"])
    files.commit(str(begin(tmp_path / "x")), zipped_small, disk=disk)
    assert disk.count == 1


@pytest.mark.parametrize("write", [in_one, zipped_small, zipped_like_a_model])
def test_each_byte_is_hashed_once(tmp_path, monkeypatch, write):
    """On its way, or when it is read again because the writer has gone back: not both."""
    hashed, real = [], xxhash.xxh3_128

    class Counting:
        def __init__(self):
            self.digest = real()
            self.hexdigest = self.digest.hexdigest

        def update(self, data):
            hashed.append(len(data))
            self.digest.update(data)

    monkeypatch.setattr(xxhash, "xxh3_128", Counting)
    done = files.commit(str(begin(tmp_path / "x")), write)
    assert sum(hashed) == done.size


def test_what_the_disk_refused_is_not_lost_if_the_writer_goes_on(tmp_path):
    """One that catches the error of a flush, and writes more, has its file whole."""

    def stubborn(file):
        file.write(b"one")
        file.flush()
        with pytest.raises(OSError, match="(?i)input/output"):
            file.fileno()
        file.write(b"two")

    path = begin(tmp_path / "x")
    files.commit(str(path), stubborn, disk=FailingDisk(1, errno.EIO, calls=["write"]))
    assert path.read_bytes() == b"onetwo"


def test_a_write_that_writes_nothing_is_an_error(tmp_path):
    class Dead(Disk):
        def write(self, fd, data):
            return 0

    path = begin(tmp_path / "x")
    with pytest.raises(OSError, match="wrote nothing"):
        files.commit(str(path), write_new, disk=Dead())
    assert (content(path), hidden(path.parent)) == (OLD, [])


def test_nothing_is_written_when_the_commit_is_over(tmp_path):
    """Not even what a buffer still holds when it is collected."""
    path, kept = begin(tmp_path / "x"), []

    def fails(file):
        file.write(b"in the buffer")
        kept.append(file)
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        files.commit(str(path), fails)
    stranger = os.open(tmp_path / "stranger", os.O_RDWR | os.O_CREAT)  # takes a free number
    with pytest.raises(ValueError):
        kept[0].write(b"late")
    kept.clear()
    gc.collect()
    os.close(stranger)
    assert (tmp_path / "stranger").read_bytes() == b""
    assert (content(path), hidden(path.parent)) == (OLD, [])


def test_a_fork_in_mid_save_holds_no_lock(tmp_path):
    """A DataLoader worker that outlives its killed parent; and the parent's save is whole."""
    path = begin(tmp_path / "x")
    (alive, tell_alive), (end, tell_end) = os.pipe(), os.pipe()

    def forks(file):
        file.write(NEW[:5000])
        file.flush()
        file.write(NEW[5000:])  # in the buffer, which the child has, too
        if os.fork() == 0:
            os.write(tell_alive, b"!")
            os.read(end, 1)
            os._exit(0)
        os.read(alive, 1)
        if die:
            os.kill(os.getpid(), signal.SIGKILL)

    def save():
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                files.commit(str(path), forks)
            os._exit(0)
        os.waitpid(pid, 0)

    die = True
    save()
    assert len(hidden(path.parent)) == 1
    assert len(files.sweep(str(path.parent))) == 1, "the worker holds the lock"
    assert content(path) == OLD
    die = False
    save()
    os.write(tell_end, b"!!")
    assert content(path) == NEW


def test_a_child_that_goes_on_with_its_parents_save_harms_nothing(tmp_path):
    path = begin(tmp_path / "x")

    def forks(file):
        file.write(NEW)
        nonlocal pid
        pid = os.fork()

    pid = None
    try:
        files.commit(str(path), forks)
    except ValueError:
        os._exit(0 if pid == 0 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (content(path), hidden(path.parent)) == (NEW, [])


def test_threads_commit_at_the_same_time(tmp_path):
    def work(number):
        for _ in range(20):
            files.commit(str(tmp_path / f"{number}.bin"), lambda f: f.write(b"%d" % number * 9999))
            files.commit(str(tmp_path / "all.bin"), lambda f: f.write(b"%d" % number * 9999))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set((tmp_path / "all.bin").read_bytes())) == 1
    assert len(os.listdir(tmp_path)) == 5


def test_paths_without_descriptors(tmp_path):
    """What Windows gets; here it can be run, and leaves as little."""
    path, aside = begin(tmp_path / "x"), tmp_path / "x" / "best.previous.bin"
    disk = PathDisk()
    files.keep_aside(str(path), str(aside), disk=disk)
    files.commit(str(path), write_new, disk=disk)
    files.make_folder(str(tmp_path / "a" / "b"), disk=disk)
    assert (content(path), content(aside)) == (NEW, OLD)
    deleted = delete(str(path.parent), {aside.name: xxhash.xxh3_128_hexdigest(OLD)}, disk=disk)
    assert deleted.names == (aside.name,)
    with pytest.raises(RuntimeError):
        files.commit(str(path), lambda f: (_ for _ in ()).throw(RuntimeError), disk=disk)
    assert (os.listdir(path.parent), (tmp_path / "a" / "b").is_dir()) == ([path.name], True)
    assert disk._folders == {}


# Deleting


@pytest.fixture
def several(tmp_path):
    def make(name):
        folder = tmp_path / name
        folder.mkdir()
        for n in range(3):
            (folder / f"{n}.bin").write_bytes(b"%d" % n * 5000)
        (folder / "user.txt").write_text("mine")
        return folder

    return make


def sums(folder, *numbers):
    return {f"{n}.bin": xxhash.xxh3_128_hexdigest(b"%d" % n * 5000) for n in numbers}


def test_only_what_is_believed_is_deleted(several):
    folder = several("x")
    (folder / "1.bin").write_bytes(b"changed")
    os.symlink("2.bin", folder / "link.bin")
    wanted = sums(folder, 0, 1, 7) | {"link.bin": sums(folder, 2)["2.bin"]}

    done = delete(str(folder), wanted)

    assert (done.names, done.failures) == (("0.bin",), {})
    assert sorted(os.listdir(folder)) == ["1.bin", "2.bin", "link.bin", "user.txt"]


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("forever", [False, True], ids=["once", "for ever"])
def test_every_call_of_a_deletion_fails(several, error, forever):
    counter = FailingDisk()
    assert len(delete(str(several("count")), sums(None, 0, 1), disk=counter).names) == 2
    told = 0
    for at in range(1, counter.count + 1):
        folder = several(str(at))
        disk = FailingDisk(at, error, forever=forever)
        try:
            done = delete(str(folder), sums(folder, 0, 1), disk=disk)
        except OSError:
            assert disk.failed[0] == "open_root"
            done = None
        names = set(os.listdir(folder)) - set(hidden(folder))
        assert {"2.bin", "user.txt"} <= names
        if done is not None:
            told += bool(done.failures)
            assert not names & set(done.names)
            missing = {"0.bin", "1.bin"} - names - set(done.names)
            assert not missing or forever, "only a disk that refuses all keeps it hidden"
        for name in names - {"user.txt"}:
            assert (folder / name).read_bytes() == name[:1].encode() * 5000
        files.sweep(str(folder))
        assert not hidden(folder)
    assert told > 5


def test_kill_9_before_every_call_of_a_deletion(several):
    at, seen, died = 0, [], True
    while died:
        at += 1
        folder = several(str(at))
        died = killed(lambda disk, f=folder: delete(str(f), sums(f, 0, 1), disk=disk), at)
        names = set(os.listdir(folder)) - set(hidden(folder))
        assert {"2.bin", "user.txt"} <= names
        for name in names - {"user.txt"}:
            assert (folder / name).read_bytes() == name[:1].encode() * 5000
        files.sweep(str(folder))
        assert set(os.listdir(folder)) == names
        seen.append(len(names))
    assert seen == sorted(seen, reverse=True)
    assert (seen[0], seen[-1]) == (4, 2)


# Power cuts, in the simulation of `test_power.py`


class FileRecorder(Recorder):
    def after(self, name, arguments, result):
        super().after(name, arguments, result)
        if name == "link":
            old, new, old_at, new_at = arguments
            self.log.append((name, self.path(old, old_at), self.path(new, new_at)))


class FilePlatter(Platter):
    def play(self, name, path, *more):
        if name not in ("rename", "link"):
            super().play(name, path, *more)
            return
        names, key = self.parent(path)
        others, other = self.parent(more[0])
        others[other] = names[key]
        if name == "rename":
            del names[key]

    def leave(self, node, target, choose):
        """A name that was replaced is the old file's or the new one's: that is what rename means."""
        if node.folder:
            both = {n for n in node.now if n in node.flushed and node.now[n] is not node.flushed[n]}
            picked = {n: choose([node.now[n], node.flushed[n]]) for n in both}
            node, whole = Node(folder=True), node
            node.now, node.flushed = {**whole.now, **picked}, {**whole.flushed, **picked}
        super().leave(node, target, choose)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Five commits to one name, the file before kept aside each time; then that one is deleted."""
    folder, disk = tmp_path_factory.mktemp("files"), FileRecorder()
    path, aside = str(folder / "best"), str(folder / "aside")
    for number in range(5):
        if number:
            files.keep_aside(path, aside, disk=disk)
            disk.log.append(("aside", number - 1))
        files.commit(path, lambda f, n=number: f.write(b"%d" % n * 40_000), disk=disk)
        disk.log.append(("committed", number))
    delete(str(folder), {"aside": xxhash.xxh3_128_hexdigest(b"3" * 40_000)}, disk=disk)
    disk.log.append(("deleted", 3))
    return disk.log


def test_nothing_is_unlinked_before_its_deletion_is_durable(recorded):
    end = [i for i, call in enumerate(recorded) if call[0] == "remove"][-1]
    renamed = next(
        i for i, call in enumerate(recorded) if call[0] == "rename" and call[1] == "/aside"
    )
    assert recorded[end][1] == recorded[renamed][2]
    assert ("sync", "") in recorded[renamed:end]


@pytest.mark.parametrize("disk", DISKS)
def test_a_cut_at_any_moment(recorded, tmp_path, disk):
    platter, done, aside, deleted = FilePlatter(), -1, -1, False
    for i, (name, *arguments) in enumerate(recorded):
        if name == "committed":
            done = arguments[0]
        elif name == "aside":
            aside = arguments[0]
        elif name == "deleted":
            deleted = True
        else:
            platter.play(name, *arguments)
        target = tmp_path / f"{i}"
        platter.leave(platter.root, target, DISKS[disk])
        files.sweep(str(target))
        best, other = content(target / "best"), content(target / "aside")
        allowed = [b"%d" % n * 40_000 for n in (done, done + 1) if n >= 0]
        assert best in [*allowed, None] if done < 0 else best in allowed, i
        kept = [b"%d" % n * 40_000 for n in (aside, aside + 1) if n >= 0]
        assert other in kept or (other is None and (aside < 0 or done == 4)), i
        assert not deleted or other is None
        assert not hidden(target)


# Folders


def test_a_new_folder_is_durable_in_the_one_above(tmp_path):
    disk = Recorder()
    files.make_folder(str(tmp_path / "a" / "b"), disk=disk)
    files.make_folder(str(tmp_path / "a" / "b"), disk=disk)

    assert disk.log == [("make_folder", "/a"), ("sync", ""), ("make_folder", "/b"), ("sync", "")]
    with pytest.raises(OSError):
        (tmp_path / "file").write_text("")
        files.make_folder(str(tmp_path / "file" / "c"))
