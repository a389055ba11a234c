"""`BackupAndRestore` in loops by hand: PyTorch, and nested arrays of any kind."""

import numpy as np
import pytest
import torch

import peakhold
from peakhold.errors import BackupMismatchError


def train(folder, *, epochs=6, crash_at=None, seed=0, units=8, stop_at=None):
    """A PyTorch loop with dropout, Adam and shuffled data."""
    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Linear(4, units), torch.nn.ReLU(), torch.nn.Dropout(0.4), torch.nn.Linear(units, 1)
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(32, 4)).astype("float32"))
    backup = peakhold.BackupAndRestore(folder / "backup")
    plateau = peakhold.ReduceLROnPlateau("loss", patience=1, min_delta=1.0)
    logger = peakhold.CSVLogger(folder / "log.csv", append=True)
    callbacks = peakhold.CallbackList(
        [logger, backup, plateau], net, optimizer=optimizer, epochs=epochs, verbose=0
    )
    callbacks.on_train_begin()
    begun = []
    for epoch in range(backup.initial_epoch, epochs):
        begun.append(epoch)
        callbacks.on_epoch_begin(epoch)
        for rows in torch.randperm(len(x)).split(8):
            loss = torch.nn.functional.mse_loss(net(x[rows]), x[rows, :1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch == crash_at:
            raise ZeroDivisionError
        callbacks.on_epoch_end(epoch, {"loss": loss})
        if epoch == stop_at:
            break
    callbacks.on_train_end()
    state = [*net.state_dict().values()]
    for slots in optimizer.state_dict()["state"].values():
        state += [slots[name] for name in sorted(slots)]
    rate = optimizer.param_groups[0]["lr"]
    return begun, [t.numpy().tobytes() for t in state], rate, (folder / "log.csv").read_text()


@pytest.mark.parametrize("crash_at", [1, 4])
def test_a_torch_loop_goes_on_exactly(tmp_path, crash_at):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    _, *whole = train(tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "killed", crash_at=crash_at)
    begun, *resumed = train(tmp_path / "killed", seed=5)

    assert begun == list(range(crash_at, 6))
    assert resumed == whole
    assert not (tmp_path / "killed" / "backup").exists()


def test_another_model_is_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, crash_at=2)
    with pytest.raises(BackupMismatchError, match=r"0\.weight: \(8, 4\) .* \(9, 4\)"):
        train(tmp_path, units=9)


def test_a_loop_that_asks_twice_in_one_process_begins_anew(tmp_path):
    assert train(tmp_path, epochs=2)[0] == [0, 1]
    assert train(tmp_path, epochs=2)[0] == [0, 1]


def test_a_hook_that_stands_for_several_batches_counts_for_all_of_them(tmp_path):
    """`save_freq` is a number of batches, also where hooks are fewer (`steps_per_execution`)."""
    backup = peakhold.BackupAndRestore(tmp_path / "b", save_freq=4, delete_checkpoint=False)
    weights = {"w": np.zeros(1)}
    host = peakhold.LoopHost(get_state=lambda: weights, set_state=weights.update)
    callbacks = peakhold.CallbackList(backup, host=host, epochs=2, verbose=0)
    saved_after = []
    callbacks.on_train_begin()
    for epoch in range(2):
        callbacks.on_epoch_begin(epoch)
        for batch in (1, 3, 5):
            weights["w"] = weights["w"] + 1
            newest = opened_newest(tmp_path / "b")
            callbacks.on_train_batch_end(batch, {"loss": 0.5})
            backup._peakhold_keeping.file(0, "train_state.json")  # waits for the writer
            if opened_newest(tmp_path / "b") != newest:
                saved_after.append((epoch, batch))
        callbacks.on_epoch_end(epoch, {"loss": 0.5})
    callbacks.on_train_end()

    assert saved_after == [(0, 3), (1, 1), (1, 5)]


def opened_newest(folder):
    return max(path.name for path in folder.iterdir() if path.name.startswith("step-"))
