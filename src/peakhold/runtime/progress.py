"""How far a run is: epochs, seconds, the one counter of steps; and the moments made of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, final

from peakhold._core.moments import Moment, Position, Spent
from peakhold._core.observation import Event
from peakhold.errors import InvalidArgumentError
from peakhold.host.contract import to_number
from peakhold.runtime.listening import LISTENERS

if TYPE_CHECKING:
    from peakhold.runtime.participant import Participant

__all__ = ["Progress", "StepCounter", "numbers_in"]

_NONE: Final[Mapping[str, float]] = {}
_EPOCH_END: Final = Event.EPOCH_END
"""Looked up on its enumeration it costs three times as much."""
_RATES_COUNT: Final = {Event.EPOCH_BEGIN, Event.EPOCH_END}
_STEPS_COUNT: Final = {Event.EPOCH_END, Event.TEST_END}


@final
class Progress:
    """How far a run is.

    Args:
        steps: Who counts its steps.
        validates: Asks whether validation will run; asked once, at the first end of an epoch.
    """

    def __init__(self, steps: StepCounter, validates: Callable[[], bool | None]) -> None:
        self.steps = steps
        self._ask_validates = validates
        self.ask_rates: Callable[[], Mapping[str, float]] | None = None
        """Asks for the learning rates, if moments must say them."""
        self.step_readers: list[Participant] = []
        """Who may read in a moment how many steps there were: if nobody does, and nobody listens,
        the optimizer is not asked, whose count is on the device."""
        self.trained_with: Mapping[str, float] | None = None
        """Rates that the running epoch is trained with, where the loop may change them before it
        tells of the end; None elsewhere."""
        self.may_count_from_one: Callable[[], bool] = _no
        """Whether a first epoch of 1 means that the loop counts from 1; asked once."""
        self.first_epoch: int | None = None
        """What the loop calls its first epoch, 0 or 1; None until that is known."""
        self.start_epoch: int | None = None
        """The first epoch, once it has begun; above the first one in a run that goes on."""
        self.epoch = 0
        """The running epoch, as the loop counts."""
        self.last_epoch: int | None = None
        """The last epoch that ended."""
        self.n_epochs_done = 0
        self.validated = False
        """Whether validation has run in this epoch."""
        self.epoch_cut_short = False
        """Whether Ctrl-C cut the running epoch short."""
        self.in_batches = False
        """Whether batches of training are being run."""
        self.line_is_open = False
        """Whether a progress bar may have begun a line, and not ended it."""
        self.batches_before = 0
        """Batches of the epoch that begins which an interrupted run has done."""
        self._counted_epoch: int | None = None
        self._steps_before_epoch = 0
        self._first_epoch_at: float | None = None
        self._validates: tuple[bool | None] | None = None

    # How the loop counts

    @property
    def first(self) -> int:
        """What the loop calls its first epoch; 0 as long as that is not known."""
        return self.first_epoch or 0

    @property
    def goes_on(self) -> bool:
        """Whether the epoch that was begun first is not the loop's first one."""
        return self.start_epoch is not None and self.start_epoch > self.first

    def counts_from(self, first_epoch: int) -> None:
        """It is known how the loop counts.

        Raises:
            InvalidArgumentError: If it was said before, otherwise.
        """
        if self.first_epoch not in (None, first_epoch):
            raise InvalidArgumentError.for_argument(
                "first_epoch",
                self.first_epoch,
                f"a loop that counts from {first_epoch}, as the run that is resumed did",
                hint=f"pass first_epoch={first_epoch}, or another backup_dir to start afresh.",
            )
        self.first_epoch = first_epoch

    def _look_how_it_counts(self, epoch: int) -> None:
        if self.first_epoch is None:
            self.first_epoch = int(epoch == 1 and self.may_count_from_one())

    # Events

    def note(self, event: Event, epoch: int | None, *, interrupted: bool) -> bool:
        """An event has come; several callbacks may tell of the same one.

        Returns:
            Whether it is the first epoch that begins.
        """
        if event is _EPOCH_END:
            if epoch is not None:
                self._look_how_it_counts(epoch)
                self.in_batches = False
                if self.last_epoch != epoch:
                    self.epoch = self.last_epoch = epoch
                    if not self.epoch_cut_short:
                        self.n_epochs_done += 1
        elif event is Event.EPOCH_BEGIN and epoch is not None:
            self.line_is_open = False
            first = self.start_epoch is None
            if first:
                self._look_how_it_counts(epoch)
                self.start_epoch = epoch
            elif epoch != self.epoch:
                self.note_end()  # a user's override may have kept its end to itself
            self.epoch, self.validated = epoch, False
            # `fit` looks at the flag only after a batch: an epoch begun after Ctrl-C is cut short.
            self.in_batches, self.epoch_cut_short = True, interrupted
            return first
        elif event is Event.TEST_BEGIN:
            self.in_batches = False
        elif event is Event.TEST_END:
            self.validated = True
        return False

    def count_from_here(self, epoch: int | None) -> None:
        """An epoch begins, and what an interrupted run left has been put back."""
        if epoch == self._counted_epoch:
            return
        self._counted_epoch = epoch
        self.steps.look(self.n_epochs_done)
        if not self.steps.has_started:
            self._first_epoch_at = time.monotonic()
            self.steps.start()
        self.steps.total -= self.batches_before  # whoever counts has them
        self._steps_before_epoch, self.batches_before = self.steps.total, 0

    def note_end(self) -> None:
        """The running epoch must have ended, though nobody told of it."""
        if self.start_epoch is not None and self.last_epoch != self.epoch:
            self.last_epoch = self.epoch
            if not self.epoch_cut_short:
                self.n_epochs_done += 1

    @property
    def running_epoch(self) -> int | None:
        """An epoch that has begun and not ended; None if there is none."""
        has_begun = self.start_epoch is not None and self.last_epoch != self.epoch
        return self.epoch if has_begun or self.epoch_cut_short else None

    # Moments

    def spent_seconds(self) -> float:
        """Seconds of training in this run so far."""
        return 0.0 if self._first_epoch_at is None else time.monotonic() - self._first_epoch_at

    def moment(self, event: Event, batch: int | None, logs: Any) -> Moment:
        """What there is to know now.

        Args:
            event: What happens.
            batch: Index of the batch; None between batches.
            logs: Metrics as they were given.
        """
        if batch is not None:
            step = self._steps_before_epoch + batch + 1
            at = Position(self.epoch, batch, step, self.first_epoch or 0)
            return Moment(
                event,
                at,
                numbers_in(logs),
                {},
                Spent(self.spent_seconds()),
                self.validated,
                epoch_cut_short=self.epoch_cut_short,
            )
        steps, asked, validates, rates = self.steps, bool(LISTENERS), None, _NONE
        for one in self.step_readers:
            asked = asked or one.reads_steps
        if event is _EPOCH_END:
            if self._validates is None:
                self._validates = (self._ask_validates(),)
            validates = self._validates[0]
        if asked and event in _STEPS_COUNT:
            steps.look(self.n_epochs_done)
        if self.ask_rates is not None and event in _RATES_COUNT:
            known = self.trained_with if event is _EPOCH_END else None
            rates = self.ask_rates() if known is None else known
        return Moment(
            event,
            Position(self.epoch, None, steps.total, self.first_epoch or 0),
            numbers_in(logs),
            rates,
            Spent(self.spent_seconds(), self._spent_steps(event) if asked else None),
            self.validated,
            validates,
            None,
            self.epoch_cut_short,
        )

    def _spent_steps(self, event: Event) -> int | None:
        spent = self.steps.spent
        if spent is None and event is not Event.EPOCH_END and self.steps.has_started:
            spent = 0  # nobody has counted a step, for there was none yet
        return spent


def _no() -> bool:
    return False


def numbers_in(logs: Any) -> dict[str, float]:
    """The numbers in logs; what is no number is never decided upon."""
    if type(logs) is not dict and not isinstance(logs, Mapping):
        return {}
    numbers: dict[str, float] = {}
    for key, value in logs.items():
        number = value if type(value) is float else to_number(value)
        if number is not None:
            numbers[str(key)] = number
    return numbers


@final
class StepCounter:
    """The one counter of steps, out of all who may count them.

    In this order: the list, which was told of each batch; the model's optimizer; and the epochs, if
    their length is known. A batch hook of ours would know, too, and cost Keras its asynchronous
    dispatch.

    Args:
        driver: Gives the list, or None.
        by_optimizer: Asks the optimizer.
        epoch_length: Asks how many steps an epoch has.
    """

    def __init__(
        self,
        driver: Callable[[], Any],
        by_optimizer: Callable[[], int | None],
        epoch_length: Callable[[], int | None],
    ) -> None:
        self._driver = driver
        self._by_optimizer: Callable[[], int | None] | None = by_optimizer
        self._ask_length = epoch_length
        self._length: int | None = None
        self._first: tuple[int | None, ...] | None = None
        self._now: tuple[int | None, ...] = (None, None, None)
        self._has_counted = False
        self.total = 0
        """Steps in all runs that this one goes on from, as far as anybody knew at the last look."""

    @property
    def has_started(self) -> bool:
        """Whether the first epoch has begun."""
        return self._first is not None

    def look(self, n_epochs_done: int) -> None:
        """Ask all of them: the optimizer's count comes from the device."""
        length = self._length if self.has_started else self._ask_length()
        by_list: int | None = getattr(self._driver(), "n_batches_done", None)
        by_optimizer = None if self._by_optimizer is None else self._by_optimizer()
        by_epochs = None if length is None else length * n_epochs_done
        self._now = (by_list, by_optimizer, by_epochs)
        self.total = (by_list or by_epochs or 0) if by_optimizer is None else by_optimizer

    def start(self) -> None:
        """The first epoch begins: steps of this run are counted from the last look.

        An optimizer that could not count by now is not asked again.
        """
        self._length = self._ask_length()
        self._first = self._now
        if self._now[1] is None:
            self._by_optimizer = None

    @property
    def spent(self) -> int | None:
        """Steps from `start` to the last look; None as long as nobody has counted any."""
        if self._first is None:
            return None
        for before, now in zip(self._first, self._now, strict=True):
            if before is not None and now is not None and now > before:
                self._has_counted = True
                return now - before
        return 0 if self._has_counted else None
