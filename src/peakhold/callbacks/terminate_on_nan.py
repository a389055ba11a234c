"""End training when the loss, or a gradient, is not a number any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from peakhold._core.decisions import Decision, Stop
from peakhold._core.gradient_facts import GradientFacts
from peakhold._core.moments import Answer, Moment
from peakhold._core.observation import Event, is_finite
from peakhold._core.policies.nan_guard import NaNGuard, NaNGuardState
from peakhold.errors import NonFiniteGradientError, NonFiniteLossError
from peakhold.host.contract import to_number
from peakhold.runtime.dispatch import report
from peakhold.runtime.participant import NOTHING, Deciding, Measured, Needs
from peakhold.runtime.participating import Participating, Setting
from peakhold.runtime.run_view import RunView

__all__ = ["TerminateOnNaN"]


class TerminateOnNaN(Participating):
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
        guard = _Guarding(NaNGuard())
        guard.raise_error = bool(raise_error)
        super().__init__(guard)

    raise_error = Setting[bool]("Whether to raise instead of asking the loop to stop.")

    def on_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Look at the loss and the gradients of a batch."""
        report(self, Event.TRAIN_BATCH_END, batch, logs)


@final
class _Guarding(Deciding[NaNGuardState]):
    """Asks for the gradients, where the loss says nothing, and ends training."""

    reads_steps = False
    raise_error = False
    _facts: GradientFacts | None = None

    def needs(self, run: RunView) -> Needs:
        """Gradients of an earlier run are nobody's."""
        run.host.forget_gradients()
        return super().needs(run)

    def passes(self, event: Event, batch: int, logs: dict[str, Any]) -> bool:
        """A batch whose loss and gradients are finite is no moment."""
        raw = logs.get("loss")
        loss = None if raw is None else to_number(raw)
        if not (loss is None or is_finite(loss)):
            return False
        facts = self.run.host.gradient_facts()
        return facts is None or facts.finite

    def measure(self, moment: Moment, logs: dict[str, Any]) -> Measured:
        """Ask the device for its gradients, unless the loss tells already."""
        loss, self._facts = moment.metrics.get("loss"), None
        if moment.event is not Event.TRAIN_BATCH_END or not (loss is None or is_finite(loss)):
            return NOTHING
        facts = self._facts = self.run.host.gradient_facts()
        if facts is None:
            return NOTHING
        answers: dict[str, Answer] = {"gradients_finite": facts.finite}
        if facts.first_nonfinite_step is not None:
            answers["first_nonfinite_step"] = facts.first_nonfinite_step
        return Measured(answers=answers)

    def apply(self, decision: Decision, moment: Moment, logs: dict[str, Any]) -> None:
        """Stop, or raise.

        Raises:
            NonFiniteLossError: If that was asked for.
            NonFiniteGradientError: The same, where the loss is finite.
        """
        if not isinstance(decision, Stop):
            return
        batch, loss, facts = moment.at.batch or 0, moment.metrics.get("loss"), self._facts
        if self.raise_error and facts is not None:
            raise NonFiniteGradientError.for_batch(batch, facts.first_nonfinite_step, loss)
        if self.raise_error:
            raise NonFiniteLossError(
                f"NaN or Inf loss encountered at batch {batch}. Loss value: {loss}. "
                "Terminating training immediately."
            )
        what = "loss" if facts is None else "gradient"
        self.run.say(f"Batch {batch}: Invalid {what}, terminating training")
        self.run.stop(f"{decision.reason} at batch {batch} (TerminateOnNaN)", bad=True)

    def state_dict(self) -> dict[str, Any]:
        """It has none."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned: nothing."""
        if state:
            super().load_state_dict(state)
