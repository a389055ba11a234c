"""How many samples a batch has, where that can be seen."""

from collections import UserDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from peakhold.run.batch_size import batch_size


@dataclass
class Record:
    name: str
    x: object


Pair = namedtuple("Pair", "x y")
x = np.zeros((32, 3))


class NoShape:
    @property
    def shape(self):
        raise RuntimeError("not known yet")


BATCHES = {
    "an array": (x, 32),
    "a tensor": (torch.zeros(7, 2), 7),
    "a tuple": ((x, np.zeros(32)), 32),
    "a list": ([torch.zeros(5), 1], 5),
    "a named tuple": (Pair(x, None), 32),
    "a dict": ({"id": "a", "x": x}, 32),
    "another mapping": (UserDict(x=x), 32),
    "a record": (Record("a", x), 32),
    "nested": ([{"scale": 2.0, "inputs": (None, {"a": x})}, np.zeros(4)], 32),
    "no samples": (np.zeros((0, 3)), 0),
    "after a number": ((np.float32(1), torch.tensor(2), x), 32),
    "texts and labels": ((["a"] * 4, torch.zeros(4)), 4),
    "of several lengths": (
        torch.nn.utils.rnn.pack_sequence([torch.zeros(5, 2), torch.zeros(3, 2)]),
        2,
    ),
    "nested tensor": (torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(4, 3)]), 2),
    "texts": (["a", "b"], None),
    "one number": (3.0, None),
    "nothing": (None, None),
    "empty": ((), None),
    "without dimensions": (np.array(3.0), None),
    "another thing's shape": (type("Circle", (), {"shape": "round"})(), None),
    "a shape that raises": (NoShape(), None),
    "a class": (Record, None),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_the_size_of_a_batch(kind):
    batch, size = BATCHES[kind]

    assert batch_size(batch) == size


def test_a_batch_in_a_circle_has_no_size():
    batch = []
    batch.append(batch)

    assert batch_size(batch) is None


def test_of_many_texts_only_some_are_looked_at():
    looked_at = []

    class Text(str):  # noqa: SLOT000
        @property
        def shape(self):
            looked_at.append(self)
            return ()

    batch_size([Text("a") for _ in range(10_000)])

    assert 0 < len(looked_at) <= 2 * 64  # what a class is may be found out by a look, too
