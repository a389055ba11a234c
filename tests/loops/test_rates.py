"""The rate that is logged is the one that the epoch was trained with."""

import copy
import csv
import pickle

import numpy as np
import pytest
import torch

import peakhold
from peakhold._core.observation import Event
from peakhold.extend import Participant, Participating
from peakhold.runtime.listening import LISTENERS


def train(folder, *, where, callbacks=(), batch_hooks=False, epoch_begin=True, epochs=4):
    """A loop of PyTorch whose scheduler halves the rate somewhere; returns rates by epoch."""
    net = torch.nn.Linear(1, 1)
    opt = torch.optim.SGD(net.parameters(), lr=0.8)
    sched = torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)
    log = folder / "log.csv"
    run = peakhold.CallbackList(
        [*callbacks, peakhold.CSVLogger(log, learning_rate=True)],
        net, optimizer=opt, epochs=epochs, verbose=0,
    )  # fmt: skip
    run.on_train_begin()
    trained = []
    for epoch in range(epochs):
        if epoch_begin:
            run.on_epoch_begin(epoch)
        if where == "begin":  # as the example of ImageNet adjusts it
            opt.param_groups[0]["lr"] = 0.8 * 0.5**epoch
        for batch in range(2):
            opt.zero_grad()
            net(torch.ones(1, 1)).sum().backward()
            opt.step()
            if batch == 0:
                trained.append(opt.param_groups[0]["lr"])
            if batch_hooks:
                run.on_train_batch_end(batch, {"loss": 1.0})
        if where == "before the end":
            sched.step()
        run.on_epoch_end(epoch, {"loss": 1.0})
        if where == "after the end":
            sched.step()
    run.on_train_end()
    with open(log, newline="") as file:
        return trained, [float(row["learning_rate"]) for row in csv.DictReader(file)], opt


@pytest.mark.parametrize("batch_hooks", [False, True])
@pytest.mark.parametrize("where", ["begin", "before the end", "after the end"])
def test_a_log_has_the_rate_of_the_epoch(tmp_path, where, batch_hooks):
    trained, logged, _ = train(tmp_path, where=where, batch_hooks=batch_hooks)

    assert trained == [0.8, 0.4, 0.2, 0.1]
    assert logged == trained


def test_a_loop_that_tells_of_ends_alone_is_believed(tmp_path):
    trained, logged, _ = train(tmp_path, where="after the end", epoch_begin=False)

    assert logged == trained


@pytest.mark.parametrize("kind", ["plateau", "scheduler"])
def test_a_callback_that_logs_the_rate_does_too_and_acts_on_that_of_now(tmp_path, kind):
    class Looks(peakhold.Callback):
        rates = []

        def on_epoch_end(self, epoch, logs=None):
            self.rates.append(logs["learning_rate"])

    setter = (
        peakhold.ReduceLROnPlateau("loss", factor=0.1, patience=3)
        if kind == "plateau"
        else peakhold.LearningRateScheduler(lambda epoch, lr: lr)
    )
    Looks.rates = []
    trained, logged, opt = train(tmp_path, where="before the end", callbacks=[setter, Looks()])

    assert Looks.rates == logged == trained == [0.8, 0.4, 0.2, 0.1]
    now = 0.05 * (0.1 if kind == "plateau" else 1)
    assert opt.param_groups[0]["lr"] == pytest.approx(now)


def test_tensorboard_shows_it(tmp_path):
    from event_reader import opened, series

    train(tmp_path, where="before the end", callbacks=[peakhold.TensorBoard(tmp_path)])

    found = series(opened(tmp_path / "train"), "epoch_learning_rate")
    assert [rate for _, rate in found] == pytest.approx([0.8, 0.4, 0.2, 0.1])


@pytest.mark.parametrize("library", ["peakhold", "peakhold.keras"])
def test_a_rate_of_the_loop_s_own(tmp_path, library):
    lib = pytest.importorskip(library)
    rate = {"lr": 0.8}
    params = {"w": np.zeros(1)}
    host = peakhold.LoopHost(
        get_state=lambda: params, set_state=params.update,
        get_learning_rate=lambda: rate["lr"],
        set_learning_rate=lambda new: rate.update(lr=new),
    )  # fmt: skip
    plateau = lib.ReduceLROnPlateau("loss", factor=0.1, patience=1)
    run = lib.CallbackList([lib.CSVLogger(tmp_path / "log.csv"), plateau], host=host, verbose=0)
    run.on_train_begin()
    for epoch in range(3):
        run.on_epoch_begin(epoch)
        rate["lr"] /= 2
        run.on_epoch_end(epoch, {"loss": 1.0})
    run.on_train_end()
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))

    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([0.8, 0.4, 0.02])


def test_an_optimizer_has_one_hook_however_many_runs_it_sees(tmp_path):
    net = torch.nn.Linear(1, 1)
    opt = torch.optim.SGD(net.parameters(), lr=0.8)
    for n in range(3):
        run = peakhold.CallbackList(
            peakhold.CSVLogger(tmp_path / f"{n}.csv", learning_rate=True),
            net, optimizer=opt, verbose=0,
        )  # fmt: skip
        run.on_train_begin()
        for epoch in range(2):
            run.on_epoch_begin(epoch)
            run.on_epoch_end(epoch, {"loss": 1.0})
        run.on_train_end()

    assert len(opt._optimizer_step_pre_hooks) == 1


def test_without_anybody_who_asks_nothing_is_looked_at():
    net = torch.nn.Linear(1, 1)
    opt = torch.optim.SGD(net.parameters(), lr=0.8)
    run = peakhold.CallbackList(peakhold.EarlyStopping("loss"), net, optimizer=opt, verbose=0)
    run.on_train_begin()
    run.on_epoch_begin(0)

    assert not opt._optimizer_step_pre_hooks


@pytest.fixture
def nobody_listens():
    """The suite itself listens to all runs, to take their steps again; users' runs are alone."""
    listeners, LISTENERS[:] = LISTENERS[:], []
    yield
    LISTENERS[:] = listeners


class Counting(peakhold.LoopHost):
    """A host that notes how often it was asked for its steps."""

    asked = 0

    def steps_done(self):
        self.asked += 1
        return 10 * self.asked


@pytest.mark.usefixtures("nobody_listens")
@pytest.mark.parametrize(
    ("patience", "asked"), [(3, False), (peakhold.Steps(1000), True)], ids=["epochs", "steps"]
)
def test_the_optimizers_count_is_asked_for_at_an_epochs_end_if_somebody_reads_it(patience, asked):
    host = Counting(torch.nn.Linear(1, 1))
    stopper = peakhold.EarlyStopping("loss", patience=patience)
    run = peakhold.CallbackList(stopper, host=host, verbose=0)
    run.on_train_begin()
    run.on_epoch_begin(0)
    before = host.asked
    run.on_epoch_end(0, {"loss": 1.0})

    assert (host.asked > before) is asked


@pytest.mark.usefixtures("nobody_listens")
def test_a_patience_in_steps_that_is_set_in_mid_run_counts_from_the_next_epochs_end_on():
    stopper = peakhold.EarlyStopping("loss", patience=3)
    run = peakhold.CallbackList(stopper, host=Counting(torch.nn.Linear(1, 1)), verbose=0)
    run.on_train_begin()
    for epoch in range(3):
        run.on_epoch_begin(epoch)
        run.on_epoch_end(epoch, {"loss": 1.0})
        stopper.patience = peakhold.Steps(1000)

    assert stopper.wait == 2
    assert stopper._peakhold_link.participant.state.waited > 0


class Looking(Participant):
    """A stranger, who does not say what it reads."""

    def __init__(self):
        self.seen = []

    def record(self, moment, logs, decisions):
        if moment.event is Event.EPOCH_END:
            self.seen.append((moment.spent.steps, moment.at.step))


class Stranger(Participating):
    def __init__(self):
        super().__init__(Looking())


@pytest.mark.usefixtures("nobody_listens")
def test_a_strangers_participant_reads_both_counts_of_steps_without_saying_so():
    stranger, counting = Stranger(), Counting(torch.nn.Linear(1, 1))
    run = peakhold.CallbackList(
        [peakhold.EarlyStopping("loss", patience=9), stranger], host=counting, verbose=0
    )
    run.on_train_begin()
    for epoch in range(2):
        run.on_epoch_begin(epoch)
        run.on_epoch_end(epoch, {"loss": 1.0})
    first, second = stranger._peakhold_link.participant.seen

    assert second > first > (0, 0)
    assert [step for _, step in (first, second)] == [20, 40]  # two looks an epoch: begin and end


@pytest.mark.usefixtures("nobody_listens")
@pytest.mark.parametrize("patience", [3, peakhold.Steps(7)], ids=["epochs", "steps"])
@pytest.mark.parametrize("again", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
@pytest.mark.parametrize("kind", [peakhold.EarlyStopping, peakhold.ReduceLROnPlateau])
def test_a_copy_waits_as_long_and_reads_what_it_needs(kind, again, patience):
    made = again(kind("loss", patience=patience))
    participant = made._peakhold_link.participant

    assert made.patience == patience
    assert participant.reads_steps is isinstance(patience, peakhold.Steps)


@pytest.mark.usefixtures("nobody_listens")
def test_with_a_backup_the_end_of_an_epoch_is_one_moment(tmp_path):
    stranger, counting = Stranger(), Counting(torch.nn.Linear(1, 1))
    run = peakhold.CallbackList(
        [stranger, peakhold.BackupAndRestore(tmp_path / "b")], host=counting, verbose=0
    )
    run.on_train_begin()
    run.on_epoch_begin(0)
    before = counting.asked
    run.on_epoch_end(0, {"loss": 1.0})

    assert counting.asked - before == 1
