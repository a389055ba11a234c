"""Copying a state into host memory: all that training waits for.

Rules for this file:

1. `HostBuffers` is memory that was allocated and touched before it is needed. A fresh page costs
   eight to nine times a warm copy (measured; huge pages do not help), so it is kept and reused.
2. When `take` returns, the caller may change every array; nothing here refers to them any more.
3. The bytes of one part lie as they will lie in its file: sorted by width so that each tensor is
   aligned without holes, which safetensors forbids. The writer then needs no second copy.
4. A forked child does not get this memory (`MADV_DONTFORK`): a DataLoader worker would otherwise
   turn each following snapshot into copy-on-write faults, ten times the cost of the copy. What the
   child gets in its place are empty pages at the same addresses: were they left free, something
   else would come to live there, and be unmapped with the Python object that believes to own them.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np

from peakhold import process
from peakhold.snapshots.arrays import DTYPES, STORED_AS, Array, ArraySource
from peakhold.snapshots.copying import copy_arrays
from peakhold.snapshots.tree import flatten

__all__ = ["HostBuffers", "Layout", "PartDraft", "Snapshot", "TensorSpec", "allocate", "draft"]

_PAGE: Final = mmap.PAGESIZE
_FIXED_NOREPLACE: Final = 0x100000  # MAP_FIXED_NOREPLACE, Linux 4.17
_POPULATE_WRITE: Final = 23  # MADV_POPULATE_WRITE, Linux 5.14; the mmap module has no name for it


@final
@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor as it will be stored."""

    name: str
    dtype: str
    """safetensors' dtype."""
    stored_as: str | None
    """Logical dtype, if it differs."""
    shape: tuple[int, ...]
    """Shape as stored."""
    begin: int
    """First byte, counted from the start of the part's data."""
    end: int
    """One past the last byte."""


@final
@dataclass(frozen=True, slots=True)
class PartDraft:
    """One part of a save: its structure, and where its arrays are."""

    name: str
    skeleton: Any
    sources: dict[str, ArraySource]


def draft(parts: Mapping[str, Any]) -> list[PartDraft]:
    """Flatten the parts; no array's bytes are read, unless they must come from a device."""
    return [PartDraft(name, *flatten(name, tree)) for name, tree in parts.items()]


@final
class Layout:
    """Where each tensor of each part lies; computed once for a model, reused at every save."""

    def __init__(self, drafts: list[PartDraft]) -> None:
        self.key = _key(drafts)
        self.specs: dict[str, list[TensorSpec]] = {}
        self.starts: dict[str, int] = {}
        position = 0
        for part in drafts:
            specs = _place(part.sources)
            self.specs[part.name] = specs
            self.starts[part.name] = position
            size = specs[-1].end if specs else 0
            position += -(-size // _PAGE) * _PAGE
        self.nbytes = position
        """Bytes of host memory, a little more than the sum of all tensors."""
        self.data_bytes = sum(specs[-1].end for specs in self.specs.values() if specs)
        """Sum of all tensors."""

    def fits(self, drafts: list[PartDraft]) -> bool:
        """True if these drafts have the same parts, names, dtypes and shapes."""
        return self.key == _key(drafts)


def _key(drafts: list[PartDraft]) -> list[object]:
    return [
        (
            part.name,
            list(part.sources),
            [
                (source.dtype, source.stored_as, source.array.shape)
                for source in part.sources.values()
            ],
        )
        for part in drafts
    ]


def _place(sources: dict[str, ArraySource]) -> list[TensorSpec]:
    # Widest first: every tensor starts at a multiple of its own width, and there are no holes.
    order = sorted(sources, key=lambda name: -DTYPES[sources[name].dtype].itemsize)
    specs, position = [], 0
    for name in order:
        array, dtype, stored_as, _ = sources[name]
        shape = array.shape
        if stored_as is not None:
            shape += STORED_AS[stored_as][1]
        end = position + array.nbytes
        specs.append(TensorSpec(name, dtype, stored_as, shape, position, end))
        position = end
    return specs


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
    """Fresh private memory with every page touched, which forked children do not get."""
    nbytes = max(nbytes, _PAGE)
    if sys.platform == "win32":
        memory: Array = np.empty(nbytes, np.uint8)
        memory[::_PAGE] = 0
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
        memory[::_PAGE] = 0
    return memory


@final
class HostBuffers:
    """Host memory for one snapshot at a time, and the views into it that the copies go to."""

    def __init__(self) -> None:
        self._memory: Array | None = None
        self._layout: Layout | None = None
        self._views: dict[str, list[Array]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return 0 if self._memory is None else self._memory.nbytes

    def prepare(self, drafts: list[PartDraft]) -> Layout:
        """Allocate and touch what these drafts need; costs nothing when that is there already.

        The views into memory of an earlier layout must not be in use any more.
        """
        if self._layout is not None and self._layout.fits(drafts):
            return self._layout
        layout = Layout(drafts)
        if self._memory is None or self._memory.nbytes < layout.nbytes:
            self._views, self._memory = {}, None  # let the old memory go before the new one comes
            self._memory = allocate(layout.nbytes)
        self._layout = layout
        self._views = {
            part.name: [
                np.ndarray(
                    part.sources[spec.name].array.shape,
                    part.sources[spec.name].array.dtype.newbyteorder("<"),
                    self._memory,
                    layout.starts[part.name] + spec.begin,
                )
                for spec in layout.specs[part.name]
            ]
            for part in drafts
        }
        return layout

    def take(self, drafts: list[PartDraft]) -> Snapshot:
        """Copy all arrays; afterwards the caller may change every one of them.

        Args:
            drafts: What `draft(parts)` gave.

        Returns:
            The snapshot; it is good until the next `take` or `prepare` of these buffers.
        """
        layout = self.prepare(drafts)
        copy_arrays(
            (view, part.sources[spec.name].array)
            for part in drafts
            for spec, view in zip(layout.specs[part.name], self._views[part.name], strict=True)
        )
        return Snapshot(
            {part.name: part.skeleton for part in drafts}, layout, memory=self._memory, arrays=None
        )


@final
@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state that nobody changes any more, ready to be written by another thread."""

    skeletons: dict[str, Any]
    """Structure of each part, ready for JSON."""
    layout: Layout
    memory: Array | None
    """Host memory that holds all bytes, or None if the arrays themselves are kept."""
    arrays: dict[str, list[Array]] | None
    """The arrays themselves, in the layout's order, if nothing was copied."""

    @classmethod
    def of_immutable(cls, drafts: list[PartDraft]) -> Snapshot:
        """Keep the arrays themselves: the caller promises that nobody changes them."""
        layout = Layout(drafts)
        arrays = {
            part.name: [part.sources[spec.name].array for spec in layout.specs[part.name]]
            for part in drafts
        }
        return cls({part.name: part.skeleton for part in drafts}, layout, None, arrays)

    def tensors(self, part: str) -> Iterator[tuple[TensorSpec, Array]]:
        """Yield each tensor's spec and its bytes, shape `(nbytes,)`, in file order."""
        for index, spec in enumerate(self.layout.specs[part]):
            if self.memory is not None:
                start = self.layout.starts[part]
                yield spec, self.memory[start + spec.begin : start + spec.end]
            elif self.arrays is not None:
                array = self.arrays[part][index]
                little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
                yield spec, little.reshape(-1).view(np.uint8)

    def region(self, part: str) -> Array | None:
        """All bytes of a part in one piece, or None if they were not copied together."""
        if self.memory is None:
            return None
        start, specs = self.layout.starts[part], self.layout.specs[part]
        return self.memory[start : start + (specs[-1].end if specs else 0)]
