"""Whoever of several workers wants to stop, all end after the same batch, or at an epoch's end."""

import math

import pytest

from peakhold import Callback, CSVLogger, EarlyStopping, TerminateOnNaN
from workers_rig import At, Loops, session_of

pytestmark = pytest.mark.torch_is_enough("no framework has a part in it")
LONG = 1_000_000


def ctrl_c(callback):
    callback.loops.lists[callback.rank]._peakhold_running.session.on_interrupt()


def at(loops, rank, epoch, batch, work):
    one = At(epoch, batch, work)
    one.loops, one.rank = loops, rank
    return one


def test_ctrl_c_on_one_ends_all_after_the_same_batch_and_restores_the_best():
    def callbacks(rank):
        stopper = EarlyStopping("loss", patience=9, restore_best_weights=True)
        return [stopper, *[at(loops, rank, 1, 3, ctrl_c)] * (rank == 1)]

    loops = Loops(3, callbacks, n_batches=lambda rank, epoch: LONG if epoch else 5)

    results = loops.run()

    assert [type(one) for one in results] == [KeyboardInterrupt] * 3
    assert loops.done[0] == loops.done[1] == loops.done[2]
    assert loops.done[0][0] == 5
    assert 4 < loops.done[0][1] < LONG
    assert [model.weights for model in loops.models] == [[5.0]] * 3  # the best: of epoch 0


def test_a_loss_that_is_nan_on_one_ends_all_after_the_same_batch():
    def batch_logs(rank, batch):
        return {"loss": math.nan if rank == 2 and batch >= 7 else 1.0}

    def callbacks(rank):
        return [TerminateOnNaN(), EarlyStopping("loss", patience=9)]

    loops = Loops(3, callbacks, n_batches=lambda rank, epoch: LONG, batch_logs=batch_logs)

    results = loops.run()

    assert not any(isinstance(one, BaseException) for one in results)
    assert loops.done[0] == loops.done[1] == loops.done[2]
    assert 7 < loops.done[0][0] < LONG
    for one in results:
        session = session_of(one)
        assert session.state_unusable
        assert [reason.partition(" at batch ")[0] for reason in session.stop_reasons] == [
            "the loss is nan"
        ]


def test_an_epoch_that_ends_before_the_border_ends_all_by_its_round():
    asked = []

    def callbacks(rank):
        def ask(callback):
            ctrl_c(callback)
            asked.append(rank)

        return [EarlyStopping("loss", patience=9), *[at(loops, rank, 1, 9, ask)] * (rank == 0)]

    loops = Loops(2, callbacks, n_batches=lambda rank, epoch: 10)

    results = loops.run()

    assert [type(one) for one in results] == [KeyboardInterrupt] * 2
    assert asked == [0]
    assert loops.done == [[10, 10]] * 2  # the epoch was whole


def test_uneven_numbers_of_batches_end_at_the_epochs_end_if_one_has_no_batch_left():
    def callbacks(rank):
        return [EarlyStopping("loss", patience=9), *[at(loops, rank, 0, 2, ctrl_c)] * (rank == 1)]

    loops = Loops(2, callbacks, n_batches=lambda rank, epoch: 3 + 200 * rank, in_step=False)

    results = loops.run()

    assert [type(one) for one in results] == [KeyboardInterrupt] * 2
    assert [len(done) for done in loops.done] == [1, 1]


class Quits(Callback):
    """A user's callback that sets `stop_training` in an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            self.model.stop_training = True


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("rank_that_quits", [0, 1])
def test_stop_training_set_by_a_users_callback_on_one_ends_all(first, rank_that_quits):
    def callbacks(rank):
        quits = [Quits(1)] * (rank == rank_that_quits)
        ours = EarlyStopping("loss", patience=9)
        return [*quits, ours] if first else [ours, *quits]

    loops = Loops(2, callbacks, epochs=5)

    results = loops.run()

    assert not any(isinstance(one, BaseException) for one in results)
    assert loops.done == [[10, 10]] * 2


def test_with_nothing_that_decides_all_hear_of_ctrl_c_at_the_epochs_end(tmp_path):
    def callbacks(rank):
        return [CSVLogger(tmp_path / "log.csv"), *[at(loops, rank, 1, 9, ctrl_c)] * (rank == 1)]

    loops = Loops(2, callbacks, epochs=9)

    results = loops.run()

    assert [type(one) for one in results] == [KeyboardInterrupt] * 2
    assert loops.done[0] == loops.done[1]
    assert len(loops.done[0]) < 9
    assert (tmp_path / "log.csv").read_text().startswith("epoch,loss")


def test_ctrl_c_after_the_last_epoch_comes_to_all():
    class Late(Callback):
        def __init__(self, rank):
            super().__init__()
            self.rank = rank

        def on_train_end(self, logs=None):
            if self.rank == 1:
                session_of(loops.lists[1]).on_interrupt()

    def callbacks(rank):
        return [Late(rank), EarlyStopping("loss", patience=9)]

    loops = Loops(2, callbacks)

    assert [type(one) for one in loops.run()] == [KeyboardInterrupt] * 2
    assert loops.done == [[10, 10, 10]] * 2


def test_batches_are_not_looked_at_unless_somebody_wants_to_end():
    seen = []

    def callbacks(rank):
        def look(callback):
            seen.append("on_train_batch_end" in vars(loops.lists[rank]))

        return [EarlyStopping("loss", patience=9), at(loops, rank, 2, 5, look)]

    loops = Loops(2, callbacks)
    loops.run()

    assert seen == [False, False]
