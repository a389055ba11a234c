"""Callbacks of users' that return what they go on changing, and what a backup must hold of it."""

import collections
import copy
import sys

import ml_dtypes
import numpy as np

from peakhold.store import Reader, drain

Pair = collections.namedtuple("Pair", "first second")


class Changing:
    """Its state is its own live containers and arrays, which it changes in place ever after."""

    def __init__(self):
        super().__init__()
        shared = np.arange(6.0)
        self.state = {
            "array": np.zeros((3, 4), np.float32),
            "row": np.zeros((4, 4))[1],
            "twisted": np.zeros((4, 3), ">i4").T,
            "shared": [shared, {"again": shared}],
            "complex": np.zeros(2, np.complex128),
            "rare": np.zeros(3, ml_dtypes.float8_e3m4),
            "half": np.zeros(3, ml_dtypes.bfloat16),
            "bytes": bytearray(b"abc"),
            "scalar": np.float32(0.5),
            "pair": Pair(np.zeros(2), [np.zeros(2)]),
            "counts": {"epochs": 0, 7: "seven"},
            "seen": [],
        }
        torch = sys.modules.get("torch")
        if torch is not None:
            self.state["torch"] = {
                "tensor": torch.zeros(3),
                "half": torch.zeros((2, 2), dtype=torch.bfloat16).T,
                "weight": torch.nn.Parameter(torch.zeros(2)),
            }
        self.asked = []

    def on_epoch_end(self, epoch, logs=None):
        self.change(epoch + 1)

    def change(self, number):
        state = self.state
        for array in (*(one for one in state.values() if isinstance(one, np.ndarray)),
                      state["shared"][0], state["pair"].first, state["pair"].second[0]):  # fmt: skip
            array[...] = number
        for tensor in state.get("torch", {}).values():
            tensor.data.fill_(number)
        state["bytes"][:] = b"x" * (number % 100)
        state["counts"]["epochs"] = number
        state["seen"].append(number)

    def state_dict(self):
        self.asked.append(copy.deepcopy(self.state))
        return self.state

    def load_state_dict(self, state):
        self.loaded = state


def comparable(tree):
    """Any of this as plain lists and numbers."""
    if isinstance(tree, dict):
        return {str(key): comparable(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [comparable(value) for value in tree]
    if hasattr(tree, "detach"):
        tree = tree.detach().float().numpy()
    if isinstance(tree, bytearray):
        tree = np.frombuffer(bytes(tree), np.uint8)
    if isinstance(tree, (np.ndarray, np.generic)):
        return [str(tree.shape), np.asarray(tree, np.complex128).tolist()]
    return tree


def newest(folder):
    """The newest backup, every byte of it verified."""
    drain()
    reader = Reader(folder)
    assert [finding.damage for finding in reader.verify()] == [()] * len(reader.list())
    return reader.load("latest", if_damaged="error")["train_state"]
