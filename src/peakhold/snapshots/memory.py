"""Host memory that states are copied into: the one engine below the store and the callbacks' pool.

Rules for this file:

1. Memory is allocated and touched before it is needed. A fresh page costs eight to nine times a
   warm copy (measured; huge pages do not help), so it is kept and reused.
2. Arrays lie as they will lie in a file: sorted by width so that each is aligned without holes,
   which safetensors forbids. Whoever writes them needs no second copy, and one piece to write.
3. A forked child does not get this memory (`MADV_DONTFORK`): a DataLoader worker would otherwise
   turn each following snapshot into copy-on-write faults, ten times the cost of the copy. What the
   child gets in its place are empty pages at the same addresses: were they left free, something
   else would come to live there, and be unmapped with the Python object that believes to own them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import sys
import weakref
from collections.abc import Iterable
from typing import Any, Final, final

import numpy as np

from peakhold import process
from peakhold.snapshots.arrays import DTYPES, Array, ArraySource
from peakhold.snapshots.copying import LARGE, copy_arrays

__all__ = [
    "PAGE", "HostMemory", "allocate", "extent_of", "file_order", "in_one_piece", "piece_at",
]  # fmt: skip

PAGE: Final = mmap.PAGESIZE
_FIXED_NOREPLACE: Final = 0x100000  # MAP_FIXED_NOREPLACE, Linux 4.17
_POPULATE_WRITE: Final = 23  # MADV_POPULATE_WRITE, Linux 5.14; the mmap module has no name for it


# Mappings that forked children do not get, with address and length.
_not_inherited: weakref.WeakKeyDictionary[mmap.mmap, tuple[int, int]] = weakref.WeakKeyDictionary()


def _fill_gaps_in_child() -> None:
    """Right after a fork: put empty pages where the parent has its buffers (rule 4)."""
    for mapped, (address, length) in list(_not_inherited.items()):
        if _map_empty(address, length) != address:  # something is there already: never unmap it
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(mapped))


def _map_empty(address: int, length: int) -> int | None:
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _FIXED_NOREPLACE
    result: int | None = libc.mmap(address, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    return result


process.in_forked_child(_fill_gaps_in_child)


def allocate(nbytes: int) -> Array:
    """Fresh private memory with every page touched, which forked children do not get.

    Raises:
        MemoryError: If there is none. The system's own word for it is `OSError(ENOMEM)`, which
            looks like a disk's to whoever has a second way.
    """
    nbytes = max(nbytes, PAGE)
    try:
        return _mapped(nbytes)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        raise MemoryError(f"no memory for {nbytes:,} bytes ({error.strerror})") from error


def _mapped(nbytes: int) -> Array:
    if sys.platform == "win32":
        memory: Array = np.empty(nbytes, np.uint8)
        memory[::PAGE] = 0
        return memory
    mapped = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory = np.frombuffer(mapped, np.uint8)
    if sys.platform == "linux":
        _not_inherited[mapped] = memory.__array_interface__["data"][0], nbytes
        mapped.madvise(mmap.MADV_DONTFORK)
        with contextlib.suppress(OSError):  # fewer entries of the TLB for the copy; not everywhere
            mapped.madvise(mmap.MADV_HUGEPAGE)
    try:
        mapped.madvise(_POPULATE_WRITE)
    except (OSError, ValueError):  # an older kernel, or not Linux
        memory[::PAGE] = 0
    return memory


def file_order(sources: Iterable[ArraySource]) -> list[int]:
    """Indices of arrays in the order in which a file has them, one right after the other.

    Widest first: each begins at a multiple of its own width, and there are no holes.
    """
    widths = [-DTYPES[source.dtype].itemsize for source in sources]
    return sorted(range(len(widths)), key=widths.__getitem__)


def in_one_piece(arrays: Iterable[Array]) -> Array | None:
    """All bytes of arrays that lie in memory of ours, one right after the other; else None."""
    extent = extent_of(arrays)
    return None if extent is None else piece_at(*extent)


def extent_of(arrays: Iterable[Array]) -> tuple[int, int] | None:
    """Addresses from which and to which arrays lie one right after the other; else None."""
    begin = end = None
    for array in arrays:
        if array.size == 0:
            continue
        address = array.__array_interface__["data"][0]
        if begin is None:
            begin = end = address
        as_in_file = array.flags.c_contiguous and array.dtype == array.dtype.newbyteorder("<")
        if address != end or not as_in_file:
            return None
        end += array.nbytes
    return None if begin is None or end is None else (begin, end)


def piece_at(begin: int, end: int) -> Array | None:
    """The bytes between two addresses, if that is memory of ours; else None."""
    for mapped, (address, length) in list(_not_inherited.items()):
        if address <= begin and end <= address + length:
            whole: Array = np.frombuffer(mapped, np.uint8)
            return whole[begin - address : end - address]
    return None


@final
class HostMemory:
    """One piece of memory for many arrays, and a view into it for each."""

    def __init__(self) -> None:
        self.data: Array | None = None
        """The memory, shape `(nbytes,)`, or None before there is any."""
        self.views: list[Array] = []
        """Where each array is copied to."""
        self._are_small = False

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return 0 if self.data is None else self.data.nbytes

    def lay(
        self, nbytes: int, places: Iterable[tuple[int, tuple[int, ...], np.dtype[Any]]]
    ) -> None:
        """Have room for arrays at these places; what is there already is kept if it is enough.

        Views of before must not be in use any more.

        Args:
            nbytes: Bytes that all need together.
            places: First byte, shape and dtype of each array.
        """
        if self.data is None or self.data.nbytes < nbytes:
            self.views, self.data = [], None  # let the old memory go before the new one comes
            self.data = allocate(nbytes)
        self.views = [np.ndarray(shape, dtype, self.data, start) for start, shape, dtype in places]
        self._are_small = all(view.nbytes < LARGE for view in self.views)

    def take(self, arrays: Iterable[Array]) -> None:
        """Copy an array to each view; afterwards all of them may change."""
        copy_arrays(zip(self.views, arrays, strict=True), are_small=self._are_small)
