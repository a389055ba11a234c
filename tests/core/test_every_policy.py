"""What holds for every policy. They are found by what they are, and drawn by their type hints."""

import dataclasses
import functools
import importlib
import json
import math
import pkgutil
import re
import types
import typing
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peakhold._core import policies
from peakhold._core.condition import Condition
from peakhold._core.decisions import Remember, Save, Stop
from peakhold._core.facts import Committed, Failed, NotFinite
from peakhold._core.moments import Moment, Position, Spent
from peakhold._core.monitor import Criterion, Direction, Watched
from peakhold._core.observation import Event
from peakhold._core.patience import Seconds, Steps
from peakhold._core.policies.checkpoint import ASKED, WORTH_IT
from peakhold._core.policies.save_when import AtEnd, Every
from peakhold._core.policy import speculate

VERBS = ("init", "step", "learn", "go_on")


def found():
    """Every class of `_core.policies` that is a policy."""
    for module in pkgutil.iter_modules(policies.__path__, f"{policies.__name__}."):
        for thing in vars(importlib.import_module(module.name)).values():
            own = isinstance(thing, type) and thing.__module__ == module.name
            if own and all(callable(getattr(thing, verb, None)) for verb in VERBS):
                yield thing


POLICIES = sorted(found(), key=lambda policy: policy.__name__)
every_policy = pytest.mark.parametrize("kind", POLICIES, ids=lambda kind: kind.__name__)
quickly = settings(max_examples=40, deadline=None)


# Configurations, by type


def mostly(often, rarely):
    """One of two; if the rare one came as often, there would be little to see."""
    return st.tuples(st.integers(0, 7), often, rarely).map(lambda d: d[2] if d[0] == 5 else d[1])


NAMES = ("loss", "val_loss", "f1")

_criteria = st.builds(
    Criterion, st.sampled_from(Direction), st.sampled_from([0.0, 0.0, 0.05, 0.5]), st.booleans()
)
_conditions = ["noise > 0", "noise > 0.5 and epoch > 2", "not noise < 0.5 or learning_rate < 0.5"]
LEAVES = {
    bool: st.sampled_from([True, False, True]),
    int: st.integers(0, 4),
    float: st.floats(0, 0.9),
    str: st.just("mine"),
    types.NoneType: st.none(),
    Criterion: _criteria,
    Watched: st.builds(Watched, st.sampled_from(NAMES), mostly(_criteria, st.none()), st.sampled_from([None, 0.3, 0.5]), st.booleans()),
    Condition: st.sampled_from(_conditions).map(Condition.parse),
    Steps: st.builds(Steps, st.integers(1, 30)),
    Seconds: st.builds(Seconds, st.integers(1, 30)),
    AtEnd: st.builds(AtEnd),
    Every: st.builds(Every, epochs=st.sampled_from([1, 1, 2]))
    | st.builds(Every, batches=st.integers(1, 4))
    | st.builds(Every, seconds=st.integers(1, 20)),
}  # fmt: skip
VALUE_TO_BEAT = {float, types.NoneType}
"""A number that may be left out is a metric's value; any other is not."""


def drawn(hint):
    """Anything of a type."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint in LEAVES:
        return LEAVES[hint]
    if origin is typing.Literal:
        return st.sampled_from(parts)
    if origin in (types.UnionType, typing.Union):
        if set(parts) == VALUE_TO_BEAT:
            return st.sampled_from([None, None, None, 0.5, 1.0, -1.0, math.inf, -math.inf])
        others = st.one_of([drawn(part) for part in parts if part is not types.NoneType])
        return mostly(others, st.none()) if types.NoneType in parts else others
    if origin is tuple and parts[1:] == (...,):
        return st.lists(drawn(parts[0]), min_size=1, max_size=3, unique_by=_name).map(tuple)
    if dataclasses.is_dataclass(hint):
        return configured(hint)
    raise NotImplementedError(f"say how to draw {hint}")


@functools.cache
def configured(kind):
    hints = typing.get_type_hints(kind)
    fields = {field.name: drawn(hints[field.name]) for field in dataclasses.fields(kind)}
    return st.builds(kind, **fields)


def _name(thing):
    return getattr(thing, "monitor", thing)


# Histories: drawn as rows of numbers, for drawing is what takes the time.


logged = st.sampled_from(
    [None, None, None, math.nan, math.inf, -math.inf, 0.0, -0.0, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6,
     0.75, 1.0, 1.5, -1.0, -2.0, 1e-9, 123456.75]
)  # fmt: skip
passed = st.integers(0, 4)
seen_by_device = st.sampled_from([
    {}, {"gradients_finite": True},
    {"gradients_finite": False, "first_nonfinite_step": 3}, {"gradients_finite": False},
    {ASKED: True}, {ASKED: True, WORTH_IT: False}, {ASKED: True, WORTH_IT: True},
])  # fmt: skip
compared = st.sampled_from([
    {}, {}, {"loss improves": True}, {"loss improves": False, "f1 improves": True},
    {"val_loss improves": True, "val_loss beats the baseline": False},
])  # fmt: skip
batch_rows = st.tuples(logged, logged, passed, seen_by_device)
epoch_rows = st.tuples(
    st.lists(batch_rows, max_size=3), st.tuples(logged, logged, logged, logged), passed,
    st.booleans(), st.sampled_from([True, False, None]), compared,
)  # fmt: skip
run_rows = st.tuples(
    st.integers(0, 2), mostly(st.lists(epoch_rows, min_size=5, max_size=9), st.lists(epoch_rows, max_size=2)), st.sampled_from([None, True, False]),
    st.booleans(), st.booleans(),
)  # fmt: skip


def without_comparisons(answers):
    return {name: one for name, one in answers.items() if name.split()[0] not in NAMES}


def metrics_of(names, row):
    return {name: value for name, value in zip(names, row, strict=True) if value is not None}


def moments_of(first, epochs, validates, counts_steps, cut_short):
    """One run, in which nobody knows of a defect."""
    clock, step, epoch = 0, 0, first

    def moment(event, batch=None, after=0, **fields):
        nonlocal clock
        clock += after
        spent = Spent(float(clock), step if counts_steps else None)
        at = Position(epoch, batch, step)
        return Moment(event, at, rates={"": 0.5, "d": 0.01}, spent=spent, validates=validates, **fields)  # fmt: skip

    yield moment(Event.TRAIN_BEGIN)
    end = {}
    for epoch, (batches, row, after, validated, answer, users) in enumerate(epochs, first):
        yield moment(Event.EPOCH_BEGIN, after=1)
        for batch, (loss, f1, length, answers) in enumerate(batches):
            step += 1
            metrics = metrics_of(("loss", "f1"), (loss, f1))
            yield moment(Event.TRAIN_BATCH_END, batch, length, metrics=metrics, answers=answers)
        metrics = metrics_of((*NAMES, "noise"), row)
        end = {"metrics": metrics, "validated": validated}
        yield moment(Event.EPOCH_END, after=after, answers={"mine": answer, **users}, **end)
    yield moment(Event.TRAIN_END, epoch_cut_short=cut_short, **end)


def histories():
    """The moments of one run or two, one after the other."""
    runs = st.lists(run_rows, min_size=1, max_size=2)
    return runs.map(lambda rows: [moment for row in rows for moment in moments_of(*row)])


FACTS = {
    "committed": Committed,
    "failed": lambda ticket: Failed(ticket, "no space left"),
    "refused": lambda ticket: Failed(ticket, "no space left", may_retry=True),
    "not finite": lambda ticket: NotFinite(ticket, "weights"),
}
outcomes = st.lists(st.tuples(st.sampled_from([*FACTS, "committed", "refused"]), st.sampled_from([0, 0, 1, 4, 9, 30])),
                    min_size=1, max_size=8)  # fmt: skip
"""What becomes of one save after the other, and how many moments later it is told; in a circle."""


def tickets(decisions):
    """Of what a fact will answer: what is handed over is decided when it is asked for."""
    return [
        d.ticket
        for d in decisions
        if isinstance(d, Remember) or (isinstance(d, Save) and not d.handed_over)
    ]


class Run:
    """A policy that is shown a history, and told facts.

    Args:
        policy: The policy.
        outcomes: What becomes of its decisions; none is told without.
    """

    def __init__(self, policy, outcomes=None):
        self.policy, self.state = policy, policy.init()
        self.decisions = []
        self._outcomes = outcomes
        self._n_asked = 0
        self._due = []
        self.told, self.open = [], []

    def go(self, moments):
        for moment in moments:
            self.show(moment)
        return self

    def show(self, moment):
        self._tell(waits=moment.event is Event.TRAIN_BEGIN)  # for what the last run has asked for
        self.state, made = self.policy.step(self.state, moment)
        self.decisions.append(made)
        for decision in made:
            if isinstance(decision, (Remember, Save)) and self._outcomes:
                outcome, delay = self._outcomes[self._n_asked % len(self._outcomes)]
                self._n_asked += 1
                self.open.append(decision)
                self._due.append((delay, outcome, decision))
        self._tell(after=0)

    def _tell(self, *, after=1, waits=False):
        self._due = [(0 if waits else delay - after, *rest) for delay, *rest in self._due]
        ready = [one for one in self._due if one[0] <= 0]
        self._due = [one for one in self._due if one[0] > 0]
        for _, outcome, decision in ready:
            self.state = self.policy.learn(self.state, FACTS[outcome](decision.ticket))
            self.open.remove(decision)
            self.told.append((outcome, decision))


def through_json(state):
    return type(state).from_json(json.loads(json.dumps(state.to_json(), allow_nan=False)))


# What is found


def test_policies_are_found_and_are_what_policies_are():
    assert len(POLICIES) > 1
    for kind in POLICIES:
        assert dataclasses.is_dataclass(kind)
        assert kind.__dataclass_params__.frozen
        assert getattr(kind, "__final__", False)
        assert not kind.__subclasses__()


@every_policy
@quickly
@given(st.data())
def test_a_state_is_frozen_and_comes_back_from_json(kind, data):
    policy = data.draw(configured(kind))
    state = Run(policy, data.draw(outcomes)).go(data.draw(histories())).state

    assert type(state).__dataclass_params__.frozen
    assert through_json(state).to_json() == state.to_json()
    assert through_json(policy.init()) == policy.init()


# Mirror


def mirrored(thing, hint=None):
    """The same configuration for metrics with the other sign."""
    if isinstance(thing, Criterion):
        other = Direction.MAX if thing.direction is Direction.MIN else Direction.MIN
        return replace(thing, direction=other)
    if hint is not None and set(typing.get_args(hint)) == VALUE_TO_BEAT and thing is not None:
        return -thing
    if isinstance(thing, tuple):
        return tuple(map(mirrored, thing))
    if dataclasses.is_dataclass(thing) and type(thing) not in (Condition, Every, Seconds, Steps):
        hints = typing.get_type_hints(type(thing))
        fields = dataclasses.fields(thing)
        return replace(thing, **{f.name: mirrored(getattr(thing, f.name), hints[f.name]) for f in fields})  # fmt: skip
    return thing


def with_other_sign(moment):
    signed = {k: -v if k in NAMES else v for k, v in moment.metrics.items()}
    return replace(moment, metrics=signed)


def but_for_values(decisions):
    number = r"-?(\d+\.?\d*(e[-+]?\d+)?|\binf\b|\bnan\b)"
    return [replace(d, reason=re.sub(number, "#", d.reason)) for d in decisions]


@every_policy
@quickly
@given(st.data())
def test_larger_is_smaller_in_a_mirror(kind, data):
    policy, moments = data.draw(configured(kind)), data.draw(histories())
    facts = data.draw(outcomes)
    plain = Run(policy, facts).go(moments)
    other = Run(mirrored(policy), facts).go(map(with_other_sign, moments))

    for these, those in zip(plain.decisions, other.decisions, strict=True):
        back = [
            replace(d, value=-d.value) if isinstance(d, Save) and d.value is not None else d
            for d in those
        ]
        assert but_for_values(these) == but_for_values(back)


# Time


@every_policy
@quickly
@given(st.data())
def test_a_state_through_json_at_any_point_changes_no_later_decision(kind, data):
    policy, moments = data.draw(configured(kind)), data.draw(histories())
    facts = data.draw(outcomes)
    whole = Run(policy, facts).go(moments)
    again = Run(policy, facts)
    for moment in moments:
        again.state = through_json(again.state)
        again.show(moment)

    assert again.decisions == whole.decisions


@every_policy
@quickly
@given(st.data())
def test_committed_told_late_changes_no_decision(kind, data):
    policy, moments = data.draw(configured(kind)), data.draw(histories())
    late = [(one, delay if one == "committed" else 0) for one, delay in data.draw(outcomes)]
    at_once = [(one, 0) for one, _ in late]

    assert Run(policy, late).go(moments).decisions == Run(policy, at_once).go(moments).decisions


@pytest.mark.parametrize("kind", [kind for kind in POLICIES if hasattr(kind, "to_beat")])
@quickly
@given(st.data())
def test_what_came_to_nothing_leaves_what_is_committed_or_under_way_to_beat(kind, data):
    policy, moments = data.draw(configured(kind)), data.draw(histories())
    # By the rules: where a user's code says what is better, the newest is.
    moments = [replace(one, answers=without_comparisons(one.answers)) for one in moments]
    run = Run(policy, data.draw(outcomes))
    for moment in moments:
        run.show(moment)
        good = [d for outcome, d in run.told if outcome == "committed"]
        ranked = [d.value for d in (*good, *run.open) if d.value is not None]
        best = None
        for value in ranked:
            if policy.watched.criterion.better(value, best):
                best = value
        expected = policy.threshold if best is None else best

        assert policy.to_beat(run.state) == expected
        for decision in run.decisions[-1]:
            if isinstance(decision, Save) and decision.value is not None:
                now = moment.metrics.get(policy.watched.monitor)
                assert decision.retry is not None or decision.value == now


@every_policy
@quickly
@given(st.data())
def test_speculation_agrees_with_knowing_at_once(kind, data):
    policy = data.draw(configured(kind))
    run = Run(policy, data.draw(outcomes))
    for moment in data.draw(histories()):
        before = run.state
        run.show(moment)
        known = policy.step(before, replace(moment, defect="weights are not finite (w)"))
        good, bad, must_wait = speculate(policy, before, moment, "weights are not finite (w)")

        assert good == policy.step(before, moment)
        assert known == (good if bad is None else bad)
        assert not any(isinstance(decision, Remember) for decision in known[1])
        ends = {any(isinstance(d, Stop) for d in made) for _, made in (good, known)}
        assert must_wait or len(ends) == 1
        if data.draw(st.booleans()):
            run.state = known[0]


# What changes nothing


@every_policy
@quickly
@given(st.data())
def test_a_fact_that_answers_nothing_changes_nothing(kind, data):
    policy = data.draw(configured(kind))
    run = Run(policy, data.draw(outcomes)).go(data.draw(histories()))
    answered = [d.ticket for outcome, d in run.told if outcome in ("committed", "not finite")]
    for ticket in (-1, 0, 10**6, *answered):
        for fact in FACTS.values():
            assert policy.learn(run.state, fact(ticket)) == run.state


@every_policy
@quickly
@given(st.data())
def test_tickets_count_up(kind, data):
    run = Run(data.draw(configured(kind)), data.draw(outcomes)).go(data.draw(histories()))
    given_out = [ticket for made in run.decisions for ticket in tickets(made)]

    assert all(one < other for one, other in zip([0, *given_out], given_out, strict=False))


CONCERNED = {Event.TRAIN_BEGIN, Event.TRAIN_END, Event.EPOCH_BEGIN, Event.EPOCH_END,
             Event.TRAIN_BATCH_END}  # fmt: skip


@every_policy
@quickly
@given(st.data())
def test_a_moment_that_concerns_nobody_changes_nothing(kind, data):
    policy, moments = data.draw(configured(kind)), data.draw(histories())
    state = Run(policy, data.draw(outcomes)).go(moments).state
    for event in set(Event) - CONCERNED:
        assert policy.step(state, replace(moments[-1], event=event)) == (state, ())


@every_policy
@quickly
@given(st.data())
def test_a_step_changes_nothing_that_it_is_given(kind, data):
    policy = data.draw(configured(kind))
    run, before = Run(policy, data.draw(outcomes)), repr(policy)
    for moment in data.draw(histories()):
        frozen = replace(
            moment,
            metrics=types.MappingProxyType(moment.metrics),
            rates=types.MappingProxyType(moment.rates),
            answers=types.MappingProxyType(moment.answers),
        )
        given_state, text, was = run.state, repr(run.state), repr(frozen)
        run.show(frozen)
        assert (repr(given_state), repr(frozen), repr(policy)) == (text, was, before)


# Numbers


def bests(fields):
    for name, value in fields.items():
        if name == "best":
            yield value
        for inner in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(inner, dict):
                yield from bests(inner)


@every_policy
@quickly
@given(st.data())
def test_what_is_no_number_never_becomes_the_best(kind, data):
    policy = data.draw(configured(kind))
    run = Run(policy, data.draw(outcomes))
    for moment in data.draw(histories()):
        run.show(moment)
        ranked = [d.value for d in run.decisions[-1] if isinstance(d, Save)]
        for value in (*bests(dataclasses.asdict(run.state)), *ranked):
            assert value is None or math.isfinite(value)


@every_policy
@quickly
@given(st.data())
def test_the_next_fit_goes_on_from_a_state_of_no_run(kind, data):
    policy = data.draw(configured(kind))
    run = Run(policy, data.draw(outcomes)).go(data.draw(histories()))
    state = policy.go_on(run.state)

    assert policy.go_on(state) == state
    assert policy.go_on(policy.init()) == policy.init()
