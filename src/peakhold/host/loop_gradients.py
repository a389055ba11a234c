"""Gradients in loops that people write.

PyTorch's optimizers call who asks for it before each step; elsewhere the loop hands its gradients
over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from peakhold.host.gradients import GradientFacts, GradientTally, norm_of, norm_of_tensors
from peakhold.host.models import Models
from peakhold.host.optimizers import Optimizers
from peakhold.host.step_hooks import step_hook

__all__ = ["LoopGradients"]


class LoopGradients:
    """What a loop's host knows of gradients.

    Args:
        models: The models of the loop, whose parameters' names are used.
        optimizers: Theirs; those of PyTorch are looked into.
        given: A function of the loop's own that returns names and arrays, instead.
    """

    def __init__(
        self,
        models: Models,
        optimizers: Optimizers,
        given: Callable[[], Iterable[tuple[str, Any]]] | None = None,
    ) -> None:
        self._models, self._optimizers, self._given = models, optimizers, given
        self._tally = GradientTally()
        self._watches = False

    @property
    def seen(self) -> bool:
        """Whether there is a place to see gradients."""
        return self._given is not None or self._optimizers.tell_of_steps

    def facts(self) -> GradientFacts | None:
        """See `Host.gradient_facts`."""
        if self._watches:
            return self._tally.facts()
        if not self.seen:
            return None
        if self._given is not None:
            norm = norm_of(array for _, array in self._given())
            if norm is not None:
                self._tally.add(norm)
        else:
            self._watch()
        return self._tally.facts()

    def forget(self) -> None:
        """See `Host.forget_gradients`; the first time, it begins to watch."""
        self._tally.forget()
        if self.seen and self._given is None:
            self._watch()

    def arrays(self) -> Iterable[tuple[str, Any]] | None:
        """Names and arrays or tensors; None where there is no place to see them."""
        if self._given is not None:
            return self._given()
        if not self.seen:
            return None
        return ((name, p.grad) for name, p in self._parameters() if p.grad is not None)

    def _parameters(self) -> Iterator[tuple[str, Any]]:
        return self._models.parameters() or self._optimizers.parameters()

    def _watch(self) -> None:
        if self._watches:
            return
        self._watches = True
        for optimizer in self._optimizers:
            hook = step_hook(optimizer)
            if hook is not None:
                hook.watchers.add(self)

    def before_step(self, optimizer: Any) -> None:
        """Note the norm of the gradients that a step is made with."""
        norm = norm_of_tensors(p.grad for group in optimizer.param_groups for p in group["params"])
        if norm is None:
            return
        # A `GradScaler` leaves unscaling, and passing over what overflowed, to fused optimizers.
        scale = getattr(optimizer, "grad_scale", None)
        if scale is not None:
            norm = norm / scale.to(norm.device)
        overflowed = getattr(optimizer, "found_inf", None)
        if overflowed is not None:
            norm = norm.masked_fill(overflowed.to(norm.device).bool(), 0.0)
        # PyTorch's optimizers do not count; each step of theirs that has gradients is a norm here.
        self._tally.add(norm, self._tally.n_norms)
