"""Stop when the loss, or a gradient, is not a number any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from peakhold._core.decisions import Decision, Stop
from peakhold._core.facts import Fact
from peakhold._core.moments import Moment
from peakhold._core.observation import Event, is_finite

__all__ = ["NaNGuard", "NaNGuardState"]


@final
@dataclass(frozen=True, slots=True)
class NaNGuardState:
    """There is none to keep: each batch speaks for itself."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> NaNGuardState:
        """The state that `to_json` wrote."""
        return cls(**fields)


@final
@dataclass(frozen=True, slots=True)
class NaNGuard:
    """Decides whether a batch ends training.

    It looks at the batch's `loss`, and at two answers that only the device can give:
    `gradients_finite`, whether all gradients since training began were, and `first_nonfinite_step`,
    the step of the first that was not, where somebody counts steps. What is missing says nothing.

    Example:
        >>> from peakhold._core.moments import Position
        >>> batch = Moment(Event.TRAIN_BATCH_END, Position(0, 7, 8), {"loss": float("nan")})
        >>> NaNGuard().step(NaNGuard().init(), batch)[1][0].reason
        'the loss is nan'
    """

    def init(self) -> NaNGuardState:
        """The state before the first moment."""
        return NaNGuardState()

    def step(
        self, state: NaNGuardState, moment: Moment
    ) -> tuple[NaNGuardState, tuple[Decision, ...]]:
        """Look at one moment: batches are looked at when they end."""
        if moment.event is not Event.TRAIN_BATCH_END:
            return state, ()
        loss = moment.metrics.get("loss")
        if not (loss is None or is_finite(loss)):
            return state, (Stop(f"the loss is {loss}", bad=True),)
        if moment.answers.get("gradients_finite") is not False:
            return state, ()
        step = moment.answers.get("first_nonfinite_step")
        which = "" if step is None else f" of step {step}"
        return state, (Stop(f"the gradient{which} is not finite", bad=True),)

    def learn(self, state: NaNGuardState, fact: Fact) -> NaNGuardState:
        """Nothing: no fact answers a stop."""
        return state

    def go_on(self, state: NaNGuardState) -> NaNGuardState:
        """The next fit begins as the first did."""
        return state
