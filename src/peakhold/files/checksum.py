"""The one checksum of the format: xxh3-128, written as 32 hex digits.

Not cryptographic: it finds what disks, memory and people do by accident, at the speed of a copy
(30 GB/s a core here; SHA-256 takes fifty times as long). Who can forge a tensor can forge a
manifest.

Both names are the library's own functions: a state has a checksum for each tensor, and a layer of
ours between would be called as often as all the rest of a save together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias, cast

import numpy as np
import xxhash

__all__ = ["Checksum", "begin_checksum", "checksum_of"]

_Bytes: TypeAlias = bytes | bytearray | memoryview | np.ndarray[Any, Any]


class Checksum(Protocol):
    """A checksum that is fed block by block."""

    def update(self, block: _Bytes, /) -> object:
        """Add contiguous bytes. Large blocks are hashed without the interpreter's lock."""

    def hexdigest(self) -> str:
        """Return the checksum of all blocks."""


# NumPy's stubs do not say that an array is a buffer.
begin_checksum: Final = cast("Callable[[], Checksum]", xxhash.xxh3_128)
checksum_of: Final = cast("Callable[[_Bytes], str]", xxhash.xxh3_128_hexdigest)
