"""Keep policies: tables of what there is in, what stays out; and what must hold for any history."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peakhold._core.policies.keep import (
    CheckpointInfo,
    KeepAny,
    KeepBest,
    KeepEvery,
    KeepLast,
    keep,
)
from peakhold._core.policies.keep_backups import KeepBackups
from peakhold.errors import InvalidArgumentError

NAN, INF = math.nan, math.inf


def history(*losses):
    return [CheckpointInfo(i, i, epoch=i, metrics={"loss": v}) for i, v in enumerate(losses)]


@pytest.mark.parametrize(
    ("policy", "losses", "kept"),
    [
        (None, (3, 2, 1), {0, 1, 2}),
        (KeepLast(1), (1, 2, 3), {2}),
        (KeepLast(2), (1, 2, 3), {1, 2}),
        (KeepLast(9), (1, 2), {0, 1}),
        # a run that turned to NaN cannot push the last good ones out, however long it goes on
        (KeepLast(2), (1, 2, NAN, NAN, NAN), {0, 1, 3, 4}),
        (KeepLast(1), (NAN, NAN), {1}),
        (KeepLast(1), (1, INF), {0, 1}),
        (KeepBest("loss", "min"), (3, 1, 2), {1, 2}),  # 2 is the newest
        (KeepBest("loss", "max"), (3, 1, 2), {0, 2}),
        (KeepBest("loss", "min", n=2), (3, 1, 2, 5), {1, 2, 3}),
        (KeepBest("loss", "min"), (NAN, 1, NAN), {1, 2}),
        (KeepBest("loss", "min"), (NAN, -INF, INF), {2}),
        (KeepBest("loss", "min"), (1, 1, 1), {0, 2}),  # of equal values the first
        (KeepBest("other", "min"), (1, 2), {0, 1}),  # none has it: there is nothing to go by
        (KeepEvery(steps=2), (1, 1, 1, 1, 1), {0, 2, 4}),
        (KeepEvery(epochs=3), (1, 1, 1, 1, 1), {0, 3, 4}),
        (KeepEvery(steps=2), (NAN, 1, 1), {0, 1, 2}),  # the first finite one stays too
        (KeepLast(1) | KeepBest("loss", "min"), (1, 2, 3), {0, 2}),
        (KeepLast(1) | KeepBest("loss", "min") | KeepBest("loss", "max"), (2, 1, 3, 2), {1, 2, 3}),
        (KeepBest("loss", "min") | KeepEvery(steps=2), (5, 4, 3, 9), {0, 2, 3}),
    ],
)
def test_table(policy, losses, kept):
    assert keep(policy, history(*losses)) == kept


def test_tensors_that_are_not_finite_count_as_much_as_metrics():
    infos = [CheckpointInfo(0, 0), CheckpointInfo(1, 1, finite=False)]
    assert keep(KeepLast(1), infos) == {0, 1}


def test_best_prefers_finite_tensors_but_takes_what_there_is():
    """A model may hold an infinity on purpose (an attention mask): then all its checkpoints do."""
    masked = [CheckpointInfo(i, i, metrics={"m": v}, finite=False) for i, v in enumerate((2, 1))]
    assert KeepBest("m", "min").keeps(masked) == {1}
    mixed = [*masked, CheckpointInfo(2, 2, metrics={"m": 9.0})]
    assert KeepBest("m", "min").keeps(mixed) == {2}


def test_epochs_are_not_asked_of_those_that_have_none():
    infos = [CheckpointInfo(0, 0), CheckpointInfo(1, 1, epoch=0), CheckpointInfo(2, 2)]
    assert keep(KeepEvery(epochs=1), infos) == {1, 2}


@pytest.mark.parametrize(
    "make",
    [
        lambda: KeepLast(0),
        lambda: KeepLast(True),
        lambda: KeepLast(1.5),
        lambda: KeepBest("loss", "auto"),
        lambda: KeepBest("loss", "min", n=0),
        lambda: KeepEvery(),
        lambda: KeepEvery(steps=1, epochs=1),
        lambda: KeepEvery(steps=0),
        lambda: KeepAny(),
    ],
)
def test_bad_arguments_say_what_was_received(make):
    with pytest.raises(InvalidArgumentError, match=r"expected .*, got \w+="):
        make()


def test_bounds():
    assert (KeepLast(3).at_most, KeepBest("a", "min", 2).at_most) == (6, 2)
    assert (KeepLast(3) | KeepBest("a", "min", 2)).at_most == 8
    assert (KeepLast(3) | KeepEvery(steps=1)).at_most is None


policies = st.recursive(
    st.one_of(
        st.builds(KeepLast, st.integers(1, 4)),
        st.builds(KeepBest, st.just("loss"), st.sampled_from(["min", "max"]), st.integers(1, 3)),
        st.builds(KeepEvery, steps=st.integers(1, 5)),
        st.builds(KeepEvery, epochs=st.integers(1, 5)),
    ),
    lambda inner: st.builds(KeepAny, inner, inner),
    max_leaves=4,
)
losses = st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, NAN, INF, -INF]), max_size=12)


@given(policies, losses, st.randoms())
def test_order_of_the_list_does_not_matter(policy, values, random):
    infos = history(*values)
    shuffled = list(infos)
    random.shuffle(shuffled)
    assert keep(policy, infos) == keep(policy, shuffled)


@given(policies, losses)
def test_deciding_again_on_what_stayed_changes_nothing(policy, values):
    infos = history(*values)
    kept = keep(policy, infos)
    assert keep(policy, [info for info in infos if info.commit in kept]) == kept


@given(policies, losses)
def test_one_by_one_keeps_what_all_at_once_keeps(policy, values):
    """Retention runs after each commit; it must not lose what a look back would keep."""
    held = []
    for info in history(*values):
        held.append(info)
        kept = keep(policy, held)
        held = [one for one in held if one.commit in kept]
    assert {info.commit for info in held} >= keep(policy, history(*values))


@given(policies, losses)
def test_the_newest_and_the_bound(policy, values):
    infos = history(*values)
    kept = keep(policy, infos)
    assert not infos or infos[-1].commit in kept
    if policy.at_most is not None:
        assert len(kept) <= policy.at_most + 1


@given(policies, losses)
def test_non_finite_ones_never_push_finite_ones_out(policy, values):
    infos = history(*values)
    finite = [info for info in infos if info.is_finite]
    if finite:
        assert keep(policy, infos) >= policy.keeps(finite)


@given(losses)
def test_min_and_max_mirror(values):
    mirrored = [-value for value in values]
    low = KeepBest("loss", "min").keeps(history(*values))
    assert low == KeepBest("loss", "max").keeps(history(*mirrored))


def backup(step, **more):
    return CheckpointInfo(step, step + 10, **more)


def test_backups_that_the_newest_refer_to_stay():
    infos = [backup(0), backup(1), backup(2, refers_to=(0,)), backup(3), backup(4, refers_to=(1,))]

    assert KeepBackups(2).keeps(infos) == {11, 13, 14}
    assert keep(KeepBackups(1), infos) == {11, 14}


def test_what_is_only_referred_to_keeps_nothing_in_its_turn():
    infos = [backup(0), backup(1, refers_to=(0,)), backup(2, refers_to=(1,))]

    assert KeepBackups(1).keeps(infos) == {11, 12}


def test_backups_of_before_that_say_it_in_their_metrics_are_understood():
    old = {"refers_to_step_0": 0.0, "refers_to_step_1": 2.0}
    infos = [backup(0), backup(1), backup(2), backup(3, metrics=old), backup(4, refers_to=(1,))]

    assert KeepBackups(1).keeps(infos) == {11, 14}
    assert KeepBackups(2).keeps(infos) == {10, 11, 12, 13, 14}
    nonsense = [backup(0), backup(1, metrics={"refers_to_step_0": math.nan})]
    assert KeepBackups(1).keeps(nonsense) == {10, 11}  # as ever: the newest finite one, too
