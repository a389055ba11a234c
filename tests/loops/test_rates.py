"""The rate that is logged is the one that the epoch was trained with."""

import csv

import numpy as np
import pytest
import torch

import peakhold


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
