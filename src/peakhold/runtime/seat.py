"""One participant's place in a run: its callback, its model, and whether it has begun."""

from __future__ import annotations

from typing import Any, final

from peakhold.host.contract import Host
from peakhold.runtime.participant import Participant
from peakhold.runtime.run_view import RunView
from peakhold.runtime.segments import Segment
from peakhold.runtime.turn import Cast
from peakhold.snapshots.pool import SnapshotPool

__all__ = ["Seat"]


@final
class Seat:
    """One participant's place in a run.

    Args:
        session: The run.
        callback: What people see.
        participant: What the session asks.
        host: The model that the callback was given.
        pool: Snapshots of that model.
    """

    def __init__(
        self, session: Any, callback: Any, participant: Participant, host: Host, pool: SnapshotPool
    ) -> None:
        self.callback, self.participant = callback, participant
        self.host, self.pool = host, pool
        self.view = RunView(session, self)
        participant.is_idle = False
        self.name = ""
        """What its state is filed under."""
        self.alone = Cast([self])
        """For the events at which each acts for itself."""
        self.segment: Segment
        """With whom it acts at all others; the session sets it."""
        self.has_met = self.has_resumed = self.is_prepared = self.has_begun = False
        self.is_idle = False
        """Whether rank 0 does on another worker what this one would: it takes no part."""
        self.has_ended = False

    @property
    def exchanges(self) -> bool:
        """Whether all workers have it, and decide as one."""
        return not self.participant.records_only

    def idle(self) -> None:
        """Another worker does what this one would."""
        self.is_idle = self.participant.is_idle = self.has_ended = True
        self.alone = Cast([])
