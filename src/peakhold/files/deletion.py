"""Deleting single files: only what holds what it is believed to hold, in one step that lasts."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from peakhold.disk.disk import Disk, let_go
from peakhold.files.open_files import DISK, NEW, hidden_name, holding, is_regular
from peakhold.files.written_file import hash_of

__all__ = ["Deleted", "delete"]


@final
@dataclass(frozen=True, slots=True)
class Deleted:
    """What `delete` did."""

    names: tuple[str, ...]
    """Names that are gone, durably."""
    failures: Mapping[str, str]
    """Names where the system refused something, with its words. All others were not ours."""


def delete(folder: str, checksums: Mapping[str, str], *, disk: Disk | None = None) -> Deleted:
    """Delete files, durably, that hold what they are believed to hold.

    A file is first renamed to a hidden name and the folder flushed: after a power cut its name must
    not come back over blocks that are another file's by then. Only then is it unlinked; what a kill
    leaves in between is swept.

    Args:
        folder: Where they are.
        checksums: By name, what the content must be (`CommittedFile.checksum`). What is something
            else, is gone, or is a symbolic link, is left alone.
        disk: The calls to the system. Defaults to the real ones.

    Raises:
        OSError: If the folder cannot be opened.
    """
    disk = DISK if disk is None else disk
    hidden: dict[str, str] = {}
    failures: dict[str, str] = {}
    with holding(disk, folder) as (_, root):
        for name, checksum_ in checksums.items():
            try:
                if _holds(disk, root, name, checksum_):
                    hidden[name] = hidden_name(name, NEW)
                    disk.rename(name, hidden[name], root, root)
            except OSError as error:
                hidden.pop(name, None)
                failures[name] = error.strerror or str(error)
        try:
            if hidden:
                disk.sync(root)
        except OSError as error:
            failures |= dict.fromkeys(hidden, error.strerror or str(error))
            _bring_back(disk, root, hidden)
            return Deleted((), failures)
        for name, temporary in hidden.items():
            try:
                disk.remove(temporary, root)
            except FileNotFoundError:  # another run has swept it
                continue
            except OSError as error:
                failures[name] = error.strerror or str(error)
    return Deleted(tuple(hidden), failures)


def _holds(disk: Disk, root: int, name: str, checksum_: str) -> bool:
    """Whether a regular file of this content has this name."""
    if not is_regular(disk.look(name, root)):
        return False
    fd = disk.open(name, root)
    try:
        status = disk.status(fd)
        same = hash_of(disk, fd)[1] == checksum_
        return same and disk.identity(name, root) == (status.st_dev, status.st_ino)
    finally:
        let_go(disk, fd)


def _bring_back(disk: Disk, root: int, hidden: Mapping[str, str]) -> None:
    for name, temporary in hidden.items():
        with contextlib.suppress(OSError):
            if disk.identity(name, root) is None:
                disk.rename(temporary, name, root, root)
