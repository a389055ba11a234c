"""Every behaviour on a loop of PyTorch: a module with BatchNorm, and its optimizer."""

import pytest
import torch

import peakhold
from behaviours import Behaviours


class SetsRate(peakhold.Callback):
    def __init__(self, rig, rates):
        super().__init__()
        self.rig, self.rates = rig, rates

    def on_epoch_begin(self, epoch, logs=None):
        if epoch in self.rates:
            self.rig.optimizer.param_groups[0]["lr"] = self.rates[epoch]


class TorchRig:
    """Real training of a small net."""

    lib, suffix, first_rate = peakhold, ".safetensors", 0.05

    def __init__(self):
        self.rebuild()

    def rebuild(self):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1)
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=self.first_rate, momentum=0.9)
        self.x = torch.randn(32, 3)
        self.y = self.x.sum(1, keepdim=True)

    def saver(self, path, **arguments):
        return peakhold.ModelCheckpoint(path, **arguments)

    def rate_setter(self, rates):
        return SetsRate(self, rates)

    def run(
        self,
        callbacks,
        curves,
        epochs,
        *,
        start=0,
        verbose=0,
        explode_at=None,
        raise_at=None,
        loss_nan_at=None,
    ):
        self.at, self.epochs_run, self.logs, self.batches_run = {}, [], [], 0
        run = peakhold.CallbackList(
            callbacks, self.model, optimizer=self.optimizer, epochs=epochs, verbose=verbose
        )
        run.on_train_begin()
        for epoch in range(start, epochs):
            run.on_epoch_begin(epoch)
            for batch in range(4):
                if epoch == raise_at:
                    raise ZeroDivisionError
                rows = slice(8 * batch, 8 * batch + 8)
                self.optimizer.zero_grad()
                loss = torch.nn.functional.mse_loss(self.model(self.x[rows]), self.y[rows])
                loss.backward()
                self.optimizer.step()
                if epoch == explode_at and batch == 3:
                    with torch.no_grad():
                        self.model[0].weight[0, 0] = float("inf")
                if epoch == loss_nan_at:
                    loss = loss * float("nan")
                self.batches_run += 1
                run.on_train_batch_end(batch, {"loss": loss})
                if self.model.__dict__.get("stop_training"):
                    break
            logs = {"loss": loss}
            for name, values in curves.items():
                if epoch < len(values) and values[epoch] is not None:
                    logs[name] = values[epoch]
            self.epochs_run.append(epoch)
            self.at[epoch] = self.weights()
            run.on_epoch_end(epoch, logs)
            self.logs.append(logs)
            if run.stop_training:
                break
        run.on_train_end()

    def weights(self):
        return [t.numpy().copy() for t in self.model.state_dict().values()]

    def rate(self):
        return self.optimizer.param_groups[0]["lr"]

    def load(self, path):
        from safetensors.torch import load_file

        tensors = load_file(path)
        return [tensors[name].numpy() for name in self.model.state_dict()]

    @staticmethod
    def fingerprint(weights):
        return tuple(w.tobytes() for w in weights)

    def file_fingerprint(self, path):
        with open(path, "rb") as file:
            return file.read()


class TestTorchLoop(Behaviours):
    @pytest.fixture
    def rig(self):
        return TorchRig()
