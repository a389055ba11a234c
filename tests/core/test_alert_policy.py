"""What is told: edges, new bests, and not too often."""

import json
from dataclasses import asdict

from peakhold._core.monitor import Criterion, Direction
from peakhold._core.observation import Observation
from peakhold._core.policies.alert import AlertPolicy, AlertState, Limit, LimitState


def told(answers, values=(), policy=None, state=None):
    policy, state = policy or AlertPolicy(None), state or AlertState()
    events = []
    for epoch, answer in enumerate(answers):
        value = values[epoch] if epoch < len(values) else None
        state, happened = policy.step(state, Observation(epoch, value), answer)
        events.append(happened)
    return events, state


def test_a_condition_is_told_when_it_becomes_true():
    events, _ = told([False, True, True, False, True])

    assert events == [(), ("when",), (), (), ("when",)]


def test_an_epoch_that_cannot_tell_is_neither_edge():
    events, _ = told([None, True, None, True, False, None, True])

    assert events == [(), ("when",), (), (), (), (), ("when",)]


def test_the_first_value_is_no_new_best():
    nan = float("nan")
    policy = AlertPolicy(Criterion(Direction.MIN))
    events, state = told([None] * 6, [nan, 0.5, 0.6, 0.4, None, 0.4], policy)

    assert events == [(), (), (), ("best",), (), ()]
    assert (state.best, state.best_epoch, state.value, state.last_epoch) == (0.4, 3, 0.4, 5)


def test_a_state_is_its_own_json_and_goes_on():
    policy = AlertPolicy(Criterion(Direction.MAX))
    _, state = told([True, True], [0.5, 0.6], policy)
    back = AlertState(**json.loads(json.dumps(asdict(state))))
    events, _ = told([True, False, True], [0.6, 0.7, 0.1], policy, back)

    assert back == state
    assert events == [(), ("best",), ("when",)]


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
