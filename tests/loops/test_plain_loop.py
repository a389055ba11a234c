"""Every behaviour on a loop without any framework: a dict of NumPy arrays."""

import numpy as np
import pytest

import peakhold
from behaviours import Behaviours


class SetsRate(peakhold.Callback):
    def __init__(self, rig, rates):
        super().__init__()
        self.rig, self.rates = rig, rates

    def on_epoch_begin(self, epoch, logs=None):
        if epoch in self.rates:
            self.rig.state["rate"] = self.rates[epoch]


class PlainRig:
    """Gradient descent on a line, by hand."""

    lib, suffix, first_rate = peakhold, ".safetensors", 0.5

    def __init__(self):
        self.rebuild()

    def rebuild(self):
        self.params = {"w": np.zeros(3), "b": np.zeros(()), "steps": np.zeros((), "int64")}
        self.state = {"rate": self.first_rate}

    def saver(self, path, **arguments):
        return peakhold.ModelCheckpoint(path, **arguments)

    def rate_setter(self, rates):
        return SetsRate(self, rates)

    def host(self):
        return peakhold.LoopHost(
            get_state=lambda: self.params,
            set_state=self.params.update,
            get_learning_rate=lambda: self.state["rate"],
            set_learning_rate=lambda rate: self.state.update(rate=rate),
        )

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
        run = peakhold.CallbackList(callbacks, host=self.host(), epochs=epochs, verbose=verbose)
        run.on_train_begin()
        for epoch in range(start, epochs):
            run.on_epoch_begin(epoch)
            for batch in range(4):
                if epoch == raise_at:
                    raise ZeroDivisionError
                run.on_train_batch_begin(batch)
                loss = np.array(1.0 / (self.params["steps"] + 1))
                # In place: what keeps a reference instead of a copy will show.
                self.params["w"] -= self.state["rate"] * 0.1
                self.params["b"] += 1.0
                self.params["steps"] += 1
                if epoch == explode_at and batch == 3:
                    self.params["w"][1] = np.inf
                if epoch == loss_nan_at:
                    loss = np.array(np.nan)
                self.batches_run += 1
                run.on_train_batch_end(batch, {"loss": loss})
                if run.stop_training:
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
        return [np.array(self.params[name]) for name in ("w", "b", "steps")]

    def rate(self):
        return self.state["rate"]

    def load(self, path):
        from safetensors.numpy import load_file

        tensors = load_file(path)
        return [tensors[name] for name in ("w", "b", "steps")]

    @staticmethod
    def fingerprint(weights):
        return tuple(w.tobytes() for w in weights)

    def file_fingerprint(self, path):
        with open(path, "rb") as file:
            return file.read()


class TestPlainLoop(Behaviours):
    @pytest.fixture
    def rig(self):
        return PlainRig()
