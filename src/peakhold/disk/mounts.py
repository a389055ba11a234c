"""Which file system a path is on, by the system's own table of mounts.

Rules of this file:

1. Nothing here touches a disk: a path is looked up in the table as it is, links already followed.
2. What cannot be read or understood is not there. Elsewhere than on Linux the table is empty.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, final

__all__ = ["Mount", "MountTable"]

_TABLE: Final = "/proc/self/mountinfo"
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")
_POINT: Final = 4
"""Where the mount point stands in a line of the table, counted from 0."""


@final
@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted file system."""

    path: str
    """Where it is mounted."""
    kind: str
    """Its type, such as `ext4`, `nfs4` or `fuse.sshfs`."""
    source: str = ""
    """The device, the server, or a name that somebody chose."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Of the mount and of the file system; empty where an option takes no value."""
    number: int = 0
    above: int = -1
    """The number of the mount that it is mounted on."""


@final
class MountTable:
    r"""The mounts that this process sees.

    Args:
        text: The table, in the form of `/proc/self/mountinfo`.

    Example:
        >>> table = MountTable(
        ...     "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
        ...     "2 1 0:30 / /mnt/my\\040runs rw - nfs4 server:/runs rw,local_lock=none\n"
        ... )
        >>> table.of("/mnt/my runs/a").kind, table.of("/mnt/my").kind
        ('nfs4', 'ext4')
    """

    def __init__(self, text: str) -> None:
        # Of a thousand lines few are of interest: of the others only this is read.
        self._points = [(_point(line), line) for line in text.splitlines()]

    @classmethod
    def read(cls) -> MountTable:
        """The system's table now; an empty one where there is none."""
        if sys.platform != "linux":
            return cls("")
        try:
            with open(_TABLE, "rb") as file:
                return cls(os.fsdecode(file.read()))
        except OSError:
            return cls("")

    def of(self, path: str) -> Mount | None:
        """The mount that a path is on; None if the table does not say.

        A mount may hide others below it, so the way leads from the root down, as the kernel's does.

        Args:
            path: Absolute, without links.
        """
        left = {
            one.number: one
            for point, line in self._points
            if (point in {"/", path} or (point and path.startswith(f"{point}/")))
            and (one := _mount(line, point)) is not None
        }
        at = next((one for one in left.values() if one.above not in left), None)
        while at is not None:
            del left[at.number]
            on_it = [one for one in left.values() if one.above == at.number]
            if not on_it:
                return at
            at = min(reversed(on_it), key=lambda one: len(one.path))
        return None


def _point(line: str) -> str:
    """Where a line of the table says that something is mounted; empty if it says nothing."""
    words = line.split(" ", _POINT + 1)
    return _plain(words[_POINT]) if len(words) > _POINT else ""


def _mount(line: str, point: str) -> Mount | None:
    """What a line of the table says; None if it is none of a mount."""
    words = line.split(" ")
    try:
        number, above = int(words[0]), int(words[1])
        kind, source, *more = words[words.index("-") + 1 :]
    except ValueError:
        return None
    options = ",".join([words[_POINT + 1], *more]).split(",")
    pairs = (_plain(one).partition("=") for one in options)
    return Mount(
        point, kind, _plain(source), {key: value for key, _, value in pairs}, number, above
    )


def _plain(text: str) -> str:
    r"""A text of the table without its escapes: a space is `\040` there."""
    return text if "\\" not in text else _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)
