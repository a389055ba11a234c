"""Numbers in tensors and variables of TensorFlow.

Nobody writes to a tensor's memory, so it is kept as it is until its block is full: a copy would
cost several times as much. A variable is read at once, on its device: its value is a tensor, and
the variable is copied where it is written after that.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from peakhold.run.device_values.refusing import NotOneNumberError

__all__ = ["TfRoll", "is_one", "key_of", "plain"]


def is_one(value: Any) -> bool:
    """Whether it is a tensor or a variable of TensorFlow; one without a number yet, too."""
    tf = sys.modules.get("tensorflow")
    return isinstance(value, (getattr(tf, "Tensor", ()), getattr(tf, "Variable", ())))


def plain(value: Any) -> Any:
    """The tensor, or the variable's value."""
    if isinstance(value, sys.modules["tensorflow"].Variable):
        value = value.value() if callable(value.value) else value.value
    if not hasattr(value, "numpy"):
        raise NotOneNumberError.symbolic()
    dtype = value.dtype
    if not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
        raise NotOneNumberError
    return value


def key_of(tensor: Any) -> Any:
    """What the tensors of one roll have in common."""
    return tensor.dtype, tensor.device


class TfRoll:
    """Tensors, until they are put together.

    Args:
        tensor: One such as will be taken.
    """

    __slots__ = ("_device", "_dtype", "_tensors")

    def __init__(self, tensor: Any) -> None:
        self._dtype, self._device = tensor.dtype, tensor.device
        self._tensors: list[Any] = []

    def take(self, tensor: Any) -> TfRoll | None:
        """See `Roll`."""
        if tensor.dtype is not self._dtype or tensor.device != self._device:
            return None
        if tensor.shape.rank:
            if tensor.shape.num_elements() != 1:
                raise NotOneNumberError
            tensor = sys.modules["tensorflow"].reshape(tensor, ())
        self._tensors.append(tensor)
        return self

    def seal(self) -> _SealedTensors:
        """See `Roll`."""
        tf = sys.modules["tensorflow"]
        with tf.device(self._device):
            block = tf.raw_ops.Pack(values=self._tensors, axis=0)
        self._tensors = []
        return _SealedTensors(block)


class _SealedTensors:
    __slots__ = ("_block",)

    def __init__(self, block: Any) -> None:
        self._block = block

    def is_ready(self) -> bool:
        """See `Sealed`. Of a GPU it cannot be known."""
        return "CPU" in self._block.device

    def numbers(self) -> list[float]:
        """See `Sealed`."""
        return self._block.numpy().astype(np.float64).tolist()  # type: ignore[no-any-return]
