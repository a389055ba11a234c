"""A line of a record: what goes in comes out, and a stranger's JSON parser reads it."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peakhold.errors import InvalidArgumentError
from peakhold.ledger.lines import LONGEST, from_line, to_line

NUMBERS = st.floats() | st.integers(-(2**70), 2**70)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["NaN", "Infinity", "-Infinity", "$float", '"$', "goes_on", "\n", "\u2028", "***"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
EVENTS = st.fixed_dictionaries(
    {"kind": TEXTS},
    optional={
        "metrics": st.dictionaries(TEXTS, st.floats(), max_size=4),
        "rates": st.dictionaries(TEXTS, st.floats(), max_size=2),
        "answers": st.dictionaries(TEXTS, VALUES, max_size=3),
        "text": VALUES,
        "$float": VALUES,
        "$dict": VALUES,
    },
)


def same(one, other):
    """Equal, of the same types, and NaN is itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return (
            math.copysign(1, one) == math.copysign(1, other)
            and (one == other or (math.isnan(one) and math.isnan(other)))
            or (math.isnan(one) and math.isnan(other))
        )
    return one == other


@given(EVENTS)
def test_what_is_written_is_read(event):
    line = to_line(event)

    assert line.endswith(b"\n") and line.count(b"\n") == 1 and line.isascii()
    assert same(from_line(line), event)
    assert same(from_line(line[:-1]), event)


def refuse(text):
    raise AssertionError(f"{text} is no JSON")


@given(EVENTS)
def test_a_line_is_strict_json(event):
    json.loads(to_line(event), parse_constant=refuse)


def test_nan_is_a_word_among_numbers_and_a_mark_elsewhere():
    event = {"kind": "x", "metrics": {"loss": math.nan}, "text": "NaN", "limit": -math.inf}

    line = to_line(event)

    assert json.loads(line) == {
        "kind": "x",
        "metrics": {"loss": "NaN"},
        "text": "NaN",
        "limit": {"$float": "-Infinity"},
    }
    assert same(from_line(line), event)


@pytest.mark.parametrize("limit", [0.5, math.inf])
def test_tuples_become_lists_and_keys_strings_whether_or_not_there_is_a_mark(limit):
    line = to_line({"kind": "x", "at": (1, (2,)), "by": {3: limit}})

    assert from_line(line) == {"kind": "x", "at": [1, [2]], "by": {"3": limit}}


def test_numbers_of_numpy_are_numbers():
    metrics = {"a": np.float32(0.5), "b": np.float32("nan"), "c": np.int64(3), "d": np.bool_(True)}

    read = from_line(to_line({"kind": "x", "metrics": metrics}))["metrics"]

    assert same(read, {"a": 0.5, "b": math.nan, "c": 3, "d": True})


@pytest.mark.parametrize(
    "value",
    [object(), np.zeros(3), {1, 2}, b"bytes", pytest.param(10**5000, id="a number without end")],
)
@pytest.mark.parametrize("beside", [0.5, math.nan])
def test_what_json_cannot_hold_is_refused_by_name(value, beside):
    with pytest.raises(InvalidArgumentError, match=r"expected dicts, .*, got event=") as caught:
        to_line({"kind": "x", "what": value, "beside": beside})
    assert "Hint:" in str(caught.value)


def test_a_circle_is_refused():
    circle = []
    circle.append(circle)
    with pytest.raises(InvalidArgumentError):
        to_line({"kind": "x", "what": circle})


def test_what_is_too_long_is_refused():
    with pytest.raises(InvalidArgumentError, match="bytes long"):
        to_line({"kind": "x", "text": "x" * LONGEST})


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\n", b"nothing", b"[1]", b"3", b"null", b'{"no": "kind"}', b'{"kind": 3}', b"\0" * 64,
        b"\xff\xfe{", b'{"kind":"x"', b'{"kind":"x","a":' + b"[" * 100_000, b'{"kind":"x","a":1e',
        b'{"kind":"x","a":' + b"9" * 5000 + b"}", b'{"kind":"x","a":{"$tensor":"w"}}',
        b'{"kind":"x","a":{"$float":"loud"}}', b'{"kind":"x","a":{"$bytes":"?"}}',
        b'{"kind":"x"}{"kind":"y"}',
    ],
)  # fmt: skip
def test_what_is_no_line_of_ours_is_none(line):
    assert from_line(line) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_a_line_or_none(data):
    event = from_line(data)

    assert event is None or isinstance(event["kind"], str)
