"""What a commit of a single file holds open and hides, and how that ends.

A hidden file's name says what it is: `.best.keras.3f2a1b07.peakhold-tmp` is new and not there yet
(or deleted and not gone yet), `.best.keras.3f2a1b07.peakhold-old` is a second link to what stood
under the name, `.model.keras.3f2a1b07.peakhold-dir` is a folder (`scratch.py`). All carry the
kernel's lock while their writer lives. A name that would be too long with all that is cut; then a
file has no second link while it is replaced, for that must tell its name.

A forked child (a DataLoader worker) inherits open descriptors, and with them the lock: if it
outlived its killed parent, nobody could sweep. So it closes them right after the fork (closing does
not unlock; only the last holder's close does).
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import zlib
from collections.abc import Iterator
from typing import Final, TypeGuard, final

from peakhold import process
from peakhold.disk.disk import Disk, let_go
from peakhold.disk.path_disk import PathDisk

__all__ = [
    "DISK",
    "HIDDEN",
    "NEW",
    "OLD",
    "HeldDescriptors",
    "hidden_name",
    "holding",
    "is_regular",
    "shortened",
    "take_lock",
]

DISK: Final[Disk] = PathDisk() if os.name == "nt" else Disk()
_LONGEST: Final = 255
"""Bytes of a name, on every file system in common use."""
NEW, OLD = ".peakhold-tmp", ".peakhold-old"
HIDDEN: Final = re.compile(
    rf"\.(?P<name>.+)\.[0-9a-f]+(?P<kind>{re.escape(NEW)}|{re.escape(OLD)})", re.DOTALL
)


def shortened(name: str, room: int) -> str:
    """A name as it is, or cut so that something can be added to it; then it ends in its checksum.

    Args:
        name: The name of a file.
        room: Bytes of what will be added.

    Example:
        >>> shortened("best.keras", 23), len(shortened("n" * 250, 23))
        ('best.keras', 232)
    """
    encoded = os.fsencode(name)
    if len(encoded) + room <= _LONGEST:
        return name
    cut = encoded[: _LONGEST - room - 9].decode(errors="ignore")  # no half letters
    return f"{cut}~{zlib.crc32(encoded):08x}"


def hidden_name(name: str, kind: str) -> str:
    """A name beside `name` that nobody has."""
    unique = f".{os.urandom(4).hex()}{kind}"
    return f".{shortened(name, 1 + len(unique))}{unique}"


def is_regular(status: os.stat_result | None) -> TypeGuard[os.stat_result]:
    """Whether it is a file with content of its own."""
    return status is not None and stat.S_ISREG(status.st_mode)


def take_lock(disk: Disk, fd: int) -> bool:
    """Lock what is hidden; False if a sweep has the lock, and is about to remove it."""
    try:
        disk.lock(fd)
    except BlockingIOError:
        return False
    except OSError:  # no locks (some network file systems, Windows): it is never swept
        return True
    return True


@final
class HeldDescriptors:
    """Descriptors of one commit; closed at its end, and in a forked child at once."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.open: list[int] = []
        """What is closed at the end; whoever opens something adds it."""
        self.pid = os.getpid()
        _alive.add(self)

    def hold(self, fd: int) -> int:
        """Close this one, too."""
        self.open.append(fd)
        return fd

    def open_folder(self, path: str) -> int:
        """Open a folder; a link is followed."""
        root = self._disk.open_root(path or ".")
        self.open.append(root)
        return root

    def begin(self, folder: str, name: str) -> tuple[int, str, int, tuple[int, int]]:
        """Open a folder, create in it the hidden file that is to become `name`, and lock it.

        A sweep may strike between the two; then it is done again.

        Returns:
            The folder; the file's own name, its descriptor, and what tells it from other files.
        """
        disk, hidden = self._disk, hidden_name(name, NEW)
        root = disk.open_root(folder or ".")
        self.open.append(root)
        while True:
            fd = disk.create(hidden, root)
            self.open.append(fd)
            try:
                if take_lock(disk, fd):
                    status = disk.status(fd)
                    if disk.identity(hidden, root) is not None:
                        return root, hidden, fd, (status.st_dev, status.st_ino)
                self.close(fd)
            except BaseException:
                with contextlib.suppress(OSError):
                    disk.remove(hidden, root)
                raise
            hidden = hidden_name(name, NEW)

    def close(self, fd: int) -> None:
        """Close one now."""
        self.open.remove(fd)
        self._disk.close(fd)

    def release(self) -> None:
        """Close all. What was flushed is on disk, whatever `close` says."""
        while self.open:
            let_go(self._disk, self.open.pop())

    def abandon(self) -> None:
        """In a forked child: close what was inherited."""
        while self.open:
            with contextlib.suppress(OSError):
                os.close(self.open.pop())


@contextlib.contextmanager
def holding(disk: Disk, folder: str) -> Iterator[tuple[HeldDescriptors, int]]:
    """An open folder, and what is opened in it until the end."""
    held = HeldDescriptors(disk)
    try:
        yield held, held.open_folder(folder)
    finally:
        held.release()


_alive = process.each_in_forked_child(HeldDescriptors.abandon)
