"""A loop of PyTorch is resumed by a program that was changed: what differs is said."""

import signal

import numpy as np
import pytest
import torch

from peakhold import (
    BackupAndRestore,
    CallbackList,
    EarlyStopping,
    LearningRateScheduler,
    LoopHost,
    ReduceLROnPlateau,
)
from peakhold.errors import BackupMismatchError
from peakhold.host import settings


def train(folder, optimizer_of, *, epochs=6, crash_at=None, patience=9, after_begin=None):
    torch.manual_seed(3)
    model = torch.nn.Linear(2, 1)
    optimizer = optimizer_of(model.parameters())
    backup = BackupAndRestore(folder)
    callbacks = CallbackList(
        [EarlyStopping("loss", patience=patience), backup],
        model=model, optimizer=optimizer, epochs=epochs, verbose=0,
    )  # fmt: skip
    callbacks.on_train_begin()
    for epoch in range(backup.initial_epoch, epochs):
        callbacks.on_epoch_begin(epoch)
        if after_begin is not None:
            after_begin(optimizer)
        if epoch == crash_at:
            raise RuntimeError
        loss = model(torch.ones(4, 2)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        callbacks.on_epoch_end(epoch, {"loss": loss.detach()})
        if callbacks.stop_training:
            break
    callbacks.on_train_end()
    return optimizer


def sgd(**arguments):
    return lambda parameters: torch.optim.SGD(parameters, **{"lr": 0.001, **arguments})


def adam(**arguments):
    return lambda parameters: torch.optim.Adam(parameters, **arguments)


@pytest.fixture(autouse=True)
def _no_run_of_another_test_has_left_a_rate(monkeypatch):
    monkeypatch.setattr(settings, "_rates_left", set())


def told(capsys):
    return [line for line in capsys.readouterr().out.splitlines() if " is " in line]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (sgd(), sgd(lr=0.01), "lr is 0.01 in this program and 0.001 in the backup, which counts"),
        (
            sgd(), sgd(weight_decay=0.1),
            "weight_decay is 0.1 in this program and 0 in the backup, which counts",
        ),
        (adam(), adam(betas=(0.8, 0.999)), "betas is [0.8, 0.999] in this program and [0.9, 0.999]"),
    ],
    ids=["lr", "weight_decay", "betas"],
)  # fmt: skip
def test_what_the_state_of_an_optimizer_holds_is_said(tmp_path, capsys, before, after, words):
    with pytest.raises(RuntimeError):
        train(tmp_path, before, crash_at=2)

    train(tmp_path, after)

    (line,) = told(capsys)
    assert line.startswith(f"Peakhold: BackupAndRestore: {words}")
    assert "set it on the optimizer after the first `on_epoch_begin(epoch)`" in line


def test_the_hint_helps(tmp_path, capsys):
    with pytest.raises(RuntimeError):
        train(tmp_path, sgd(), crash_at=2)

    def set_it(optimizer):
        optimizer.param_groups[0]["lr"] = 0.01

    optimizer = train(tmp_path, sgd(lr=0.01), after_begin=set_it)

    assert optimizer.param_groups[0]["lr"] == 0.01


def test_another_patience_counts_from_here_on(tmp_path, capsys):
    with pytest.raises(RuntimeError):
        train(tmp_path, sgd(), crash_at=2)

    train(tmp_path, sgd(), patience=12)

    (line,) = told(capsys)
    assert line == (
        "Peakhold: BackupAndRestore: patience of EarlyStopping(loss) is 12 in this program and was "
        "9 in the run that is resumed; 12 counts from here on."
    )


def test_another_kind_of_optimizer_is_an_error(tmp_path):
    """PyTorch loads the state, and fails in its first step."""
    with pytest.raises(RuntimeError):
        train(tmp_path, sgd(momentum=0.9), crash_at=2)

    with pytest.raises(BackupMismatchError, match="the optimizer is 'Adam', it was 'SGD'"):
        train(tmp_path, adam())


def test_the_same_program_is_told_nothing(tmp_path, capsys):
    with pytest.raises(RuntimeError):
        train(tmp_path, adam(), crash_at=2)

    train(tmp_path, adam())

    assert told(capsys) == []


# A loop without an optimizer object, as one in JAX


def train_bare(folder, rate, *, crash_at=None, press_at=None, more=(), epochs=6):
    """Gives the rates of its epochs. `rate` is a dict, as a notebook may keep it between cells."""
    params, seen = {"w": np.zeros(2)}, []
    host = LoopHost(
        get_state=lambda: params, set_state=params.update,
        get_learning_rate=lambda: rate["now"], set_learning_rate=lambda new: rate.update(now=new),
    )  # fmt: skip
    backup = BackupAndRestore(folder)
    plateau = ReduceLROnPlateau("loss", mode="min", patience=2, factor=0.1)
    callbacks = CallbackList([*more, plateau, backup], host=host, epochs=epochs, verbose=0)
    callbacks.on_train_begin()
    for epoch in range(backup.initial_epoch, epochs):
        callbacks.on_epoch_begin(epoch)
        seen.append(rate["now"])
        if epoch == crash_at:
            raise RuntimeError
        if epoch == press_at:
            signal.raise_signal(signal.SIGINT)
            break
        callbacks.on_epoch_end(epoch, {"loss": 1.0})
    callbacks.on_train_end()
    return pytest.approx(seen)


def test_a_rate_that_a_function_sets_is_compared_too(tmp_path, capsys):
    with pytest.raises(RuntimeError):
        train_bare(tmp_path, {"now": 0.1}, crash_at=2)

    assert train_bare(tmp_path, {"now": 0.4}) == [0.1, 0.01, 0.01, 0.001]

    (line,) = told(capsys)
    assert line == (
        "Peakhold: BackupAndRestore: learning_rate is 0.4 in this program and 0.1 in the backup, "
        f"which counts. To begin anew, delete {str(tmp_path)!r}; to go on with 0.4, add "
        "`LearningRateScheduler(lambda epoch, rate: 0.4 if epoch == 2 else rate)`."
    )


def test_and_its_hint_helps(tmp_path):
    with pytest.raises(RuntimeError):
        train_bare(tmp_path, {"now": 0.1}, crash_at=2)
    once = LearningRateScheduler(lambda epoch, rate: 0.4 if epoch == 2 else rate)

    assert train_bare(tmp_path, {"now": 0.4}, more=[once]) == [0.4, 0.04, 0.04, 0.004]


def test_a_rate_that_training_has_left_is_no_difference(tmp_path, capsys):
    """The cell again, where another cell has set the rate: it is as the first run has left it."""
    rate = {"now": 0.3}
    fades = LearningRateScheduler(lambda epoch, rate: 0.3 / (epoch + 1))
    with pytest.raises(KeyboardInterrupt):
        train_bare(tmp_path, rate, press_at=3, more=[fades])
    assert rate["now"] == pytest.approx(0.3 / 4)

    train_bare(tmp_path, rate, more=[fades])

    assert told(capsys) == []
