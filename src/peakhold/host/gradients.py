"""Norms of gradients, batch by batch.

Rules of this file:

1. Nobody waits for a device while norms come in; only whoever asks for the facts does.
2. The norm is that of all gradients together (L2), in float32. "Not finite" means this norm: of a
   gradient that holds NaN or infinity, or whose squares overflow (a norm above 1.8e19).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any, final

from peakhold._core.gradient_facts import GRADIENT_NORM, GradientFacts

__all__ = ["GRADIENT_NORM", "GradientFacts", "GradientTally", "norm_of", "norm_of_tensors"]

_MOST_PENDING = 1024  # norms on a device, 4 bytes each, before they are fetched unasked


@final
class GradientTally:
    """Norms as they come, numbers or tensors; what they amount to when somebody asks.

    Example:
        >>> tally = GradientTally()
        >>> for step, norm in enumerate((0.5, 3.0, 1.0)):
        ...     tally.add(norm, step)
        >>> tally.facts().largest_step
        2
    """

    def __init__(self) -> None:
        self.n_norms = 0
        """Norms that have come in, forgotten ones included."""
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._facts = GradientFacts()
        self._pending: list[Any] = []
        self._before: Any = None
        self._n_forgotten = self.n_norms

    def add(self, norm: Any, before: Any = None) -> None:
        """Note one batch.

        Args:
            norm: Its norm, a number or a 0-d tensor of PyTorch, which is kept unread.
            before: Steps before this batch, a number or a tensor; None if nobody counts. Only that
                of the first batch is looked at: what is put back later moves no step.
        """
        if self._before is None and before is not None:
            self._before = before.detach().clone() if hasattr(before, "detach") else before
        self._pending.append(norm)
        self.n_norms += 1
        if len(self._pending) == _MOST_PENDING:
            self._fetch()

    def facts(self) -> GradientFacts:
        """What all batches amount to; waits for the device."""
        self._fetch()
        return self._facts

    def _fetch(self) -> None:
        pending, self._pending = self._pending, []
        first = self.n_norms - len(pending) - self._n_forgotten + 1
        for number, norm in enumerate(_numbers(pending), first):
            step = None if self._before is None else int(self._before) + number
            self._facts = self._facts.after(norm, step)


def _numbers(norms: list[Any]) -> list[float]:
    if len(norms) > 1 and hasattr(norms[0], "detach"):
        return [float(norm) for norm in sys.modules["torch"].stack(norms).tolist()]
    return [float(norm) for norm in norms]


def norm_of_tensors(gradients: Iterable[Any]) -> Any:
    """The norm of tensors of PyTorch, as a 0-d tensor on their device; None without any.

    Args:
        gradients: Tensors, sparse ones included; None is passed over.
    """
    torch = sys.modules["torch"]
    with torch.no_grad():
        tensors = [_dense(gradient) for gradient in gradients if gradient is not None]
        if not tensors:
            return None
        total_norm = getattr(torch.nn.utils, "get_total_norm", None)
        if total_norm is not None:  # fused, from PyTorch 2.6 on
            return total_norm(tensors)
        norms = [torch.linalg.vector_norm(tensor) for tensor in tensors]
        return torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms]))


def _dense(gradient: Any) -> Any:
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    # The norm of float16 would be a float16, which ends at 65504.
    return values if values.element_size() >= 4 else values.float()


def norm_of(arrays: Iterable[Any]) -> float | None:
    """The norm of arrays of NumPy; None without any."""
    import numpy as np

    squares: list[float] = []
    for array in arrays:
        flat = np.asarray(array).astype(np.float64, copy=False).ravel()
        with np.errstate(all="ignore"):
            squares.append(float(np.dot(flat, flat)))
    return math.sqrt(sum(squares)) if squares else None
