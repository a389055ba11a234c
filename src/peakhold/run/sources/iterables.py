"""Whatever can be iterated over, and what is an iterator already: gone through again.

A data set that is iterated over anew each epoch begins with the generators of the epoch's begin,
and its first batches are made once more and thrown away. An iterator that is one already goes
through all epochs (an endless generator), or is made by the loop for each of them: how often it was
handed over tells which, and what was taken of it in all is how far a new one is gone through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

from peakhold.run.sources.position import PlacedSource

__all__ = ["IterableSource", "OneShotSource"]


def _replayed(batches: Iterator[Any], count: int) -> Iterator[Any]:
    """The same iterator, behind its first batches; at its end, if there are no more."""
    for _ in range(count):
        next(batches, None)
    return batches


@final
class IterableSource(PlacedSource):
    """What `iter` makes a new iterator of, each time."""

    def __init__(self, loader: Any) -> None:
        limit = (
            f"{type(loader).__name__} is gone through again from the epoch's begin, which takes as "
            "long as making those batches did; exact unless it draws, for what it keeps, from the "
            "same random generator as the loop does between batches"
        )
        super().__init__(loader, (limit,))

    @property
    def kind(self) -> str:
        """Its class."""
        return type(self._loader).__qualname__

    def _fresh(self) -> Iterator[Any]:
        return iter(self._loader)

    def _behind(
        self, count: int, state: Mapping[str, Any], arrive: Callable[[], None]
    ) -> Iterator[Any]:
        batches = _replayed(iter(self._loader), count)
        arrive()
        return batches


@final
class OneShotSource(PlacedSource):
    """An iterator: a generator, `map`, `zip`, `enumerate`, `islice`."""

    def __init__(self, loader: Any) -> None:
        limit = (
            f"{type(loader).__name__} is an iterator, which cannot go back: a new one is gone "
            "through from its beginning, exact only if nothing random is drawn when it is made; "
            "give the data set or the loader that it is made of"
        )
        super().__init__(loader, (limit,))
        self._n_begun = 0
        self._total = 0
        self._first: Mapping[str, Any] | None = None

    @property
    def kind(self) -> str:
        """Its class."""
        return type(self._loader).__qualname__

    def _fresh(self) -> Iterator[Any]:
        self._n_begun += 1
        if self._first is None:
            self._first = self._place.begun
        return self._counted()

    def _counted(self) -> Iterator[Any]:
        while True:
            try:
                batch = next(self._loader)
            except StopIteration:
                return
            self._total += 1
            yield batch
            del batch

    def _behind(
        self, count: int, state: Mapping[str, Any], arrive: Callable[[], None]
    ) -> Iterator[Any]:
        self._go_through(state["own"])
        arrive()
        return self._counted()

    def _carry(self, state: Mapping[str, Any]) -> None:
        # One that ended in its only epoch is made by the loop for each: this one is for the next.
        own = state["own"]
        if state["epoch"] >= 0 and not (state["has_ended"] and own["n_begun"] == 1):
            now = self._generators.state()
            self._go_through(own)
            self._generators.put_back(now)

    def _go_through(self, own: Mapping[str, Any]) -> None:
        self._first, self._n_begun, self._total = own["first"], own["n_begun"], own["total"]
        self._generators.put_back(self._first)
        _replayed(self._loader, self._total)

    def _own_state(self) -> dict[str, Any]:
        return {"first": self._first, "n_begun": self._n_begun, "total": self._total}
