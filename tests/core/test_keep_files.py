"""Which files may go."""

import math
from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peakhold._core.monitor import Direction
from peakhold._core.policies.keep import CheckpointInfo, KeepBest, KeepLast, keep
from peakhold._core.policies.keep_files import KeepBestOrNewest, keep_files
from peakhold.checkpoint_files.retention import files_to_delete
from peakhold.files.sidecar import SavedFile

smaller, larger = Direction.MIN, Direction.MAX


class File(NamedTuple):
    """What the rules look at; `saved` is the record that a sidecar has of it."""

    name: str
    order: int
    epoch: int
    batch: int | None = None
    value: float | None = None
    finite: bool = True

    @property
    def saved(self):
        return SavedFile(
            checksum="", size=0, monitor="m", mode="min", saved_at="", run_id="r",
            order=self.order, epoch=self.epoch, batch=self.batch, value=self.value,
            finite=self.finite,
        )  # fmt: skip


def superfluous(files, keep_last=None, keep_best=None, better=None):
    by_name = {file.name: file for file in files}
    policy = keep_files(keep_last, keep_best, "m", better)
    known = {name: file.saved for name, file in by_name.items()}
    return [by_name[name] for name in files_to_delete(known, policy)]


def saved(*values, bad=()):
    """One file per epoch; its name is the epoch's number."""
    return [
        File(str(n), n + 1, n, value=value, finite=n not in bad) for n, value in enumerate(values)
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
        File("new", 1, 0),
        File("b", 0, 3),
        File("c", 0, 3, batch=7),
        File("a", 0, 2, batch=90),
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
    files = [File(str(n), n + 1, n, None, v, good) for n, (v, good) in enumerate(history)]
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


def test_a_value_of_another_metric_is_not_compared():
    """A run that goes on may rank by something else: an old loss of 0.1 is no accuracy."""
    files = {n: file.saved for n, file in enumerate(saved(0.1, 0.8, 0.9, 0.7))}
    files[0] = replace(files[0], monitor="loss")
    assert files_to_delete(files, keep_files(None, 1, "m", smaller)) == [0, 1, 2]
    assert files_to_delete(files, keep_files(None, 2, "m", larger)) == [0]


@given(
    history=st.lists(st.tuples(st.floats(-5, 5), st.booleans()), max_size=12),
    last=st.integers(1, 4),
    best=st.integers(1, 4),
    direction=st.sampled_from(Direction),
)
def test_files_and_checkpoints_of_one_history_stay_by_one_rule(history, last, best, direction):
    """What a store keeps of a run under KeepLast | KeepBest, keep_last and keep_best keep of it."""
    files = [File(str(n), n + 1, n, None, v, good) for n, (v, good) in enumerate(history)]
    infos = [CheckpointInfo(n, n, n, {"m": v}, finite=good) for n, (v, good) in enumerate(history)]
    of_store = keep(KeepLast(last) | KeepBest("m", direction.value, best), infos)
    gone = {file.name for file in superfluous(files, last, best, direction)}
    assert {n for n in range(len(files)) if str(n) not in gone} == of_store


def test_a_place_that_nothing_takes_which_is_ranked_is_the_newest_others():
    metrics = ({"m": 3.0}, {}, {"other": 1.0}, {"m": math.nan})
    infos = [CheckpointInfo(n, n, metrics=m) for n, m in enumerate(metrics)]
    for n, expected in ((1, {0}), (2, {0, 3}), (3, {0, 2, 3}), (9, {0, 1, 2, 3})):
        policy = KeepBestOrNewest(KeepBest("m", "min", n))
        assert policy.keeps(infos) == expected
        assert policy.at_most == n
