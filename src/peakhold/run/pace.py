"""When a loop is backed up: after so many batches or seconds, or as often as a budget allows.

A save holds the thread that trains for as long as copying the state takes, and longer where the
save before is still being written. `Budget` says which share of the training time that may be: what
was spent so far, and what the next save will cost, must fit into it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias, final

from peakhold._core.arguments import check_number
from peakhold._core.policies.save_when import Every
from peakhold.errors import InvalidArgumentError

__all__ = ["Budget", "Pace", "SaveEvery", "as_others_count", "check_save_every"]

_HINT: Final = (
    "pass save_every=Budget(0.035), Every(batches=1000), Every(seconds=600), or 'epoch' to save at "
    "the ends of epochs alone."
)


@final
@dataclass(frozen=True, slots=True)
class Budget:
    """Save as often as this share of the training time allows.

    What counts is the time for which the thread that trains is held; the files are written beside
    training. The first save comes at once: what one costs is not known before.

    Args:
        share: Of the time of training, above 0 and at most 1. Defaults to `0.035`.

    Raises:
        InvalidArgumentError: For another share.

    Example:
        >>> from peakhold import Budget
        >>> Budget(0.02)
        Budget(share=0.02)

    Source:
        CheckFreq (Mohan et al., FAST '21), which keeps to 3.5 %.
    """

    share: float = 0.035

    def __post_init__(self) -> None:
        expected = "a share of the training time, above 0 and at most 1"
        share = check_number("share", self.share, expected)
        if not 0 < share <= 1:
            raise InvalidArgumentError.for_argument("share", share, expected)
        object.__setattr__(self, "share", share)


SaveEvery: TypeAlias = Budget | Every


def check_save_every(save_every: Any) -> SaveEvery:
    """What `save_every` means: `"epoch"`, `Every` or `Budget`.

    Raises:
        InvalidArgumentError: If it is none of them.
    """
    if isinstance(save_every, (Budget, Every)):
        return save_every
    if save_every == "epoch":
        return Every(epochs=1)
    raise InvalidArgumentError.for_argument(
        "save_every", save_every, "Budget(...), Every(...) or 'epoch'", hint=_HINT
    )


def as_others_count(every: SaveEvery) -> SaveEvery:
    """What of it a worker counts by itself, where rank 0 says the rest: batches."""
    return every if isinstance(every, Every) and every.batches else Every(epochs=1)


@final
class Pace:
    """When the saves of one run are due. All times are of one clock, in seconds.

    Args:
        every: How often.
        now: When training begins.
    """

    def __init__(self, every: SaveEvery, now: float) -> None:
        self.every = every
        self.held_s = 0.0
        """For how long saves have held the thread that trains."""
        self.n_saves = 0
        self._began = self._last_at = now
        self._last_cost = 0.0
        self._last_step = 0
        self._epochs = 0

    def start(self, step: int) -> None:
        """Batches are counted from this one."""
        self._last_step = step

    def note(self, now: float, step: int, cost: float) -> None:
        """A save was begun, and has held training so long."""
        self._last_at, self._last_step, self._epochs = now, step, 0
        self._last_cost = cost
        self.held_s += cost
        self.n_saves += 1

    def hold(self, seconds: float) -> None:
        """The last save has held training so much longer: workers waited for one another."""
        self._last_cost += seconds
        self.held_s += seconds

    @property
    def due_at(self) -> float:
        """From when on a save within an epoch is due by the clock."""
        every = self.every
        if isinstance(every, Budget):
            return self._began + (self.held_s + self._last_cost) / every.share
        return float("inf") if every.seconds is None else self._last_at + every.seconds

    @property
    def due_step(self) -> float:
        """After which batch, counted over all epochs, a save is due."""
        batches = self.every.batches if isinstance(self.every, Every) else None
        return float("inf") if batches is None else self._last_step + batches

    def epoch_ends(self, now: float, step: int) -> bool:
        """Whether a save is due at an epoch's end.

        Whatever is counted within epochs, an epoch's end is a good place: half of the count will
        do, so that what comes soon after it is not paid for.
        """
        every = self.every
        if isinstance(every, Budget):
            return now >= self.due_at
        if every.epochs is not None:
            self._epochs += 1
            return self._epochs >= every.epochs
        if every.batches is not None:
            return step - self._last_step >= every.batches / 2
        return every.seconds is not None and now - self._last_at >= every.seconds / 2

    def share(self, now: float) -> float:
        """For which share of the time since the beginning saves have held training."""
        return self.held_s / (now - self._began) if now > self._began else 0.0
