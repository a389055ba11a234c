"""How a run ends: an order of decisions, not of callbacks.

Rules of this file:

1. What is decided is decided for all at once: saves of the last state, then restores. Each segment
   carries its own out when its turn comes, users' hooks between them.
2. Then the writer is waited for, and only then is anything put right that hangs on it.
3. What waits for everybody is done by the last who is called; whose class has an end of its own may
   come late, or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

from peakhold._core.observation import Event
from peakhold.runtime.callback import is_unaltered, reports_end
from peakhold.runtime.script import SCRIPT
from peakhold.runtime.summary import summarize
from peakhold.runtime.turn import Cast, Errors, Turn

if TYPE_CHECKING:
    from peakhold.runtime.seat import Seat
    from peakhold.runtime.session import Session

__all__ = ["Closing"]


@final
class Closing:
    """The end of one run.

    Args:
        session: The run.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._turn: Turn | None = None
        """What was decided for all."""
        self.is_over = False

    def end_training(self, seat: Seat, logs: Any) -> None:
        """A callback was told that training has ended."""
        if self.is_over:
            return
        self._session.new_moment()
        errors, seats = Errors(), seat.segment.cast.seats
        errors.guard(seat, self._end_for, seats, logs)
        everybody = self._session.seats
        if all(one.has_ended or not reports_end(one.callback) for one in everybody):
            self._finish(logs, errors)
        else:
            errors.raise_first()

    def _end_for(self, seats: Sequence[Seat], logs: Any) -> None:
        """What was decided for all is carried out for those whose turn it is."""
        waiting = [seat for seat in seats if not seat.has_ended]
        for seat in waiting:
            seat.has_ended = True
        scene, errors = SCRIPT[Event.TRAIN_END], Errors()
        turn = self._turn
        if turn is None:
            turn = self._decide_for_all(logs, errors)
        errors.guard(self._session.seats[0], turn.part(Cast(waiting)).go_through, scene.each)
        errors.raise_first()

    def _decide_for_all(self, logs: Any, errors: Errors) -> Turn:
        session, scene = self._session, SCRIPT[Event.TRAIN_END]
        for phase in scene.before:
            getattr(session.opening, phase)()
        if not any(is_unaltered(seat.callback) for seat in session.seats):
            session.progress.note_end()  # only overridden hooks would tell of it
        turn = self._turn = Turn(session, Cast(session.acting), Event.TRAIN_END, None, logs)
        errors.guard(session.seats[0], turn.go_through, scene.first)
        return turn

    def _finish(self, logs: Any, errors: Errors) -> None:
        self.is_over = True
        seats = self._session.acting
        # A user's override may not have called super() yet, and must not come too late.
        errors.guard(self._session.seats[0], self._end_for, seats, logs)
        for phase in SCRIPT[Event.TRAIN_END].last:
            getattr(self, phase)(errors)
        errors.raise_first()
        if self._session.interrupted:
            raise KeyboardInterrupt

    # Its last phases

    def settle(self, errors: Errors) -> None:
        """What is being written is waited for."""
        for seat in self._session.acting:
            errors.guard(seat, seat.participant.settle)
        self._session.state_unusable |= errors.first is not None or self._session.interrupted

    def follow(self, errors: Errors) -> None:
        """What has become of the last saves is known to all workers."""
        if self._session.coordinator.size > 1:
            from peakhold.runtime.exchange import tell_the_end  # of several workers alone

            errors.guard(self._session.seats[0], tell_the_end, self._session, errors)

    def end(self, errors: Errors) -> None:
        """Everything is on disk."""
        ending = self._session.ending()
        for seat in self._session.acting:
            errors.guard(seat, seat.participant.end, ending)

    def release(self, errors: Errors) -> None:
        """Memory and signals are let go."""
        for pool in self._session.pools.values():
            pool.close()
        if self._session.signals is not None:
            self._session.signals.uninstall()
        if not getattr(self._session.driver, "keeps_workers", False):
            self._session.coordinator.close()

    def summarize(self, errors: Errors) -> None:
        """The last lines."""
        session = self._session
        if not session.quiet:
            for line in summarize(session.ending(), [s.participant for s in session.seats]):
                session.host.say(line)
