"""What a policy may know: one moment of a run, the same on every worker.

A run is a stream of moments. Policies read it and decide; nothing else tells them anything but the
facts about what they decided (`facts.py`). So a recorded stream, read again by the same policies,
gives the same decisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, final

from peakhold._core.observation import Event
from peakhold._core.states import quickly_made

__all__ = ["Answer", "Moment", "Position", "Spent", "number_of", "rate_key"]

Answer: TypeAlias = float | str | bool | None
"""What a user's own function said, or what only the device knew; plain JSON."""


@final
class Position(NamedTuple):
    """Where a run is."""

    epoch: int
    """The epoch as the loop counts it: in `fit` from 0; a loop may count from 1."""
    batch: int | None = None
    """Index of the batch that ended, from 0; None at the borders of epochs."""
    step: int = 0
    """Updates of the model so far, in all runs that this one goes on from."""
    first_epoch: int = 0
    """What the loop calls its first epoch: 0 or 1."""

    @property
    def number(self) -> int:
        """The epoch's number for people, from 1."""
        return number_of(self.epoch, self.first_epoch)


@final
class Spent(NamedTuple):
    """What this run has spent on training up to a moment; the time between two runs is nobody's."""

    seconds: float = 0.0
    steps: int | None = None
    """None while nobody counts them."""


@final
@quickly_made
@dataclass(frozen=True, slots=True)
class Moment:
    """One moment of a run.

    Example:
        >>> moment = Moment(Event.EPOCH_END, Position(3, None, 400), {"loss": 0.5})
        >>> moment.at.epoch, moment.metrics["loss"]
        (3, 0.5)
    """

    event: Event
    at: Position
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What was measured; numbers only. NaN stays NaN."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Learning rates by optimizer (empty name: the only one), before anybody changes them; at the
    end of an epoch, those it was trained with."""
    spent: Spent = field(default_factory=Spent)
    validated: bool = False
    """Whether validation has run in this epoch."""
    validates: bool | None = None
    """Whether validation will run in this run; None if nobody can tell."""
    defect: str | None = None
    """Why this state cannot be the best whatever the metrics say; for who would remember it."""
    epoch_cut_short: bool = False
    """Whether Ctrl-C cut the running epoch short: the state at hand is that of no epoch, and is not
    saved."""
    answers: Mapping[str, Answer] = field(default_factory=dict)
    """What users' own functions said of this moment, and what only the device knew, by name."""


def number_of(epoch: int, first_epoch: int) -> int:
    """An epoch's number for people, from 1.

    Args:
        epoch: As the loop counts it.
        first_epoch: What the loop calls its first epoch: 0 or 1.
    """
    return epoch + 1 - first_epoch


def rate_key(name: str) -> str:
    """The name of an optimizer's learning rate among metrics: Keras's."""
    return f"learning_rate_{name}" if name else "learning_rate"
