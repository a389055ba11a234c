"""The borders of a loop that several workers run: all save and end at the same ones.

Problem. Each worker has a clock of its own, and a signal comes to one of them. Who saves or ends
alone leaves the others waiting in their next collective; to ask all at each batch would cost a
collective for each batch.

Solution. What a worker wants is a proposal (`runtime/proposals.py`): threads agree on a batch ahead
of all, and the loop looks at each batch only until that is settled. At that border all hear what
any of them wanted, and do it. Where the epoch ends first, the round at its end takes it along.

Rules of this file:

1. Only batches of an epoch's first pass are borders of all: each worker may evaluate as many as it
   likes. What comes in an evaluation is done at the epoch's end.
2. Clocks, and the file `stop`, are rank 0's. What is counted in batches needs no agreement: all
   count the same ones.
3. What was agreed on is kept apart from what this worker wants.
4. Where a worker is known to be gone, nothing is agreed on: a signal ends this one at once.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast, final

from peakhold.run.border import BatchBorder
from peakhold.run.place import TRAIN, DataPass
from peakhold.runtime.ending_by_signal import tell_what_is_there

if TYPE_CHECKING:
    from peakhold.runtime.proposals import Proposals
    from peakhold.runtime.session import Session

__all__ = ["SharedBorder"]


@final
class SharedBorder(BatchBorder):
    """The borders of one of several loops.

    Args:
        args: As of `BatchBorder`; clocks and the file are there on rank 0 alone.
        session: Asks for the run's session, once it has begun.
    """

    def __init__(self, *args: Any, session: Callable[[], Session]) -> None:
        super().__init__(*args)
        self._session = session
        self._watches = False
        """Whether a border is agreed on now."""
        self._wish: tuple[str, bool] | None = None
        """Why this worker wants the loop to end, and whether it is then over."""
        self._saves = False
        """Whether all save at the border that comes next."""
        self._end: tuple[str, bool] | None = None
        """Why all end at the border that comes next, and whether it is then over."""

    # What the agreement asks and tells

    def watch(self, watches: bool) -> None:
        """Whether a border is agreed on now; in any thread."""
        self._watches = watches
        self.wake()

    def agreed(self, wanted: Sequence[Mapping[str, Any]]) -> None:
        """All do now what any of them wanted."""
        self._saves |= any(each.get("save", False) for each in wanted)
        ends = [each for each in wanted if "reason" in each]
        if ends:
            first = next((each for each in ends if each["signal"] is not None), ends[0])
            self._end = first["reason"], first["is_over"]
            if first["signal"] is not None:
                self._signals.agreed = signal.Signals(first["signal"])
        self.wake()

    # What the loop asks

    def plan(self) -> None:
        """When something may be due next."""
        super().plan()
        if self._watches or self._saves or self._end is not None:
            self.look_at = 0.0

    def look(self, one: DataPass, *, is_inner: bool) -> bool:
        """Look at all that is rare, with all workers."""
        session, place, began = self._session(), self._place, time.monotonic()
        self._looked_at = began
        lost = None if self._signals.came is None else session.coordinator.lost()
        if lost is not None:
            tell_what_is_there(session, lost, self._signals.name)
            raise self._signals.exception()
        self._propose()
        is_settled = False
        if one.is_first and not is_inner and one.name == TRAIN:
            is_settled = self._proposals.reach(place.step - place.step_at_epoch)
            if self._saves or self._end is not None or place.step >= self.pace.due_step:
                held, self._saves = self.pace.held_s, False
                self.back_up()
                self.pace.hold(time.monotonic() - began - (self.pace.held_s - held))
            if self._end is not None:
                reason, is_over = self._end
                self.leave(reason, is_over=is_over)
        self._looks(place, one)
        self.plan()
        return is_settled and bool(session.stop_reasons)

    def _propose(self) -> None:
        """Tell the others what this worker wants, if that is new."""
        now, wanted = time.monotonic(), dict[str, Any]()
        reason, is_over = self._why_it_ends(now)
        if reason is not None and (self._wish is None or self._signals.came is not None):
            self._wish = reason, is_over
        if self.wants_save or now >= self.pace.due_at:
            wanted["save"] = True
        if self._wish is not None:
            came = self._signals.came
            wanted |= {
                "reason": self._wish[0],
                "is_over": self._wish[1],
                "signal": None if came is None else int(came),
            }
        self._proposals.propose_of_loop(wanted)

    @property
    def _proposals(self) -> Proposals:
        return cast("Proposals", self._session().proposals)

    def save_next(self) -> None:
        """A backup was put off to this border or the next one, by all workers."""
        self._saves = True
        self.plan()

    def note_cost(self, seconds: float) -> None:
        """A backup was begun, by all, for which training has waited so long."""
        self._saves = False
        super().note_cost(seconds)

    def has_no_batch(self, one: DataPass, error: BaseException, *, is_inner: bool) -> None:
        """There was an error where the next batch was to come from: the others have theirs."""

    def first_pass_ends(self, *, has_later: bool) -> None:
        """All know when they meet next: at the epoch's end."""

    def epoch_ends(self, *, is_last: bool) -> None:
        """What ends the loop with this epoch is agreed on in its round."""

    def pass_ends(self) -> None:
        """The batches of the epoch's first pass are done: it has no further border."""
        self._proposals.epoch_ended(self._place.epoch)

    def round_begins(self) -> None:
        """The round takes along what this worker wants."""
        self._propose()

    def leaves_at_once(self, *, is_over: bool) -> bool:
        """Whether all leave after this epoch by what a signal raises."""
        return self._signals.agreed is not None

    @property
    def ending(self) -> tuple[str, bool] | None:
        """Why all end after this epoch, and whether it is then over."""
        return self._end

    def epoch_is_due(self, *, ends: bool) -> bool:
        """Whether a backup is due at an epoch's end; rank 0's answer counts."""
        return super().epoch_is_due(ends=ends) or self._saves or self._end is not None
