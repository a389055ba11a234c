"""How many samples a batch has, where that can be seen."""

from __future__ import annotations

import operator
import sys
from typing import Any, Final

from peakhold.trees import is_container, kind_of, members

__all__ = ["batch_size"]

_LOOKED_AT: Final = 64
"""So many things in a batch: one of many texts is not gone through at every step."""


def batch_size(batch: Any) -> int | None:
    """The leading dimension of the first array in a batch; None if it has none.

    Args:
        batch: An array or tensor, or tuples, lists, dicts and dataclasses of them. Numbers, texts
            and arrays without dimensions are passed over. PyTorch's `PackedSequence` has as many
            samples as it has sequences.

    Example:
        >>> import numpy
        >>> batch_size({"id": "a", "image": numpy.zeros((32, 28, 28)), "label": numpy.zeros(32)})
        32
        >>> batch_size(["a", "b"]) is None
        True
    """
    waiting, looked_at = [batch], 0
    while waiting and looked_at < _LOOKED_AT:
        one = waiting.pop()
        looked_at += 1
        if _goes_on(one):
            if _is_packed(one):
                return int(one.batch_sizes[0])
            _, children = members(one, kind_of(one))
            waiting.extend(reversed(children[:_LOOKED_AT]))
        else:
            size = _leading(one)
            if size is not None:
                return size
    return None


def _goes_on(one: Any) -> bool:
    """Whether there is something in it; of a thing that breaks when it is looked at, nothing."""
    try:
        return is_container(one)
    except Exception:
        return False


def _is_packed(one: Any) -> bool:
    """Whether it is PyTorch's sequences of several lengths, whose array has all their steps."""
    if not isinstance(one, tuple) or not hasattr(one, "batch_sizes"):
        return False
    kind = getattr(sys.modules.get("torch.nn.utils.rnn"), "PackedSequence", ())
    return isinstance(one, kind)


def _leading(one: Any) -> int | None:
    """The first dimension; None for what is no array, or has none, or none that is known."""
    try:
        shape: Any = getattr(one, "shape", ())
        return operator.index(shape[0]) if len(shape) else None
    except TypeError:  # of another thing than arrays; of TensorFlow's, not known
        return None
    except (ValueError, RuntimeError):  # TensorFlow's of no known rank; PyTorch's nested tensors
        return operator.index(one.size(0)) if getattr(one, "is_nested", False) else None
