"""A callback of ours is called: the hooks, and who acts.

A hook reports; the first of its segment to be called for an event acts for all of it, in the phases
that `script.py` has for the event.

Rules of this file:

1. At a batch each acts alone, and only if the batch is something to it.
2. What was to be committed at the end of an epoch is committed, at the latest, before the next
   begins: a user's override of a hook may have kept some from reporting.
3. What an interrupted run left is put back by the first who is told of an epoch, before it acts.
"""

from __future__ import annotations

from typing import Any, Final

from peakhold._core.moments import Moment
from peakhold._core.observation import Event
from peakhold.runtime.callback import reports
from peakhold.runtime.link import Link
from peakhold.runtime.narration import tell_not_finite
from peakhold.runtime.script import SCRIPT
from peakhold.runtime.seat import Seat
from peakhold.runtime.segments import Segment
from peakhold.runtime.session import Session, session_of
from peakhold.runtime.turn import Turn

__all__ = [
    "acts_for_all",
    "on_epoch_begin",
    "on_epoch_end",
    "on_test_begin",
    "on_test_end",
    "on_train_begin",
    "on_train_end",
    "report",
]

_BATCHES: Final = {Event.TRAIN_BATCH_BEGIN, Event.TRAIN_BATCH_END, Event.TEST_BATCH_BEGIN}
# A member that is looked up on its enumeration costs three times as much as a name of the module.
_TRAIN_BEGIN, _EPOCH_END = Event.TRAIN_BEGIN, Event.EPOCH_END


def report(callback: Any, event: Event, number: int | None, logs: Any) -> None:
    """A callback of ours was called.

    Args:
        callback: Which.
        event: For what.
        number: Index of the epoch or of the batch; None for events that have none.
        logs: As they were given; None counts as empty.
    """
    link: Link = callback._peakhold_link
    session = link.session
    if session is None or event is _TRAIN_BEGIN:
        session = session_of(callback, event)
    seat, progress = link.seat, session.progress
    try:
        if event in _BATCHES:
            if not progress.epoch_cut_short:
                _batch(session, seat, event, number or 0, {} if logs is None else logs)
        elif event is _EPOCH_END:
            progress.note(event, number, interrupted=session.interrupted)
            if not progress.epoch_cut_short:
                _epoch_end(session, seat, callback, logs)
        elif event is Event.TRAIN_END:
            progress.line_is_open = False
            session.commit()
            session.closing.end_training(seat, logs)
        else:
            _begin(session, callback, event, number)
            if acts_for_all(seat.segment, callback, event):
                _act(session, seat.segment, event, logs)
            progress.line_is_open = event is not Event.TRAIN_BEGIN
    except BaseException as error:
        session.coordinator.fail(error)  # or other workers would wait for this one
        raise


def _epoch_end(session: Session, seat: Seat, callback: Any, logs: Any) -> None:
    """An epoch has ended: the last of ours to hear of it commits what all have done."""
    moment = None
    if acts_for_all(seat.segment, callback, _EPOCH_END):
        moment = _act(session, seat.segment, _EPOCH_END, logs)
        if session.is_first_epoch and moment is not None:
            session.is_first_epoch = False
            tell_not_finite(session, moment)
    if session.has_keeper:
        session.note_epoch_end(callback, moment, logs)


def _begin(session: Session, callback: Any, event: Event, number: int | None) -> None:
    """Training, an epoch or a validation begins, or validation has ended."""
    if event is Event.EPOCH_BEGIN:
        session.commit()
    is_first = session.progress.note(event, number, interrupted=session.interrupted)
    if is_first:
        for phase in SCRIPT[event].before:
            getattr(session.opening, phase)()
    if event is Event.EPOCH_BEGIN:
        session.progress.count_from_here(number)
    elif event is Event.TRAIN_BEGIN:
        session.called.add(id(callback))


def _act(session: Session, segment: Segment, event: Event, logs: Any) -> Moment | None:
    for pool in session.pools.values():
        pool.is_stale = True  # a user's callback may have run since the last moment
    if session.unprepared:
        session.opening.prepare()
    if event is _TRAIN_BEGIN:
        return None
    turn = Turn(session, segment.cast, event, None, logs)
    turn.go_through(segment.cast.phases(event))
    return turn.moment


def acts_for_all(segment: Segment, callback: Any, event: Event) -> bool:
    """Note that a callback was called; whether it is the first of its segment for this event."""
    if segment.event is event and id(callback) not in segment.called:
        segment.called.add(id(callback))
        return False
    segment.event, segment.called = event, {id(callback)}
    return True


def _batch(session: Session, seat: Seat, event: Event, batch: int, logs: Any) -> None:
    if not (seat.has_begun and seat.participant.passes(event, batch, logs)):
        Turn(session, seat.alone, event, batch, logs).go_through(seat.alone.phases(event))


# The hooks


@reports
def on_train_begin(self: Any, logs: Any = None) -> None:
    """Start afresh, and check everything that can be checked before the first batch."""
    report(self, Event.TRAIN_BEGIN, None, logs)


@reports
def on_train_end(self: Any, logs: Any = None) -> None:
    """Put everything right."""
    report(self, Event.TRAIN_END, None, logs)


@reports
def on_epoch_begin(self: Any, epoch: int, logs: Any = None) -> None:
    """Note where we are."""
    report(self, Event.EPOCH_BEGIN, epoch, logs)


@reports
def on_epoch_end(self: Any, epoch: int, logs: Any = None) -> None:
    """Look at the epoch's metrics, and act."""
    report(self, Event.EPOCH_END, epoch, logs)


@reports
def on_test_begin(self: Any, logs: Any = None) -> None:
    """Note that validation runs."""
    report(self, Event.TEST_BEGIN, None, logs)


@reports
def on_test_end(self: Any, logs: Any = None) -> None:
    """Note that validation has run."""
    report(self, Event.TEST_END, None, logs)
