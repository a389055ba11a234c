"""Stop when the loss is not a number any more."""

from __future__ import annotations

from typing import final

from peakhold._core.decisions import Continue, Stop
from peakhold._core.observation import is_finite

__all__ = ["NaNGuard"]


@final
class NaNGuard:
    """Decides whether a batch's loss ends training. It has no state to keep."""

    def step(self, loss: float | None) -> Stop | Continue:
        """Look at one loss; a missing one says nothing."""
        if loss is None or is_finite(loss):
            return Continue("finite")
        return Stop(f"the loss is {loss}")
