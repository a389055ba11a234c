"""SIGTERM to one of several workers, or to all: each ends as it would alone, all at one batch.

Rules of this file:

1. It is a proposal as all others are: at the border all back up, where that was asked for; what is
   being written is waited for; then the signal takes its course on each, as if it had come to it.
2. Rank 0 ends last: the keys that the others wait for may lie in its process.
3. Where a worker is gone, nothing is agreed on, for nothing can be: what is on disk is named, and
   this worker ends within seconds. Nor is more than half of its time spent on agreeing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from peakhold import speech
from peakhold._core.observation import Event
from peakhold.runtime.participant import Keeper

if TYPE_CHECKING:
    from peakhold.runtime.proposals import Proposals
    from peakhold.runtime.session import Session

__all__ = ["end_all", "finish", "tell_what_is_there"]

_LOOK_S: Final = 0.05
_ONE_IS_GONE_S: Final = 3.0
"""For what is to be finished if a worker is gone; with the process's own end it is below 5."""


def finish(session: Session, proposals: Proposals) -> bool:
    """SIGTERM came: have all workers end at one batch, or finish what is this one's own.

    On a thread of its own.

    Returns:
        Whether all have finished, and the main thread lets the signal take its course.
    """
    limit = max((seat.participant.sigterm_timeout for seat in session.acting), default=0.0)
    end = time.monotonic() + limit / 2
    if proposals.has_border:
        proposals.propose_termination()
    while (lost := session.coordinator.lost()) is None:
        if time.monotonic() >= end or not proposals.has_border:
            break
        if proposals.is_terminated.wait(_LOOK_S):
            return True
    proposals.terminate = False
    session.finish_within(limit if lost is None else _ONE_IS_GONE_S)
    if lost is not None:
        tell_what_is_there(session, lost)
    return False


def tell_what_is_there(session: Session, lost: tuple[int, str], came: str = "SIGTERM") -> None:
    """What is on disk, where a worker is gone; said by the first who is left."""
    if session.coordinator.rank != (0 if lost[0] else 1):
        return
    keepers = [seat.participant for seat in session.seats if isinstance(seat.participant, Keeper)]
    newest = [words for words in map(_newest, keepers) if words is not None]
    there = f" The newest backup is {newest[0]}." if newest else ""
    speech.say(f"Peakhold: {came}, and {lost[1]}: nothing more is agreed on.{there}")


def _newest(keeper: Keeper) -> str | None:
    try:
        return keeper.newest()
    except Exception:  # of a folder that cannot be read: it is only named
        return None


def end_all(session: Session, proposals: Proposals, batch: int) -> None:
    """All are after the same batch, and end there. In the main thread.

    Returns if a handler of the user's returns, which may only have set a flag.

    Args:
        session: The run.
        proposals: This worker's.
        batch: After which batch they are.
    """
    moment = session.progress.moment(Event.TRAIN_BATCH_END, batch, {})
    errors, coordinator = session.new_errors(), session.coordinator
    session.share(moment)
    for seat in session.acting:
        if isinstance(seat.participant, Keeper):
            errors.guard(seat, seat.participant.commit_within, moment)
    session.finish_within(float("inf"))
    coordinator.gather("the end by SIGTERM", None)
    coordinator.aggregate("the end by SIGTERM, of rank 0", None)  # which waits for the others
    proposals.terminate = False
    proposals.is_terminated.set()
    if session.signals is not None:
        session.signals.terminate()
    errors.raise_first()
