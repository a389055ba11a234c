"""Whether a folder is owned, and by whom: to look, without owning it.

Loads no NumPy, so that a program that only looks starts at once. Who owns is `owner.py`'s.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from stat import S_ISREG
from typing import Final

from peakhold.disk.disk import Disk, let_go_after

__all__ = ["LOCK_NAME", "check_is_file", "is_owned", "owner_of", "read_note"]

LOCK_NAME: Final = ".lock"
_MAX_NOTE_BYTES: Final = 4096


def check_is_file(status: os.stat_result) -> None:
    """See that what is locked is a file.

    Raises:
        OSError: If it is something else.
    """
    if not S_ISREG(status.st_mode):
        raise OSError(errno.ENODEV, "it is not a regular file", LOCK_NAME)


def read_note(disk: Disk, fd: int) -> str:
    """Who has locked a file, by what it says.

    Args:
        disk: The calls to the system.
        fd: The lock file, open for reading.
    """
    buffer, done = bytearray(_MAX_NOTE_BYTES), 0
    with contextlib.suppress(OSError):
        while n := disk.read_into(fd, [memoryview(buffer)[done:]], done):
            done += n
    with contextlib.suppress(ValueError, RecursionError):  # whatever the bytes
        note = json.loads(bytes(buffer[:done]))
        keys = ("pid", "host", "since")
        members = [note.get(key) for key in keys] if isinstance(note, dict) else []
        if [type(member) for member in members] == [int, str, str]:
            return "process {} on {!s:.200} since {!s:.50}".format(*members)
    return "a process that has not written its name yet"


def is_owned(disk: Disk, path: str) -> bool | None:
    """Whether somebody owns a folder now; None where no lock can tell.

    To look takes a lock for an instant, which others who look may have at the same time; whoever
    wants to own the folder has to try again.

    Args:
        disk: The calls to the system.
        path: The folder.
    """
    try:
        return owner_of(disk, path) is not None
    except OSError:
        return None


def owner_of(disk: Disk, path: str) -> str | None:
    """Who owns a folder now; None if nobody does. Looks as `is_owned` does.

    Args:
        disk: The calls to the system.
        path: The folder.

    Raises:
        OSError: If no lock can tell.
    """
    try:
        with (
            let_go_after(disk, disk.open_root(path)) as root,
            let_go_after(disk, disk.open(LOCK_NAME, root)) as fd,
        ):
            check_is_file(disk.status(fd))
            try:
                disk.share_lock(fd)
            except BlockingIOError:
                return read_note(disk, fd)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None
