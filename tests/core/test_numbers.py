"""NaN and infinity in JSON: one word for each, wherever Peakhold reads it back."""

import json
import math

import pytest

import peakhold
from peakhold._core.numbers import number_from_json, number_to_json
from peakhold.snapshots.tree import flatten, parse_json, to_json, unflatten

INF, NAN = math.inf, math.nan
WORDS = {"NaN": NAN, "Infinity": INF, "-Infinity": -INF}
OLD_WORDS = {"nan": NAN, "inf": INF, "-inf": -INF}


def same(one, other):
    return type(one) is type(other) and (one == other or one != one and other != other)


@pytest.mark.parametrize(("word", "number"), WORDS.items())
def test_each_has_a_word_and_the_word_is_it(word, number):
    assert number_to_json(number) == word
    assert same(number_from_json(word), number)


@pytest.mark.parametrize(("word", "number"), OLD_WORDS.items())
def test_words_of_before_are_read(word, number):
    assert same(number_from_json(word), number)
    assert same(unflatten({"$float": word}, {}), number)


@pytest.mark.parametrize("value", [0.1, -0.0, 5, 2**70, True, None, "none", "Nan", [INF]])
def test_everything_else_stays_as_it_is(value):
    assert number_to_json(value) is value
    assert number_from_json(value) is value


@pytest.mark.parametrize(("word", "number"), WORDS.items())
def test_a_tree_has_the_same_words_and_a_string_stays_a_string(word, number):
    text = to_json(flatten("part", [number, word])[0])

    assert json.loads(text) == [{"$float": word}, word]
    back = unflatten(parse_json(text), {})
    assert same(back[0], number) and back[1] == word


@pytest.mark.parametrize("body", ["1", "NAN", "", "infinity", 1.0, None, ["NaN"]])
def test_no_other_mark_of_a_float_is_one(body):
    with pytest.raises(ValueError, match="unknown or holds the wrong thing"):
        unflatten({"$float": body}, {})


def through_json(callback, another):
    another.load_state_dict(json.loads(json.dumps(callback.state_dict(), allow_nan=False)))
    return another


LOSSES = (0.5, NAN, INF, -INF, 0.4)


def watched(make, losses=LOSSES):
    callback = make()
    for epoch, loss in enumerate(losses):
        callback.on_epoch_end(epoch, {"loss": loss, "f1": -loss})
    return callback


@pytest.mark.parametrize("monitor", ["loss", ["loss", "f1"]])
def test_the_history_of_a_stopper_comes_back_with_its_words_and_its_numbers(monitor, capsys):
    def make():
        return peakhold.EarlyStopping(monitor, patience=9, mode="min")

    first = watched(make)
    state = first.state_dict()
    values = [row["value"] for row in state["history"]]
    shown = [value if isinstance(monitor, str) else value[0] for value in values]
    assert shown == [0.5, "NaN", "Infinity", "-Infinity", 0.4]
    second = through_json(first, make())
    first.explain()
    table = capsys.readouterr().out
    second.explain()

    assert " nan " in table and " inf " in table
    assert capsys.readouterr().out == table
    assert second.state_dict() == state


def test_a_history_of_before_is_read(capsys):
    first = watched(lambda: peakhold.EarlyStopping("loss", patience=9))
    state = first.state_dict()
    for row in state["history"]:
        row["value"] = str(number_from_json(row["value"])) if isinstance(row["value"], str) else 0.5
    assert [row["value"] for row in state["history"]] == [0.5, "nan", "inf", "-inf", 0.5]
    second = through_json(first, peakhold.EarlyStopping("loss", patience=9))
    second.load_state_dict(state)

    assert [row["value"] for row in second.state_dict()["history"][1:4]] == list(WORDS)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize(
    "make",
    [
        lambda: peakhold.EarlyStopping("loss"),
        lambda: peakhold.ReduceLROnPlateau("loss"),
        lambda: peakhold.ModelCheckpoint("m.safetensors", "loss", save_best_only=True),
    ],
)
def test_a_best_that_somebody_set_comes_back(make, value):
    callback = make()
    callback.best = value

    assert same(through_json(callback, make()).best, value)


def test_the_value_that_an_alert_saw_last_comes_back(monkeypatch):
    monkeypatch.setenv("PEAKHOLD_SLACK_WEBHOOK", "https://hooks.slack.com/none")

    def make():
        return peakhold.SlackAlert(monitor="loss", mode="min", on="failure")

    first = watched(make, losses=(0.5, NAN))
    assert first.state_dict()["state"]["value"] == "NaN"
    assert first.state_dict()["state"]["best"] == 0.5
    second = through_json(first, make())

    assert second.state_dict() == first.state_dict()
    second.load_state_dict({**first.state_dict(), "state": {"best": 0.5, "value": None}})
    assert second.state_dict()["state"]["value"] is None  # NaN, as it was written before
