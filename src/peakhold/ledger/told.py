"""What a listener is told, as an event of the record, and back.

    {"kind": "moment", "event": "on_epoch_end", "epoch": 3, "step": 400,
     "metrics": {"loss": 0.5}, "rates": {"": 0.001}, "spent": [12.5, 400],
     "decisions": {"early_stopping": [{"decision": "Stop", "reason": "…", "bad": false}]},
     "facts": {"model_checkpoint": [{"fact": "Committed", "ticket": 3}]},
     "steps": {"early_stopping": [{"before": {…}}]}}

Rules of this file:

1. A field that holds what a moment holds by default is left out; so is a participant that decided
   to go on without a word, and one that nothing became known of.
2. Steps are there so that the decisions can be taken again by the policies that took them, or by
   others. A step says only what cannot be worked out: the state that it began with where it does
   not follow from the step before (the first, and one after somebody has set the state), and the
   moment where the policy was shown another one than all were.
3. What comes back may be hostile: it is a moment of ours, or `ValueError`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, cast, final, get_args

from peakhold._core.decisions import Continue, Decision
from peakhold._core.facts import Fact
from peakhold._core.moments import Moment, Position, Spent
from peakhold._core.observation import Event
from peakhold._core.states import UNUSABLE, checked, state_to_json

__all__ = [
    "RecordedStep",
    "decisions_of",
    "facts_of",
    "is_quiet",
    "line_of",
    "moment_of",
    "steps_of",
]

_DEFAULTS: Final[Mapping[str, Any]] = {
    "validated": False,
    "validates": None,
    "defect": None,
    "epoch_cut_short": False,
}
_DECISIONS: Final[Mapping[str, type]] = {kind.__name__: kind for kind in get_args(Decision)}
_FACTS: Final[Mapping[str, type]] = {kind.__name__: kind for kind in get_args(Fact)}


@final
class RecordedStep(NamedTuple):
    """One step of a policy, as the record has it."""

    moment: Moment
    """As the policy saw it."""
    facts: tuple[Fact, ...]
    """What became known since the step before."""
    decisions: tuple[Decision, ...]
    before: Any = None
    """The state that it began with, as plain JSON; None: the one that the step before ended in."""
    was_set: bool = False
    """Whether somebody had set that state from outside."""
    policy: str | None = None
    """The policy in words, where it is another than in the step before."""


@final
class Chains:
    """What is recorded of policies' steps: a step follows from the one before, if that is there."""

    def __init__(self) -> None:
        self._policies: dict[str, Any] = {}
        self._unbroken: set[str] = set()

    def skip(self, told: Any) -> None:
        """These steps are not recorded."""
        self._unbroken.difference_update(name for name, traces in told.traces.items() if traces)

    def is_new(self, name: str, policy: Any) -> bool:
        """Whether a policy is another than in the step before."""
        before = self._policies.get(name)
        self._policies[name] = policy
        return before is not policy and before != policy

    def follows(self, name: str, trace: Any) -> bool:
        """Whether a step begins with the state that the one before ended in."""
        follows = name in self._unbroken and not trace.was_set
        self._unbroken.add(name)
        return follows and trace.moment.event is not Event.TRAIN_BEGIN


# There


def is_quiet(told: Any) -> bool:
    """Whether nothing came of a moment within an epoch, so that there is nothing to record."""
    if told.moment.at.batch is None:
        return False
    return not known_of(told) and all(
        type(one) is Continue for decisions in told.decided.values() for one in decisions
    )


def known_of(told: Any) -> dict[str, tuple[Fact, ...]]:
    """What became known since the moment before, also between moments, by participant.

    Args:
        told: A `Told` of the public listener.
    """
    known = {name: facts for name, facts in told.facts.items() if facts}
    for name, traces in told.traces.items():
        learned = tuple(fact for trace in traces for fact in trace.facts)
        if learned:
            known.setdefault(name, learned)
    return known


def line_of(told: Any, chains: Chains | None = None) -> dict[str, Any]:
    """A moment and what came of it, as an event.

    Args:
        told: A `Told` of the public listener.
        chains: What was recorded of steps; it is brought up to date. None: steps are left out.
    """
    line: dict[str, Any] = {"kind": "moment", **_moment_to_json(told.moment)}
    decisions = {
        name: [_said("decision", one) for one in decided]
        for name, decided in told.decided.items()
        if decided
    }
    if decisions:
        line["decisions"] = decisions
    known = known_of(told)
    if known:
        line["facts"] = {name: [_said("fact", one) for one in each] for name, each in known.items()}
    if told.rank:
        line["rank"] = told.rank
    if chains is not None:
        steps = {
            name: [_step_to_json(told, known, name, trace, chains) for trace in traces]
            for name, traces in told.traces.items()
            if traces
        }
        if steps:
            line["steps"] = steps
    return line


def _moment_to_json(moment: Moment) -> dict[str, Any]:
    at = moment.at
    plain: dict[str, Any] = {"event": str(moment.event), "epoch": at.epoch}
    if at.batch is not None:
        plain["batch"] = at.batch
    plain["step"] = at.step
    if at.first_epoch:
        plain["first_epoch"] = at.first_epoch
    if moment.metrics:
        plain["metrics"] = {name: float(value) for name, value in moment.metrics.items()}
    if moment.rates:
        plain["rates"] = dict(moment.rates)
    plain["spent"] = list(moment.spent)
    for name, default in _DEFAULTS.items():
        value = getattr(moment, name)
        if value != default:
            plain[name] = value
    if moment.answers:
        plain["answers"] = dict(moment.answers)
    return plain


def _said(word: str, one: Any) -> dict[str, Any]:
    return {word: type(one).__name__, **{name: getattr(one, name) for name in _names(type(one))}}


_known_names: dict[type, tuple[str, ...]] = {}


def _names(kind: type) -> tuple[str, ...]:
    names = _known_names.get(kind)
    if names is None:
        names = tuple(field.name for field in dataclasses.fields(cast("Any", kind)))
        _known_names[kind] = names
    return names


def _step_to_json(
    told: Any, known: Mapping[str, Any], name: str, trace: Any, chains: Chains
) -> dict[str, Any]:
    step: dict[str, Any] = {}
    if chains.is_new(name, trace.policy):
        step["policy"] = repr(trace.policy)
    if not chains.follows(name, trace):
        step["before"] = state_to_json(trace.before)
    if trace.was_set:
        step["was_set"] = True
    if trace.moment is not told.moment:
        step["moment"] = _moment_to_json(trace.moment)
    if trace.facts != known.get(name, ()):
        step["facts"] = [_said("fact", fact) for fact in trace.facts]
    if trace.decisions != told.decided.get(name, ()):
        step["decisions"] = [_said("decision", decision) for decision in trace.decisions]
    return step


# And back


def _reading(read: Callable[[Mapping[str, Any]], Any], line: Mapping[str, Any]) -> Any:
    try:
        return read(line)
    except UNUSABLE as error:
        raise ValueError(f"it is no moment of a record: {error}") from error


def moment_of(line: Mapping[str, Any]) -> Moment:
    """The moment that an event tells of.

    Args:
        line: As `read_events` gives it.

    Raises:
        ValueError: If it tells of none.

    Example:
        >>> moment_of({"kind": "moment", "event": "on_epoch_end", "epoch": 3, "step": 9}).at
        Position(epoch=3, batch=None, step=9, first_epoch=0)
    """
    return cast("Moment", _reading(_moment_of, line))


def _moment_of(line: Mapping[str, Any]) -> Moment:
    position = (line["epoch"], line.get("batch"), line.get("step", 0), line.get("first_epoch", 0))
    return checked(
        Moment(
            Event(line["event"]),
            checked(Position(*position)),
            dict(line.get("metrics", {})),
            dict(line.get("rates", {})),
            checked(Spent(*line.get("spent", ()))),
            **{name: line.get(name, default) for name, default in _DEFAULTS.items()},
            answers=dict(line.get("answers", {})),
        )
    )


def decisions_of(line: Mapping[str, Any]) -> dict[str, tuple[Decision, ...]]:
    """What was decided at a moment, by participant, in the order in which they were asked.

    Args:
        line: As `read_events` gives it.

    Raises:
        ValueError: If it holds something else.
    """
    return cast("dict[str, tuple[Decision, ...]]", _reading(_decisions_of, line))


def _decisions_of(line: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {
        name: _all_of(_DECISIONS, "decision", said)
        for name, said in line.get("decisions", {}).items()
    }


def facts_of(line: Mapping[str, Any]) -> dict[str, tuple[Fact, ...]]:
    """What became known since the moment before, by participant.

    Args:
        line: As `read_events` gives it.

    Raises:
        ValueError: If it holds something else.
    """
    return cast("dict[str, tuple[Fact, ...]]", _reading(_facts_of, line))


def _facts_of(line: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {name: _all_of(_FACTS, "fact", said) for name, said in line.get("facts", {}).items()}


def steps_of(line: Mapping[str, Any]) -> dict[str, tuple[RecordedStep, ...]]:
    """The steps of policies that were taken since the moment before, by participant.

    Args:
        line: As `read_events` gives it.

    Raises:
        ValueError: If it holds something else.
    """
    return cast("dict[str, tuple[RecordedStep, ...]]", _reading(_steps_of, line))


def _steps_of(line: Mapping[str, Any]) -> dict[str, tuple[RecordedStep, ...]]:
    steps = line.get("steps", {})
    if not steps:
        return {}
    moment, facts, decisions = _moment_of(line), _facts_of(line), _decisions_of(line)

    def step_of(name: str, step: Mapping[str, Any]) -> RecordedStep:
        said = step.get("facts")
        decided = step.get("decisions")
        return RecordedStep(
            _moment_of(step["moment"]) if "moment" in step else moment,
            facts.get(name, ()) if said is None else _all_of(_FACTS, "fact", said),
            decisions.get(name, ())
            if decided is None
            else _all_of(_DECISIONS, "decision", decided),
            step.get("before"),
            bool(step.get("was_set", False)),
            step.get("policy"),
        )

    return {name: tuple(step_of(name, one) for one in each) for name, each in steps.items()}


def _all_of(kinds: Mapping[str, type], word: str, said: Any) -> tuple[Any, ...]:
    return tuple(
        checked(kinds[one[word]](**{name: value for name, value in one.items() if name != word}))
        for one in said
    )
