"""What all sources share: where they are, the generators then and now, what may not have changed.

A position is the number of batches handed out in an epoch, the random generators before that
epoch's iterator was made (`begun`), and now. A subclass says how batches begin (`_fresh`) and how
it comes behind the first k of them (`_behind`). There it puts the generators of now where, in the
unbroken run, all has been drawn that was drawn before them, and nothing that was drawn after.

An iterator is made when an epoch begins or goes on, not when its first batch is asked for: what it
draws is then behind `begun` and before `now`, also if the loop asks for its position before the
first batch.

An error in place of a batch leaves the count as it was. What was drawn before the error is drawn:
of a loader that draws for its batches the position is not known then (`knows_border`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from peakhold.errors import InvalidArgumentError
from peakhold.run.sources.generators import Generators
from peakhold.trees import leaf_list

__all__ = ["PlacedSource", "replayed"]

_FORMAT: Final = 1


class _Reached:
    """How far an epoch is. It does not hold the iterator: who breaks off lets its workers end."""

    def __init__(self, epoch: int, begun: Mapping[str, Any], count: int = 0) -> None:
        self.epoch, self.begun, self.count = epoch, begun, count
        self.has_ended = False
        self.has_failed = False
        """Whether there was an error in place of a batch."""


class _HandedOut(Iterator[Any]):
    """Batches, counted; nothing of them is kept, and an error leaves the iterator as it is.

    Args:
        batches: The loader's iterator.
        source: Whose they are. As long as it does not know whether a batch draws at random, the
            second is watched: with the first an order is drawn.
    """

    def __init__(self, batches: Iterator[Any], source: PlacedSource) -> None:
        self._batches, self._source, self._place = batches, source, source._place
        self._watch_at = self._place.count + 1 if source._draws is None else -1

    def __next__(self) -> Any:
        place = self._place
        if place.count == self._watch_at:
            self._watch_at = -1
            return self._source._watch(self)
        try:
            batch = next(self._batches)
        except StopIteration:
            place.has_ended = True
            raise
        except BaseException:
            place.has_failed = True
            raise
        place.count += 1
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
        self._draws: bool | None = None
        """Whether a batch is made with the random generators of `now`; None: not known yet."""

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

    def _has_own_state(self) -> bool:
        """Whether the position has what the loader goes on changing before a batch is there."""
        return False

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
        return _HandedOut(self._fresh(), self)

    @property
    def knows_border(self) -> bool:
        """Whether `state()` tells where the loop is, also after an error in place of a batch."""
        is_untouched = self._draws is False and not self._has_own_state()
        return not self._place.has_failed or is_untouched

    def _watch(self, batches: Iterator[Any]) -> Any:
        """The next batch, and whether making it draws."""
        import numpy as np

        before = leaf_list(self._generators.state())
        try:
            return next(batches)
        finally:
            after = leaf_list(self._generators.state())
            self._draws = not all(map(np.array_equal, before, after))

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
        return _HandedOut(behind, self)

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
