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
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, final

from peakhold._core.decisions import Continue, Decision, Remember, Stop
from peakhold._core.monitor import Criterion
from peakhold._core.numbers import numbers_from_json, numbers_to_json
from peakhold._core.observation import Observation
from peakhold._core.patience import Patience, spent_words, waited_out

__all__ = ["EarlyStoppingPolicy", "EarlyStoppingState", "SeveralPolicy"]


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
    waited: float = 0.0
    """Steps or seconds since the last check that counted as progress, if patience asks for them."""
    others: tuple[EarlyStoppingState, ...] = ()
    """The states of further metrics."""

    def served(self) -> EarlyStoppingState:
        """A wait that led to a stop has been served, and begins again."""
        return replace(
            self,
            wait=0,
            waited=0.0,
            stopped=False,
            stopped_epoch=0,
            others=tuple(other.served() for other in self.others),
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; what only several metrics, or steps and seconds, need is left out."""
        fields = numbers_to_json(asdict(self))
        fields["others"] = [other.to_json() for other in self.others]
        extra = {"waited", "others"}
        return {name: value for name, value in fields.items() if value or name not in extra}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> EarlyStoppingState:
        """The state that `to_json` wrote."""
        others = tuple(cls.from_json(other) for other in fields.get("others", ()))
        return cls(**{**numbers_from_json(fields), "others": others})


@final
@dataclass(frozen=True, slots=True)
class EarlyStoppingPolicy:
    """Decides when to stop.

    Args:
        criterion: What counts as better.
        patience: Checks without improvement to sit out, at least 0; or steps, or seconds.
        baseline: A value to beat within `patience`, or None.

    Example:
        >>> from peakhold._core.monitor import Direction
        >>> policy = EarlyStoppingPolicy(Criterion(Direction.MIN), patience=2)
        >>> state = policy.init()
        >>> for epoch, loss in enumerate((0.5, 0.4, 0.4, 0.41)):
        ...     state, decisions = policy.step(state, Observation(epoch, loss))
        >>> decisions[-1].reason, state.best_epoch
        ('no improvement for 2 epochs', 1)

    Source:
        Prechelt, "Early Stopping - But When?" (1998), criterion UP; Keras's `EarlyStopping`.
    """

    criterion: Criterion
    patience: Patience = 0
    baseline: float | None = None

    def init(self) -> EarlyStoppingState:
        """The state before the first check."""
        return EarlyStoppingState()

    def is_improvement(self, state: EarlyStoppingState, observation: Observation) -> bool:
        """Whether this check would become the best; changes nothing."""
        return observation.usable and self.criterion.improves(observation.value, state.best)

    def step(
        self, state: EarlyStoppingState, observation: Observation, spent: float = 0.0
    ) -> tuple[EarlyStoppingState, tuple[Decision, ...]]:
        """Take one check into account.

        Args:
            state: Where we are.
            observation: The check.
            spent: Steps or seconds of training since the call before, if patience is in these.
        """
        return SeveralPolicy((self,)).step(state, (observation,), spent)

    def advance(
        self, state: EarlyStoppingState, observation: Observation, spent: float
    ) -> tuple[EarlyStoppingState, str]:
        """Take one check into account, without stopping; also returns what to say of it."""
        value = observation.value
        improved = self.is_improvement(state, observation)
        progress = improved and (
            self.baseline is None or self.criterion.improves(value, self.baseline)
        )
        after = replace(
            state,
            wait=0 if progress else state.wait + 1,
            waited=0.0 if progress or isinstance(self.patience, int) else state.waited + spent,
            n_checks_done=state.n_checks_done + 1,
        )
        if not improved:
            return after, _why_not(observation)
        words = _why_better(state, progress=progress)
        return replace(after, best=value, best_epoch=observation.epoch), words

    def has_waited(self, state: EarlyStoppingState) -> bool:
        """Whether the wait of a state is over."""
        # A check can only be worse than something: an earlier check, or the baseline.
        comparable = state.n_checks_done > 1 or self.baseline is not None
        return comparable and waited_out(self.patience, state.wait, state.waited)

    def why_stop(self, state: EarlyStoppingState, epoch: int) -> str:
        """The wait that is over, in words."""
        begun = state.best_epoch if state.best is not None else -1
        unit = "epoch" if state.wait in (epoch - begun, epoch + 1) else "check"
        wait = spent_words(self.patience, state.wait, state.waited, unit=unit)
        if self.baseline is not None and state.best is not None and state.best_epoch == epoch:
            return f"the baseline {self.baseline:.6g} was not reached within {wait}"
        return f"no improvement for {wait}"


@final
@dataclass(frozen=True, slots=True)
class SeveralPolicy:
    """Decides when to stop by several metrics; of one, it is that one's policy.

    Args:
        policies: One for each metric. At least one.
        names: The metrics' names, for reasons; none for a single one.
        require: Whether the waits of all must be over, or of any.

    Example:
        >>> from peakhold._core.monitor import Direction
        >>> each = EarlyStoppingPolicy(Criterion(Direction.MAX), patience=1)
        >>> policy = SeveralPolicy((each, each), ("accuracy", "f1"))
        >>> state = policy.init()
        >>> for epoch, (accuracy, f1) in enumerate([(0.5, 0.5), (0.4, 0.6), (0.4, 0.6)]):
        ...     both = Observation(epoch, accuracy), Observation(epoch, f1)
        ...     state, decisions = policy.step(state, both)
        >>> decisions[-1].reason
        'accuracy: no improvement for 2 epochs; f1: no improvement for 1 epoch'
    """

    policies: tuple[EarlyStoppingPolicy, ...]
    names: tuple[str, ...] = ()
    require: Literal["all", "any"] = "all"

    def init(self) -> EarlyStoppingState:
        """The state before the first check."""
        first, *others = (policy.init() for policy in self.policies)
        return replace(first, others=tuple(others))

    def states(self, state: EarlyStoppingState) -> tuple[EarlyStoppingState, ...]:
        """The state of each metric."""
        return (replace(state, others=()), *state.others)

    def is_improvement(
        self, state: EarlyStoppingState, observations: Sequence[Observation | None]
    ) -> bool:
        """Whether this check would become the best: by the first metric."""
        first = observations[0]
        return first is not None and self.policies[0].is_improvement(state, first)

    def pass_by(self, state: EarlyStoppingState, spent: float) -> EarlyStoppingState:
        """An epoch without a check: only steps or seconds have passed."""
        first, *others = (
            each if isinstance(policy.patience, int) else replace(each, waited=each.waited + spent)
            for policy, each in zip(self.policies, self.states(state), strict=True)
        )
        return replace(first, others=tuple(others))

    def step(
        self,
        state: EarlyStoppingState,
        observations: Sequence[Observation | None],
        spent: float = 0.0,
    ) -> tuple[EarlyStoppingState, tuple[Decision, ...]]:
        """Take one epoch into account.

        Args:
            state: Where we are.
            observations: The check of each metric; None for those that this epoch did not log.
            spent: Steps or seconds of training since the call before, if patience is in these.
        """
        epoch = max(o.epoch for o in observations if o is not None)
        improved = self.is_improvement(state, observations)
        after, words = [], []
        passed = self.states(self.pass_by(state, spent))
        for policy, each, later, observation in zip(
            self.policies, self.states(state), passed, observations, strict=True
        ):
            if observation is None:
                after.append(later)
                words.append("not logged")
            else:
                moved, word = policy.advance(each, observation, spent)
                after.append(moved)
                words.append(word)
        over = [policy.has_waited(each) for policy, each in zip(self.policies, after, strict=True)]
        decisions: list[Decision] = []
        if improved:
            decisions.append(Remember(self._join(words)))
        first, *others = after
        if all(over) if self.require == "all" else any(over):
            why = [
                policy.why_stop(each, epoch) if ended else ""
                for policy, each, ended in zip(self.policies, after, over, strict=True)
            ]
            decisions.append(Stop(self._join(why)))
            first = replace(first, stopped_epoch=epoch, stopped=True)
        return (
            replace(first, others=tuple(others)),
            tuple(decisions) or (Continue(self._join(words)),),
        )

    def _join(self, words: Sequence[str]) -> str:
        if len(self.policies) == 1:
            return words[0]
        named = zip(self.names, words, strict=True)
        return "; ".join(f"{name}: {word}" for name, word in named if word)


def _why_better(state: EarlyStoppingState, *, progress: bool) -> str:
    reason = "first value" if state.best is None else f"better than {state.best:.6g}"
    return reason if progress else f"{reason}, but the baseline is not reached"


def _why_not(observation: Observation) -> str:
    if observation.defect is not None:
        return observation.defect
    return "no improvement" if observation.usable else "not a finite number"
