"""Numbers in tensors of PyTorch.

A copy is detached: it keeps no graph alive. On a CPU it is made as on a GPU, where reading it would
wait for the whole queue.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from peakhold.run.device_values.refusing import NotOneNumberError
from peakhold.run.device_values.rolls import BLOCK

__all__ = ["TorchRoll", "is_one", "key_of", "plain"]

_SPARE: Final = 8
"""Places for numbers that Ctrl-C has kept from being counted, in a loop that goes on after it."""


def is_one(value: Any) -> bool:
    """Whether it is a tensor of PyTorch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, getattr(torch, "Tensor", ()))


def plain(tensor: Any) -> Any:
    """A tensor that this worker has; of one of several workers, the whole, which all ask for."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def key_of(tensor: Any) -> Any:
    """What the tensors of one roll have in common."""
    return tensor.dtype, tensor.device


class TorchRoll:
    """A tensor, number by number.

    Args:
        tensor: One such as will be taken.
    """

    __slots__ = ("_block", "_count", "_device", "_dtype", "_places")

    def __init__(self, tensor: Any) -> None:
        torch = sys.modules["torch"]
        if tensor.is_complex() or tensor.numel() != 1:
            raise NotOneNumberError
        self._dtype, self._device = tensor.dtype, tensor.device
        with torch.inference_mode(mode=False):  # others could not be written to in another mode
            self._block = torch.empty(BLOCK + _SPARE, dtype=self._dtype, device=self._device)
            self._places = self._block.unbind()
        self._count = 0

    def take(self, tensor: Any) -> TorchRoll | None:
        """See `Roll`."""
        if tensor.dtype is not self._dtype or tensor.device != self._device:
            return None
        if tensor.ndim:
            if tensor.numel() != 1:
                raise NotOneNumberError
            tensor = tensor.reshape(())
        self._places[self._count].copy_(tensor.detach())
        self._count += 1
        return self

    def seal(self) -> _SealedTensor:
        """See `Roll`."""
        sealed = _SealedTensor(self._block[: self._count].clone())
        self._count = 0
        return sealed


class _SealedTensor:
    __slots__ = ("_block",)

    def __init__(self, block: Any) -> None:
        self._block = block

    def is_ready(self) -> bool:
        """See `Sealed`. On a GPU, to copy it is to wait for all that was asked before."""
        return self._block.device.type == "cpu"  # type: ignore[no-any-return]

    def numbers(self) -> list[float]:
        """See `Sealed`."""
        return [float(number) for number in self._block.tolist()]
