"""Lower the learning rate when a metric has stopped improving (Keras's rules)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

from peakhold._core.decisions import Continue, Decision, SetLearningRate
from peakhold._core.monitor import Criterion
from peakhold._core.observation import Observation
from peakhold._core.patience import Patience, spent_words, waited_out

__all__ = ["PlateauPolicy", "PlateauState"]


@final
@dataclass(frozen=True, slots=True)
class PlateauState:
    """Plain numbers: its own JSON."""

    best: float | None = None
    """Best value so far."""
    wait: int = 0
    """Checks without improvement since the last one, or since the last cut."""
    cooldown_counter: int = 0
    """Checks still to sit out after a cut."""
    waited: float = 0.0
    """Steps or seconds that belong to `wait`, if patience asks for them."""


def _float32(value: float) -> float:
    # Keras keeps rates in single precision: 0.1 there reads as 0.10000000149 here, and is no more
    # above 0.1 for that.
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded


@final
@dataclass(frozen=True, slots=True)
class PlateauPolicy:
    """Decides when to lower the rate, and to what.

    Args:
        criterion: What counts as better.
        factor: New rate = old rate * `factor`. At least 0 and below 1.
        patience: Checks without improvement before a cut; or steps, or seconds.
        cooldown: Checks after a cut in which nothing is counted.
        min_lr: No rate goes below it. At least 0.
    """

    criterion: Criterion
    factor: float = 0.1
    patience: Patience = 10
    cooldown: int = 0
    min_lr: float = 0.0

    def init(self) -> PlateauState:
        """The state before the first check."""
        return PlateauState()

    def step(
        self,
        state: PlateauState,
        observation: Observation,
        rates: Mapping[str, float],
        spent: float = 0.0,
    ) -> tuple[PlateauState, tuple[Decision, ...]]:
        """Take one check into account.

        Args:
            state: Where we are.
            observation: The check.
            rates: The learning rates now, by optimizer (the empty name if there is only one).
            spent: Steps or seconds of training since the call before, if patience is in these.
        """
        cooldown, wait = state.cooldown_counter, state.wait
        waited = 0.0 if isinstance(self.patience, int) else state.waited + spent
        if cooldown > 0:
            cooldown, wait, waited = cooldown - 1, 0, 0.0
        if observation.usable and self.criterion.improves(observation.value, state.best):
            return (
                PlateauState(observation.value, wait=0, cooldown_counter=cooldown),
                (Continue("improved"),),
            )
        if cooldown > 0:
            return replace(state, wait=wait, cooldown_counter=cooldown), (Continue("cooling down"),)
        wait += 1
        waiting = replace(state, wait=wait, waited=waited, cooldown_counter=0)
        if not waited_out(self.patience, wait, waited):
            return waiting, (Continue("no improvement"),)
        checks = spent_words(self.patience, wait, waited, unit="check")
        lower = {name: max(rate * self.factor, self.min_lr) for name, rate in rates.items()}
        cuts = tuple(
            SetLearningRate(f"no improvement for {checks}", name, lower[name])
            for name, rate in rates.items()
            if lower[name] < rate and rate > _float32(self.min_lr)
        )
        if not cuts:
            return waiting, (Continue("at the lowest rate"),)
        return PlateauState(state.best, wait=0, cooldown_counter=self.cooldown), cuts
