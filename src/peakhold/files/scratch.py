"""A folder for what a model's own `save` writes, beside the file that it is for.

    mkdir  .model.keras.3f2a1b07.peakhold-dir     locked while it is used
           model.keras                            and whatever else such a method writes
    …                                             emptied and removed

Rules of this file:

1. The lock is on the folder itself. Whoever finds it without one knows that its writer is dead, on
   this host or another, and may sweep it.
2. All that is in it was written by the method that it was made for. A link in it is removed, never
   followed; another file system that is mounted in it is not entered.
3. What cannot be removed stays, and harms nothing: the next run tries again.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from typing import Final

from peakhold.disk.disk import Disk, let_go
from peakhold.files.open_files import DISK, HeldDescriptors, hidden_name, holding, take_lock

__all__ = ["FOLDER", "SCRATCH", "scratch_folder", "sweep_scratch"]

FOLDER: Final = ".peakhold-dir"
SCRATCH: Final = re.compile(rf"\..+\.[0-9a-f]{{8}}{re.escape(FOLDER)}", re.DOTALL)


@contextlib.contextmanager
def scratch_folder(folder: str, name: str, *, disk: Disk | None = None) -> Iterator[str]:
    """Make a hidden folder and remove it, with all that is in it, at the end.

    Args:
        folder: Where to make it.
        name: Of what will be written in it; its own name says so.
        disk: The calls to the system. Defaults to the real ones.

    Yields:
        Its path.

    Raises:
        OSError: If it cannot be made.
    """
    disk = DISK if disk is None else disk
    with holding(disk, folder) as (held, root):
        made = _make(disk, held, root, name)
        try:
            yield os.path.join(folder, made)
        finally:
            if os.getpid() == held.pid:  # a forked child leaves it to its parent
                with contextlib.suppress(OSError):
                    _remove(disk, root, made)


def _make(disk: Disk, held: HeldDescriptors, root: int, name: str) -> str:
    """Make the folder and lock it; a sweep may strike between the two, then again."""
    while True:
        made = hidden_name(name, FOLDER)
        disk.make_folder(made, root)
        try:
            fd = held.hold(disk.open_folder(made, root))
            if take_lock(disk, fd) and disk.identity(made, root) is not None:
                return made
            held.close(fd)
        except FileNotFoundError:  # swept
            continue
        except BaseException:
            with contextlib.suppress(OSError):
                disk.remove_folder(made, root)
            raise


def sweep_scratch(disk: Disk, root: int, name: str) -> bool:
    """Remove such a folder if its writer is dead; False if it is no folder.

    Raises:
        OSError: If its writer lives, or it cannot be removed.
    """
    status = disk.look(name, root)
    if status is None or not stat.S_ISDIR(status.st_mode):
        return False
    fd = disk.open_folder(name, root)
    try:
        disk.lock(fd)
        _remove(disk, root, name)
    finally:
        let_go(disk, fd)
    return True


def _remove(disk: Disk, at: int, name: str, device: int | None = None) -> None:
    """Remove a folder and what is in it, as far as that is on the device of the outermost one."""
    status = disk.look(name, at)
    if status is None or device not in {None, status.st_dev}:
        return
    folder = disk.open_folder(name, at)
    try:
        for inner in disk.names(folder):
            found = disk.look(inner, folder)
            if found is not None and stat.S_ISDIR(found.st_mode):
                _remove(disk, folder, inner, status.st_dev)
            else:
                disk.remove(inner, folder)
    finally:
        disk.close(folder)
    disk.remove_folder(name, at)
