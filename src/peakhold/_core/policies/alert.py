"""When to send an alert: on the edge, not while it stays so; and not too often.

Rules of this file:

1. A condition is told when it becomes true. It must have been false, or never yet asked, before; an
   epoch that cannot tell ("not yet") changes nothing.
2. A new best is told when there was one to beat: the first value of a run is no news.
3. Of what is held back for a while, the newest is told, and how much it stands for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import final

from peakhold._core.monitor import Criterion
from peakhold._core.observation import Observation

__all__ = ["AlertPolicy", "AlertState", "Limit", "LimitState"]


@final
@dataclass(frozen=True, slots=True)
class AlertState:
    """Plain values: its own JSON."""

    holds: bool = False
    """Whether the condition was true when it could be told last."""
    best: float | None = None
    best_epoch: int | None = None
    """Index of the best epoch, from 0."""
    value: float | None = None
    """The monitored metric when it was logged last."""
    last_epoch: int | None = None
    """Index of the last epoch that was looked at."""


@final
@dataclass(frozen=True, slots=True)
class AlertPolicy:
    """What an epoch is worth telling.

    Args:
        criterion: What a better value is; None if nothing is ranked.

    Example:
        >>> policy, state, told = AlertPolicy(None), AlertState(), []
        >>> for epoch, answer in enumerate((None, True, True, None, True, False, True)):
        ...     state, events = policy.step(state, Observation(epoch, None), answer)
        ...     told.append(events)
        >>> told
        [(), ('when',), (), (), (), (), ('when',)]
    """

    criterion: Criterion | None

    def step(
        self, state: AlertState, observation: Observation, answer: bool | None
    ) -> tuple[AlertState, tuple[str, ...]]:
        """Look at one epoch.

        Args:
            state: The state so far.
            observation: The monitored metric.
            answer: Of the condition; None is "not yet".

        Returns:
            The new state, and what happened: `"when"`, `"best"`.
        """
        events = ("when",) if answer and not state.holds else ()
        moved = replace(state, last_epoch=observation.epoch)
        if answer is not None:
            moved = replace(moved, holds=answer)
        if observation.value is not None:
            moved = replace(moved, value=observation.value)
        if self.criterion is not None and self.criterion.improves(observation.value, state.best):
            if state.best is not None:
                events = (*events, "best")
            moved = replace(moved, best=observation.value, best_epoch=observation.epoch)
        return moved, events


@final
@dataclass(frozen=True, slots=True)
class LimitState:
    """When each kind was told last, and what is held back."""

    told_at: Mapping[str, float] = field(default_factory=dict)
    """Seconds on the caller's clock, by kind."""
    held: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """The newest message that is held back, and how many older ones it stands for, by kind."""


@final
@dataclass(frozen=True, slots=True)
class Limit:
    """At most one message of a kind in so many seconds.

    Args:
        interval_s: Seconds between two messages of one kind.

    Example:
        >>> limit = Limit(60.0)
        >>> state, told = limit.offer(LimitState(), "best", "0.5", now=0.0)
        >>> for now, text in ((10.0, "0.4"), (20.0, "0.3")):
        ...     state, more = limit.offer(state, "best", text, now)
        ...     told += more
        >>> state, late = limit.due(state, now=61.0)
        >>> told, late
        (('0.5',), ('0.3 (and 1 earlier)',))
    """

    interval_s: float

    def offer(
        self, state: LimitState, kind: str, text: str, now: float
    ) -> tuple[LimitState, tuple[str, ...]]:
        """A new message; returns what to send now."""
        older = state.held.get(kind)
        n_older = 0 if older is None else older[1] + 1
        return self.due(replace(state, held={**state.held, kind: (text, n_older)}), now)

    def due(self, state: LimitState, now: float) -> tuple[LimitState, tuple[str, ...]]:
        """What was held back and may be sent now."""
        ready = [
            kind
            for kind in state.held
            if kind not in state.told_at or now - state.told_at[kind] >= self.interval_s
        ]
        return self._tell(state, ready, now)

    def rest(self, state: LimitState, now: float) -> tuple[LimitState, tuple[str, ...]]:
        """All that is held back: there is no later."""
        return self._tell(state, list(state.held), now)

    def _tell(
        self, state: LimitState, kinds: list[str], now: float
    ) -> tuple[LimitState, tuple[str, ...]]:
        texts = tuple(
            text + (f" (and {n_older} earlier)" if n_older else "")
            for text, n_older in (state.held[kind] for kind in kinds)
        )
        held = {kind: entry for kind, entry in state.held.items() if kind not in kinds}
        return LimitState({**state.told_at, **dict.fromkeys(kinds, now)}, held), texts
