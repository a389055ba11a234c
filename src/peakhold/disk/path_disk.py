"""The calls of `Disk` that a single file needs, where a folder has no descriptor: Windows.

An open folder is a number that stands for a path. It is not held open, so a folder that is renamed
while we write is lost to us; it cannot be flushed, and nothing can be locked. What a rename
promises there is what `os.replace` promises: the old file or the new one.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import final

from peakhold.disk.disk import Disk

__all__ = ["PathDisk"]

_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_LOG = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)


@final
class PathDisk(Disk):
    """Like `Disk`; may be used from several threads."""

    def __init__(self) -> None:
        self._folders: dict[int, str] = {}
        self._numbers = itertools.count(-2, -1)  # no descriptor is negative

    def _path(self, name: str, at: int) -> str:
        return os.path.join(self._folders[at], name)

    def open_root(self, path: str) -> int:
        """Remember the folder."""
        os.stat(path)
        number = next(self._numbers)
        self._folders[number] = path
        return number

    def open_folder(self, name: str, at: int) -> int:
        """Remember a folder inside `at`."""
        return self.open_root(self._path(name, at))

    def open(self, name: str, at: int) -> int:
        """Open a file for reading."""
        return os.open(self._path(name, at), _READ)

    def create(self, name: str, at: int) -> int:
        """Create a file for writing and reading; it must not exist."""
        return os.open(self._path(name, at), _CREATE, 0o666)

    def open_log(self, name: str, at: int) -> int:
        """Open a file to add to its end, and to read; it is created if need be."""
        return os.open(self._path(name, at), _LOG, 0o666)

    def lock(self, fd: int) -> None:
        """There is no lock that ends with its owner and lets others read."""
        raise OSError("no locks here")

    def share_lock(self, fd: int) -> None:
        """There are no locks."""
        raise OSError("no locks here")

    def make_folder(self, name: str, at: int) -> None:
        """Create a folder; it must not exist."""
        os.mkdir(self._path(name, at))

    def read_into(self, fd: int, views: Sequence[memoryview], offset: int) -> int:
        """Read at `offset`; moves the place of the next write, so callers put it back."""
        os.lseek(fd, offset, os.SEEK_SET)
        done = 0
        for view in views:
            data = os.read(fd, len(view))
            view[: len(data)] = data
            done += len(data)
            if len(data) < len(view):
                break
        return done

    def sync(self, fd: int) -> None:
        """Flush a file; a folder cannot be flushed."""
        if fd not in self._folders:
            os.fsync(fd)

    def close(self, fd: int) -> None:
        """Close a file, forget a folder."""
        if self._folders.pop(fd, None) is None:
            os.close(fd)

    def rename(self, old: str, new: str, old_at: int, new_at: int) -> None:
        """Rename; a file takes the place of a file."""
        os.replace(self._path(old, old_at), self._path(new, new_at))

    def link(self, old: str, new: str, old_at: int, new_at: int) -> None:
        """Give a file a second name, which must be free."""
        os.link(self._path(old, old_at), self._path(new, new_at))

    def set_times(self, name: str, at: int, accessed_ns: int, changed_ns: int) -> None:
        """Set when it was read and changed last."""
        os.utime(self._path(name, at), ns=(accessed_ns, changed_ns))

    def remove(self, name: str, at: int) -> None:
        """Remove a file or a link."""
        os.unlink(self._path(name, at))

    def remove_folder(self, name: str, at: int) -> None:
        """Remove an empty folder."""
        os.rmdir(self._path(name, at))

    def names(self, at: int) -> list[str]:
        """List a folder."""
        return os.listdir(self._folders[at])

    def identity(self, name: str, at: int) -> tuple[int, int] | None:
        """Device and inode of what has this name now; None if nothing has."""
        status = self.look(name, at)
        return None if status is None else (status.st_dev, status.st_ino)

    def look(self, name: str, at: int) -> os.stat_result | None:
        """All that is known of what has this name now; None if nothing has."""
        try:
            return os.lstat(self._path(name, at))
        except FileNotFoundError:
            return None
