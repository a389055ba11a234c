"""Lower the learning rate when a metric has stopped improving."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from peakhold._core.arguments import check_count, check_number, check_verbose
from peakhold._core.decisions import SetLearningRate
from peakhold._core.monitor import Relative
from peakhold._core.numbers import numbers_from_json, numbers_to_json
from peakhold._core.observation import Observation
from peakhold._core.patience import Epochs, Patience, Seconds, Steps, check_patience
from peakhold._core.policies.plateau import PlateauPolicy, PlateauState
from peakhold.advice import Facts, Plateau
from peakhold.errors import AdviceWarning
from peakhold.host.contract import rate_key
from peakhold.runtime.monitored import Monitored, View
from peakhold.runtime.training_clock import TrainingClock

__all__ = ["ReduceLROnPlateau"]


class ReduceLROnPlateau(Monitored):
    """Lower the learning rate when a metric has stopped improving.

    Every epoch's logs get `learning_rate`, the rate that epoch was trained with (with several
    optimizers, `learning_rate_<name>` for each).

    Args:
        monitor: Name of the metric. Defaults to `"val_loss"`.
        factor: New rate = old rate * `factor`; at least 0 and below 1. Defaults to `0.1`.
        patience: Epochs without improvement before a cut; or `Steps(n)`, or `Seconds(s)` of
            training. Defaults to `10`.
        verbose: 0 is silent, 1 says each cut. Defaults to `0`.
        mode: `"min"`, `"max"` or `"auto"`. Defaults to `"auto"`.
        min_delta: Smallest change that counts, in the metric's unit, or `Relative(0.01)` for one
            percent of the best. Defaults to `1e-4`.
        cooldown: Epochs after a cut in which nothing is counted. Defaults to `0`.
        min_lr: No rate goes below it. Defaults to `0.0`.
        kwargs: Ignored, as in Keras, and named in a warning.

    Raises:
        InvalidArgumentError: For `factor=1`, a negative `patience`, ….
        LearningRateScheduleError: On train begin, if a schedule owns the rate.

    Example:
        >>> class Optimizer:
        ...     learning_rate = 0.1
        >>> class Model:
        ...     optimizer = Optimizer()
        >>> plateau = ReduceLROnPlateau("loss", factor=0.5, patience=1)
        >>> plateau.set_model(Model())
        >>> for epoch, loss in enumerate((0.5, 0.5)):
        ...     plateau.on_epoch_end(epoch, {"loss": loss})
        >>> plateau.model.optimizer.learning_rate
        0.05

    Source:
        `keras.callbacks.ReduceLROnPlateau` of Keras 3.15.
    """

    logs_learning_rate = True

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int | Epochs | Steps | Seconds = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float | Relative = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.factor = check_number(
            "factor",
            factor,
            "a number of at least 0 and below 1",
            at_least=0.0,
            below=1.0,
            hint="ReduceLROnPlateau does not support a factor >= 1.0; factor=0.5 halves the rate.",
        )
        self.patience: Patience = check_patience(
            "patience", patience, hint="pass a number of epochs."
        )
        self.verbose = check_verbose(verbose)
        self.cooldown = check_count("cooldown", cooldown, hint="pass a number of epochs.")
        self.min_lr = check_number("min_lr", min_lr, "a number of at least 0", at_least=0.0)
        self._ignored = dict(kwargs)
        self._clock = TrainingClock()
        self._state = PlateauState()
        self._loaded = False
        self._continued: PlateauState | None = None

    best = View[float | None]("Best value so far.")
    wait = View[int]("Epochs without improvement so far.")
    cooldown_counter = View[int]("Epochs still to sit out.")

    def in_cooldown(self) -> bool:
        """Whether epochs are being sat out after a cut."""
        return self.cooldown_counter > 0

    # Handlers

    def _reset(self) -> None:
        super()._reset()
        self._clock = TrainingClock()
        if self._loaded:
            self._loaded = False
            return
        self._continued = self._state
        self._state = PlateauState()

    def _check(self) -> None:
        super()._check()
        self.host.check_rates_settable(self._name)
        if self._ignored:
            names = ", ".join(f"{key}={value!r}" for key, value in self._ignored.items())
            self._warn_once(
                f"{self._name} knows no {names} and ignores it; did you mean min_delta, patience, "
                "cooldown or min_lr?",
                AdviceWarning,
            )

    def _epoch_begin(self, epoch: int) -> None:
        if self.session.start_epoch == epoch:
            self._clock.start(self.session, self.patience)
        if epoch > 0 and self._continued is not None:
            self._state = self._continued
        self._continued = None

    def _measure(self, epoch: int, logs: dict[str, Any]) -> None:
        for name, rate in self.host.learning_rates().items():
            logs[rate_key(name)] = rate

    def _act(self, epoch: int, logs: dict[str, Any]) -> None:
        value = self._value(epoch, logs)
        spent = self._clock.lap(self.session, self.patience, self._name)
        if value is None:
            error = self._missed(logs)
            if error is not None:
                raise error
            if spent:
                self._state = replace(self._state, waited=self._state.waited + spent)
            return
        policy = PlateauPolicy(
            self._criterion, self.factor, self.patience, self.cooldown, self.min_lr
        )
        self._state, decisions = policy.step(
            self._state, Observation(epoch, value), self.host.learning_rates(), spent
        )
        for decision in decisions:
            if isinstance(decision, SetLearningRate):
                self.host.set_learning_rate(decision.name, decision.value)
                if self.verbose:
                    of = f" {decision.name}" if decision.name else ""
                    self.host.say(
                        f"\nEpoch {epoch + 1}: ReduceLROnPlateau reducing{of} learning rate to "
                        f"{decision.value}."
                    )

    def _missing_message(self, logs: Mapping[str, Any]) -> str:
        return (
            f"Learning rate reduction is conditioned on metric `{self.monitor}` which is not "
            f"available. Available metrics are: {','.join(logs)}."
        )

    def _tell(self, facts: Facts) -> Facts:
        plateau = Plateau(self.monitor, self.mode, self.patience)
        return replace(facts, plateaus=(*facts.plateaus, plateau))

    # State

    def state_dict(self) -> dict[str, Any]:
        """Counters as plain JSON."""
        state = numbers_to_json(asdict(self._state))
        if not self._state.waited:
            del state["waited"]
        return {**self._header(), "state": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; counts for the next run.

        Raises:
            InvalidArgumentError: If the state is of another class or another monitor.
        """
        self._check_header(state)
        self._state, self._loaded = PlateauState(**numbers_from_json(state["state"])), True
