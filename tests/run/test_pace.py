"""When a run is saved: by batches, by seconds, by a share of the time."""

import pytest

from peakhold import Budget, Every
from peakhold.errors import InvalidArgumentError
from peakhold.run.pace import Pace, check_save_every


def train(pace, cost, n_batches, batch_s=0.01):
    """Batches of so many seconds each, with saves that cost so much; how many saves there were."""
    now, step = 0.0, 0
    for _ in range(n_batches):
        now, step = now + batch_s, step + 1
        if now >= pace.due_at or step >= pace.due_step:
            now += cost
            pace.note(now, step, cost)
    return now


@pytest.mark.parametrize("cost", [0.0005, 0.02, 0.7])
def test_a_budget_is_kept_and_used(cost):
    pace = Pace(Budget(0.035), 0.0)
    now = train(pace, cost, 20_000)
    assert 0.02 <= pace.share(now) <= 0.04
    assert pace.n_saves > 5


def test_a_save_that_became_dear_is_paid_for_before_the_next():
    pace = Pace(Budget(0.1), 0.0)
    train(pace, 0.01, 1_000)
    before, pace.n_saves = pace.due_at, 0
    pace.note(12.0, 1_000, 5.0)
    assert pace.due_at > before + 2 * 5.0 / 0.1 - 1


def test_the_first_save_comes_at_once():
    assert Pace(Budget(0.01), 100.0).due_at == 100.0


def test_batches_are_counted_from_where_the_run_goes_on():
    pace = Pace(Every(batches=10), 0.0)
    pace.start(205)
    assert pace.due_step == 215
    pace.note(1.0, 215, 0.1)
    assert pace.due_step == 225
    assert pace.due_at == float("inf")


def test_seconds():
    pace = Pace(Every(seconds=60), 0.0)
    assert (pace.due_at, pace.due_step) == (60.0, float("inf"))
    pace.note(61.0, 7, 0.1)
    assert pace.due_at == 121.0


@pytest.mark.parametrize(
    ("every", "now", "step", "due"),
    [
        (Every(epochs=1), 0.0, 0, True),
        (Every(batches=10), 0.0, 4, False),
        (Every(batches=10), 0.0, 5, True),
        (Every(seconds=60), 29.0, 0, False),
        (Every(seconds=60), 30.0, 0, True),
        (Budget(0.5), 0.0, 0, True),
    ],
)
def test_an_epochs_end_is_a_good_place(every, now, step, due):
    assert Pace(every, 0.0).epoch_ends(now, step) is due


def test_every_so_many_epochs():
    pace = Pace(Every(epochs=3), 0.0)
    assert [pace.epoch_ends(0.0, 0) for _ in range(3)] == [False, False, True]
    pace.note(0.0, 0, 0.1)
    assert pace.epoch_ends(0.0, 0) is False


@pytest.mark.parametrize("share", [0, -1, 1.5, float("nan"), "a lot", True])
def test_a_share_is_a_share(share):
    with pytest.raises(InvalidArgumentError, match="a share of the training time"):
        Budget(share)


def test_what_save_every_takes():
    assert check_save_every("epoch") == Every(epochs=1)
    with pytest.raises(InvalidArgumentError, match="save_every=100"):
        check_save_every(100)
