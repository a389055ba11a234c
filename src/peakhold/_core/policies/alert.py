"""When to send an alert: on the edge, not while it stays so; and not too often.

Rules of this file:

1. A condition is told when it becomes true. It must have been false, or never yet asked, before; an
   epoch that cannot tell ("not yet") changes nothing.
2. A new best is told when there was one to beat: the first value of a run is no news.
3. An alert never ends training: a metric that is missing is at most a warning, when it ends.
4. Of what is held back for a while, the newest is told, and how much it stands for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, final

from peakhold._core.condition import Condition
from peakhold._core.decisions import Decision, Tell
from peakhold._core.facts import Fact
from peakhold._core.moments import Moment, number_of, rate_key
from peakhold._core.monitor import Seen, Watched
from peakhold._core.numbers import numbers_from_json, numbers_to_json
from peakhold._core.observation import Event
from peakhold._core.states import moved

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
    seen: Seen = None
    """Whether the metric was logged in this run; None before its first epoch has ended."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        fields = numbers_to_json(asdict(self))
        if self.seen is None:
            del fields["seen"]
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> AlertState:
        """The state that `to_json` wrote."""
        return cls(**numbers_from_json(fields))


@final
@dataclass(frozen=True, slots=True)
class AlertPolicy:
    """What an epoch is worth telling.

    Args:
        watched: The metric that is ranked; None for none.
        condition: Over metrics and learning rates, by the names under which they are logged, and
            `epoch`, from 1; None for none.
        answer: Name of the answer of a user's function, for want of a condition.
        tells_best: Whether a new best is told, and the metric missed. Otherwise it is only kept.

    Example:
        >>> from peakhold._core.moments import Position
        >>> policy, told = AlertPolicy(condition=Condition.parse("f1 > 0.9 and epoch > 1")), []
        >>> state = policy.init()
        >>> for epoch, f1 in enumerate((0.95, 0.95, 0.95, 0.8, 0.95)):
        ...     moment = Moment(Event.EPOCH_END, Position(epoch), {"f1": f1})
        ...     state, decisions = policy.step(state, moment)
        ...     told.append([decision.reason for decision in decisions])
        >>> told
        [[], ['f1 > 0.9 and epoch > 1'], [], [], ['f1 > 0.9 and epoch > 1']]
    """

    watched: Watched | None = None
    condition: Condition | None = None
    answer: str | None = None
    tells_best: bool = True

    def init(self) -> AlertState:
        """The state before the first moment."""
        return AlertState()

    def step(self, state: AlertState, moment: Moment) -> tuple[AlertState, tuple[Decision, ...]]:
        """Take one moment into account: epochs are looked at when they end."""
        match moment.event:
            case Event.TRAIN_BEGIN:
                return self.go_on(state), ()
            case Event.EPOCH_END:
                state, when = self._ask(state, moment)
                state, best = self._rank(state, moment)
                return moved(state, last_epoch=moment.at.epoch), (*when, *best)
            case Event.TRAIN_END if self.watched is not None and self.tells_best:
                missing = self.watched.never_came(state.seen)
                return state, () if missing is None else (missing,)
        return state, ()

    def learn(self, state: AlertState, fact: Fact) -> AlertState:
        """Nothing: no fact answers what was told."""
        return state

    def go_on(self, state: AlertState) -> AlertState:
        """The next fit goes on with everything but what belongs to one run."""
        return moved(state, seen=None)

    def _ask(self, state: AlertState, moment: Moment) -> tuple[AlertState, tuple[Tell, ...]]:
        answer = self._answer(moment)
        if answer is None:
            return state, ()
        news = (Tell(self._title, "when"),) if answer and not state.holds else ()
        return moved(state, holds=answer), news

    def _answer(self, moment: Moment) -> bool | None:
        """Whether it is so; None is "not yet"."""
        if self.condition is not None:
            rates = {rate_key(name): rate for name, rate in moment.rates.items()}
            epoch = float(moment.at.number)
            return self.condition.holds({**rates, "epoch": epoch, **moment.metrics})
        answer = None if self.answer is None else moment.answers.get(self.answer)
        return None if answer is None else bool(answer)

    @property
    def _title(self) -> str:
        if self.condition is None:
            return "the condition holds"
        return " ".join(self.condition.text.split())

    def _rank(self, state: AlertState, moment: Moment) -> tuple[AlertState, tuple[Tell, ...]]:
        if self.watched is None:
            return state, ()
        state = moved(state, seen=self.watched.seen_after(state.seen, moment))
        value, criterion = self.watched.value(moment), self.watched.criterion
        if value is None:
            return state, ()
        before, state = state, moved(state, value=value)
        if criterion is None or not criterion.improves(value, before.best):
            return state, ()
        state = moved(state, best=value, best_epoch=moment.at.epoch)
        if before.best is None or not self.tells_best:
            return state, ()
        since = number_of(before.best_epoch or 0, moment.at.first_epoch)
        return state, (Tell(f"{before.best:.6g} before, at epoch {since}", "best"),)


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
        return self.due(moved(state, held={**state.held, kind: (text, n_older)}), now)

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
