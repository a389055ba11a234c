"""How far a run is: epochs, and the one counter of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from peakhold._core.observation import Event

__all__ = ["Progress", "StepCounter"]


@final
class Progress:
    """How far a run is."""

    def __init__(self) -> None:
        self.start_epoch: int | None = None
        """Index of the first epoch, once it has begun; above 0 in a run that goes on."""
        self.epoch = 0
        """Index of the running epoch."""
        self.last_epoch: int | None = None
        """Index of the last epoch that ended."""
        self.n_epochs_done = 0
        self.validated = False
        """Whether validation has run in this epoch."""
        self.epoch_cut_short = False
        """Whether Ctrl-C cut the running epoch short."""
        self.in_batches = False
        """Whether batches of training are being run."""

    def note(self, event: Event, epoch: int | None, *, interrupted: bool) -> None:
        """An event has come; several callbacks may tell of the same one."""
        if event is Event.EPOCH_BEGIN and epoch is not None:
            if self.start_epoch is None:
                self.start_epoch = epoch
            elif epoch != self.epoch:
                self.note_end()  # a user's override may have kept its end to itself
            self.epoch, self.validated = epoch, False
            # `fit` looks at the flag only after a batch: an epoch begun after Ctrl-C is cut short.
            self.in_batches, self.epoch_cut_short = True, interrupted
        elif event is Event.TEST_BEGIN:
            self.in_batches = False
        elif event is Event.TEST_END:
            self.validated = True
        elif event is Event.EPOCH_END and epoch is not None:
            self.in_batches = False
            if self.last_epoch != epoch:
                self.epoch = self.last_epoch = epoch
                self._count()

    def note_end(self) -> None:
        """The running epoch must have ended, though nobody told of it."""
        if self.start_epoch is not None and self.last_epoch != self.epoch:
            self.last_epoch = self.epoch
            self._count()

    def _count(self) -> None:
        if not self.epoch_cut_short:
            self.n_epochs_done += 1


@final
class StepCounter:
    """The one counter of steps, out of all who may count them.

    In this order: the list, which was told of each batch; the model's optimizer; and the epochs, if
    their length is known. A batch hook of ours would know, too, and cost Keras its asynchronous
    dispatch.

    Args:
        by_list: Asks the list; None from those who cannot count.
        by_optimizer: Asks the optimizer.
        by_epochs: Asks the epochs.
    """

    def __init__(
        self,
        by_list: Callable[[], int | None],
        by_optimizer: Callable[[], int | None],
        by_epochs: Callable[[], int | None],
    ) -> None:
        self._counts: tuple[Callable[[], int | None] | None, ...] = (
            by_list, by_optimizer, by_epochs,
        )  # fmt: skip
        self._first: tuple[int | None, ...] | None = None
        self._now: tuple[int | None, ...] = (None, None, None)
        self._has_counted = False

    @property
    def has_started(self) -> bool:
        """Whether the first epoch has begun."""
        return self._first is not None

    def look(self) -> None:
        """Ask all of them: the optimizer's count comes from the device."""
        self._now = tuple(None if count is None else count() for count in self._counts)

    def start(self) -> None:
        """The first epoch begins: steps of this run are counted from the last look.

        Who could not count by now is not asked again.
        """
        self._first = self._now
        self._counts = tuple(
            None if now is None else count
            for count, now in zip(self._counts, self._now, strict=True)
        )

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

    @property
    def total(self) -> int:
        """Steps in all runs that this one goes on from, as far as anybody knew at the last look."""
        by_list, by_optimizer, by_epochs = self._now
        if by_optimizer is not None:
            return by_optimizer
        return next((count for count in (by_list, by_epochs) if count), 0)
