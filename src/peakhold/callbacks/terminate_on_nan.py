"""End training when the loss is not a number any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peakhold._core.decisions import Stop
from peakhold._core.policies.nan_guard import NaNGuard
from peakhold.errors import NonFiniteLossError
from peakhold.host import to_number
from peakhold.runtime.callback import Participant

__all__ = ["TerminateOnNaN"]


class TerminateOnNaN(Participant):
    """End training when a batch's loss is NaN or infinite.

    It reads the loss after every batch, which waits for the device: in `fit` this turns Keras's
    asynchronous dispatch off, as Keras's own does. `ModelCheckpoint` needs no help from it: it
    checks what it is about to write by itself.

    Args:
        raise_error: Whether to raise instead of asking the loop to stop; then no
            `on_train_end` runs. Defaults to `False`.

    Raises:
        NonFiniteLossError: In the batch, if `raise_error`.

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

    def on_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Look at the loss of a batch."""
        loss = to_number((logs or {}).get("loss"))
        decision = NaNGuard().step(loss)
        if not isinstance(decision, Stop):
            return
        if self.raise_error:
            raise NonFiniteLossError(
                f"NaN or Inf loss encountered at batch {batch}. Loss value: {loss}. "
                "Terminating training immediately."
            )
        self.host.say(f"Batch {batch}: Invalid loss, terminating training")
        self.session.stop(f"{decision.reason} at batch {batch} (TerminateOnNaN)", bad=True)
