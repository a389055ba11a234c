"""The newest file of a folder is the one that was just saved, by either clock that files have.

Scripts take the newest model by `os.path.getctime`, as Keras's guides do, or by `getmtime`.
Renames, links and unlinks move the ctime of the file that they set aside behind that of the one
that took its place; so the last act touches the new one, after a tick of the file system's clock if
need be.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from typing import Final

from peakhold.disk.disk import Disk
from peakhold.files.open_files import DISK

__all__ = ["OLDER_NS", "make_newest"]

OLDER_NS: Final = 2_000_000_000
"""Older by the coarsest clock of a file system, FAT's: two seconds."""
_LEAST_NS: Final = 1_000_000
"""What `os.path.getmtime` tells apart is less fine than a nanosecond."""


def make_newest(
    path: str, others: Iterable[str], *, patience_s: float, disk: Disk | None = None
) -> bool:
    """Make a file newer than others, by ctime and mtime.

    Its own mtime stays. Theirs is set back where it is not older; their ctime is then newer, which
    is why the file is touched last.

    Args:
        path: The file.
        others: What must be older; what is not there does not matter.
        patience_s: Seconds to wait for the clock's next tick at most.
        disk: The calls to the system. Defaults to the real ones.

    Returns:
        Whether it is. False where the clock is too coarse, or the system refuses: no reason to call
        a file unsaved.
    """
    disk = DISK if disk is None else disk
    others = [os.path.realpath(other) for other in others]
    with contextlib.suppress(OSError):
        mine = os.stat(path)
        for other in others:
            _set_back(other, mine.st_mtime_ns, disk)
        until = time.monotonic() + patience_s
        while not _is_newer(path, others):
            if time.monotonic() > until:
                return False
            _set_times(os.path.realpath(path), mine.st_atime_ns, mine.st_mtime_ns, disk)
            if not _is_newer(path, others):
                time.sleep(0.001)
        return True
    return False


def _is_newer(path: str, others: Iterable[str]) -> bool:
    changed = os.stat(path).st_ctime_ns
    return all(changed > status.st_ctime_ns for status in map(_look, others) if status is not None)


def _set_back(path: str, than_ns: int, disk: Disk) -> None:
    status = _look(path)
    if status is not None and status.st_mtime_ns > than_ns - _LEAST_NS:
        _set_times(path, status.st_atime_ns, than_ns - OLDER_NS, disk)


def _set_times(path: str, accessed_ns: int, changed_ns: int, disk: Disk) -> None:
    folder, name = os.path.split(path)
    root = disk.open_root(folder)
    try:
        disk.set_times(name, root, accessed_ns, changed_ns)
    finally:
        disk.close(root)


def _look(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None
