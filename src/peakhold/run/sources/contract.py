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

        `go_on` may add to it; read it again before the first batch.
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
