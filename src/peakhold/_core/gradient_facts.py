"""What several batches' gradient norms amount to.

The largest of several norms is infinite if one was NaN: an explosion is no smaller for having no
number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from peakhold._core.observation import is_finite

__all__ = ["GRADIENT_NORM", "GradientFacts"]

GRADIENT_NORM = "gradient_norm"
"""The name of the largest norm of an epoch, where metrics are named."""


@final
@dataclass(frozen=True, slots=True)
class GradientFacts:
    """What a host knows of the gradients since it was last told to forget.

    Steps count the batches that the optimizer has seen, from 1, in all runs. Where gradients are
    not accumulated, that is the step that TensorBoard shows for the batch.

    Attributes:
        norm: L2 norm of all gradients of the last batch; None before the first.
        largest: The largest norm; infinite if one was not finite.
        largest_step: The first step that had it; None where nobody counts steps.
        n_nonfinite: Batches whose norm was not finite.
        first_nonfinite_step: The first of them.

    Example:
        >>> facts = GradientFacts()
        >>> for step, norm in enumerate((0.5, 3.0, float("nan"), 1.0), start=1):
        ...     facts = facts.after(norm, step)
        >>> facts.norm, facts.largest, facts.largest_step, facts.n_nonfinite
        (1.0, inf, 3, 1)
    """

    norm: float | None = None
    largest: float | None = None
    largest_step: int | None = None
    n_nonfinite: int = 0
    first_nonfinite_step: int | None = None

    @property
    def finite(self) -> bool:
        """Whether all norms were."""
        return not self.n_nonfinite

    def after(self, norm: float, step: int | None) -> GradientFacts:
        """The facts with one batch more."""
        finite = is_finite(norm)
        size = norm if finite else math.inf
        larger = self.largest is None or size > self.largest
        return GradientFacts(
            norm=norm,
            largest=size if larger else self.largest,
            largest_step=step if larger else self.largest_step,
            n_nonfinite=self.n_nonfinite + (not finite),
            first_nonfinite_step=(
                self.first_nonfinite_step if finite or self.n_nonfinite else step
            ),
        )
