"""Whatever can be iterated over, and what is an iterator already: by its own state, or again.

A data set that is iterated over anew each epoch begins with the generators of the epoch's begin. If
its iterator has a state (Grain's have), that is loaded; else the first batches are made once more
and thrown away. An iterator that is one already goes through all epochs (an endless generator), or
is made by the loop for each of them: how often it was handed over tells which, and what was taken
of it in all is how far a new one is gone through.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

from peakhold.run.sources.own_state import is_stateful, load_into, state_of
from peakhold.run.sources.position import PlacedSource, replayed

__all__ = ["IterableSource", "OneShotSource"]


@final
class IterableSource(PlacedSource):
    """What `iter` makes a new iterator of, each time.

    Args:
        loader: The iterable.
    """

    def __init__(self, loader: Any) -> None:
        limit = (
            f"{type(loader).__name__} is gone through again from the epoch's begin, which takes as "
            "long as making those batches did; exact unless it draws, for what it keeps, from the "
            "same random generator as the loop does between batches"
        )
        super().__init__(loader, (limit,))
        self._stateful: Callable[[], Any] = lambda: None

    @property
    def kind(self) -> str:
        """Its class."""
        return type(self._loader).__qualname__

    def _fresh(self) -> Iterator[Any]:
        batches: Iterator[Any] = iter(self._loader)
        self._stateful = lambda: None
        if is_stateful(batches):
            # Weak: who breaks off lets it go, with its threads and workers.
            self._stateful, self.limits = weakref.ref(batches), ()
        return batches

    def _behind(
        self, count: int, state: Mapping[str, Any], arrive: Callable[[], None]
    ) -> Iterator[Any]:
        batches = self._fresh()
        if state["own"]["iterator"] is None:
            replayed(batches, count)
        else:
            load_into(batches, state["own"]["iterator"])
        arrive()
        return batches

    def _has_own_state(self) -> bool:
        return self._stateful() is not None

    def _own_state(self) -> dict[str, Any]:
        batches = None if self._place.has_ended else self._stateful()
        return {"iterator": None if batches is None else state_of(batches)}


@final
class OneShotSource(PlacedSource):
    """An iterator: a generator, `map`, `zip`, `enumerate`, `islice`; or one that has a state.

    Args:
        loader: The iterator.
    """

    def __init__(self, loader: Any) -> None:
        limit = (
            f"{type(loader).__name__} is an iterator, which cannot go back: a new one is gone "
            "through from its beginning, exact only if nothing random is drawn when it is made; "
            "give the data set or the loader that it is made of"
        )
        super().__init__(loader, () if is_stateful(loader) else (limit,))
        self._n_begun = 0
        self._taken = 0
        """In epochs before this one."""
        self._first: Mapping[str, Any] | None = None

    @property
    def kind(self) -> str:
        """Its class."""
        return type(self._loader).__qualname__

    def _leave(self) -> None:
        self._taken += self._place.count

    def _fresh(self) -> Iterator[Any]:
        self._n_begun += 1
        if self._first is None:
            self._first = self._place.begun
        return iter(self._loader)

    def _behind(
        self, count: int, state: Mapping[str, Any], arrive: Callable[[], None]
    ) -> Iterator[Any]:
        self._go_through(state)
        arrive()
        return iter(self._loader)

    def _carry(self, state: Mapping[str, Any]) -> None:
        # One that ended in its only epoch is made by the loop for each: this one is for the next.
        if not (state["has_ended"] and state["own"]["n_begun"] == 1):
            now = self._generators.state()
            self._go_through(state)
            self._generators.put_back(now)

    def _go_through(self, state: Mapping[str, Any]) -> None:
        own = state["own"]
        self._first, self._n_begun, self._taken = own["first"], own["n_begun"], own["taken"]
        if own["iterator"] is not None:
            load_into(self._loader, own["iterator"])
            return
        if self._first is not None:
            self._generators.put_back(self._first)
        replayed(self._loader, self._taken + state["batch"])

    def _has_own_state(self) -> bool:
        return is_stateful(self._loader)

    def _own_state(self) -> dict[str, Any]:
        return {
            "first": self._first,
            "n_begun": self._n_begun,
            "taken": self._taken,
            "iterator": state_of(self._loader) if is_stateful(self._loader) else None,
        }
