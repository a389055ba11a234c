"""Beyond the memory budget: a loop of PyTorch gets its tensors back from disk."""

import gc

import torch

import peakhold


def test_tensors_of_any_kind_come_back_from_disk(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    net = torch.nn.ModuleDict(
        {
            "a": torch.nn.Linear(3, 4),
            "b": torch.nn.BatchNorm1d(4),
            "c": torch.nn.Linear(4, 1, dtype=torch.bfloat16),
        }
    )
    optimizer = torch.optim.Adam(net.parameters())
    stopper = peakhold.EarlyStopping(
        "m", mode="min", patience=9, restore_best_weights=True, restore_optimizer=True,
        memory_budget=1,
    )  # fmt: skip
    run = peakhold.CallbackList([stopper], net, optimizer=optimizer, epochs=4, verbose=2)
    best = {}
    run.on_train_begin()
    for epoch, value in enumerate((0.5, 0.3, 0.4, 0.6)):
        run.on_epoch_begin(epoch)
        optimizer.zero_grad()
        net["c"](net["b"](net["a"](torch.randn(8, 3))).bfloat16()).float().sum().backward()
        optimizer.step()
        if epoch == 1:
            best = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        run.on_epoch_end(epoch, {"m": value})
    run.on_train_end()

    assert "on disk" in capsys.readouterr().out
    assert all(torch.equal(best[name], now) for name, now in net.state_dict().items())
    assert {state["step"].item() for state in optimizer.state.values()} == {2.0}
    del run, stopper
    gc.collect()
    assert list(tmp_path.glob("peakhold*")) == []
