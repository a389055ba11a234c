"""Arrays, lists, ranges, and what is walked by index: nothing of the first batches is looked at."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

from peakhold.run.sources.position import PlacedSource
from peakhold.trees import library_of

__all__ = ["SequenceSource", "is_sequence"]


def is_sequence(loader: Any) -> bool:
    """Whether its k-th batch can be had without those before it."""
    kind = type(loader)
    return (
        kind in {list, tuple, range, str, bytes}
        or library_of(loader) is not None
        or (not hasattr(kind, "__iter__") and hasattr(kind, "__getitem__"))
    )


@final
class SequenceSource(PlacedSource):
    """Batches by index."""

    @property
    def kind(self) -> str:
        """`list`, `ndarray`, `Tensor`, …."""
        library = library_of(self._loader)
        return f"{library} array" if library else type(self._loader).__name__

    def _fresh(self) -> Iterator[Any]:
        return iter(self._loader)

    def _behind(
        self, count: int, state: Mapping[str, Any], arrive: Callable[[], None]
    ) -> Iterator[Any]:
        arrive()
        if library_of(self._loader) is not None:
            return iter(self._loader[count:])
        if type(self._loader) in {list, tuple, range, str, bytes}:
            return itertools.islice(iter(self._loader), count, None)
        return _from(self._loader, count)

    def _described(self) -> dict[str, Any]:
        described = super()._described()
        if library_of(self._loader) is not None:
            described["shape"] = [int(length) for length in self._loader.shape]
        return described


def _from(loader: Any, first: int) -> Iterator[Any]:
    """What `iter` makes of an object that has `__getitem__` alone, from an index on."""
    for index in range(first, sys.maxsize):
        try:
            batch = loader[index]
        except (IndexError, StopIteration):
            return
        yield batch
        del batch
