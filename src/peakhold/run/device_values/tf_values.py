"""Numbers in tensors and variables of TensorFlow.

Nobody writes to a tensor's memory, so it is kept as it is. A variable is read at once, on its
device: its value is a tensor, and the variable is copied where it is written after that.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from peakhold.run.device_values.refusing import NotOneNumberError

__all__ = ["alike", "is_one", "is_ready", "numbers", "pack", "take"]


def is_one(value: Any) -> bool:
    """Whether it is a tensor or a variable of TensorFlow; one without a number yet, too."""
    tf = sys.modules.get("tensorflow")
    return isinstance(value, (getattr(tf, "Tensor", ()), getattr(tf, "Variable", ())))


def take(value: Any) -> Any:
    """The tensor, or the variable's value, if it is of one element."""
    tf = sys.modules["tensorflow"]
    if isinstance(value, tf.Variable):
        value = value.value() if callable(value.value) else value.value
    if not hasattr(value, "numpy"):
        raise NotOneNumberError.symbolic()
    shape = value.shape
    if shape.rank:
        if shape.num_elements() != 1:
            raise NotOneNumberError
        value = tf.reshape(value, ())
    dtype = value.dtype
    if not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
        raise NotOneNumberError
    return value


def alike(copies: Sequence[Any]) -> list[Any]:
    """By copy: its dtype and its device."""
    return [(copy.dtype, copy.device) for copy in copies]


def pack(copies: list[Any]) -> Any:
    """One tensor of them."""
    tf = sys.modules["tensorflow"]
    with tf.device(copies[0].device):
        return tf.raw_ops.Pack(values=copies, axis=0)


def is_ready(block: Any) -> bool:
    """Whether it lies in this process's memory; of another device it is not asked."""
    return "CPU" in block.device


def numbers(block: Any) -> list[float]:
    """Its numbers; waits for the device."""
    return block.numpy().astype(np.float64).tolist()  # type: ignore[no-any-return]
