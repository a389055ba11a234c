"""What a loop asks of where its batches come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

__all__ = ["Source"]


class Source(Protocol):
    """The batches of one loader, epoch after epoch.

    One source goes with one loader, as long as the loop uses it. It prints nothing.
    """

    @property
    def n_batches(self) -> int | None:
        """Batches of an epoch; None if nobody knows."""

    @property
    def limits(self) -> tuple[str, ...]:
        """What cannot be exact when a run goes on inside an epoch, in words.

        `begin` and `go_on` may change it: read it behind them, before the first batch.
        """

    @property
    def knows_border(self) -> bool:
        """Whether `state()` tells where the loop is.

        It does, but for an error in place of a batch: what that batch had drawn at random before,
        and how far a loader's own state went on, cannot be taken back.
        """

    def begin(self, epoch: int) -> Iterator[Any]:
        """The batches of an epoch, from the first: those that `iter(loader)` gives, and no others.

        A `set_epoch` is called, of the loader, its sampler or its data set.

        Args:
            epoch: 0-based index.
        """

    def state(self) -> dict[str, Any]:
        """Where the loop is, as a tree of plain values and arrays.

        It is the position behind the last batch that was handed out: call it when the loop asks for
        the next one, before that is fetched; or between two epochs.
        """

    def go_on(self, state: Mapping[str, Any], epoch: int) -> Iterator[Any]:
        """The batches behind a position, with the random generators of then.

        Args:
            state: What `state()` returned in an earlier process.
            epoch: The epoch that the loop is in. If it is another than the state's, it is begun,
                with what the loader carries from epoch to epoch put back.

        Raises:
            InvalidArgumentError: If the position lies inside this epoch, and the loader is not the
                one that it belongs to.
        """

    def pass_over(self, state: Mapping[str, Any]) -> None:
        """Bring the loader to where a position left it, for an epoch that is begun behind it.

        For a pass that is over, or was broken off: no batch is made, the process's generators are
        left alone, and what the loader carries from epoch to epoch (its own generators, workers
        that persist, an iterator that all epochs share) is put back. `go_on` with another epoch
        than the state's does this by itself.
        """
