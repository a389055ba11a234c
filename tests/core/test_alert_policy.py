"""What is told: edges, new bests, and not too often."""

import json

from moment_rows import epoch_end
from peakhold._core.condition import Condition
from peakhold._core.decisions import Missing, Tell
from peakhold._core.moments import Moment, Position
from peakhold._core.monitor import Criterion, Direction, Watched
from peakhold._core.observation import Event
from peakhold._core.policies.alert import AlertPolicy, AlertState, Limit, LimitState


def ranking(direction, **options):
    return AlertPolicy(Watched("m", Criterion(direction)), answer="mine", **options)


def told(answers, values=(), policy=None, state=None):
    policy, state = policy or AlertPolicy(answer="mine"), state or AlertState()
    events = []
    for epoch, answer in enumerate(answers):
        value = values[epoch] if epoch < len(values) else None
        answered = {} if answer is None else {"mine": answer}
        moment = epoch_end(epoch, {"m": value}, answers=answered)
        state, happened = policy.step(state, moment)
        events.append(tuple(tell.kind for tell in happened))
    return events, state


def test_a_condition_is_told_when_it_becomes_true():
    events, _ = told([False, True, True, False, True])

    assert events == [(), ("when",), (), (), ("when",)]


def test_an_epoch_that_cannot_tell_is_neither_edge():
    events, _ = told([None, True, None, True, False, None, True])

    assert events == [(), ("when",), (), (), (), (), ("when",)]


def test_the_first_value_is_no_new_best():
    nan = float("nan")
    policy = ranking(Direction.MIN)
    events, state = told([None] * 6, [nan, 0.5, 0.6, 0.4, None, 0.4], policy)

    assert events == [(), (), (), ("best",), (), ()]
    assert (state.best, state.best_epoch, state.value, state.last_epoch) == (0.4, 3, 0.4, 5)


def test_a_state_is_its_own_json_and_goes_on():
    policy = ranking(Direction.MAX)
    _, state = told([True, True], [0.5, 0.6], policy)
    back = AlertState.from_json(json.loads(json.dumps(state.to_json())))
    events, _ = told([True, False, True], [0.6, 0.7, 0.1], policy, back)

    assert back == state
    assert events == [(), ("best",), ("when",)]


def test_a_value_that_is_no_number_is_no_news_and_a_word_in_json():
    _, state = told([None, None], [0.5, float("nan")], ranking(Direction.MIN))

    assert (state.best, state.to_json()["value"]) == (0.5, "NaN")
    assert AlertState.from_json({"holds": True, "best": 0.5, "best_epoch": 1, "value": None,
                                 "last_epoch": 3}).last_epoch == 3  # fmt: skip


def test_a_new_best_says_what_it_beats():
    policy = ranking(Direction.MIN)
    _, state = told([None, None], [0.9, 0.51234567], policy)
    _, decisions = policy.step(state, epoch_end(2, {"m": 0.4}))

    assert decisions == (Tell("0.512346 before, at epoch 2", "best"),)


def test_a_condition_sees_metrics_rates_and_the_epoch_from_1():
    text = "f1 > 0.5 and  epoch >= 2 and learning_rate < 0.1 and learning_rate_d == 1"
    policy, state = AlertPolicy(condition=Condition.parse(text)), AlertState()
    state, early = policy.step(state, epoch_end(0, {"f1": 0.9}, rates={"": 0.01, "d": 1.0}))
    state, unknown = policy.step(state, epoch_end(1, {"f1": 0.9}, rates={"": 0.01}))
    _, now = policy.step(state, epoch_end(1, {"f1": 0.9}, rates={"": 0.01, "d": 1.0}))
    logged = epoch_end(1, {"f1": 0.9, "learning_rate": 0.5}, rates={"": 0.01, "d": 1.0})

    assert (early, unknown) == ((), ())
    assert now == (
        Tell("f1 > 0.5 and epoch >= 2 and learning_rate < 0.1 and learning_rate_d == 1", "when"),
    )
    assert policy.step(state, logged)[1] == (), "what was logged counts"


def test_a_metric_that_never_came_is_missed_at_the_end_by_who_would_have_told():
    end = Moment(Event.TRAIN_END, Position(0))
    for policy, said in (
        (ranking(Direction.MIN), (Missing("never logged", "m", fatal=False),)),
        (ranking(Direction.MIN, tells_best=False), ()),
    ):
        state, decisions = policy.step(AlertState(), epoch_end(0, {"other": 1.0}))
        assert decisions == ()
        assert policy.step(state, end)[1] == said
        assert policy.step(AlertState(), end)[1] == ()


def test_what_is_not_told_is_still_kept():
    events, state = told([None] * 2, [0.5, 0.4], ranking(Direction.MIN, tells_best=False))

    assert (events, state.best, state.best_epoch) == ([(), ()], 0.4, 1)


def test_the_limit_holds_the_newest_back_for_each_kind():
    limit, state, sent = Limit(10.0), LimitState(), []
    for now, kind in ((0, "a"), (1, "a"), (2, "b"), (3, "a"), (9.5, "b")):
        state, texts = limit.offer(state, kind, f"{kind}{now}", now)
        sent += texts
    state, due = limit.due(state, 10.5)
    state, rest = limit.rest(state, 11.0)

    assert sent == ["a0", "b2"]
    assert due == ("a3 (and 1 earlier)",)
    assert rest == ("b9.5",)
    assert limit.due(state, 99.0)[1] == ()


def test_without_a_limit_all_is_told():
    limit, state, sent = Limit(0.0), LimitState(), []
    for number in range(3):
        state, texts = limit.offer(state, "a", str(number), 0.0)
        sent += texts

    assert sent == ["0", "1", "2"]


def test_in_a_loop_that_counts_from_1_an_epoch_is_its_own_number():
    policy = AlertPolicy(
        Watched("m", Criterion(Direction.MIN)), condition=Condition.parse("epoch == 2")
    )
    state, said = policy.init(), []
    for epoch, value in ((1, 0.5), (2, 0.4), (3, 0.3)):
        moment = Moment(Event.EPOCH_END, Position(epoch, None, 0, 1), {"m": value})
        state, decisions = policy.step(state, moment)
        said.append([decision.reason for decision in decisions])

    assert said == [[], ["epoch == 2", "0.5 before, at epoch 1"], ["0.4 before, at epoch 2"]]
