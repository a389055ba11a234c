"""End training when the loss, or a gradient, is not a number any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peakhold._core.decisions import Continue, Stop
from peakhold._core.policies.nan_guard import NaNGuard
from peakhold.errors import NonFiniteGradientError, NonFiniteLossError
from peakhold.host.contract import to_number
from peakhold.runtime.callback import Participant

__all__ = ["TerminateOnNaN"]


class TerminateOnNaN(Participant):
    """End training when a batch's loss is NaN or infinite, or its gradients are.

    It reads the loss after every batch, which waits for the device: in `fit` this turns Keras's
    asynchronous dispatch off, as Keras's own does. `ModelCheckpoint` needs no help from it: it
    checks what it is about to write by itself.

    Gradients are looked at where they can be seen: in `fit` those of an optimizer that
    `peakhold.keras.watch_gradients` watches, in loops those of an optimizer of PyTorch, as it gets
    them in `step()`. They explode a batch before the loss does.

    Args:
        raise_error: Whether to raise instead of asking the loop to stop; then no
            `on_train_end` runs. Defaults to `False`.

    Raises:
        NonFiniteLossError: In the batch, if `raise_error`.
        NonFiniteGradientError: The same, where the loss is finite and a gradient is not.

    Example:
        >>> TerminateOnNaN(raise_error=True).on_batch_end(7, {"loss": float("nan")})
        Traceback (most recent call last):
        ...
        peakhold.errors.NonFiniteLossError: NaN or Inf loss encountered at batch 7. ...

    Source:
        `keras.callbacks.TerminateOnNaN` of Keras 3.15.
    """

    def __init__(self, raise_error: bool = False) -> None:
        super().__init__()
        self.raise_error = bool(raise_error)

    def _reset(self) -> None:
        self.host.forget_gradients()

    def on_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Look at the loss and the gradients of a batch."""
        loss = to_number((logs or {}).get("loss"))
        decision, what = NaNGuard().step(loss), "loss"
        facts = self.host.gradient_facts() if isinstance(decision, Continue) else None
        if facts is not None:
            decision, what = NaNGuard().step(loss, facts), "gradient"
        if not isinstance(decision, Stop):
            return
        if self.raise_error and facts is not None:
            raise NonFiniteGradientError.for_batch(batch, facts.first_nonfinite_step, loss)
        if self.raise_error:
            raise NonFiniteLossError(
                f"NaN or Inf loss encountered at batch {batch}. Loss value: {loss}. "
                "Terminating training immediately."
            )
        self.host.say(f"Batch {batch}: Invalid {what}, terminating training")
        self.session.stop(f"{decision.reason} at batch {batch} (TerminateOnNaN)", bad=True)
