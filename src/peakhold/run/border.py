"""A border between two batches: what is looked at there, and what may end the loop.

Rules of this file:

1. A batch at whose border nothing is due costs two comparisons and one look at the clock. What is
   rare (signals, files, a limit, a save that is due) is looked at when `look_at` has come, or as
   soon as somebody says so (`wake`).
2. Within an epoch a loop is backed up only where it can be gone on with (`place.py`). Where it ends
   elsewhere, what is backed up is the copy that is held of such a place; if there is none, the
   newest checkpoint stays.
3. What ends the loop leaves it as an exception (`ending.py`): nothing of what the loop would do
   with half an epoch is run.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from peakhold.run.ending import EndingSignals, RunEndedSignal
from peakhold.run.pace import Budget, Pace
from peakhold.run.place import DataPass, RunPlace

if TYPE_CHECKING:
    from peakhold.backup.keeping import Keeping

__all__ = ["BatchBorder"]

_LOOK_S: Final = 0.1
"""How often files and displays are looked at, and how late what somebody else has done is seen."""


class BatchBorder:
    """The borders of one loop.

    Args:
        place: Where the loop is.
        keeper: Who backs it up.
        pace: When.
        signals: Of this run.
        stop_file: What somebody puts there to end the run.
        ends_at: By the monotonic clock; None: no limit.
        looks: Told how far it is, now and then.
        finish: Ends training; `Loop.finish`.
    """

    def __init__(
        self,
        place: RunPlace,
        keeper: Keeping,
        pace: Pace,
        signals: EndingSignals,
        stop_file: str,
        ends_at: float | None,
        looks: Callable[[RunPlace, DataPass], Any],
        finish: Callable[..., Any],
    ) -> None:
        self._place, self._keeper, self.pace = place, keeper, pace
        self._signals, self._stop_file, self._ends_at = signals, stop_file, ends_at
        self._looks, self._finish = looks, finish
        self.look_at = 0.0
        """When to look, by the monotonic clock."""
        self.look_step: float = float("inf")
        """After which batch to look."""
        self.wants_save = False
        """Whether somebody has asked for a backup."""
        self.stops: str | None = None
        """Why somebody has asked for the end."""
        self._ends_with_epoch: str | None = None
        """What ends the loop with the running epoch, from outside."""
        self._backed_up_at = -1
        self._looked_at = time.monotonic()

    @property
    def is_cut_short(self) -> bool:
        """Whether a second signal has come: nothing is saved any more."""
        return self._signals.came_again

    def wake(self) -> None:
        """Look at the next border; may be called in a signal's handler."""
        self.look_at = 0.0

    def starts(self, *, at_backup: bool) -> None:
        """The loop begins.

        Args:
            at_backup: Whether it goes on from a backup: there is one of this place, then.
        """
        self.pace.start(self._place.step)
        if at_backup:
            self._backed_up_at = self._place.step

    def plan(self) -> None:
        """When something may be due next."""
        now, pace = time.monotonic(), self.pace
        self.look_step = pace.due_step
        self.look_at = min(self._looked_at + _LOOK_S, max(now, pace.due_at))
        if self._ends_at is not None:
            self.look_at = min(self.look_at, self._ends_at)
        if self.wants_save or self.stops is not None or self._signals.came is not None:
            self.look_at = 0.0

    def look(self, one: DataPass, *, is_inner: bool) -> bool:
        """Look at all that is rare.

        Args:
            one: The pass whose batch is done.
            is_inner: Whether it lies in a batch of another pass: that batch is half done, and
                nothing ends there.

        Returns:
            Whether callbacks have ended training, which all workers hear of here.
        """
        now = self._looked_at = time.monotonic()
        if not is_inner:
            reason, is_over = self._why_it_ends(now)
            if one.is_first and (self.wants_save or reason is not None or self._is_due(now)):
                self.back_up()
            if reason is not None:
                self._keeper.back_up_held()
                self.leave(reason, is_over=is_over)
        self._looks(self._place, one)
        self.plan()
        return False

    def watch(self, watches: bool) -> None:
        """Whether several workers agree on a border now; in any thread."""

    def agreed(self, wanted: Sequence[Mapping[str, Any]]) -> None:
        """What loops of several workers want is to be done by all."""

    def save_next(self) -> None:
        """A backup was put off to this border or the next one, by all workers."""
        self.wants_save = True
        self.plan()

    def pass_ends(self) -> None:
        """The batches of the epoch's first pass are done, or left with `break`."""

    def round_begins(self) -> None:
        """An epoch has ended, or a check is made, and nobody has seen it yet."""

    def leaves_at_once(self, *, is_over: bool) -> bool:
        """Whether the loop is left after this epoch by an exception.

        Args:
            is_over: Whether the run is over by itself.
        """
        return not is_over and self._ends_with_epoch is not None

    @property
    def ending(self) -> tuple[str, bool] | None:
        """Why the loop ends with the running epoch, and whether it is then over."""
        if self.stops is not None:
            return self.stops, True
        return None if self._ends_with_epoch is None else (self._ends_with_epoch, False)

    def has_no_batch(self, one: DataPass, error: BaseException, *, is_inner: bool) -> None:
        """There was an error where the next batch was to come from: all is as at the border.

        Args:
            one: The pass.
            error: To be raised by the loop.
            is_inner: As for `look`.

        Raises:
            BaseException: What leaves the loop, if a signal has come: who loads has heard it, too.
        """
        if is_inner or self.is_cut_short:
            return
        try:
            if one.is_first and one.source.knows_border:
                self.back_up()
        except Exception as trouble:
            error.add_note(f"What was trained could not be saved: {trouble!r}")
        if self._signals.came is not None:
            self._keeper.back_up_held()
            self.leave(self._signals.name, is_over=False)

    def _is_due(self, now: float) -> bool:
        return self._place.step >= self.pace.due_step or now >= self.pace.due_at

    def first_pass_ends(self, *, has_later: bool) -> None:
        """The epoch's first pass is over: the last place in this epoch to go on from.

        Args:
            has_later: Whether other passes may follow in this epoch.
        """
        if self._backed_up_at == self._place.step:
            return
        now = time.monotonic()
        if self._is_due(now):
            self.back_up()
        elif has_later and not isinstance(self.pace.every, Budget):
            # Of a budget that has nothing left the newest checkpoint is so young that training to
            # here again costs less than what a copy in each epoch would.
            place = self._place
            self._keeper.hold(place.epoch, max(0, place.step - place.step_at_epoch - 1))
            self.pace.held_s += time.monotonic() - now

    def epoch_ends(self, *, is_last: bool) -> None:
        """An epoch is about to end: see whether the loop ends with it, which is then backed up."""
        self._keeper.drop_held()
        now = time.monotonic()
        if now >= self.look_at and self.stops is None and not is_last:
            self._looked_at = now
            self._ends_with_epoch, _ = self._why_it_ends(now)

    def back_up(self) -> None:
        """Back up here, once."""
        place, self.wants_save = self._place, False
        if self._backed_up_at != place.step:
            self._backed_up_at = place.step
            self._keeper.back_up(place.epoch, max(0, place.step - place.step_at_epoch - 1))

    def epoch_is_due(self, *, ends: bool) -> bool:
        """Whether a backup is due at an epoch's end."""
        by_pace = self.pace.epoch_ends(time.monotonic(), self._place.step)
        is_asked = self.wants_save or self.stops is not None or self.ending is not None
        return by_pace or ends or is_asked

    def note_cost(self, seconds: float) -> None:
        """A backup was begun, for which training has waited so long."""
        self._backed_up_at = self._place.step
        self.pace.note(time.monotonic(), self._place.step, seconds)
        self.plan()

    def _why_it_ends(self, now: float) -> tuple[str | None, bool]:
        """Why the loop ends here, and whether it is then over."""
        if self._signals.came is not None:
            return self._signals.name, False
        if self.stops is not None:
            return self.stops, True
        if self._ends_at is not None and now >= self._ends_at:
            return "its time limit has come", False
        if os.path.lexists(self._stop_file):
            with contextlib.suppress(OSError):  # else the next start would end, too
                os.unlink(self._stop_file)
            return "its folder has a file named 'stop'", False
        return None, False

    def leave(self, reason: str | None, *, is_over: bool) -> NoReturn:
        """End the loop here.

        Raises:
            BaseException: What leaves it.
        """
        self._finish(reason, is_over=is_over)
        if self._signals.ended_by is not None and not is_over:
            raise self._signals.exception()
        raise RunEndedSignal
