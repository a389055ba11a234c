"""Every behaviour on a loop without any framework: a dict of NumPy arrays."""

import itertools

import numpy as np
import pytest
from safetensors.numpy import load_file

import peakhold
from behaviours import Behaviours
from loop_rig import LoopRig


class PlainRig(LoopRig):
    """Gradient descent on a line, by hand."""

    first_rate = 0.5
    orders = tuple(itertools.permutations(range(4)))

    def rebuild(self):
        self.params = {"w": np.zeros(3), "b": np.zeros(()), "steps": np.zeros((), "int64")}
        self.state = {"rate": self.first_rate}

    def prepare(self, callbacks, **params):
        host = peakhold.LoopHost(
            get_state=lambda: self.params,
            set_state=self.params.update,
            get_learning_rate=self.rate,
            set_learning_rate=self.set_rate,
        )
        return peakhold.CallbackList(callbacks, host=host, **params)

    def step(self, batch):
        loss = np.array(1.0 / (self.params["steps"] + 1))
        # In place: what keeps a reference instead of a copy will show.
        self.params["w"] -= self.state["rate"] * 0.1
        self.params["b"] += 1.0
        self.params["steps"] += 1
        return loss

    def explode(self):
        self.params["w"][1] = np.inf

    def weights(self):
        return [np.array(self.params[name]) for name in ("w", "b", "steps")]

    def rate(self):
        return self.state["rate"]

    def set_rate(self, rate):
        self.state["rate"] = rate

    def load(self, path):
        tensors = load_file(path)
        return [tensors[name] for name in ("w", "b", "steps")]


class TestPlainLoop(Behaviours):
    @pytest.fixture
    def rig(self):
        return PlainRig()
