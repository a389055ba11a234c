"""Stop when a metric has stopped improving.

The rules, in Keras's words where Keras has them:

1. Each check adds one to `wait`. A check that is better than the best so far becomes the best; if
   it also beats `baseline` (or there is none), `wait` goes back to 0.
2. `wait >= patience` stops. Patience 0 acts like 1, as in Keras: the first check has nothing to be
   worse than.
3. With a `baseline`, "training will run for `patience` epochs" if none of them beats it: getting
   better without reaching the baseline does not put the end off (Keras lets such a run go on and
   stops it at its first bad epoch, K-E9).
4. A value that is NaN or infinite is a check without improvement. It never becomes the best, not
   even as the first value (K-E1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

from peakhold._core.decisions import Continue, Decision, Remember, Stop
from peakhold._core.monitor import Criterion
from peakhold._core.observation import Observation

__all__ = ["EarlyStoppingPolicy", "EarlyStoppingState"]


@final
@dataclass(frozen=True, slots=True)
class EarlyStoppingState:
    """Plain numbers: its own JSON."""

    best: float | None = None
    """Best value so far."""
    best_epoch: int = 0
    """Index of its epoch, from 0."""
    wait: int = 0
    """Checks since the last one that counted as progress."""
    n_checks_done: int = 0
    """Checks so far."""
    stopped_epoch: int = 0
    """Index of the epoch that stopped training; 0 if none did (Keras's convention)."""
    stopped: bool = False
    """Whether this policy stopped training; `stopped_epoch` cannot tell for epoch 0."""


@final
@dataclass(frozen=True, slots=True)
class EarlyStoppingPolicy:
    """Decides when to stop.

    Args:
        criterion: What counts as better.
        patience: Checks without improvement to sit out. At least 0.
        baseline: A value to beat within `patience` checks, or None.

    Example:
        >>> from peakhold._core.monitor import Direction
        >>> policy = EarlyStoppingPolicy(Criterion(Direction.MIN), patience=2)
        >>> state = policy.init()
        >>> for epoch, loss in enumerate((0.5, 0.4, 0.4, 0.41)):
        ...     state, decisions = policy.step(state, Observation(epoch, loss))
        >>> decisions[-1].reason, state.best_epoch
        ('no improvement for 2 checks', 1)

    Source:
        Prechelt, "Early Stopping - But When?" (1998), criterion UP; Keras's `EarlyStopping`.
    """

    criterion: Criterion
    patience: int = 0
    baseline: float | None = None

    def init(self) -> EarlyStoppingState:
        """The state before the first check."""
        return EarlyStoppingState()

    def is_improvement(self, state: EarlyStoppingState, observation: Observation) -> bool:
        """Whether this check would become the best; changes nothing."""
        return observation.usable and self.criterion.improves(observation.value, state.best)

    def step(
        self, state: EarlyStoppingState, observation: Observation
    ) -> tuple[EarlyStoppingState, tuple[Decision, ...]]:
        """Take one check into account."""
        value = observation.value
        improved = self.is_improvement(state, observation)
        progress = improved and (
            self.baseline is None or self.criterion.improves(value, self.baseline)
        )
        wait = 0 if progress else state.wait + 1
        after = replace(state, wait=wait, n_checks_done=state.n_checks_done + 1)
        decisions: list[Decision] = []
        if improved:
            decisions.append(Remember(_why_better(state, progress=progress)))
            after = replace(after, best=value, best_epoch=observation.epoch)
        # A check can only be worse than something: an earlier check, or the baseline.
        comparable = state.n_checks_done > 0 or self.baseline is not None
        if not progress and comparable and wait >= max(self.patience, 1):
            decisions.append(Stop(_why_stop(wait, baseline=self.baseline, improved=improved)))
            after = replace(after, stopped_epoch=observation.epoch, stopped=True)
        return after, tuple(decisions) or (Continue(_why_not(observation)),)


def _why_better(state: EarlyStoppingState, *, progress: bool) -> str:
    reason = "first value" if state.best is None else f"better than {state.best:.6g}"
    return reason if progress else f"{reason}, but the baseline is not reached"


def _why_not(observation: Observation) -> str:
    if observation.defect is not None:
        return observation.defect
    return "no improvement" if observation.usable else "not a finite number"


def _why_stop(wait: int, *, baseline: float | None, improved: bool) -> str:
    checks = f"{wait} check" + ("s" if wait != 1 else "")
    if improved and baseline is not None:
        return f"the baseline {baseline:.6g} was not reached within {checks}"
    return f"no improvement for {checks}"
