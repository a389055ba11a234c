"""Every behaviour on a loop of PyTorch: a module with BatchNorm, and its optimizer."""

import itertools

import pytest
import torch
from safetensors.torch import load_file

import peakhold
from behaviours import Behaviours
from loop_rig import LoopRig


class TorchRig(LoopRig):
    """Real training of a small net."""

    first_rate = 0.05
    orders = tuple(itertools.permutations(range(4)))

    def rebuild(self):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1)
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=self.first_rate, momentum=0.9)
        self.x = torch.randn(32, 3)
        self.y = self.x.sum(1, keepdim=True)

    def prepare(self, callbacks, **params):
        return peakhold.CallbackList(callbacks, self.model, optimizer=self.optimizer, **params)

    def step(self, batch):
        rows = slice(8 * batch, 8 * batch + 8)
        self.optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(self.model(self.x[rows]), self.y[rows])
        loss.backward()
        self.optimizer.step()
        return loss

    def explode(self):
        with torch.no_grad():
            self.model[0].weight[0, 0] = float("inf")

    def weights(self):
        return [t.numpy().copy() for t in self.model.state_dict().values()]

    def rate(self):
        return self.optimizer.param_groups[0]["lr"]

    def set_rate(self, rate):
        self.optimizer.param_groups[0]["lr"] = rate

    def load(self, path):
        tensors = load_file(path)
        return [tensors[name].numpy() for name in self.model.state_dict()]


class TestTorchLoop(Behaviours):
    @pytest.fixture
    def rig(self):
        return TorchRig()
