"""The border: all workers end after the same batch, or at the epoch's end; nobody waits for ever.

Main loops and threads take their steps in an order that Hypothesis chooses: none of them is a real
thread here, so each order is one that could come, and comes again.
"""

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from peakhold.distributed.border import END, OVER, Border
from peakhold.testing.workers import FakeHub

pytestmark = pytest.mark.torch_is_enough("no framework has a part in it")


class Loop:
    """The main loop of one worker: epochs of batches, and a round at the end of each.

    Args:
        all_loops: Of all workers.
        channel: This one's.
        lengths: How many batches each epoch has here.
        in_step: Whether a batch ends only when all have begun it, as with a collective in each.
    """

    def __init__(self, all_loops, channel, lengths, *, in_step):
        self.loops, self.channel, self.lengths, self.in_step = all_loops, channel, lengths, in_step
        self.border = Border(channel.rank, channel.size, "")
        self.border.proposer = self
        self.epoch, self.done, self.counts = 0, 0, False
        self.wish, self.waits, self.stopped_at, self.is_over = None, False, None, False
        self.rounds, self.asked_in_round = 0, False
        self.n_told = 0

    # What a border asks

    def wants(self):
        return self.wish is not None

    def proposal(self):
        return self.wish

    def count(self):
        self.counts = True

    def rest(self):
        self.counts = False

    # Steps

    def think(self):
        """The thread's turn; returns whether anything came of it."""
        called = max(loop.border.calls for loop in self.loops)
        return self.border.step(self.channel, called)

    def go(self):
        """The main loop's turn; returns whether it could do anything."""
        if self.is_over:
            return False
        if self.waits:
            return self._look_whether_it_goes_on()
        if self.done == self.lengths[self.epoch]:
            return self._end_epoch()
        if self.in_step and any(loop.keeps(self) for loop in self.loops):
            return False
        self.done += 1
        if self.counts:
            self.n_told += 1
            self.waits = self.border.reach((self.epoch, self.done))
            if self.waits:
                return True
        return self._look_whether_it_ends() or True

    def keeps(self, other):
        """Whether another one's next batch would wait for this one to begin it."""
        mine, theirs = (self.epoch, self.done), (other.epoch, other.done)
        return mine < theirs or (mine == theirs and (self.waits or self.is_over))

    def _look_whether_it_goes_on(self):
        self.waits = not self.border.settled(0)
        return not self.waits and (self._look_whether_it_ends() or True)

    def _look_whether_it_ends(self):
        agreed = self.border.take()
        if agreed is not None:
            self.stopped_at = self.epoch, self.done
            self.agreed, self.is_over = agreed, True
        return False

    def _end_epoch(self):
        if self.rounds == self.epoch:  # comes to the round
            self.rounds += 1
            self.border.reach((self.epoch, END))
            self.asked_in_round = self.wish is not None
            return True
        if any(loop.rounds < self.rounds and loop.stopped_at is None for loop in self.loops):
            return False  # waits in the round
        asked = [loop for loop in self.loops if loop.asked_in_round]
        if asked or self.epoch + 1 == len(self.lengths):
            self.stopped_at, self.is_over = (self.epoch, END), True
            self.border.reach(OVER)
            return True
        self.epoch, self.done = self.epoch + 1, 0
        return True


def run(loops, choices, wishes):
    """Let them take steps as chosen, and then in turn, until nothing moves any more."""
    turns = [(loop, step) for loop in loops for step in ("go", "think")]
    for number, choice in enumerate(choices):
        for rank, when in wishes:
            if when == number:
                loops[rank].wish = f"stop of {rank}"
        loop, step = turns[choice % len(turns)]
        getattr(loop, step)()
    for rank, _ in wishes:
        loops[rank].wish = loops[rank].wish or f"stop of {rank}"
    for _ in range(20_000):
        moved = [getattr(loop, step)() for loop, step in turns]
        if not any(moved):
            return
    raise AssertionError("they move for ever, and do not end")


@st.composite
def schedules(draw):
    size = draw(st.integers(1, 8))
    in_step = draw(st.booleans())
    even = in_step or draw(st.booleans())
    lengths = draw(st.lists(st.integers(0, 40), min_size=1, max_size=4))
    all_lengths = [
        lengths if even else [max(0, n + draw(st.integers(-3, 3))) for n in lengths]
        for _ in range(size)
    ]
    # Who is quick: choices are made among a few loops and threads more often than among others.
    favourites = draw(st.lists(st.integers(0, 2 * size - 1), min_size=1, max_size=6))
    choices = draw(
        st.lists(st.one_of(st.sampled_from(favourites), st.integers(0, 2 * size - 1)), max_size=200)
    )
    wishes = draw(
        st.lists(
            st.tuples(st.integers(0, size - 1), st.integers(0, 150)),
            min_size=1, max_size=3, unique_by=lambda one: one[0],
        )
    )  # fmt: skip
    return size, in_step, all_lengths, choices, wishes


@given(schedules())
@settings(max_examples=400, deadline=None)
def test_all_end_after_the_same_batch_or_at_an_epochs_end_in_any_order(schedule):
    size, in_step, all_lengths, choices, wishes = schedule
    hub, loops = FakeHub(size), []
    for rank in range(size):
        loops.append(Loop(loops, hub.channel(rank), all_lengths[rank], in_step=in_step))

    run(loops, choices, wishes)

    assert all(loop.is_over for loop in loops)
    assert len({loop.stopped_at for loop in loops}) == 1
    within = loops[0].stopped_at[1] != END
    event("within an epoch" if within else "at an epoch's end")
    if within:
        asked = [loop.agreed for loop in loops]
        assert asked == [asked[0]] * size
        assert any(asked[0])
        assert set(asked[0]) <= {None, *(loop.wish for loop in loops)}


def test_a_quick_loop_ends_soon_and_a_slow_thread_is_waited_for():
    hub, loops = FakeHub(3), []
    for rank in range(3):
        loops.append(Loop(loops, hub.channel(rank), [100_000], in_step=True))
    # Rank 2's thread has a turn for each 50 batches of its loop.
    order = ([0, 2, 4] * 50 + [1, 3, 5]) * 60

    run(loops, order, [(1, 0)])

    assert {loop.stopped_at for loop in loops} == {loops[0].stopped_at}
    assert loops[0].stopped_at[1] < 60 * 50
    assert loops[0].agreed == [None, "stop of 1", None]


def test_nothing_is_told_and_nobody_is_asked_as_long_as_nobody_wants_to_end():
    hub, loops = FakeHub(2), []
    for rank in range(2):
        loops.append(Loop(loops, hub.channel(rank), [30], in_step=True))

    run(loops, [0, 1, 2, 3] * 40, [])

    assert [loop.n_told for loop in loops] == [0, 0]
    assert hub.calls == 0
