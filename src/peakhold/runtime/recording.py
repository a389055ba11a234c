"""The record of one run while it is written: for `peakhold.Run`, and for the callback `RunRecord`.

Rules of this file:

1. What is written is one run's: whoever begins a record owns its folder, until it is closed.
2. What an interrupted start wrote beyond the checkpoint that is gone on from, readers drop; what
   comes again when an epoch is gone on with is not written again.
3. A checkpoint says where the record stood: all before is made durable ahead of its being written.
4. Moments may be told before it is known how the run starts: they wait for its first line.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, final

from peakhold import speech
from peakhold._core.observation import Event
from peakhold.errors import SaveWarning
from peakhold.ledger.folder import OwnedFolder, RunFolder
from peakhold.ledger.heartbeat import Heartbeat
from peakhold.ledger.told import is_quiet, line_of
from peakhold.ledger.writer import Ledger
from peakhold.runtime import listening

__all__ = ["Recording"]

_AGAIN: Final = (Event.TRAIN_BEGIN, Event.EPOCH_BEGIN)


@final
class Recording:
    """The record of one run.

    Args:
        folder: The run's.
        owned: That it is this process's to write to; let go with the record.
        offset: Where a checkpoint says that the record stood; None: it goes on at its end.
        run_id: Of the run; what other runs tell is not written.
        sinks: Functions that are told all that is written.

    Raises:
        SaveError: If the record cannot be written.
    """

    def __init__(
        self,
        folder: RunFolder,
        owned: OwnedFolder,
        offset: int | None,
        run_id: str,
        sinks: list[Callable[[Mapping[str, Any]], Any]],
    ) -> None:
        self._folder, self._owned, self._run_id, self._sinks = folder, owned, run_id, sinks
        self._ledger = Ledger(folder.events, offset, before_remade=owned.follow)
        self._heartbeat: Heartbeat | None = None
        self._waiting: list[listening.Told] = []
        self._comes_again: tuple[Event, ...] = ()
        self._epoch_again: int | None = None
        """The epoch that has begun before."""
        listening.LISTENERS.append(self._told)

    # The first line

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever written."""
        return self._ledger.offset == 0

    @property
    def has_begun(self) -> bool:
        """Whether it is written how this start of the run begins."""
        return self._heartbeat is not None

    def begin(
        self,
        epoch: int | None,
        *,
        starts: bool,
        n_again: int = 0,
        ahead: Callable[[], Any] | None = None,
    ) -> None:
        """It is known how this start of the run begins: what is told is written from now on.

        Args:
            epoch: Which is gone on with; None: nothing is gone on from.
            starts: Whether the run begins with it, or begins again.
            n_again: What comes again, and was written before: 1, that training begins; 2, that the
                epoch does, too.
            ahead: Called when this is written, and before sinks are told of it.
        """
        about = {"run": self._run_id, "pid": os.getpid()}
        events: list[dict[str, Any]] = []
        if epoch is not None:
            self._ledger.go_on(**about, epoch=epoch)
            events.append({"kind": "goes_on", **about, "epoch": epoch})
        if starts:
            events.append({"kind": "start", **about})
            self._ledger.append(events[-1])
        if ahead is not None:
            ahead()
        for event in events:
            self._pass_on(event)
        self._comes_again = _AGAIN[:n_again]
        self._heartbeat = Heartbeat(self._folder.heartbeat)
        self._heartbeat.start()
        waiting, self._waiting = self._waiting, []
        for told in waiting:
            self._told(told)

    # What happens

    def progressed(self) -> None:
        """The run has got on."""
        if self._heartbeat is not None:
            self._heartbeat.progressed()

    @property
    def offset(self) -> int:
        """Where the record stands."""
        return self._ledger.offset

    def make_durable(self) -> None:
        """What stands in the record is on the disk when this returns."""
        self._ledger.flush(durable=True)

    def flush(self) -> None:
        """Have readers see all that was told."""
        self._ledger.flush()

    def _told(self, told: listening.Told) -> None:
        if told.run_id != self._run_id or told.rank:
            return  # another run's, or another worker's of this process
        if self._heartbeat is None:
            self._waiting.append(told)
        elif self._has_come_before(told):
            self._ledger.pass_over(told)
        else:
            self._ledger.told(told)
            if self._sinks and not is_quiet(told):
                self._pass_on(line_of(told))

    def _has_come_before(self, told: listening.Told) -> bool:
        """Whether an earlier start has written it: each segment of the callbacks tells of it."""
        event = told.moment.event
        if event not in self._comes_again:
            return False
        if event is Event.TRAIN_BEGIN:
            return True
        epoch = told.moment.at.epoch
        self._epoch_again = epoch if self._epoch_again is None else self._epoch_again
        return epoch == self._epoch_again

    def write(self, event: Mapping[str, Any]) -> None:
        """Write an event that is no moment."""
        self._ledger.append(event)
        self._pass_on(event)

    def _pass_on(self, event: Mapping[str, Any]) -> None:
        for sink in [*self._sinks]:
            try:
                sink(event)
            except Exception as error:
                self._sinks.remove(sink)
                speech.warn(
                    f"a sink of the run failed, and hears nothing more: {error!r}", SaveWarning
                )

    # The end

    def close(self, reason: str, *, waits: bool = True) -> None:
        """Write what is left, and let the folder go; again, nothing.

        Args:
            reason: Why the run has ended, for people.
            waits: Whether to wait until it is durable; not where the collector may be on the stack.
        """
        with contextlib.suppress(ValueError):
            listening.LISTENERS.remove(self._told)
        self._waiting = []
        try:
            self._ledger.close()
            if waits:
                self._ledger.wait()
            if self._heartbeat is not None:
                self._heartbeat.close(reason)
        finally:
            self._owned.release()
