"""What all sources share: where they are, the generators then and now, what may not have changed.

A position is the number of batches handed out in an epoch, the random generators before that
epoch's iterator was made (`begun`), and now. A subclass says how batches begin (`_fresh`) and how
it comes behind the first k of them (`_behind`). There it puts the generators of now where, in the
unbroken run, all has been drawn that was drawn before them, and nothing that was drawn after.

An iterator is made when an epoch begins or goes on, not when its first batch is asked for: what it
draws is then behind `begun` and before `now`, also if the loop asks for its position before the
first batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from peakhold.errors import InvalidArgumentError
from peakhold.run.sources.generators import Generators

__all__ = ["PlacedSource", "replayed"]

_FORMAT: Final = 1


class _Reached:
    """How far an epoch is. It does not hold the iterator: who breaks off lets its workers end."""

    def __init__(self, epoch: int, begun: Mapping[str, Any], count: int = 0) -> None:
        self.epoch, self.begun, self.count = epoch, begun, count
        self.has_ended = False


class _HandedOut(Iterator[Any]):
    """Batches, counted; nothing of them is kept, and an error leaves the iterator as it is."""

    def __init__(self, batches: Iterator[Any], place: _Reached) -> None:
        self._batches, self._place = batches, place

    def __next__(self) -> Any:
        try:
            batch = next(self._batches)
        except StopIteration:
            self._place.has_ended = True
            raise
        self._place.count += 1
        return batch


class PlacedSource(ABC):
    """A source that counts.

    Args:
        loader: Where batches come from.
        limits: What cannot be exact.
    """

    def __init__(self, loader: Any, limits: tuple[str, ...] = ()) -> None:
        self._loader = loader
        self._generators = Generators(loader)
        self._place = _Reached(-1, {})
        self.limits = limits

    # What a kind of loader says

    @property
    @abstractmethod
    def kind(self) -> str:
        """What people call such a loader."""

    @property
    def n_batches(self) -> int | None:
        """Batches of an epoch; None if nobody knows."""
        return _length(self._loader)

    @abstractmethod
    def _fresh(self) -> Iterator[Any]:
        """The iterator of an epoch."""

    @abstractmethod
    def _behind(
        self, count: int, state: Mapping[str, Any], arrive: Callable[[], None]
    ) -> Iterator[Any]:
        """The iterator behind the first batches.

        Args:
            count: How many.
            state: The whole position.
            arrive: Puts the generators of now; called when all of the first batches is drawn.
        """

    def _described(self) -> dict[str, Any]:
        """What must be the same inside an epoch."""
        return {"n_batches": self.n_batches}

    def _own_state(self) -> dict[str, Any]:
        """What the position has besides."""
        return {}

    def _carry(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most carry nothing
        """Bring the loader to where the state's epoch left it, in a process that begins another."""

    def _leave(self) -> None:  # noqa: B027 - most need not
        """An epoch is over; another is about to begin."""

    def _set_epoch(self, epoch: int) -> None:
        """Tell the loader what epoch it is."""
        for one in self._told_of_epochs():
            told = getattr(one, "set_epoch", None)
            if callable(told):
                told(epoch)

    def _told_of_epochs(self) -> tuple[Any, ...]:
        return (self._loader,)

    # What a loop asks

    def begin(self, epoch: int) -> Iterator[Any]:
        """The batches of an epoch, from the first."""
        if self._place.epoch >= 0:
            self._leave()
        self._set_epoch(epoch)
        self._place = _Reached(epoch, self._generators.state())
        return _HandedOut(self._fresh(), self._place)

    def state(self) -> dict[str, Any]:
        """Where the loop is, as a tree of plain values and arrays."""
        place = self._place
        return {
            "format": _FORMAT,
            "kind": self.kind,
            "loader": self._described(),
            "epoch": place.epoch,
            "batch": place.count,
            "has_ended": place.has_ended,
            "begun": place.begun,
            "now": self._generators.state(),
            "own": self._own_state(),
        }

    def go_on(self, state: Mapping[str, Any], epoch: int) -> Iterator[Any]:
        """The batches behind a position, with the random generators of then."""
        if type(state["batch"]) is not int or state["batch"] < 0:
            raise ValueError(f"its 'batch' is {state['batch']!r:.60}")
        if state["epoch"] != epoch:
            self.pass_over(state)
            return self.begin(epoch)
        if state["has_ended"]:
            self.pass_over(state)
            self._generators.put_back(state["now"])
            return iter(())
        self._compare(state)
        self._set_epoch(epoch)
        self._place = _Reached(epoch, state["begun"], state["batch"])
        self._generators.put_back(state["begun"])
        behind = self._behind(
            state["batch"], state, lambda: self._generators.put_back(state["now"])
        )
        return _HandedOut(behind, self._place)

    def pass_over(self, state: Mapping[str, Any]) -> None:
        """Bring the loader to where a position left it, for an epoch that is begun behind it.

        What it carries from epoch to epoch is put back; the process's generators are left alone.
        """
        if state["kind"] != self.kind:
            return
        self._place = _Reached(state["epoch"], state["begun"], state["batch"])
        self._place.has_ended = state["has_ended"]
        self._carry(state)
        self._generators.put_back_own(state["now"])

    def _compare(self, state: Mapping[str, Any]) -> None:
        """Refuse a loader that would give other batches than those the position counts."""
        then = {"kind": state["kind"], **state["loader"]}
        now = {"kind": self.kind, **self._described()}
        changed = [name for name in {**then, **now} if then.get(name) != now.get(name)]
        if not changed:
            return
        first, *others = changed
        also = "".join(f"; {name} was {then.get(name)!r}, is {now.get(name)!r}" for name in others)
        raise InvalidArgumentError.for_argument(
            first,
            now.get(first),
            f"the loader that the run stopped in, inside epoch {state['epoch'] + 1} behind "
            f"{state['batch']} batches, with {first}={then.get(first)!r}",
            hint=f"give the same loader until this epoch is over, or begin a new run{also}.",
        )


def replayed(batches: Iterator[Any], count: int) -> Iterator[Any]:
    """The same iterator, behind its first batches; at its end, if there are no more."""
    for _ in range(count):
        next(batches, None)
    return batches


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None
