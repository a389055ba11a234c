"""Numbers in tensors of PyTorch.

A copy is detached: it keeps no graph alive. On a CPU it is made as on a GPU, where reading it would
wait for the whole queue.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from peakhold.run.device_values.refusing import NotOneNumberError

__all__ = ["alike", "is_one", "is_ready", "numbers", "pack", "take"]


def is_one(value: Any) -> bool:
    """Whether it is a tensor of PyTorch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, getattr(torch, "Tensor", ()))


def take(tensor: Any) -> Any:
    """A copy of a tensor with one element."""
    if tensor.ndim or tensor.is_complex():
        tensor = _one_element(tensor)
    copy = tensor.detach().clone()
    # A tensor of several workers: its whole, which each of them has or takes part in making.
    return copy.full_tensor() if hasattr(copy, "full_tensor") else copy


def _one_element(tensor: Any) -> Any:
    if tensor.numel() != 1 or tensor.is_complex():
        raise NotOneNumberError
    return tensor.reshape(())


def alike(copies: Sequence[Any]) -> list[Any]:
    """By copy: its dtype and its device."""
    return [(copy.dtype, copy.device) for copy in copies]


def pack(copies: list[Any]) -> Any:
    """One tensor of them."""
    return sys.modules["torch"].stack(copies)


def is_ready(block: Any) -> bool:
    """Whether it lies in this process's memory; of another device it is not asked."""
    return block.device.type == "cpu"  # type: ignore[no-any-return]


def numbers(block: Any) -> list[float]:
    """Its numbers; waits for the device."""
    return [float(number) for number in block.tolist()]
