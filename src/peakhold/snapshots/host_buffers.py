"""A state in host memory, ready to be written: what `Store.save` makes training wait for.

Rules for this file:

1. When `HostBuffers.take` returns, the caller may change every array; nothing here refers to them
   any more. The memory is that of `memory.py`, as the callbacks' is.
2. The bytes of one part lie as they will lie in its file: in one piece. A state that nobody changes
   is not copied; if it lies like that already, as the callbacks' snapshots do, it is written so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, final

import numpy as np

from peakhold.snapshots.arrays import STORED_AS, Array, ArraySource
from peakhold.snapshots.memory import PAGE, HostMemory, file_order, in_one_piece, piece_at
from peakhold.snapshots.tree import flatten

__all__ = ["HostBuffers", "Layout", "PartDraft", "Snapshot", "TensorSpec", "draft"]


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
    specs: list[TensorSpec]
    """Each tensor, in the order in which they lie in a file."""
    arrays: list[Array]
    """The live array of each."""
    extent: tuple[int, int] | None = None
    """Where they lie one right after the other; None: they do not, or nobody has looked."""

    @classmethod
    def of(cls, name: str, skeleton: Any, sources: Mapping[str, ArraySource]) -> PartDraft:
        """Lay out what `flatten` gave."""
        named = list(sources.items())
        placed = [named[index] for index in file_order(sources.values())]
        return cls(name, skeleton, _place(placed), [source.array for _, source in placed])


def _place(sources: list[tuple[str, ArraySource]]) -> list[TensorSpec]:
    specs, position = [], 0
    for name, (array, dtype, stored_as, _) in sources:
        shape = array.shape
        if stored_as is not None:
            shape += STORED_AS[stored_as][1]
        end = position + array.nbytes
        specs.append(TensorSpec(name, dtype, stored_as, shape, position, end))
        position = end
    return specs


def draft(parts: Mapping[str, Any]) -> list[PartDraft]:
    """Flatten the parts; no array's bytes are read, unless they must come from a device."""
    return [PartDraft.of(name, *flatten(name, tree)) for name, tree in parts.items()]


@final
class Layout:
    """Where each tensor of each part lies."""

    def __init__(self, drafts: list[PartDraft]) -> None:
        self.specs = {part.name: part.specs for part in drafts}
        self.starts: dict[str, int] = {}
        position = self.data_bytes = 0
        """Sum of all tensors."""
        for part in drafts:
            self.starts[part.name] = position
            size = part.specs[-1].end if part.specs else 0
            self.data_bytes += size
            position += -(-size // PAGE) * PAGE
        self.nbytes = position
        """Bytes of host memory, a little more than the sum of all tensors."""

    def is_like(self, other: Layout) -> bool:
        """True if both have the same parts, names, dtypes and shapes."""
        return self.specs == other.specs and self.starts == other.starts


@final
class HostBuffers:
    """Host memory for one snapshot at a time."""

    def __init__(self) -> None:
        self._memory = HostMemory()
        self._layout: Layout | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._memory.nbytes

    def prepare(self, drafts: list[PartDraft]) -> Layout:
        """Allocate and touch what these drafts need; costs nothing when that is there already.

        The views into memory of an earlier layout must not be in use any more.
        """
        layout = Layout(drafts)
        if self._layout is not None and self._layout.is_like(layout):
            self._layout = layout  # the next draft has most likely the very same lists
            return layout
        self._layout = None  # if there is no memory for the new one, the old one is gone, too
        places = [
            (layout.starts[part.name] + spec.begin, array.shape, array.dtype.newbyteorder("<"))
            for part in drafts
            for spec, array in zip(part.specs, part.arrays, strict=True)
        ]
        self._memory.lay(layout.nbytes, places)
        self._layout = layout
        return layout

    def take(self, drafts: list[PartDraft]) -> Snapshot:
        """Copy all arrays; afterwards the caller may change every one of them.

        Args:
            drafts: What `draft(parts)` gave.

        Returns:
            The snapshot; it is good until the next `take` or `prepare` of these buffers.
        """
        layout = self.prepare(drafts)
        self._memory.take(chain.from_iterable(part.arrays for part in drafts))
        regions = {}
        for part, specs in layout.specs.items():
            start, size = layout.starts[part], specs[-1].end if specs else 0
            if self._memory.data is not None:
                regions[part] = self._memory.data[start : start + size]
        return Snapshot({part.name: part.skeleton for part in drafts}, layout, regions, {})


@final
@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state that nobody changes any more, ready to be written by another thread."""

    skeletons: dict[str, Any]
    """Structure of each part, ready for JSON."""
    layout: Layout
    regions: dict[str, Array]
    """All bytes of a part, for the parts whose bytes lie in one piece."""
    arrays: dict[str, list[Array]]
    """The arrays of each part that was not copied, in the layout's order."""

    @classmethod
    def of_immutable(cls, drafts: list[PartDraft]) -> Snapshot:
        """Keep the arrays themselves: the caller promises that nobody changes them."""
        arrays = {part.name: part.arrays for part in drafts}
        pieces = [
            (part.name, piece_at(*part.extent) if part.extent else in_one_piece(part.arrays))
            for part in drafts
        ]
        regions = {part: region for part, region in pieces if region is not None}
        skeletons = {part.name: part.skeleton for part in drafts}
        return cls(skeletons, Layout(drafts), regions, arrays)

    def tensors(self, part: str) -> Iterator[tuple[TensorSpec, Array]]:
        """Yield each tensor's spec and its bytes, shape `(nbytes,)`, in file order."""
        region = self.region(part)
        for index, spec in enumerate(self.layout.specs[part]):
            if region is not None:
                yield spec, region[spec.begin : spec.end]
            else:
                array = self.arrays[part][index]
                little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
                yield spec, little.reshape(-1).view(np.uint8)

    def region(self, part: str) -> Array | None:
        """All bytes of a part in one piece, or None if they do not lie so."""
        return self.regions.get(part)
