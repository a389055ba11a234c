"""Where there is no memory for a copy, training goes on: on disk, or while training waits.

As under `ulimit -v`: mmap itself says ENOMEM, which is an `OSError`, from the start or from the
second epoch on.
"""

import mmap

import pytest
import torch

import peakhold

LIMIT = 1 << 20


@pytest.fixture
def run_out(monkeypatch):
    """From now on nothing large is to be had."""
    real = mmap.mmap

    def refusing(fd, length, **named):
        if length > LIMIT:
            raise OSError(12, "Cannot allocate memory")
        return real(fd, length, **named)

    return lambda: monkeypatch.setattr(mmap, "mmap", refusing)


class Large(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(LIMIT // 2))


class Average:
    """What a loop takes along, as large as its model."""

    def __init__(self, model):
        self.value = model.weight.detach().clone()

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value.copy_(state["value"])


def train(callback, run_out, when, *, epochs=4, crash=False):
    """Losses 3, 1, 2, 4: the second epoch, whose weights are 2, is the best."""
    model = Large()
    average = Average(model)
    loop = peakhold.CallbackList(callback, model, extra={"average": average}, epochs=epochs)
    if when == "from the start":
        run_out()
    loop.on_train_begin()
    for epoch in range(loop.initial_epoch, epochs):
        if epoch == 1 and when == "later":
            run_out()
        loop.on_epoch_begin(epoch)
        with torch.no_grad():
            model.weight += 1
            average.value += model.weight
        loop.on_epoch_end(epoch, {"loss": [3.0, 1.0, 2.0, 4.0, 5.0, 6.0][epoch]})
    if crash:
        with torch.no_grad():
            model.weight.fill_(-1)  # training goes on
            average.value.fill_(-1)
        loop.on_epoch_begin(epochs)
    else:
        loop.on_train_end()
    return model, average


WHEN = ["from the start", "later"]


@pytest.mark.parametrize("when", WHEN)
def test_the_best_is_kept_on_disk_and_that_is_said(run_out, when, capsys):
    keeper = peakhold.EarlyStopping("loss", patience=9, restore_best_weights=True)
    model, _ = train(keeper, run_out, when)
    assert keeper.best_epoch == 1 and (model.weight == 2).all()
    told = capsys.readouterr().out
    # Memory that was there from the start is used again.
    assert told.count("keeps the best weights on disk") == (when == "from the start")
    assert told.count("there is no memory for a copy") == (when == "from the start")


@pytest.mark.parametrize("when", WHEN)
def test_a_file_is_written_all_the_same(run_out, when, tmp_path):
    from safetensors.torch import load_file

    path = str(tmp_path / "m.safetensors")
    keeper = peakhold.ModelCheckpoint(path, monitor="loss", mode="min", save_best_only=True)
    train(keeper, run_out, when)
    assert (load_file(path)["weight"] == 2).all()


@pytest.mark.parametrize("when", WHEN)
def test_a_backup_is_written_while_training_waits_and_that_is_said(
    run_out, when, tmp_path, capsys, monkeypatch
):
    train(peakhold.BackupAndRestore(tmp_path), run_out, when, crash=True)
    told = capsys.readouterr().out
    assert told.count("there is no memory for a copy") == (when == "from the start")
    monkeypatch.undo()
    backup = peakhold.BackupAndRestore(tmp_path)
    model, average = train(backup, run_out, "never", epochs=6)
    assert backup.initial_epoch == 4
    assert (model.weight == 6).all()
    assert (average.value == 1 + 2 + 3 + 4 + 5 + 6).all()


@pytest.mark.parametrize("when", WHEN)
def test_the_best_on_disk_is_in_the_backup(run_out, when, tmp_path, monkeypatch):
    def callbacks():
        stopping = peakhold.EarlyStopping("loss", patience=9, restore_best_weights=True)
        return [stopping, peakhold.BackupAndRestore(tmp_path)]

    train(callbacks(), run_out, when, crash=True)
    monkeypatch.undo()
    model, _ = train(callbacks(), run_out, "never", epochs=6)
    assert (model.weight == 2).all()
