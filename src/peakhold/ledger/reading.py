"""To read a small file that may be anything: a FIFO, a folder, terabytes of nothing."""

from __future__ import annotations

import os
import stat
from typing import Final

from peakhold.disk.disk import flags

__all__ = ["open_to_read", "read_small"]

_READ: Final = flags("O_RDONLY", "O_NONBLOCK", "O_CLOEXEC", "O_NOFOLLOW", "O_BINARY")
_LARGEST: Final = 1 << 20


def open_to_read(path: str | os.PathLike[str]) -> int | None:
    """A descriptor of a file; None if there is no regular file that may be read."""
    try:
        descriptor = os.open(path, _READ)
    except (OSError, ValueError):
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def read_small(path: str | os.PathLike[str], largest: int = _LARGEST) -> bytes | None:
    """All of a file; None if there is none, or it has more bytes than such a file can have."""
    descriptor = open_to_read(path)
    if descriptor is None:
        return None
    try:
        data = os.read(descriptor, largest + 1)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return data if len(data) <= largest else None
