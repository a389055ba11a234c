"""Which files may go."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peakhold._core.monitor import Criterion, Direction
from peakhold._core.policies.keep_files import SavedFile, superfluous

smaller = Criterion(Direction.MIN).better
larger = Criterion(Direction.MAX).better


def saved(*values, bad=()):
    """One file per epoch; its name is the epoch's number."""
    return [
        SavedFile(str(n), n + 1, n, value=value, finite=n not in bad)
        for n, value in enumerate(values)
    ]


def kept(files, **rules):
    rules = {"better": smaller, **rules}
    gone = [file.name for file in superfluous(files, **rules)]
    return "".join(file.name for file in files if file.name not in gone)


@pytest.mark.parametrize(
    ("values", "rules", "expected"),
    [
        ([3, 1, 2, 4], {}, "0123"),
        ([3, 1, 2, 4], {"keep_last": 2}, "23"),
        ([3, 1, 2, 4], {"keep_last": 9}, "0123"),
        ([3, 1, 2, 4], {"keep_best": 2}, "123"),  # the newest always stays
        ([3, 1, 2, 4], {"keep_last": 1, "keep_best": 1}, "13"),
        ([3, 1, 2, 4], {"keep_last": 2, "keep_best": 2}, "123"),
        ([3, 1, 2, 4], {"keep_best": 1, "better": larger}, "3"),
        ([2, 1, 1, 1, 3], {"keep_best": 2}, "124"),  # of equal values the older wins
        ([1, math.nan, math.inf, -math.inf, None, 3], {"keep_best": 2}, "05"),
        ([3, None, None], {"keep_best": 2}, "02"),  # a free place is the newest's
        ([None] * 4, {"keep_best": 2}, "23"),
        ([math.nan, math.nan], {"keep_best": 1}, "1"),
        ([], {"keep_last": 1, "keep_best": 1}, ""),
        ([3, 1, 2], {"keep_best": 1, "better": None}, "012"),  # what ranks is not known
        ([3, 1, 2], {"keep_last": 1, "better": None}, "2"),
    ],
)
def test_what_stays(values, rules, expected):
    assert kept(saved(*values), **rules) == expected


def test_a_run_that_turned_to_nan_does_not_rotate_its_last_good_state_away():
    files = saved(3, 2, None, None, None, bad={2, 3, 4})
    assert kept(files, keep_last=2) == "0134"
    assert kept(files, keep_best=1) == "14"
    assert kept(saved(3, 2, 1, 0.5, bad={2, 3}), keep_best=1) == "13"
    # A model that holds an infinity on purpose has no other files.
    assert kept(saved(3, 2, 4, bad={0, 1, 2}), keep_best=1) == "12"


def test_what_an_old_sidecar_did_not_number_is_older():
    files = [
        SavedFile("new", 1, 0),
        SavedFile("b", 0, 3),
        SavedFile("c", 0, 3, batch=7),
        SavedFile("a", 0, 2, batch=90),
    ]
    assert [f.name for f in superfluous(files, keep_last=1)] == ["a", "c", "b"]
    assert [f.name for f in superfluous(reversed(files), keep_last=2)] == ["a", "c"]


histories = st.lists(
    st.tuples(st.one_of(st.none(), st.sampled_from([math.nan, 1.0, 2.0]), st.floats(-5, 5)),
              st.booleans()),
    max_size=12,
)  # fmt: skip
counts = st.none() | st.integers(1, 4)


@given(history=histories, keep_last=counts, keep_best=counts, order=st.randoms())
def test_what_must_hold_of_any_history(history, keep_last, keep_best, order):
    files = [SavedFile(str(n), n + 1, n, None, v, good) for n, (v, good) in enumerate(history)]
    rules = {"keep_last": keep_last, "keep_best": keep_best, "better": smaller}
    gone = superfluous(files, **rules)
    stays = [file for file in files if file not in gone]

    shuffled = list(files)
    order.shuffle(shuffled)
    assert superfluous(shuffled, **rules) == gone, (
        "the order in which they are listed tells nothing"
    )
    assert not superfluous(stays, **rules), "a second pass finds nothing to do"
    if keep_last is None and keep_best is None:
        assert not gone
        return
    assert files[-1:] == stays[-1:]
    good = [file for file in files if file.finite]
    assert good[-1:] == [file for file in stays if file.finite][-1:]
    if keep_last is not None:
        assert set(files[-keep_last:]) <= set(stays)
    if keep_best is not None:
        numbers = [f for f in good if f.value is not None and math.isfinite(f.value)]
        best = sorted(numbers, key=lambda f: (f.value, f.order))[:keep_best]
        assert set(best) <= set(stays)
    assert len(stays) <= 2 * (keep_last or 1) + (keep_best or 0)


@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=20), keep_best=st.integers(1, 3))
def test_cleaning_after_each_save_loses_none_of_the_best(values, keep_best):
    """What goes now would have gone later: nobody needs to look ahead."""
    files = saved(*values)
    there = []
    for file in files:
        there.append(file)
        gone = superfluous(there, keep_best=keep_best, better=smaller)
        there = [one for one in there if one not in gone]

    assert set(there) == set(files) - set(superfluous(files, keep_best=keep_best, better=smaller))
