"""Stop when a metric, or several, have stopped improving.

The rules, in Keras's words where Keras has them:

1. Each check adds one to `wait`. A check that is better than the best so far becomes the best; if
   it also beats `baseline` (or there is none), `wait` goes back to 0.
2. `wait >= patience` stops. Patience 0 acts like 1, as in Keras: the first check has nothing to be
   worse than. A patience in steps or seconds stops at the first check without improvement at which
   so much has been spent since the last one with.
3. With a `baseline`, "training will run for `patience` epochs" if none of them beats it: getting
   better without reaching the baseline does not put the end off (Keras lets such a run go on and
   stops it at its first bad epoch, K-E9).
4. A value that is NaN or infinite is a check without improvement. It never becomes the best, not
   even as the first value (K-E1).
5. Of several metrics each has its own best and its own wait. The best epoch is that of the first.
   Training stops when all waits are over, or any, as asked for; a wait that was over begins again
   with the next improvement. A metric that an epoch did not log is not checked there.
6. Epochs before `start_from_epoch` are no checks, and what was spent in them is no wait; but a
   metric that is missing is missing from the first epoch on.
7. Weights that are not finite are not the best, nor is such an epoch an improvement of any other
   metric. That is looked at where the weights would be remembered, and settled before the next
   moment (`speculate`): a defect is part of the moment, and no fact changes a state here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, final

from peakhold._core.decisions import Continue, Decision, Missing, Remember, Stop
from peakhold._core.facts import Fact
from peakhold._core.moments import Moment, Position
from peakhold._core.monitor import Seen, Watched
from peakhold._core.numbers import numbers_from_json, numbers_to_json
from peakhold._core.observation import Event
from peakhold._core.patience import Patience, Seconds, Steps, lap, spent_words, waited_out
from peakhold._core.states import moved, quickly_made

__all__ = ["EarlyStoppingPolicy", "EarlyStoppingState"]

_NO_IMPROVEMENT, _NOT_FINITE = "no improvement", "not a finite number"
_CONTINUES = {word: (Continue(word),) for word in (_NO_IMPROVEMENT, _NOT_FINITE)}


@final
@quickly_made
@dataclass(frozen=True, slots=True)
class EarlyStoppingState:
    """Plain numbers: its own JSON. With several metrics, this is the first one's."""

    best: float | None = None
    """Best value so far."""
    best_epoch: int = 0
    """Its epoch, as the loop counts: from 0 in `fit`."""
    wait: int = 0
    """Checks since the last one that counted as progress."""
    n_checks_done: int = 0
    """Checks so far."""
    stopped_epoch: int = 0
    """Index of the epoch that stopped training; 0 if none did (Keras's convention)."""
    stopped: bool = False
    """Whether this policy stopped training; `stopped_epoch` cannot tell for epoch 0."""
    waited: float = 0.0
    """Steps or seconds since the last check that counted as progress, if patience asks for them."""
    others: tuple[EarlyStoppingState, ...] = ()
    """The states of further metrics."""
    seen: Seen = None
    """Whether the metric was logged in this run; None before its first epoch has ended."""
    mark: float | None = None
    """Steps or seconds of this run at the last look, if patience asks for them."""

    def served(self) -> EarlyStoppingState:
        """For a run that goes on after a stop: it waits as long again before the next."""
        return moved(
            self,
            wait=0,
            waited=0.0,
            stopped=False,
            stopped_epoch=0,
            others=tuple(other.served() for other in self.others),
        )

    def in_new_run(self) -> EarlyStoppingState:
        """Without what belongs to one run."""
        others = tuple(other.in_new_run() for other in self.others)
        return moved(self, seen=None, mark=None, others=others)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; what only some runs need is left out where it says nothing."""
        fields = numbers_to_json(asdict(self))
        fields["others"] = [other.to_json() for other in self.others]
        empty = {"waited": 0.0, "others": [], "seen": None, "mark": None}
        return {name: value for name, value in fields.items() if empty.get(name, ...) != value}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> EarlyStoppingState:
        """The state that `to_json` wrote."""
        others = tuple(cls.from_json(other) for other in fields.get("others", ()))
        return cls(**{**numbers_from_json(fields), "others": others})


@final
@dataclass(frozen=True, slots=True)
class EarlyStoppingPolicy:
    """Decides when to stop, by one metric or by several.

    Args:
        watched: The metrics, each with what counts as better and a baseline, or none. At least one.
        patience: Checks without improvement to sit out, at least 0; or steps, or seconds.
        require: Of several metrics, whether the waits of all must be over, or of any.
        start_from_epoch: Epochs before this one, as the loop counts them, are no checks.

    Example:
        >>> from peakhold._core.moments import Position
        >>> from peakhold._core.monitor import Criterion, Direction
        >>> names, larger = ("accuracy", "f1"), Criterion(Direction.MAX)
        >>> policy = EarlyStoppingPolicy(tuple(Watched(n, larger) for n in names), patience=1)
        >>> state = policy.init()
        >>> for epoch, values in enumerate([(0.5, 0.5), (0.4, 0.6), (0.4, 0.6)]):
        ...     metrics = dict(zip(names, values))
        ...     moment = Moment(Event.EPOCH_END, Position(epoch), metrics)
        ...     state, decisions = policy.step(state, moment)
        >>> decisions[-1].reason, state.best_epoch
        ('accuracy: no improvement for 2 epochs; f1: no improvement for 1 epoch', 0)

    Source:
        Prechelt, "Early Stopping - But When?" (1998), criterion UP; Keras's `EarlyStopping`.
    """

    watched: tuple[Watched, ...]
    patience: Patience = 0
    require: Literal["all", "any"] = "all"
    start_from_epoch: int = 0

    def init(self) -> EarlyStoppingState:
        """The state before the first moment."""
        return EarlyStoppingState(others=(EarlyStoppingState(),) * (len(self.watched) - 1))

    def step(
        self, state: EarlyStoppingState, moment: Moment
    ) -> tuple[EarlyStoppingState, tuple[Decision, ...]]:
        """Take one moment into account: checks are made at the end of an epoch."""
        match moment.event:
            case Event.EPOCH_END:
                return self._epoch_end(state, moment)
            case Event.TRAIN_BEGIN:
                return state.in_new_run(), ()
            case Event.EPOCH_BEGIN if state.mark is None:
                return moved(state, mark=lap(self.patience, None, moment.spent)[0]), ()
            case Event.TRAIN_END:
                missing = (
                    watched.never_came(each.seen)
                    for watched, each in zip(self.watched, self.each(state), strict=True)
                )
                said = tuple(one for one in missing if one is not None)
                return state.in_new_run(), said  # what belongs to this run ends with it
        return state, ()

    def learn(self, state: EarlyStoppingState, fact: Fact) -> EarlyStoppingState:
        """Nothing: what is best does not hang on a fact (rule 7)."""
        return state

    def go_on(self, state: EarlyStoppingState) -> EarlyStoppingState:
        """The next fit goes on with the best and the wait; after a stop the wait begins at 0."""
        return (state.served() if state.stopped else state).in_new_run()

    def is_over(self, state: EarlyStoppingState) -> bool:
        """Whether the wait is over, by the patience as it is now."""
        over = (
            self._has_waited(watched, one)
            for watched, one in zip(self.watched, self.each(state), strict=True)
        )
        return all(over) if self.require == "all" else any(over)

    def may_check(self, moment: Moment) -> bool:
        """Whether the end of this epoch is a check, if the metrics are there (rule 6)."""
        return moment.at.epoch >= self.start_from_epoch

    def each(self, state: EarlyStoppingState) -> tuple[EarlyStoppingState, ...]:
        """The state of each metric; their number may have changed, for somebody may set them."""
        others = state.others
        if len(others) != len(self.watched) - 1:
            others = self.init().others
        return (replace(state, others=()) if state.others else state, *others)

    def _epoch_end(
        self, state: EarlyStoppingState, moment: Moment
    ) -> tuple[EarlyStoppingState, tuple[Decision, ...]]:
        each = self.each(state) if state.others or len(self.watched) > 1 else (state,)
        missing: tuple[Missing, ...] = ()
        for watched in self.watched:
            if watched.monitor not in moment.metrics:
                missing = self._missing(each, moment)
                break
        is_fatal = bool(missing) and missing[-1].fatal
        mark, spent = state.mark, 0.0
        if not is_fatal and isinstance(self.patience, (Steps, Seconds)):
            mark, spent = lap(self.patience, mark, moment.spent)
        is_check = not is_fatal and moment.at.epoch >= self.start_from_epoch
        passed, ranked, may_rank = [], [], False
        for watched, one in zip(self.watched, each, strict=True):
            value = moment.metrics.get(watched.monitor)
            seen = value is not None or one.seen or False
            if seen is not one.seen or (spent and is_check):
                one = replace(one, seen=seen, waited=one.waited + spent * is_check)  # noqa: PLW2901
            if watched.criterion is None:
                value = watched.ranked(moment)
            may_rank = may_rank or value is not None
            passed.append(one)
            ranked.append(value)
        if passed[0].mark != mark:
            passed[0] = replace(passed[0], mark=mark)
        if not (is_check and may_rank):
            return _joined(passed), missing
        after, decisions = self._check(passed, ranked, moment)
        return after, (*missing, *decisions) if missing else decisions

    def _missing(self, each: Sequence[EarlyStoppingState], moment: Moment) -> tuple[Missing, ...]:
        """What to say of metrics that are not there; nothing comes after what is fatal."""
        said: list[Missing] = []
        for watched, one in zip(self.watched, each, strict=True):
            missing = watched.missing(one.seen, moment)
            if missing is not None:
                said.append(missing)
                if missing.fatal:
                    break
        return tuple(said)

    def _check(
        self, each: Sequence[EarlyStoppingState], values: Sequence[float | None], moment: Moment
    ) -> tuple[EarlyStoppingState, tuple[Decision, ...]]:
        """Take the metrics of an epoch into account, at least one of which is there."""
        epoch = moment.at.epoch
        after: list[EarlyStoppingState] = []
        words, over = [], []
        remembers, defect = False, None
        for watched, one, value in zip(self.watched, each, values, strict=True):
            better = watched.improves(moment, value, one.best)
            if better and not after:  # else nobody would remember the weights
                remembers, defect = True, moment.defect
            if value is None:
                advanced, word = one, "not logged"
            else:
                is_better = better and defect is None
                to_reach = is_better and watched.baseline is not None
                reached = not to_reach or watched.beats_baseline(moment, value)
                advanced, word = _advance(one, value, epoch, is_better=is_better, reached=reached)
            after.append(advanced)
            words.append(word if value is None or defect is None else defect)
            over.append(self._has_waited(watched, advanced))
        decisions: list[Decision] = []
        if remembers and defect is None:
            decisions.append(Remember(self._join(words), after[0].n_checks_done))
        if all(over) if self.require == "all" else any(over):
            why = [
                self._why_stop(watched, one, moment.at) if ended else ""
                for watched, one, ended in zip(self.watched, after, over, strict=True)
            ]
            reason = self._join(why) if defect is None else f"{self._join(why)}: {defect}"
            decisions.append(Stop(reason))
            after[0] = replace(after[0], stopped_epoch=epoch, stopped=True)
        if decisions:
            return _joined(after), tuple(decisions)
        if len(after) == 1:
            return after[0], _CONTINUES.get(words[0]) or (Continue(words[0]),)
        return _joined(after), (Continue(self._join(words)),)

    def _has_waited(self, watched: Watched, state: EarlyStoppingState) -> bool:
        """Whether the wait of a metric is over."""
        # A check can only be worse than something: an earlier check, or the baseline.
        comparable = state.n_checks_done > 1 or watched.baseline is not None
        return state.wait > 0 and comparable and waited_out(self.patience, state.wait, state.waited)

    def _why_stop(self, watched: Watched, state: EarlyStoppingState, at: Position) -> str:
        """The wait that is over, in words."""
        epoch = at.epoch
        begun = state.best_epoch if state.best is not None else at.first_epoch - 1
        unit = "epoch" if state.wait in (epoch - begun, at.number) else "check"
        wait = spent_words(self.patience, state.wait, state.waited, unit=unit)
        if watched.baseline is not None and state.best is not None and state.best_epoch == epoch:
            return f"the baseline {watched.baseline:.6g} was not reached within {wait}"
        return f"no improvement for {wait}"

    def _join(self, words: Sequence[str]) -> str:
        if len(self.watched) == 1:
            return words[0]
        named = zip((watched.monitor for watched in self.watched), words, strict=True)
        return "; ".join(f"{name}: {word}" for name, word in named if word)


def _joined(each: Sequence[EarlyStoppingState]) -> EarlyStoppingState:
    return each[0] if len(each) == 1 else replace(each[0], others=tuple(each[1:]))


def _advance(
    state: EarlyStoppingState, value: float, epoch: int, *, is_better: bool, reached: bool
) -> tuple[EarlyStoppingState, str]:
    """Take one check of one metric into account; also returns what to say of it."""
    wait, n_checks_done = state.wait + 1, state.n_checks_done + 1
    if not is_better:
        # What most epochs come to: written out, for `replace` costs as much as all else here.
        after = EarlyStoppingState(
            state.best, state.best_epoch, wait, n_checks_done, state.stopped_epoch, state.stopped,
            state.waited, state.others, state.seen, state.mark,
        )  # fmt: skip
        return after, _NO_IMPROVEMENT if math.isfinite(value) else _NOT_FINITE
    reason = "first value" if state.best is None else f"better than {state.best:.6g}"
    waited = state.waited
    if reached:
        wait, waited = 0, 0.0
    else:
        reason += ", but the baseline is not reached"
    after = replace(
        state, best=value, best_epoch=epoch, wait=wait, waited=waited, n_checks_done=n_checks_done
    )
    return after, reason
