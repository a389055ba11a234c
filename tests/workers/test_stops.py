"""Whoever of several workers wants to stop, all end after the same batch, or at an epoch's end."""

import math
import sys
import threading
import time

import pytest

from peakhold import (
    BackupAndRestore,
    Callback,
    CallbackList,
    CSVLogger,
    EarlyStopping,
    TerminateOnNaN,
)
from peakhold.snapshots.pool import SnapshotPool
from peakhold.store import Reader
from peakhold.testing import FakeHub, run_workers
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


@pytest.mark.parametrize("poor", [{0}, {1}, {0, 1}], ids=str)
def test_a_worker_without_memory_for_a_copy_keeps_the_best_on_disk_as_one_alone_does(
    poor, monkeypatch
):
    stoppers = [EarlyStopping("loss", patience=9, restore_best_weights=True) for _ in range(2)]
    loops = Loops(2, lambda rank: [stoppers[rank]], n_batches=lambda rank, epoch: 2, epochs=4,
                  logs=lambda rank, epoch: {"loss": [3.0, 1.0, 2.0, 4.0][epoch]})  # fmt: skip
    real = SnapshotPool.take

    def take(pool, parts):
        if any(pool.host.model is loops.models[rank] and loops.done[rank][1:] for rank in poor):
            raise MemoryError
        return real(pool, parts)

    monkeypatch.setattr(SnapshotPool, "take", take)

    results = loops.run()

    assert not any(isinstance(one, BaseException) for one in results)
    assert [model.weights for model in loops.models] == [[4.0]] * 2, "the best is that of epoch 1"
    spills = [one._peakhold_link.participant._spill for one in stoppers]
    assert {rank for rank, spill in enumerate(spills) if spill is not None} == poor


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


# SIGTERM


class Ended(BaseException):
    """In the place of a process that a signal ends."""


class Signals:
    """In the place of a run's signals: workers in threads get none."""

    def __init__(self, returns=False):
        self.returns, self.n_terminated = returns, 0

    def terminate(self):
        self.n_terminated += 1
        if not self.returns:
            raise Ended

    def uninstall(self):
        pass


def sigterm(callback):
    """As its handler does: on a thread of its own; whether that one repeats the signal."""
    session = session_of(callback.loops.lists[callback.rank])

    def finish():
        callback.loops.passed_on.append((callback.rank, session.on_termination()))

    thread = threading.Thread(target=finish, daemon=True)
    callback.loops.threads.append(thread)
    thread.start()


def with_signals(loops, returns=False):
    loops.signals = [Signals(returns) for _ in range(loops.size)]
    loops.passed_on, loops.threads = [], []

    def set_them(rank):
        session_of(loops.lists[rank]).signals = loops.signals[rank]

    loops.on_begin = set_them
    return loops


@pytest.mark.parametrize("receivers", [[1], [0, 1, 2]])
def test_sigterm_backs_up_at_one_batch_on_all_and_then_ends_each(tmp_path, receivers):
    def callbacks(rank):
        keeper = BackupAndRestore(tmp_path / "backup", save_freq=LONG)
        return [keeper, *[at(loops, rank, 1, 6, sigterm)] * (rank in receivers)]

    loops = with_signals(Loops(3, callbacks, n_batches=lambda rank, epoch: LONG if epoch else 5))

    results = loops.run()
    for thread in loops.threads:
        thread.join(20)

    assert [type(one) for one in results] == [Ended] * 3
    assert loops.done[0] == loops.done[1] == loops.done[2]
    assert sorted(loops.passed_on) == [(rank, True) for rank in receivers]
    backup = Reader(tmp_path / "backup").load("latest")
    n_batches = loops.done[0][1]
    assert backup.entry.reason == f"batch {n_batches} of epoch 2"
    assert float(backup["weights"][0][0]) == 5 + n_batches


def test_sigterm_whose_handler_only_sets_a_flag_comes_to_all_at_one_batch(tmp_path):
    def callbacks(rank):
        keeper = BackupAndRestore(tmp_path / "backup", save_freq=LONG)
        return [keeper, *[at(loops, rank, 0, 6, sigterm)] * (rank == 2)]

    loops = with_signals(
        Loops(3, callbacks, n_batches=lambda rank, epoch: 20_000, epochs=1), returns=True
    )

    results = loops.run()

    assert not any(isinstance(one, BaseException) for one in results)
    assert [signals.n_terminated for signals in loops.signals] == [1, 1, 1]
    assert loops.done == [[20_000]] * 3


def test_sigterm_while_a_worker_is_gone_agrees_on_nothing_and_names_what_is_on_disk(
    tmp_path, capsys
):
    taken = []

    def callbacks(rank):
        def die(callback):
            loops.hub.channel(1).set("peakhold/0/0/left/1", b"1")  # as its process's end does
            raise Ended

        def look(callback):
            session = session_of(loops.lists[0])
            while session.coordinator.lost() is None:
                time.sleep(0.001)  # until rank 1 is gone
            began = time.monotonic()
            taken.append((session.on_termination(), time.monotonic() - began))
            raise Ended

        keeper = BackupAndRestore(tmp_path / "backup")
        return [keeper, at(loops, rank, 1, 3, die if rank else look)]

    loops = with_signals(Loops(2, callbacks, in_step=False))

    assert [type(one) for one in loops.run()] == [Ended, Ended]
    [(is_passed_on, seconds)] = taken
    assert not is_passed_on
    assert seconds < 4
    said = capsys.readouterr().out
    assert "Peakhold: SIGTERM, and rank 1 has left the run: nothing more is agreed on." in said
    assert f"The newest backup is step 1 in {str(tmp_path / 'backup')!r}, after epoch 1." in said


def test_batches_are_not_looked_at_unless_somebody_wants_to_end():
    seen = []

    def callbacks(rank):
        def look(callback):
            seen.append("on_train_batch_end" in vars(loops.lists[rank]))

        return [EarlyStopping("loss", patience=9), at(loops, rank, 2, 5, look)]

    loops = Loops(2, callbacks)
    loops.run()

    assert seen == [False, False]


def calls_of_a_batch(run):
    """How many functions are called for a batch, after the first ones."""
    for batch in range(3):
        run.on_train_batch_end(batch)
    calls = []
    sys.setprofile(lambda frame, event, argument: calls.append(event))
    try:
        run.on_train_batch_end(3)
    finally:
        sys.setprofile(None)
    return calls.count("call") + calls.count("c_call")


def test_a_batch_with_nothing_due_is_what_it_is_alone():
    hub = FakeHub(2)

    def begun(channel):
        stopper = EarlyStopping("loss", patience=9, restore_best_weights=False)
        run = CallbackList([stopper], epochs=9, verbose=0, workers=channel)
        run.on_train_begin()
        run.on_epoch_begin(0)
        return run

    first, _ = run_workers(2, lambda rank: begun(hub.channel(rank)))

    assert calls_of_a_batch(first) == calls_of_a_batch(begun(None))
    session_of(first).coordinator.close()
