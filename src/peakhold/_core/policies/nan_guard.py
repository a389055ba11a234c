"""Stop when the loss, or a gradient, is not a number any more."""

from __future__ import annotations

from typing import final

from peakhold._core.decisions import Continue, Stop
from peakhold._core.gradient_facts import GradientFacts
from peakhold._core.observation import is_finite

__all__ = ["NaNGuard"]


@final
class NaNGuard:
    """Decides whether a batch ends training. It has no state to keep."""

    def step(self, loss: float | None, gradients: GradientFacts | None = None) -> Stop | Continue:
        """Look at one batch; what is missing says nothing.

        Args:
            loss: Its loss.
            gradients: The facts since training began, where they can be seen.
        """
        if not (loss is None or is_finite(loss)):
            return Stop(f"the loss is {loss}")
        if gradients is None or gradients.finite:
            return Continue("finite")
        step = gradients.first_nonfinite_step
        which = "" if step is None else f" of step {step}"
        return Stop(f"the gradient{which} is not finite")
