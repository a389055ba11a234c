"""Policies: tables of history in, decisions out, and what must hold for any history."""

import json
import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peakhold._core.decisions import Remember, Save, SetLearningRate, Skip, Stop
from peakhold._core.monitor import Criterion, Direction
from peakhold._core.observation import Observation
from peakhold._core.policies.early_stopping import EarlyStoppingPolicy, EarlyStoppingState
from peakhold._core.policies.nan_guard import NaNGuard
from peakhold._core.policies.plateau import PlateauPolicy, PlateauState
from peakhold._core.policies.save_when import (
    SaveBest,
    SaveBestState,
)

MIN, MAX = Criterion(Direction.MIN), Criterion(Direction.MAX)
nan, inf = math.nan, math.inf

values = st.one_of(st.sampled_from([nan, inf, -inf, 0.0, 1.0]), st.floats(-10, 10), st.none())
histories = st.lists(values, max_size=25)
criteria = st.builds(Criterion, st.sampled_from(Direction), st.floats(0, 2), st.booleans())


def run_stopping(policy, history, state=None, start=0):
    state = policy.init() if state is None else state
    decisions = []
    for epoch, value in enumerate(history, start):
        state, made = policy.step(state, Observation(epoch, value))
        decisions.append(made)
    return state, decisions


def stopped_at(policy, history):
    _, decisions = run_stopping(policy, history)
    return next((i for i, ds in enumerate(decisions) if any(isinstance(d, Stop) for d in ds)), None)


@pytest.mark.parametrize(
    ("history", "patience", "baseline", "stop", "best_epoch"),
    [
        # Keras's own table: patience p stops at max(p, 1) + 2.
        ([10, 9, 8, 9, 8.9, 8.8, 8.7, 8.6, 8.5], 0, None, 3, 2),
        ([10, 9, 8, 9, 8.9, 8.8, 8.7, 8.6, 8.5], 1, None, 3, 2),
        ([10, 9, 8, 9, 8.9, 8.8, 8.7, 8.6, 8.5], 2, None, 4, 2),
        ([10, 9, 8, 9, 8.9, 8.8, 8.7, 8.6, 8.5], 3, None, 5, 2),
        # Getting better without reaching the baseline does not put the end off.
        ([0.9, 0.8, 0.7, 0.71, 0.72, 0.73], 5, 0.5, 4, 2),
        ([0.9, 0.85, 0.8, 0.75, 0.7], 3, 0.5, 2, 2),
        ([0.9, 0.4, 0.45, 0.44, 0.43], 3, 0.5, 4, 1),
        ([0.9], 1, 0.5, 0, 0),
        # What is no number is a check without improvement, also as the first.
        ([nan, 0.5, 0.4, 0.3], 2, None, None, 3),
        ([nan, nan, nan], 2, None, 1, 0),
        ([nan, 0.5], 1, None, None, 1),
        ([0.5, nan, inf, 0.4], 3, None, None, 3),
        ([-inf, 0.5, 0.4], 9, None, None, 2),
        ([0.5] * 4, 3, None, 3, 0),
        ([0.5], 0, None, None, 0),
        ([], 0, None, None, 0),
    ],
)
def test_when_training_stops(history, patience, baseline, stop, best_epoch):
    policy = EarlyStoppingPolicy(MIN, patience, baseline)
    at = stopped_at(policy, history)
    state, _ = run_stopping(policy, history if at is None else history[: at + 1])

    assert (at, state.best_epoch) == (stop, best_epoch)


@given(
    history=histories,
    patience=st.integers(0, 6),
    baseline=st.none() | st.floats(-5, 5),
    delta=st.floats(0, 1),
)
def test_stopping_on_larger_is_stopping_on_smaller_in_a_mirror(history, patience, baseline, delta):
    def mirror(number):
        return None if number is None else -number

    smaller = EarlyStoppingPolicy(Criterion(Direction.MIN, delta), patience, baseline)
    larger = EarlyStoppingPolicy(Criterion(Direction.MAX, delta), patience, mirror(baseline))
    one, these = run_stopping(smaller, history)
    other, those = run_stopping(larger, [mirror(value) for value in history])

    assert [[type(d) for d in ds] for ds in these] == [[type(d) for d in ds] for ds in those]
    assert (one.wait, one.best_epoch, one.stopped) == (other.wait, other.best_epoch, other.stopped)
    assert one.best == mirror(other.best)


@given(history=histories, cut=st.integers(0, 25), criterion=criteria, patience=st.integers(0, 6))
def test_a_saved_and_restored_stopping_state_changes_no_later_decision(
    history, cut, criterion, patience
):
    policy = EarlyStoppingPolicy(criterion, patience)
    _, whole = run_stopping(policy, history)
    state, first = run_stopping(policy, history[:cut])
    again = EarlyStoppingState(**json.loads(json.dumps(asdict(state), allow_nan=False)))
    _, rest = run_stopping(policy, history[cut:], again, start=len(history[:cut]))

    assert first + rest == whole


@given(history=histories, criterion=criteria)
def test_the_best_is_a_value_that_was_seen_and_nothing_seen_is_clearly_better(history, criterion):
    policy = EarlyStoppingPolicy(criterion, 99)
    state, decisions = run_stopping(policy, history)
    finite = [v for v in history if v is not None and math.isfinite(v)]

    assert (state.best is None) == (not finite)
    if finite:
        assert history[state.best_epoch] == state.best
        assert not any(criterion.improves(v, state.best) for v in history[state.best_epoch + 1 :])
        last = max(i for i, ds in enumerate(decisions) if any(isinstance(d, Remember) for d in ds))
        assert last == state.best_epoch


def test_an_epoch_with_a_defect_is_never_the_best():
    policy = EarlyStoppingPolicy(MIN, 5)
    state, _ = policy.step(policy.init(), Observation(0, 0.5))
    after, decisions = policy.step(state, Observation(1, 0.1, "weights are not finite"))

    assert (after.best, after.wait) == (0.5, 1)
    assert decisions[0].reason == "weights are not finite"


def run_plateau(policy, history, rate=1.0, state=None):
    state = policy.init() if state is None else state
    rates = []
    for epoch, value in enumerate(history):
        state, decisions = policy.step(state, Observation(epoch, value), {"": rate})
        for decision in decisions:
            if isinstance(decision, SetLearningRate):
                rate = decision.value
        rates.append(rate)
    return state, rates


@pytest.mark.parametrize(
    ("history", "arguments", "rates"),
    [
        ([1, 1, 1, 1], {"patience": 2, "factor": 0.5}, [1, 1, 0.5, 0.5]),
        ([1, 1, 1, 1], {"patience": 1, "factor": 0.5}, [1, 0.5, 0.25, 0.125]),
        ([1, 1, 1, 1, 1], {"patience": 1, "factor": 0.5, "cooldown": 2}, [1, 0.5, 0.5, 0.25, 0.25]),
        ([1, 1, 1], {"patience": 1, "factor": 0.1, "min_lr": 0.05}, [1, 0.1, 0.05]),
        ([1, 0.9, 0.8, 0.8], {"patience": 1, "factor": 0.5}, [1, 1, 1, 0.5]),
        ([nan, nan, 1, nan], {"patience": 2, "factor": 0.5}, [1, 0.5, 0.5, 0.5]),
        ([1, 1], {"patience": 0, "factor": 0.5}, [1, 0.5]),
    ],
)
def test_when_the_rate_is_lowered(history, arguments, rates):
    _, got = run_plateau(PlateauPolicy(MIN, **arguments), history)

    assert got == pytest.approx(rates)


def test_every_optimizer_gets_its_own_rate():
    policy = PlateauPolicy(MIN, factor=0.5, patience=1, min_lr=0.01)
    state, _ = policy.step(policy.init(), Observation(0, 1.0), {"a": 1.0, "b": 0.01})
    _, decisions = policy.step(state, Observation(1, 1.0), {"a": 1.0, "b": 0.01})

    assert [(d.name, d.value) for d in decisions] == [("a", 0.5)]


@given(
    history=histories,
    cut=st.integers(0, 25),
    criterion=criteria,
    patience=st.integers(0, 4),
    cooldown=st.integers(0, 3),
)
def test_a_saved_and_restored_plateau_state_changes_no_later_decision(
    history, cut, criterion, patience, cooldown
):
    policy = PlateauPolicy(criterion, 0.5, patience, cooldown, 0.01)
    _, whole = run_plateau(policy, history)
    state, first = run_plateau(policy, history[:cut])
    again = PlateauState(**json.loads(json.dumps(asdict(state), allow_nan=False)))
    _, rest = run_plateau(policy, history[cut:], first[-1] if first else 1.0, again)

    assert first + rest == whole


@given(history=histories, patience=st.integers(0, 4), cooldown=st.integers(0, 3))
def test_a_plateau_of_larger_is_one_of_smaller_in_a_mirror(history, patience, cooldown):
    _, rates = run_plateau(PlateauPolicy(MIN, 0.5, patience, cooldown), history)
    mirrored = [None if value is None else -value for value in history]
    _, others = run_plateau(PlateauPolicy(MAX, 0.5, patience, cooldown), mirrored)

    assert rates == others


outcomes = st.sampled_from(["committed", "failed", "pending"])


def run_saving(policy, history, state=None):
    state = policy.init() if state is None else state
    decisions = []
    for value, outcome in history:
        state, decision = policy.step(state, Observation(0, value))
        decisions.append(decision)
        if isinstance(decision, Save) and outcome != "pending":
            state = getattr(policy, outcome)(state)
    return state, decisions


def test_a_failed_save_does_not_move_best_and_a_pending_one_is_to_beat():
    policy = SaveBest(MIN)
    state, first = policy.step(policy.init(), Observation(0, 0.5))
    assert isinstance(first, Save)
    state, worse = policy.step(state, Observation(1, 0.6))
    assert isinstance(worse, Skip), "the pending 0.5 is the value to beat"

    state = policy.failed(state)
    assert state.best is None
    state, again = policy.step(state, Observation(2, 0.6))
    assert isinstance(again, Save), "0.5 came to nothing"
    assert policy.committed(state).best == 0.6


@given(
    history=st.lists(st.tuples(values, outcomes), max_size=20),
    threshold=st.none() | st.floats(-5, 5),
)
def test_best_is_the_threshold_or_a_committed_value(history, threshold):
    policy = SaveBest(MIN, threshold)
    state, decisions = run_saving(policy, history)
    committed = [
        value
        for (value, outcome), d in zip(history, decisions, strict=True)
        if isinstance(d, Save) and outcome == "committed"
    ]

    assert state.best == (committed[-1] if committed else threshold)
    assert all(
        math.isfinite(v)
        for (v, _), d in zip(history, decisions, strict=True)
        if isinstance(d, Save)
    )


@given(
    history=st.lists(st.tuples(values, outcomes), max_size=20),
    cut=st.integers(0, 20),
    criterion=criteria,
)
def test_a_saved_and_restored_saving_state_changes_no_later_decision(history, cut, criterion):
    policy = SaveBest(criterion)
    _, whole = run_saving(policy, history)
    state, first = run_saving(policy, history[:cut])
    again = SaveBestState(**json.loads(json.dumps(asdict(state), allow_nan=False)))
    _, rest = run_saving(policy, history[cut:], again)

    assert first + rest == whole


@pytest.mark.parametrize("loss", [nan, inf, -inf])
def test_the_guard_stops_on_what_is_no_number(loss):
    assert isinstance(NaNGuard().step(loss), Stop)


@pytest.mark.parametrize("loss", [0.0, -1e30, None])
def test_the_guard_lets_numbers_pass(loss):
    assert not isinstance(NaNGuard().step(loss), Stop)
