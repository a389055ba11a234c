"""Conditions: the same answer as Python's where all is there, Kleene's logic where not, no code."""

import ast
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peakhold._core.condition import Condition, ConditionError

nan, inf = math.nan, math.inf


def holds(text, **values):
    return Condition.parse(text).holds(values)


@pytest.mark.parametrize(
    ("text", "values", "answer"),
    [
        ("val_accuracy > 0.92 and epoch >= 3", {"val_accuracy": 0.93, "epoch": 3}, True),
        ("val_accuracy > 0.92 and epoch >= 3", {"val_accuracy": 0.93, "epoch": 2}, False),
        ("val_accuracy > 0.92 and epoch >= 3", {"epoch": 3}, None),
        ("val_accuracy > 0.92 and epoch >= 3", {"epoch": 2}, False),
        ("val_accuracy > 0.92 or epoch >= 3", {"epoch": 3}, True),
        ("val_accuracy > 0.92 or epoch >= 3", {"epoch": 2}, None),
        ("not val_accuracy > 0.92", {}, None),
        ("a + 1 > b * -2", {"a": 1}, None),
        ("0.1 < a <= 0.5", {"a": 0.5}, True),
        ("0.1 < a < b", {"a": 0.05}, False),
        ("0.1 < a < b", {"a": 0.5}, None),
        ("a != 1", {"a": 2}, True),
        ("a == b == 2", {"a": 2, "b": 2}, True),
        ("val_loss - loss > 0.1 * loss", {"val_loss": 1.2, "loss": 1.0}, True),
        ("(loss + val_loss) / 2 < +1.", {"val_loss": 1.2, "loss": 0.5}, True),
        ("a > 1 or b > 1 and c > 1", {"a": 2, "b": 0, "c": 0}, True),
        ("not a > 1 and b > 1", {"a": 0, "b": 2}, True),
        ("  a\n > 1", {"a": 2}, True),
        ("`top 5/é-acc` > .5", {"top 5/é-acc": 0.6}, True),
        ("a > 0x10", {"a": 17}, True),
        ("a < 1e999", {"a": 1.0}, True),
        # A value that is no number satisfies nothing.
        ("a > 1", {"a": nan}, False),
        ("a <= 1", {"a": nan}, False),
        ("a != 1", {"a": nan}, False),
        ("a == a", {"a": nan}, False),
        ("not a > 1", {"a": nan}, True),
        ("a + 1 > 0", {"a": nan}, False),
        ("a > 1", {"a": inf}, True),
        ("a - a > 1", {"a": inf}, False),
        ("1 / a > 1", {"a": 0.0}, False),
        ("1 / a <= 1", {"a": 0.0}, False),
        ("a * 1e308 * 10 > 1", {"a": 10.0}, True),
        ("a > 1", {"a": None}, None),
    ],
)
def test_answers(text, values, answer):
    assert holds(text, **values) is answer


@pytest.mark.parametrize(
    ("text", "reason", "position"),
    [
        ("", "no condition", 1),
        ("   ", "no condition", 4),
        ("loss", "a value that is compared with nothing", 1),
        ("  loss + 1", "a value that is compared with nothing", 3),
        ("a > 1 and b", "a value that is compared with nothing", 11),
        ("a = 1", "no condition", 3),
        ("a >", "no condition", 4),
        ("a > 1)", "no condition", 6),
        ("(a > 1", "no condition", 1),
        ("a > 1) and (b > 1", "no condition", 6),
        ("a b", "no condition", 3),
        ("a && b", "no place for '&'", 3),
        ("a > 1 | b > 1", "no place for '|'", 7),
        ("'a' > 1", 'no place for "\'"', 1),
        ("a > 1 # b", "no place for '#'", 7),
        ("a > 1; b", "no place for ';'", 6),
        ("a := 1", "no place for ':'", 3),
        ("lambda: 1", "no place for ':'", 7),
        ("logs[0] > 1", "no place for '['", 5),
        ("`` > 1", "no place for '`'", 1),
        ("a > `b", "no place for '`'", 5),
        ("é`x` > 1", "no place for '`'", 2),
        ("a > 0 and`b` > 0", "no place for '`'", 10),
        ("a\0 > 1", "no place for '\\x00'", 2),
        ("f(a) > 1", "neither metric, number nor comparison", 1),
        ("é > f(a)", "neither metric, number nor comparison", 5),
        ("`é b` > 0 and c.d > 1", "neither metric, number nor comparison", 15),
        ("a ** 9 > 1", "neither metric, number nor comparison", 1),
        ("a // 9 > 1", "neither metric, number nor comparison", 1),
        ("a > 1 if b else c", "neither metric, number nor comparison", 1),
        ("a > True", "neither metric, number nor comparison", 5),
        ("True", "neither metric, number nor comparison", 1),
        ("1j > a", "neither metric, number nor comparison", 1),
        ("a > 1, b", "neither metric, number nor comparison", 1),
        ("a is 1", "no comparison of numbers before this", 6),
        ("a not in b", "no comparison of numbers before this", 10),
        ("(a > 1) + 1 > 1", "an answer where a number belongs", 2),
        ("(a > 1) == (b > 1)", "an answer where a number belongs", 2),
        ("-(not a > 1) > 1", "an answer where a number belongs", 3),
        ("-" * 60 + "a > 1", "too many levels", 1),
        ("not " * 60 + "a > 1", "too many levels", 1),
        ("(" * 300 + "a > 1" + ")" * 300, "no condition", 201),
        ("a" * 1001, "more than 1000 characters", 1000),
    ],
)
def test_what_is_no_condition_says_where(text, reason, position):
    with pytest.raises(ConditionError) as caught:
        Condition.parse(text)

    assert reason in caught.value.reason
    assert caught.value.position == position
    assert str(caught.value).endswith(f"at character {position}")
    assert caught.value.hint.endswith(".")


def test_the_position_is_the_parsers_where_python_differs():
    with pytest.raises(ConditionError, match=r"at character \d+$"):
        Condition.parse("((((((((")


def test_names_in_order_of_appearance_as_they_were_written():
    """Python reads `ﬁ` as `fi`; a metric's name is what it is."""
    condition = Condition.parse("ﬁ1 > `b c` and (a > 1 or b > ﬁ1) and `b c` > 0")

    assert condition.names == ("ﬁ1", "b c", "a", "b")
    assert condition.holds({"ﬁ1": 2.0, "b c": 1.0, "a": 2.0, "b": 0.0}) is True


@pytest.mark.parametrize(
    ("text", "hint"),
    [("a = 1", "=="), ("a && b", "and, or, not"), ("!a", "and, or, not"), ("'a' > 1", "quotes"),
     ("f(a) > 1", "pass a function: when(epoch, logs)")],
)  # fmt: skip
def test_hints(text, hint):
    with pytest.raises(ConditionError) as caught:
        Condition.parse(text)

    assert hint in caught.value.hint


# Against Python itself, and against Kleene's tables

numbers = st.floats(allow_nan=False, allow_infinity=False, min_value=-9, max_value=9)
terms = st.recursive(
    st.sampled_from(["a", "b", "c"]) | numbers.map(lambda x: repr(abs(x))),
    lambda t: (
        st.tuples(t, st.sampled_from("+-*"), t).map(lambda p: f"({p[0]} {p[1]} {p[2]})")
        | t.map(lambda x: f"(-{x})")
    ),
    max_leaves=5,
)
comparisons = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
questions = st.recursive(
    st.tuples(terms, comparisons, terms).map(" ".join)
    | st.tuples(terms, comparisons, terms, comparisons, terms).map(" ".join),
    lambda q: (
        st.lists(q, min_size=2, max_size=3).flatmap(
            lambda parts: st.sampled_from([" and ", " or "]).map(
                lambda word: "(" + word.join(parts) + ")"
            )
        )
        | q.map(lambda x: f"not ({x})")
    ),
    max_leaves=6,
)


@given(questions, st.fixed_dictionaries(dict.fromkeys("abc", numbers)))
def test_with_all_metrics_the_answer_is_pythons(text, values):
    expected = eval(compile(ast.parse(text, mode="eval"), "", "eval"), {}, dict(values))

    assert Condition.parse(text).holds(values) is expected


@given(questions, st.dictionaries(st.sampled_from("abc"), numbers))
def test_an_answer_without_all_metrics_holds_whatever_they_are(text, values):
    """ "Not yet" may become anything; true and false may not."""
    condition = Condition.parse(text)
    answer = condition.holds(values)
    if answer is not None:
        for missing in (-5.0, 0.0, 5.0):
            assert condition.holds({**dict.fromkeys("abc", missing), **values}) is answer


@given(st.text(max_size=60) | st.text("ab`01.<>=!+-*/() \nandort", max_size=40))
def test_no_text_does_anything_but_parse_or_say_where(text):
    try:
        condition = Condition.parse(text)
    except ConditionError as error:
        assert 1 <= error.position <= len(text) + 1
    else:
        assert condition.holds({}) in {None, True, False}
        assert condition.holds(dict.fromkeys(condition.names, nan)) in {True, False}
