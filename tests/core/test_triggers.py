"""When a save is due: every way to ask is one state machine."""

import json
import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

import peakhold
from peakhold._core.policies.save_when import (
    AtEnd,
    Every,
    SaveSchedule,
    SaveScheduleState,
    trigger_of,
)
from peakhold.errors import InvalidArgumentError


def dues(trigger, epochs, *, seconds=1.0, validation=0.0, cut=None, state=None):
    """The hooks of a run, after which a save was due, and at the end.

    Args:
        epochs: The indices of the batches that hooks tell of, for each epoch.
        cut: The hook before which the state goes through JSON.
    """
    due = SaveSchedule(trigger_of(trigger))
    state = state or due.init()
    told, hooks = [], 0

    def step(name, method, *arguments):
        nonlocal state, hooks
        if hooks == cut:
            state = SaveScheduleState(**json.loads(json.dumps(asdict(state), allow_nan=False)))
        state, answer = method(state, *arguments)
        hooks += 1
        if answer:
            told.append(name)

    for epoch, batches in enumerate(epochs):
        for batch in batches:
            step(f"{epoch}.{batch}", due.batch_end, batch, seconds)
        step(f"{epoch}", due.epoch_end, validation)
    step("end", due.end)
    return told


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        ("epoch", ["0", "1", "2"]),
        (Every(epochs=1), ["0", "1", "2"]),
        (Every(epochs=2), ["1", "end"]),
        (Every(epochs=3), ["2"]),
        (3, ["0.2", "1.1", "2.0", "2.3"]),
        (Every(batches=3), ["0.2", "1.1", "2.0", "2.3"]),
        (5, ["1.0", "2.1", "end"]),
        (Every(seconds=5), ["1.0", "2.1", "end"]),
        (Every(seconds=4.5), ["1.0", "2.1", "end"]),
        (Every(seconds=100), ["end"]),
        (AtEnd(), ["end"]),
    ],
)
def test_after_which_hooks_a_save_is_due(trigger, expected):
    assert dues(trigger, [range(4)] * 3) == expected


def test_validation_is_time_of_training_too():
    assert dues(Every(seconds=5), [range(4)] * 3, validation=1.0) == ["0", "1", "2"]


def test_nothing_is_due_at_the_end_of_a_run_that_trained_nothing():
    for trigger in ("epoch", 2, Every(epochs=2), Every(seconds=1), AtEnd()):
        assert dues(trigger, []) == []


def test_nothing_is_due_at_the_end_when_the_last_save_holds_everything():
    for trigger in ("epoch", 4, Every(epochs=2), Every(batches=8)):
        assert "end" not in dues(trigger, [range(4)] * 2)


def test_an_end_inside_an_epoch_is_an_end():
    due = SaveSchedule(AtEnd())
    assert due.end(due.init(), in_epoch=True)[1]
    assert not due.needs_batches
    # As with "epoch": what was asked for are whole epochs.
    assert not SaveSchedule(Every(epochs=2)).end(SaveScheduleState(), in_epoch=True)[1]


def test_several_batches_in_one_execution_count_as_so_many():
    assert dues(4, [(1, 3, 5, 7), (1, 3)]) == ["0.3", "0.7", "1.3"]
    assert dues(4, [(0, 1, 2, 3, 4), (9,)]) == ["0.3", "1.9"]


def test_an_epoch_of_one_batch_counts_one_batch():
    assert dues(2, [(0,)] * 5) == ["1.0", "3.0", "end"]


def test_the_index_of_the_last_batch_outlives_its_epoch_for_the_name_of_the_file():
    due = SaveSchedule(Every(batches=10))
    state, _ = due.batch_end(due.init(), 3)
    state, _ = due.epoch_end(state)
    state, answer = due.end(state)
    assert (answer, state.last_batch) == (True, 3)


triggers = st.one_of(
    st.just("epoch"),
    st.integers(1, 20),
    st.builds(Every, epochs=st.integers(1, 4)),
    st.builds(Every, seconds=st.integers(1, 30)),
    st.just(AtEnd()),
)


@given(
    trigger=triggers,
    epochs=st.lists(st.integers(1, 9), max_size=6),
    cut=st.integers(0, 60),
    validation=st.integers(0, 3),
)
def test_a_saved_and_restored_state_changes_no_later_answer(trigger, epochs, cut, validation):
    run = [range(length) for length in epochs]
    whole = dues(trigger, run, validation=validation)

    assert dues(trigger, run, validation=validation, cut=cut) == whole


@given(n=st.integers(1, 20), epochs=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_every_n_batches_whatever_the_epochs(n, epochs):
    names = [f"{epoch}.{batch}" for epoch, length in enumerate(epochs) for batch in range(length)]
    told = [name for name in dues(n, [range(length) for length in epochs]) if name != "end"]

    assert told == names[n - 1 :: n]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"expected exactly one of epochs, batches and seconds, got epochs=None\."),
        ({"epochs": 1, "batches": 2}, r"expected exactly one of .*, got batches=2\."),
        ({"epochs": 0}, r"expected an int of at least 1, got epochs=0\."),
        ({"batches": -3}, r"expected an int of at least 1, got batches=-3\."),
        ({"epochs": True}, r"expected an int of at least 1, got epochs=True\."),
        ({"epochs": 2.5}, r"expected an int of at least 1, got epochs=2\.5\."),
        ({"batches": 2.0}, r"expected an int of at least 1, got batches=2\.0\."),
        ({"batches": "10"}, r"expected an int of at least 1, got batches='10'\."),
        ({"seconds": 0}, r"expected a finite number above 0, got seconds=0\."),
        ({"seconds": -1.5}, r"expected a finite number above 0, got seconds=-1\.5\."),
        ({"seconds": math.nan}, r"expected a finite number above 0, got seconds=nan\."),
        ({"seconds": math.inf}, r"expected a finite number above 0, got seconds=inf\."),
        ({"seconds": True}, r"expected a finite number above 0, got seconds=True\."),
    ],
)
def test_what_every_cannot_mean_is_said(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message + r"\nHint: pass Every\(epochs=5\)"):
        Every(**arguments)


@pytest.mark.parametrize("save_freq", [0, -1, True, 2.5, "batch", None, [1], Every])
def test_what_save_freq_cannot_mean_is_said(save_freq):
    with pytest.raises(InvalidArgumentError, match=r"got save_freq=.*\nHint: Unrecognized"):
        trigger_of(save_freq)


def test_the_names_are_public():
    assert (peakhold.Every, peakhold.AtEnd) == (Every, AtEnd)


@pytest.mark.parametrize("unit", ["epochs", "batches", "seconds"])
def test_a_save_at_the_end_of_training_leaves_the_count_as_it_is(unit):
    """Five turns of four, and a save after every six: the end of a turn is no beginning."""
    schedule, due = SaveSchedule(Every(**{unit: 6})), []
    state = schedule.init()
    for turn in range(5):
        for place in range(4):
            if unit == "batches":
                state, answer = schedule.batch_end(state, place)
            else:
                state, answer = schedule.epoch_end(state, 1.0 if unit == "seconds" else 0.0)
            due += [4 * turn + place + 1] * answer
        state, left = schedule.end(state)
        assert left == (due[-1:] != [4 * turn + 4])
        assert not schedule.end(state)[1], "it is saved once"

    assert due == [6, 12, 18]
