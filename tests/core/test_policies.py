"""Policies: tables of history in, decisions out, and what must hold for any history."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moment_rows import epoch_end
from peakhold._core.decisions import Missing, Remember, Save, SetLearningRate, Skip, Stop
from peakhold._core.facts import Committed, Failed, Found, NotFinite
from peakhold._core.moments import Moment, Position, Spent
from peakhold._core.monitor import Criterion, Direction, Watched
from peakhold._core.observation import Event
from peakhold._core.patience import Seconds
from peakhold._core.policies.checkpoint import CheckpointPolicy, CheckpointState
from peakhold._core.policies.early_stopping import EarlyStoppingPolicy, EarlyStoppingState
from peakhold._core.policies.nan_guard import NaNGuard
from peakhold._core.policies.plateau import PlateauPolicy, PlateauState
from peakhold._core.policies.save_when import AtEnd, Every, SaveSchedule

MIN, MAX = Criterion(Direction.MIN), Criterion(Direction.MAX)
nan, inf = math.nan, math.inf

values = st.one_of(st.sampled_from([nan, inf, -inf, 0.0, 1.0]), st.floats(-10, 10), st.none())
histories = st.lists(values, max_size=25)
criteria = st.builds(Criterion, st.sampled_from(Direction), st.floats(0, 2), st.booleans())


def stopping(criterion, patience, baseline=None, **options):
    return EarlyStoppingPolicy((Watched("m", criterion, baseline),), patience, **options)


def through_json(state):
    return type(state).from_json(json.loads(json.dumps(state.to_json(), allow_nan=False)))


def run_stopping(policy, history, state=None, start=0):
    state = policy.init() if state is None else state
    decisions = []
    for epoch, value in enumerate(history, start):
        state, made = policy.step(state, epoch_end(epoch, {"m": value}))
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
    policy = stopping(MIN, patience, baseline)
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

    smaller = stopping(Criterion(Direction.MIN, delta), patience, baseline)
    larger = stopping(Criterion(Direction.MAX, delta), patience, mirror(baseline))
    one, these = run_stopping(smaller, history)
    other, those = run_stopping(larger, [mirror(value) for value in history])

    assert [[type(d) for d in ds] for ds in these] == [[type(d) for d in ds] for ds in those]
    assert (one.wait, one.best_epoch, one.stopped) == (other.wait, other.best_epoch, other.stopped)
    assert one.best == mirror(other.best)


@given(history=histories, cut=st.integers(0, 25), criterion=criteria, patience=st.integers(0, 6))
def test_a_saved_and_restored_stopping_state_changes_no_later_decision(
    history, cut, criterion, patience
):
    policy = stopping(criterion, patience)
    _, whole = run_stopping(policy, history)
    state, first = run_stopping(policy, history[:cut])
    again = through_json(state)
    _, rest = run_stopping(policy, history[cut:], again, start=len(history[:cut]))

    assert first + rest == whole


@given(history=histories, criterion=criteria)
def test_the_best_is_a_value_that_was_seen_and_nothing_seen_is_clearly_better(history, criterion):
    policy = stopping(criterion, 99)
    state, decisions = run_stopping(policy, history)
    finite = [v for v in history if v is not None and math.isfinite(v)]

    assert (state.best is None) == (not finite)
    if finite:
        assert history[state.best_epoch] == state.best
        assert not any(criterion.improves(v, state.best) for v in history[state.best_epoch + 1 :])
        last = max(i for i, ds in enumerate(decisions) if any(isinstance(d, Remember) for d in ds))
        assert last == state.best_epoch


def test_an_epoch_with_a_defect_is_never_the_best():
    policy = stopping(MIN, 5)
    state, _ = policy.step(policy.init(), epoch_end(0, {"m": 0.5}))
    after, decisions = policy.step(state, epoch_end(1, {"m": 0.1}, defect="weights are not finite"))

    assert (after.best, after.wait) == (0.5, 1)
    assert decisions[0].reason == "weights are not finite"


def plateau(criterion, *arguments, **options):
    return PlateauPolicy(Watched("m", criterion), *arguments, **options)


def run_plateau(policy, history, rate=1.0, state=None):
    state = policy.init() if state is None else state
    rates = []
    for epoch, value in enumerate(history):
        state, decisions = policy.step(state, epoch_end(epoch, {"m": value}, rates={"": rate}))
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
    _, got = run_plateau(plateau(MIN, **arguments), history)

    assert got == pytest.approx(rates)


def test_every_optimizer_gets_its_own_rate():
    policy = plateau(MIN, factor=0.5, patience=1, min_lr=0.01)
    rates = {"a": 1.0, "b": 0.01}
    state, _ = policy.step(policy.init(), epoch_end(0, {"m": 1.0}, rates=rates))
    _, decisions = policy.step(state, epoch_end(1, {"m": 1.0}, rates=rates))

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
    policy = plateau(criterion, 0.5, patience, cooldown, 0.01)
    _, whole = run_plateau(policy, history)
    state, first = run_plateau(policy, history[:cut])
    again = through_json(state)
    _, rest = run_plateau(policy, history[cut:], first[-1] if first else 1.0, again)

    assert first + rest == whole


@given(history=histories, patience=st.integers(0, 4), cooldown=st.integers(0, 3))
def test_a_plateau_of_larger_is_one_of_smaller_in_a_mirror(history, patience, cooldown):
    _, rates = run_plateau(plateau(MIN, 0.5, patience, cooldown), history)
    mirrored = [None if value is None else -value for value in history]
    _, others = run_plateau(plateau(MAX, 0.5, patience, cooldown), mirrored)

    assert rates == others


facts = {
    "committed": Committed,
    "failed": lambda ticket: Failed(ticket, "no space left"),
    "pending": None,
}
outcomes = st.sampled_from(list(facts))


def saving(criterion=MIN, trigger=Every(epochs=1), **options):
    return CheckpointPolicy(SaveSchedule(trigger), Watched("m", criterion), True, **options)


def run_saving(policy, history, state=None):
    """The last state, and for each epoch what was decided; each save is answered as told."""
    state = policy.init() if state is None else state
    decisions = []
    for value, outcome in history:
        state, made = policy.step(state, epoch_end(0, {"m": value}))
        decisions.append(made)
        for decision in made:
            if isinstance(decision, Save) and facts[outcome] is not None:
                state = policy.learn(state, facts[outcome](decision.ticket))
    return state, decisions


def saves(decisions):
    return [decision for decision in decisions if isinstance(decision, Save)]


def test_a_failed_save_does_not_move_best_and_a_pending_one_is_to_beat():
    policy = saving()
    state, (first,) = policy.step(policy.init(), epoch_end(0, {"m": 0.5}))
    assert isinstance(first, Save)
    state, (worse,) = policy.step(state, epoch_end(1, {"m": 0.6}))
    assert isinstance(worse, Skip), "the pending 0.5 is the value to beat"

    state = policy.learn(state, Failed(first.ticket, "no space left"))
    assert state.best is None
    state, (again,) = policy.step(state, epoch_end(2, {"m": 0.6}))
    assert isinstance(again, Save), "0.5 came to nothing"
    assert policy.learn(state, Committed(again.ticket)).best == 0.6


@given(
    history=st.lists(st.tuples(values, outcomes), max_size=20),
    threshold=st.none() | st.floats(-5, 5),
)
def test_best_is_the_threshold_or_a_committed_value(history, threshold):
    policy = saving(threshold=threshold)
    state, decisions = run_saving(policy, history)
    committed = [
        value
        for (value, outcome), made in zip(history, decisions, strict=True)
        if saves(made) and outcome == "committed" and value is not None
    ]

    best = policy.to_beat(replace(state, pending=()))
    assert best == (committed[-1] if committed else threshold)
    assert all(
        math.isfinite(value) and save.value == value
        for (value, _), made in zip(history, decisions, strict=True)
        for save in saves(made)
        if value is not None
    )


@given(
    history=st.lists(st.tuples(values, outcomes), max_size=20),
    cut=st.integers(0, 20),
    criterion=criteria,
)
def test_a_saved_and_restored_saving_state_changes_no_later_decision(history, cut, criterion):
    policy = saving(criterion)
    _, whole = run_saving(policy, history)
    state, first = run_saving(policy, history[:cut])
    _, rest = run_saving(policy, history[cut:], through_json(state))

    assert first + rest == whole


def batch_end(loss, **answers):
    metrics = {} if loss is None else {"loss": loss}
    return Moment(Event.TRAIN_BATCH_END, Position(0, 3, 4), metrics, answers=answers)


def guards(moment):
    return NaNGuard().step(NaNGuard().init(), moment)[1]


@pytest.mark.parametrize("loss", [nan, inf, -inf])
def test_the_guard_stops_on_what_is_no_number(loss):
    assert guards(batch_end(loss)) == (Stop(f"the loss is {loss}", bad=True),)


@pytest.mark.parametrize("loss", [0.0, -1e30, None])
def test_the_guard_lets_numbers_pass(loss):
    assert guards(batch_end(loss)) == ()
    assert guards(batch_end(loss, gradients_finite=True)) == ()
    assert guards(replace(batch_end(nan), event=Event.TRAIN_BATCH_BEGIN)) == ()


def test_the_guard_stops_on_a_gradient_and_names_its_step_where_somebody_counts():
    (stop,) = guards(batch_end(0.5, gradients_finite=False, first_nonfinite_step=3))
    (unknown,) = guards(batch_end(None, gradients_finite=False))

    assert stop == Stop("the gradient of step 3 is not finite", bad=True)
    assert unknown.reason == "the gradient is not finite"


# States that were written before moments existed


def test_old_states_are_still_read():
    stopping_state = EarlyStoppingState.from_json(
        {"best": 0.5, "best_epoch": 2, "wait": 1, "n_checks_done": 4, "stopped_epoch": 0,
         "stopped": False, "waited": 7.0, "others": [{"best": 0.25, "n_checks_done": 4}]}
    )  # fmt: skip
    other = EarlyStoppingState(0.25, n_checks_done=4)
    due = {"epochs": 1, "batches": 8, "seconds": 0.0, "last_batch": 3, "in_epoch": False}
    checkpoint = CheckpointState.from_json({"monitor": "m", "state": {"best": 0.5}, "due": due})

    assert stopping_state == EarlyStoppingState(0.5, 2, 1, 4, waited=7.0, others=(other,))
    assert (checkpoint.best, checkpoint.due.batches, checkpoint.pending) == (0.5, 8, ())
    assert PlateauState.from_json({"best": 0.5, "wait": 1, "cooldown_counter": 2}).wait == 1


def test_a_state_by_hand_looks_as_it_always_did():
    state, _ = run_stopping(stopping(MIN, 3), [0.5, 0.6])
    waiting, _ = plateau(MIN).step(plateau(MIN).init(), epoch_end(0, {"m": nan}))

    assert state.to_json() == {
        "best": 0.5, "best_epoch": 0, "wait": 1, "n_checks_done": 2, "stopped_epoch": 0,
        "stopped": False, "seen": True,
    }  # fmt: skip
    assert waiting.to_json() == {"best": None, "wait": 1, "cooldown_counter": 0, "seen": True}


# What was around the policies, and is in them now


def kinds(decisions):
    return [(type(d).__name__, getattr(d, "fatal", None)) for d in decisions]


@pytest.mark.parametrize(
    ("monitor", "validated", "validates", "said"),
    [
        ("loss", False, False, [("Missing", True)]),
        ("loss", False, None, [("Missing", True)]),
        ("val_loss", True, True, [("Missing", True)]),
        ("val_loss", True, None, [("Missing", True)]),
        ("val_loss", False, False, [("Missing", True)]),
        ("val_loss", False, True, []),
        ("val_loss", False, None, []),  # a loop may validate each so many epochs
    ],
)
@pytest.mark.parametrize("epoch", [0, 8, 9])
def test_a_metric_is_missed_where_it_should_be(monitor, validated, validates, said, epoch):
    moment = epoch_end(epoch, {"other": 1.0}, validated=validated, validates=validates)
    if epoch == 9 and (monitor, validated, validates) == ("val_loss", False, None):
        said = [("Missing", False)]
    for policy in (
        EarlyStoppingPolicy((Watched(monitor, MIN),)),
        PlateauPolicy(Watched(monitor, MIN)),
    ):
        state, decisions = policy.step(policy.init(), moment)
        _, end = policy.step(state, Moment(Event.TRAIN_END, Position(0)))
        seen, _ = policy.step(policy.init(), epoch_end(0, {monitor: 0.5}))

        assert kinds(decisions) == said
        assert kinds(end) == [("Missing", False)]
        assert policy.step(seen, moment)[1] == ()
        assert policy.step(seen, Moment(Event.TRAIN_END, Position(0)))[1] == ()
        assert policy.step(policy.init(), Moment(Event.TRAIN_END, Position(0)))[1] == ()


def test_a_new_run_has_not_seen_the_metric():
    policy = stopping(MIN, 5)
    state, _ = policy.step(policy.init(), epoch_end(0, {"m": 0.5}))
    state, _ = policy.step(state, Moment(Event.TRAIN_BEGIN, Position(0)))

    assert kinds(policy.step(state, epoch_end(1, {}))[1]) == [("Missing", True)]


def test_of_several_metrics_nothing_is_said_after_the_one_that_is_an_error():
    policy = EarlyStoppingPolicy(tuple(Watched(name, MIN) for name in ("val_a", "b", "c")))
    _, decisions = policy.step(policy.init(), epoch_end(9, {"d": 1.0}))

    assert [(d.monitor, d.fatal) for d in decisions] == [("val_a", False), ("b", True)]


def test_epochs_before_the_first_that_counts_are_no_checks_but_miss_the_metric():
    policy = stopping(MIN, 1, start_from_epoch=2)
    state, decisions = run_stopping(policy, [0.1, 0.2, 0.5, 0.6])
    _, missing = policy.step(policy.init(), epoch_end(0, {}))

    assert [bool(made) for made in decisions] == [False, False, True, True]
    assert (state.best, state.n_checks_done, state.stopped_epoch) == (0.5, 2, 3)
    assert kinds(missing) == [("Missing", True)]


def test_without_a_direction_nothing_is_ranked_and_the_state_stays_when_it_is_known():
    unknown, known = stopping(None, 1), stopping(MIN, 1)
    state, decisions = run_stopping(unknown, [0.5, 0.6])
    assert (decisions, state.best, state.seen) == ([(), ()], None, True)

    state, _ = run_stopping(known, [0.7], state, start=2)
    assert (state.best, state.best_epoch) == (0.7, 2)


def test_a_wait_that_was_served_begins_again_when_the_next_fit_goes_on():
    policy = stopping(MIN, 1)
    stopped, _ = run_stopping(policy, [0.5, 0.6])
    waiting, _ = run_stopping(stopping(MIN, 2), [0.5, 0.6])

    assert policy.go_on(stopped) == EarlyStoppingState(0.5, 0, n_checks_done=2)
    assert policy.go_on(waiting) == EarlyStoppingState(0.5, 0, wait=1, n_checks_done=2)


def test_a_plateau_waits_on_while_its_metric_is_missing():
    policy = plateau(MIN, 0.5, Seconds(25))
    state, cuts = policy.init(), []
    for epoch, value in enumerate([1.0, None, None, 1.0]):
        moment = epoch_end(
            epoch, {"m": value}, rates={"": 1.0}, spent=Spent(10.0 * (epoch + 1)), validates=True
        )
        state, decisions = policy.step(state, moment)
        cuts.append([d.reason for d in decisions if isinstance(d, SetLearningRate)])

    assert cuts == [[], [], [], ["no improvement for 30 s"]]


# Saving: what is owed, missed, replayed and tried again


def test_what_came_due_without_its_metric_is_owed_to_the_next_epoch():
    policy = saving(trigger=Every(batches=2))
    state = policy.init()
    for batch in range(3):
        moment = Moment(Event.TRAIN_BATCH_END, Position(0, batch, batch), {}, validates=True)
        policy_of_val = replace(policy, watched=Watched("val_m", MIN))
        state, decisions = policy_of_val.step(state, moment)
        assert decisions == ()
    state, (save,) = policy_of_val.step(state, epoch_end(0, {"val_m": 0.5}, validated=True))

    assert (save.value, save.reason) == (0.5, "better than every saved file")
    assert policy_of_val.step(state, epoch_end(1, {"val_m": 0.4}, validated=True))[1] == ()


def test_a_metric_that_is_nowhere_saves_once_and_is_an_error_when_the_next_epoch_begins():
    policy = saving()
    state, first = policy.step(policy.init(), epoch_end(0, {"other": 1.0}))
    begins = Moment(Event.EPOCH_BEGIN, Position(1))
    after, error = policy.step(state, begins)
    _, again = policy.step(after, epoch_end(1, {"other": 1.0}))
    _, end = policy.step(state, Moment(Event.TRAIN_END, Position(0)))

    assert kinds(first) == [("Missing", False), ("Save", None)]
    assert first[1].value is None
    assert error == (Missing("not logged where it should be", "m", fatal=True),)
    assert policy.step(after, begins)[1] == ()
    assert kinds(again) == [("Missing", False)]
    assert end == (), "it was said"


def test_a_run_with_a_value_to_beat_saves_nothing_unranked():
    policy = saving(threshold=0.5)

    assert kinds(policy.step(policy.init(), epoch_end(0, {}))[1]) == [("Missing", False)]


def test_a_loss_that_is_not_finite_forbids_every_save():
    every = CheckpointPolicy(SaveSchedule(Every(epochs=1)))
    moment = epoch_end(0, {"m": 0.5, "loss": nan})
    for policy in (saving(), every):
        _, (skip,) = policy.step(policy.init(), moment)
        _, (save,) = replace(policy, check_finite=False).step(policy.init(), moment)

        assert skip == Skip("the loss is nan", bad=True)
        assert isinstance(save, Save)


def test_an_epoch_whose_file_is_there_is_replaced_if_it_is_no_worse():
    policy = saving()
    state = policy.found(policy.init(), 0.5, 3)

    for epoch, value, word in (
        (3, 0.5, "save"),
        (3, 0.6, "skip"),
        (2, 0.5, "skip"),
        (3, 0.4, "save"),
    ):
        assert [d.word for d in policy.step(state, epoch_end(epoch, {"m": value}))[1]] == [word]
    assert policy.to_beat(saving(threshold=0.4).found(state, 0.5, 3)) is None
    assert saving(threshold=0.4).to_beat(saving(threshold=0.4).found(state, 0.5, 3)) == 0.4
    assert policy.found(state, None, None).best is None


def test_a_replay_that_is_committed_late_is_no_other_than_one_that_is_committed_at_once():
    policy = saving(trigger=Every(batches=1))
    state = policy.found(policy.init(), 0.5, 0)
    state, (save,) = policy.step(state, batch_of_epoch_0(0, 0.4))

    for after in (state, policy.learn(state, Committed(save.ticket))):
        assert [d.word for d in policy.step(after, batch_of_epoch_0(1, 0.4))[1]] == ["skip"]
    failed = policy.learn(state, Failed(save.ticket, "no space left"))
    assert [d.value for d in policy.step(failed, batch_of_epoch_0(1, 0.5))[1]] == [0.5]


def batch_of_epoch_0(batch, value):
    return Moment(Event.TRAIN_BATCH_END, Position(0, batch, batch + 1), {"m": value})


def refused(policy, value=0.3, may_retry=True):
    """A state with 0.5 in a file, and `value` refused by the disk."""
    state, (save,) = policy.step(policy.init(), epoch_end(0, {"m": 0.5}))
    state = policy.learn(state, Committed(save.ticket))
    state, (save,) = policy.step(state, epoch_end(1, {"m": value}))
    return policy.learn(state, Failed(save.ticket, "no space left", may_retry)), save.ticket


def test_a_refused_best_is_asked_for_once_more_and_no_third_time():
    policy = saving()
    state, ticket = refused(policy)
    assert policy.to_beat(state) == 0.5
    state, (skip, again) = policy.step(state, epoch_end(2, {"m": 0.6}))

    assert isinstance(skip, Skip)
    assert (again.retry, again.value, again.ticket) == (ticket, 0.3, 3)
    assert policy.to_beat(state) == 0.3
    state = policy.learn(state, Failed(again.ticket, "no space left", may_retry=True))
    assert policy.to_beat(state) == 0.5
    assert [d.word for d in policy.step(state, epoch_end(3, {"m": 0.6}))[1]] == ["skip"]


def test_a_better_one_lets_the_refused_one_go_and_a_worse_one_does_not():
    policy = saving()
    state, _ = refused(policy)
    better, decisions = policy.step(state, epoch_end(2, {"m": 0.2}))
    assert ([d.value for d in decisions], better.refused) == ([0.2], None)

    worse, decisions = policy.step(state, epoch_end(2, {"m": 0.4}))
    assert [d.value for d in decisions] == [0.4, 0.3], "0.4 does not wait for what 0.3 comes to"
    assert policy.to_beat(worse) == 0.3


def test_what_cannot_be_tried_again_is_not():
    policy = saving()
    state, _ = refused(policy, may_retry=False)
    assert policy.try_again(state) == (state, ())
    state, ticket = refused(policy)
    assert policy.learn(state, Failed(ticket, "no memory")).refused is None
    assert policy.learn(state, NotFinite(ticket, "w")).refused is None


@pytest.mark.parametrize("moment", [
    epoch_end(2, {}), Moment(Event.TRAIN_END, Position(1)),
    Moment(Event.TRAIN_END, Position(1), epoch_cut_short=True),
])  # fmt: skip
def test_the_end_of_an_epoch_and_of_training_ask_again_though_nothing_is_due(moment):
    policy = saving()
    state, ticket = refused(policy)
    _, (again,) = replace(policy, schedule=SaveSchedule(AtEnd())).step(
        replace(state, due=policy.init().due), moment
    )

    assert again.retry == ticket


def test_an_epoch_that_was_cut_short_is_not_saved_at_the_end():
    policy = CheckpointPolicy(SaveSchedule(Every(batches=3)))
    batch = Moment(Event.TRAIN_BATCH_END, Position(0, 0, 1))
    end = Moment(Event.TRAIN_END, Position(0))
    state, _ = policy.step(policy.init(), batch)

    assert kinds(policy.step(state, end)[1]) == [("Save", None)]
    assert policy.step(state, replace(end, epoch_cut_short=True))[1] == ()
    cut = replace(batch, at=Position(0, 1, 2), epoch_cut_short=True)
    assert policy.step(state, cut) == (state, ())


def test_a_save_on_request_is_ranked_and_the_schedule_counts_anew():
    policy = saving(trigger=Every(epochs=2))
    state, _ = policy.step(policy.init(), epoch_end(0, {"m": 0.5}))
    state, (save,) = policy.ask(state, epoch_end(0, {"m": 0.5}))
    assert save.value == 0.5
    state, none = policy.step(state, epoch_end(1, {"m": 0.4}))
    assert none == ()

    assert [d.word for d in policy.ask(state, epoch_end(1, {"m": 0.6}))[1]] == ["skip"]


def test_seconds_are_counted_from_the_beginning_of_the_run():
    policy = CheckpointPolicy(SaveSchedule(Every(seconds=5)))
    state, _ = policy.step(policy.init(), Moment(Event.TRAIN_BEGIN, Position(0)))
    told = []
    for batch in range(12):
        moment = Moment(Event.TRAIN_BATCH_END, Position(0, batch, batch), spent=Spent(batch + 1.0))
        state, decisions = policy.step(state, moment)
        told += [batch for d in decisions if isinstance(d, Save)]

    assert told == [4, 9]


def test_the_next_fit_of_a_model_goes_on_from_what_is_best_and_counts_on():
    policy = CheckpointPolicy(
        SaveSchedule(Every(batches=3)), Watched("m", Criterion(Direction.MIN)), best_only=True
    )
    state = replace(policy.init(), best=0.5, n_asked=4, has_saved=True, missing=True)
    for batch in range(2):
        moment = Moment(Event.TRAIN_BATCH_END, Position(0, batch), {"m": 0.4})
        state, decisions = policy.step(state, moment)
        assert not decisions
    state = policy.go_on(state)

    assert (state.best, state.n_asked, state.has_saved, state.missing) == (0.5, 4, False, False)
    assert CheckpointState.from_json(json.loads(json.dumps(state.to_json()))) == state
    _, (decision,) = policy.step(state, Moment(Event.TRAIN_BATCH_END, Position(0, 0), {"m": 0.4}))
    assert isinstance(decision, Save)


def test_where_files_are_ranked_and_none_refused_the_best_is_what_is_there():
    policy = CheckpointPolicy(
        SaveSchedule(Every(epochs=1)), Watched("m", Criterion(Direction.MIN)), threshold=0.1
    )
    state = policy.init()
    for value in (0.3, 0.5):  # the file of 0.3 is there no more
        state = policy.learn(state, Found(value))
        assert policy.to_beat(state) == value
