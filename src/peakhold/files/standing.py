"""What stands under a name. A file takes the place of a file, and of nothing else.

A rename replaces whatever has the name: a device (`/dev/null` of a container, for root), a FIFO
that a program waits at, a socket. Whoever commits asks here first. A log is written *through* what
is no file, and so is what this process prints to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from typing import Final

__all__ = ["check_replaceable", "printed_to", "what_it_is"]

_KINDS: Final[dict[Callable[[int], bool], str]] = {
    stat.S_ISDIR: "a directory",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a disk",
    stat.S_ISFIFO: "a FIFO",
    stat.S_ISSOCK: "a socket",
    stat.S_ISLNK: "a link to itself",
}


def what_it_is(status: os.stat_result | None) -> str | None:
    """What it is, if it is there and no file.

    Example:
        >>> what_it_is(os.stat(os.devnull)), what_it_is(os.stat(os.sep)), what_it_is(None)
        ('a device', 'a directory', None)
    """
    if status is None or stat.S_ISREG(status.st_mode):
        return None
    return next((kind for is_it, kind in _KINDS.items() if is_it(status.st_mode)), "something else")


def check_replaceable(status: os.stat_result | None, path: str) -> None:
    """Check that a file may take this place.

    Raises:
        OSError: If something stands there that is no file.
    """
    kind = what_it_is(status)
    if kind is not None:
        code = errno.EISDIR if kind == "a directory" else errno.EEXIST
        raise OSError(code, f"{kind} stands there, no file, and a file would take its place", path)


def printed_to(status: os.stat_result) -> int | None:
    """The descriptor (1 or 2) by which this process prints to it; None if it does not."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # closed: a daemon's
            if os.path.samestat(os.fstat(descriptor), status):
                return descriptor
    return None
