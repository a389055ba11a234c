"""Every call to the operating system that the store makes for what it commits, one method each.

Rules for this file:

1. Nothing else under `peakhold.store` writes to a folder of checkpoints, or a single file. What is
   not a method here cannot happen, so the tests can fail, kill and record every single call.
2. Files are named relative to an open folder descriptor and never followed through a link: a folder
   that is swapped under us, a link or a FIFO in a checkpoint cannot lead us elsewhere or hang us.
3. A method does one call and decides nothing. Retrying is not an option: after a failed `fsync` the
   kernel may have dropped the pages and report success the next time (PostgreSQL's "fsyncgate").
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: importing works, opening a store says that it cannot
    fcntl: Any = None  # type: ignore[no-redef]  # only where the import failed

__all__ = ["Disk", "flags", "let_go", "let_go_after"]


def flags(*names: str) -> int:
    """Those flags of `open` together that this system has."""
    value = 0
    for name in names:
        value |= getattr(os, name, 0)
    return value


_FOLDER = flags("O_RDONLY", "O_DIRECTORY", "O_CLOEXEC")
_READ = flags("O_RDONLY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC")
_CREATE = flags("O_RDWR", "O_BINARY", "O_CREAT", "O_EXCL", "O_NOFOLLOW", "O_CLOEXEC")
_LOG = flags("O_RDWR", "O_APPEND", "O_CREAT", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC")
_LOCK = flags("O_RDWR", "O_CREAT", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC")


class Disk:
    """The calls, with the flags that make them safe. Raises `OSError` like the `os` module."""

    def open_root(self, path: str) -> int:
        """Open the folder that the user named; a link is followed, as everywhere else."""
        return os.open(path, _FOLDER)

    def is_at(self, fd: int, path: str) -> bool:
        """Whether a path still means this open file or folder; a link is followed."""
        try:
            there = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return os.path.samestat(os.fstat(fd), there)

    def open_folder(self, name: str, at: int) -> int:
        """Open a folder inside `at`; a link is an error."""
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=at)

    def open(self, name: str, at: int) -> int:
        """Open a file for reading; a link is an error, a FIFO does not block."""
        return os.open(name, _READ, dir_fd=at)

    def create(self, name: str, at: int) -> int:
        """Create a file for writing and reading; it must not exist."""
        return os.open(name, _CREATE, 0o666, dir_fd=at)

    def open_lock(self, name: str, at: int) -> int:
        """Open a lock file for reading and writing; it is created if need be, and never removed."""
        return os.open(name, _LOCK, 0o666, dir_fd=at)

    def open_log(self, name: str, at: int) -> int:
        """Open a file to add to its end, and to read; it is created if need be."""
        return os.open(name, _LOG, 0o666, dir_fd=at)

    def lock(self, fd: int) -> None:
        """Take the kernel's exclusive lock or raise `BlockingIOError` at once.

        `flock`, not POSIX locks: those vanish when any descriptor of the file is closed. The lock
        belongs to the open file, so whoever inherits the descriptor holds it too.
        """
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def share_lock(self, fd: int) -> None:
        """Take the kernel's shared lock or raise `BlockingIOError` at once: somebody has the other.

        For who only wants to know, and lets it go at once.
        """
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def truncate(self, fd: int, size: int = 0) -> None:
        """Cut a file to a size in bytes."""
        os.ftruncate(fd, size)

    def set_mode(self, fd: int, mode: int) -> None:
        """Give a file these permissions."""
        os.fchmod(fd, mode)

    def make_folder(self, name: str, at: int) -> None:
        """Create a folder; it must not exist."""
        os.mkdir(name, 0o777, dir_fd=at)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write where the last write ended; may write less than asked."""
        return os.write(fd, data)

    def seek(self, fd: int, offset: int, whence: int) -> int:
        """Let the next write be elsewhere; returns where."""
        return os.lseek(fd, offset, whence)

    def start_writeback(self, fd: int, offset: int, length: int) -> None:
        """Let the kernel begin to write these dirty pages now instead of at the flush.

        Linux does so for `POSIX_FADV_DONTNEED`: the disk works while the next block is checksummed
        (419 MB on ext4, idle: 197 ms to durable instead of 272).
        """
        if sys.platform == "linux":
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)

    def bypass_cache(self, fd: int, *, on: bool) -> bool:
        """Write past the page cache from now on, or no longer; False where that cannot be had.

        Memory, offset and length of such writes are multiples of a page. `O_DIRECT` costs 7 ms of
        CPU for 440 MB where copying into the cache costs 110 to 300, and leaves the cache to the
        training data.
        """
        direct = getattr(os, "O_DIRECT", 0)
        if not direct:
            return False
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags | direct if on else flags & ~direct)
        except OSError:  # the file system has no such thing
            return False
        return True

    def read_into(self, fd: int, views: Sequence[memoryview], offset: int) -> int:
        """Read at `offset`; may read less than asked, 0 at the end."""
        return os.preadv(fd, views, offset)

    def sync(self, fd: int) -> None:
        """Flush a file or a folder to the platter; on macOS that takes `F_FULLFSYNC`."""
        full = getattr(fcntl, "F_FULLFSYNC", None)
        if full is None:
            os.fsync(fd)
        else:
            fcntl.fcntl(fd, full)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def rename(self, old: str, new: str, old_at: int, new_at: int) -> None:
        """Rename. A file takes the place of a file; of folders, only an empty one is replaced."""
        os.rename(old, new, src_dir_fd=old_at, dst_dir_fd=new_at)

    def link(self, old: str, new: str, old_at: int, new_at: int) -> None:
        """Give a file a second name, which must be free; a link is not followed."""
        os.link(old, new, src_dir_fd=old_at, dst_dir_fd=new_at, follow_symlinks=False)

    def set_times(self, name: str, at: int, accessed_ns: int, changed_ns: int) -> None:
        """Set when it was read and changed last; that this was done just now is its ctime."""
        os.utime(name, ns=(accessed_ns, changed_ns), dir_fd=at, follow_symlinks=False)

    def remove(self, name: str, at: int) -> None:
        """Remove a file or a link."""
        os.unlink(name, dir_fd=at)

    def remove_folder(self, name: str, at: int) -> None:
        """Remove an empty folder."""
        os.rmdir(name, dir_fd=at)

    def names(self, at: int) -> list[str]:
        """List a folder."""
        return os.listdir(at)

    def status(self, fd: int) -> os.stat_result:
        """Type, size and identity of what is open."""
        return os.fstat(fd)

    def identity(self, name: str, at: int) -> tuple[int, int] | None:
        """Device and inode of what has this name now, a link not followed; None if nothing has."""
        try:
            status = os.stat(name, dir_fd=at, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def look(self, name: str, at: int) -> os.stat_result | None:
        """All that is known of what has this name now, a link not followed; None if nothing has."""
        try:
            return os.stat(name, dir_fd=at, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def free_bytes(self, at: int) -> int:
        """Bytes that this user may still write."""
        status = os.fstatvfs(at)
        return status.f_bavail * status.f_frsize


def let_go(disk: Disk, fd: int) -> None:
    """Close what was only read or locked, or has failed before, whatever `close` says."""
    with contextlib.suppress(OSError):
        disk.close(fd)


@contextlib.contextmanager
def let_go_after(disk: Disk, fd: int) -> Iterator[int]:
    """Close what is only read or locked at the end of a block, however it ends."""
    try:
        yield fd
    finally:
        let_go(disk, fd)
