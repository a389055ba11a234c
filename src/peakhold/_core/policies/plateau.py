"""Lower the learning rate when a metric has stopped improving (Keras's rules)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias, final

from peakhold._core.decisions import Continue, Decision, SetLearningRate
from peakhold._core.facts import Fact
from peakhold._core.moments import Moment
from peakhold._core.monitor import Seen, Watched
from peakhold._core.numbers import numbers_from_json, numbers_to_json
from peakhold._core.observation import Event
from peakhold._core.patience import Patience, Seconds, Steps, lap, spent_words, waited_out
from peakhold._core.states import moved, quickly_made

__all__ = ["PlateauPolicy", "PlateauState", "before_stopping"]

_IMPROVED, _NO_IMPROVEMENT = (Continue("improved"),), (Continue("no improvement"),)
_COOLING, _LOWEST = (Continue("cooling down"),), (Continue("at the lowest rate"),)


@final
@quickly_made
@dataclass(frozen=True, slots=True)
class PlateauState:
    """Plain numbers: its own JSON."""

    best: float | None = None
    """Best value so far."""
    wait: int = 0
    """Checks without improvement since the last one, or since the last cut."""
    cooldown_counter: float = 0
    """Checks still to sit out after a cut."""
    waited: float = 0.0
    """Steps or seconds that belong to `wait`, if patience asks for them."""
    seen: Seen = None
    """Whether the metric was logged in this run; None before its first epoch has ended."""
    mark: float | None = None
    """Steps or seconds of this run at the last look, if patience asks for them."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; what only some runs need is left out where it says nothing."""
        empty = {"waited": 0.0, "seen": None, "mark": None}
        fields = numbers_to_json(asdict(self))
        return {key: value for key, value in fields.items() if empty.get(key, ...) != value}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> PlateauState:
        """The state that `to_json` wrote."""
        return cls(**numbers_from_json(fields))


_Checked: TypeAlias = tuple[float | None, int, float, float]
"""The first four fields of a state: all that a check may change."""


def _float32(value: float) -> float:
    # Keras keeps rates in single precision: 0.1 there reads as 0.10000000149 here, and is no more
    # above 0.1 for that.
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded


@final
@dataclass(frozen=True, slots=True)
class PlateauPolicy:
    """Decides when to lower the rate, and to what.

    A defect of the state is none of its business: rates are lowered by what the metric says.

    Args:
        watched: The metric, and what counts as better.
        factor: New rate = old rate * `factor`. At least 0 and below 1.
        patience: Checks without improvement before a cut; or steps, or seconds.
        cooldown: Checks after a cut in which nothing is counted.
        min_lr: No rate goes below it. At least 0.
    """

    watched: Watched
    factor: float = 0.1
    patience: Patience = 10
    cooldown: float = 0
    min_lr: float = 0.0

    def init(self) -> PlateauState:
        """The state before the first moment."""
        return PlateauState()

    def step(
        self, state: PlateauState, moment: Moment
    ) -> tuple[PlateauState, tuple[Decision, ...]]:
        """Take one moment into account: checks are made at the end of an epoch."""
        match moment.event:
            case Event.EPOCH_END:
                return self._epoch_end(state, moment)
            case Event.TRAIN_BEGIN:
                return self.go_on(state), ()
            case Event.EPOCH_BEGIN if state.mark is None:
                return moved(state, mark=lap(self.patience, None, moment.spent)[0]), ()
            case Event.TRAIN_END:
                missing = self.watched.never_came(state.seen)
                ended = moved(state, seen=None, mark=None)
                return ended, () if missing is None else (missing,)
        return state, ()

    def learn(self, state: PlateauState, fact: Fact) -> PlateauState:
        """Nothing: no fact answers a rate."""
        return state

    def go_on(self, state: PlateauState) -> PlateauState:
        """The next fit goes on with everything but what belongs to one run."""
        return moved(state, seen=None, mark=None)

    def anew(self, state: PlateauState) -> PlateauState:
        """Count from here as from the first check; what was seen in this run stays seen."""
        return PlateauState(seen=state.seen, mark=state.mark)

    def _epoch_end(
        self, state: PlateauState, moment: Moment
    ) -> tuple[PlateauState, tuple[Decision, ...]]:
        mark, waited = state.mark, state.waited
        if isinstance(self.patience, (Steps, Seconds)):
            mark, spent = lap(self.patience, mark, moment.spent)
            waited += spent
        watched = self.watched
        value = moment.metrics.get(watched.monitor)
        seen = value is not None or state.seen or False
        if watched.criterion is None:
            value = watched.ranked(moment)
        if value is None:
            missing = None if seen else watched.missing(state.seen, moment)
            state = moved(state, seen=seen, mark=mark, waited=waited)
            return state, () if missing is None else (missing,)
        (best, wait, cooldown, waited), decisions = self._check(state, value, waited, moment)
        return PlateauState(best, wait, cooldown, waited, seen, mark), decisions

    def _check(
        self, state: PlateauState, value: float, waited: float, moment: Moment
    ) -> tuple[_Checked, tuple[Decision, ...]]:
        """What one check comes to; `waited` is what was spent until now."""
        best, cooldown, wait = state.best, state.cooldown_counter, state.wait
        if cooldown > 0:
            cooldown, wait, waited = cooldown - 1, 0, 0.0
        if self.watched.improves(moment, value, best):
            return (value, 0, cooldown, 0.0), _IMPROVED
        if cooldown <= 0:
            wait += 1
        after = (best, wait, cooldown, waited)
        if cooldown > 0:
            return after, _COOLING
        if not waited_out(self.patience, wait, waited):
            return after, _NO_IMPROVEMENT
        checks, rates = spent_words(self.patience, wait, waited, unit="check"), moment.rates
        lower = {name: max(rate * self.factor, self.min_lr) for name, rate in rates.items()}
        cuts = tuple(
            SetLearningRate(f"no improvement for {checks}", name, lower[name])
            for name, rate in rates.items()
            if lower[name] < rate and rate > _float32(self.min_lr)
        )
        if not cuts:
            return after, _LOWEST
        return (best, 0, self.cooldown, 0.0), cuts


def before_stopping(patience: int) -> dict[str, Any]:
    """Settings of a plateau that agree with a stopping of this patience.

    Two cuts fit into it, which makes about a tenth of the rate; and `min_delta` is that of
    stopping: both mean the same by an improvement.

    Args:
        patience: Checks that stopping sits out; at least 2.
    """
    return {"patience": max(1, (patience - 1) // 2), "factor": 0.3, "min_delta": 0}
