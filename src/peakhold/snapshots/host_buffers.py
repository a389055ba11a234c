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
from typing import Any, final

import numpy as np

from peakhold.snapshots.arrays import STORED_AS, Array, ArraySource
from peakhold.snapshots.memory import PAGE, HostMemory, file_order, in_one_piece
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
        orders = [file_order(part.sources.values()) for part in drafts]
        for part, order in zip(drafts, orders, strict=True):
            specs = _place(part.sources, order)
            self.specs[part.name] = specs
            self.starts[part.name] = position
            size = specs[-1].end if specs else 0
            position += -(-size // PAGE) * PAGE
        self.nbytes = position
        """Bytes of host memory, a little more than the sum of all tensors."""
        self.data_bytes = sum(specs[-1].end for specs in self.specs.values() if specs)
        """Sum of all tensors."""

    def arrays(self, drafts: list[PartDraft]) -> Iterator[tuple[str, TensorSpec, Array]]:
        """Part, place and array of each tensor, in the order in which they lie."""
        for part in drafts:
            for spec in self.specs[part.name]:
                yield part.name, spec, part.sources[spec.name].array

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


def _place(sources: dict[str, ArraySource], order: list[int]) -> list[TensorSpec]:
    named = list(sources.items())
    specs, position = [], 0
    for index in order:
        name, (array, dtype, stored_as, _) = named[index]
        shape = array.shape
        if stored_as is not None:
            shape += STORED_AS[stored_as][1]
        end = position + array.nbytes
        specs.append(TensorSpec(name, dtype, stored_as, shape, position, end))
        position = end
    return specs


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
        if self._layout is not None and self._layout.fits(drafts):
            return self._layout
        layout = Layout(drafts)
        self._layout = None  # if there is no memory for the new one, the old one is gone, too
        places = [
            (layout.starts[part] + spec.begin, array.shape, array.dtype.newbyteorder("<"))
            for part, spec, array in layout.arrays(drafts)
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
        self._memory.take(array for _, _, array in layout.arrays(drafts))
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
        layout = Layout(drafts)
        arrays = {
            part.name: [part.sources[spec.name].array for spec in layout.specs[part.name]]
            for part in drafts
        }
        pieces = [(part, in_one_piece(found)) for part, found in arrays.items()]
        regions = {part: region for part, region in pieces if region is not None}
        skeletons = {part.name: part.skeleton for part in drafts}
        return cls(skeletons, layout, regions, arrays)

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
