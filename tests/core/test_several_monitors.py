"""Several metrics, and patience in steps and seconds: what follows from what one metric does."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moment_rows import epochs
from peakhold._core.monitor import Criterion, Direction, Watched
from peakhold._core.observation import Event
from peakhold._core.patience import Epochs, Seconds, Steps, check_patience
from peakhold._core.policies.early_stopping import EarlyStoppingPolicy, EarlyStoppingState
from peakhold.errors import InvalidArgumentError

values = st.one_of(st.none(), st.sampled_from([math.nan, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5]))
logs = st.lists(st.tuples(values, values), min_size=1, max_size=12)
patiences = st.integers(0, 4)


def policy_of(patience, *, require="all", n=2, baselines=(None, None)):
    criterion = Criterion(Direction.MAX)
    each = [
        Watched(name, criterion, baseline)
        for name, baseline in zip(("a", "b"), baselines, strict=True)
    ]
    return EarlyStoppingPolicy(tuple(each[:n]), patience, require)


def run(policy, rows, spent=0.0, cut=None):
    """The stopping epoch or None, the last state, and all decisions."""
    state, all_decisions = replace(policy.init(), seen=True), []  # so that nothing is missed
    state = replace(state, others=tuple(replace(other, seen=True) for other in state.others))
    named = [dict(zip(("a", "b"), row, strict=False)) for row in rows]
    for moment in epochs(named, length=spent):
        if moment.at.epoch == cut and moment.event is Event.EPOCH_END:
            text = json.dumps(state.to_json(), allow_nan=False)
            state = EarlyStoppingState.from_json(json.loads(text))
        state, decisions = policy.step(state, moment)
        if decisions:
            all_decisions.append((moment.at.epoch, decisions))
        if state.stopped:
            return moment.at.epoch, state, all_decisions
    return None, state, all_decisions


def column(rows, number):
    return [(row[number],) for row in rows]


@given(logs, patiences)
def test_any_stops_when_the_first_of_them_would_alone(rows, patience):
    alone = [run(policy_of(patience, n=1), column(rows, i))[0] for i in (0, 1)]
    stops = [epoch for epoch in alone if epoch is not None]

    assert run(policy_of(patience, require="any"), rows)[0] == min(stops, default=None)


@given(logs, patiences)
def test_all_stops_at_the_first_epoch_at_which_every_wait_is_over(rows, patience):
    stop, state, _ = run(policy_of(patience), rows)
    states = [state, *state.others]
    if stop is None:
        return

    assert all(each.wait >= max(patience, 1) for each in states)
    shorter, before, _ = run(policy_of(patience), rows[:stop])
    assert shorter is None
    assert any(each.wait < max(patience, 1) or each.n_checks_done < 2
               for each in [before, *before.others])  # fmt: skip


@given(logs, patiences)
def test_of_one_metric_it_is_that_metrics_policy(rows, patience):
    one = [(a,) for a, _ in rows if a is not None]
    alone, _, _ = run(policy_of(patience, n=1), one)
    both, _, _ = run(policy_of(patience), [(a, a) for (a,) in one])

    assert both == alone, "two metrics that say the same stop when one does"


@given(logs, patiences, st.sampled_from(["all", "any"]))
def test_the_best_epoch_is_the_first_ones(rows, patience, require):
    _, state, decisions = run(policy_of(patience, require=require), rows)
    seen = rows[: decisions[-1][0] + 1] if decisions else []
    usable = [(a, -e) for e, (a, _) in enumerate(seen) if a is not None and math.isfinite(a)]

    assert (state.best, -state.best_epoch) == (max(usable) if usable else (None, 0))


@given(logs, st.integers(1, 4), st.integers(1, 50), st.sampled_from([Steps, Seconds]))
def test_equal_epochs_make_steps_and_seconds_what_epochs_are(rows, patience, length, unit):
    """Where every epoch logs both metrics; an epoch that does not is no check, but takes time."""
    rows = [row for row in rows if None not in row]
    for require in ("all", "any"):
        epochs, _, _ = run(policy_of(patience, require=require), rows)
        others, _, _ = run(policy_of(unit(patience * length), require=require), rows, length)
        assert others == epochs


@given(logs, patiences, st.integers(0, 12), st.sampled_from(["all", "any"]), st.booleans())
def test_a_state_through_json_changes_no_later_decision(rows, patience, cut, require, steps):
    policy = policy_of(Steps(10 * patience + 5) if steps else patience, require=require)

    assert run(policy, rows, 7.0, cut) == run(policy, rows, 7.0)


def test_an_epoch_without_the_metric_is_no_check_but_takes_its_time():
    policy = policy_of(Steps(30), n=1)
    rows = [(0.5,), (0.4,), (None,), (0.4,), (0.4,)]

    assert run(policy, rows, 10)[0] == 3
    assert run(policy_of(3, n=1), rows)[0] == 4


def test_each_has_its_own_baseline_and_the_reason_names_them():
    policy = policy_of(2, require="any", baselines=(None, 0.9))
    stop, _, decisions = run(policy, [(0.1, 0.1), (0.2, 0.2), (0.3, 0.3)])

    assert stop == 1
    assert decisions[-1][1][-1].reason == "b: the baseline 0.9 was not reached within 2 epochs"


@pytest.mark.parametrize(
    ("patience", "spent", "reason"),
    [
        (2, 0, "no improvement for 2 epochs"),
        (Steps(20), 10, "no improvement for 20 steps"),
        (Seconds(3), 1.5, "no improvement for 3 s"),
    ],
)
def test_the_reason_speaks_of_what_was_asked_for(patience, spent, reason):
    _, _, decisions = run(policy_of(patience, n=1), [(0.5,), (0.4,), (0.4,)], spent)

    assert decisions[-1][1][-1].reason == reason


def test_checks_that_are_no_epochs_are_called_checks():
    _, _, decisions = run(policy_of(2, n=1), [(0.5,), (None,), (0.4,), (None,), (0.4,)])

    assert decisions[-1][1][-1].reason == "no improvement for 2 checks"


def test_epochs_are_an_int_and_nonsense_is_refused():
    assert check_patience("patience", Epochs(3), hint="x") == 3
    for wrong in (lambda: Steps(0), lambda: Steps(1.5), lambda: Seconds(0), lambda: Seconds("1"),
                  lambda: Seconds(math.inf), lambda: check_patience("p", Epochs(-1), hint="x")):  # fmt: skip
        with pytest.raises(InvalidArgumentError):
            wrong()
