"""The record of a run as a worker sees it that does not write: rank 0 does (`record.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from peakhold.ledger.folder import RunFolder
from peakhold.ledger.reader import RecordedHistory
from peakhold.runtime.session import session_of

if TYPE_CHECKING:
    from peakhold.run.place import DataPass, RunPlace

__all__ = ["FollowedRecord"]


@final
class FollowedRecord:
    """What a loop tells (`loop.py: Around`) on a worker whose rank is not 0: nothing is written.

    Args:
        folder: The run's, which all workers see.
        callbacks: Of the run.
    """

    def __init__(self, folder: RunFolder, callbacks: Sequence[Any]) -> None:
        self._at, self._callbacks = folder, callbacks
        self.reason: str | None = None
        """Why the run has ended."""
        self.failed = False
        """Whether an exception has ended it."""
        self.sinks: list[Callable[[Mapping[str, Any]], Any]] = []
        """Rank 0's hear."""

    @property
    def history(self) -> RecordedHistory:
        """What was logged at each epoch, as far as rank 0 has written it."""
        return self._at.history()

    def begins(self, n_epochs: int | None, n_steps: int | None) -> None:
        """Training begins."""

    def has_begun(
        self, saved: Mapping[str, Any] | None, place: RunPlace, *, within_epoch: bool
    ) -> None:
        """It is known where the loop goes on."""

    def notice(self, text: str, *, always: bool = False) -> None:
        """Rank 0 says it."""

    def pass_begins(self, one: DataPass) -> None:
        """A pass over data begins."""

    def pass_ends(self, one: DataPass) -> None:
        """It is over."""

    def looks(self, place: RunPlace, running: DataPass) -> None:
        """Told now and then how far it is."""

    def epoch_begins(self, epoch: int) -> None:
        """An epoch begins."""

    def epoch_ends(self, place: RunPlace, metrics: Mapping[str, Any]) -> None:
        """An epoch has ended."""

    def is_ending(self, reason: str, *, failed: bool) -> None:
        """Training ends, for a reason that is not the callbacks'; all workers say so."""
        session_of(self._callbacks[0]).stop(reason, bad=failed)

    def ends(self, reason: str, *, is_over: bool) -> None:
        """Training has ended."""
        reasons = session_of(self._callbacks[0]).stop_reasons
        self.reason = reason or (reasons[0] if reasons else "all was run")

    def offset(self) -> int:
        """There is no record here."""
        return 0

    def make_durable(self) -> None:
        """Rank 0 does."""

    def add_sink(self, sink: Callable[[Mapping[str, Any]], Any]) -> None:
        """Rank 0's hear."""

    def close(self) -> None:
        """Nothing is held."""
