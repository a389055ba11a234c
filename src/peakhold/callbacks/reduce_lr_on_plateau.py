"""Lower the learning rate when a metric has stopped improving."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, final

from peakhold._core.arguments import check_number, check_verbose, check_wait
from peakhold._core.decisions import Decision, SetLearningRate
from peakhold._core.moments import Answer, Moment
from peakhold._core.monitor import Relative, Watched
from peakhold._core.observation import Event, is_finite
from peakhold._core.patience import Epochs, Seconds, Steps, check_patience
from peakhold._core.policies.plateau import PlateauPolicy, PlateauState
from peakhold._core.states import moved
from peakhold.advice import Plateau, RunSettings
from peakhold.errors import AdviceWarning
from peakhold.host.contract import rate_key
from peakhold.runtime.comparing import Comparing
from peakhold.runtime.participant import NOTHING, Measured, Needs
from peakhold.runtime.participating import Setting, View
from peakhold.runtime.run_view import RunView
from peakhold.runtime.watching import Waiting, Watch

__all__ = ["ReduceLROnPlateau"]


class ReduceLROnPlateau(Comparing):
    """Lower the learning rate when a metric has stopped improving.

    Every epoch's logs get `learning_rate`, the rate that epoch was trained with (with several
    optimizers, `learning_rate_<name>` for each). The rates of all optimizers are lowered.

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
        name = type(self).__name__
        lowering = _Lowering(name, Watch(name, monitor, mode, min_delta))
        lowering.factor = check_number(
            "factor",
            factor,
            "a number of at least 0 and below 1",
            at_least=0.0,
            below=1.0,
            hint="ReduceLROnPlateau does not support a factor >= 1.0; factor=0.5 halves the rate.",
        )
        lowering.patience = check_patience("patience", patience, hint="pass a number of epochs.")
        lowering.verbose = check_verbose(verbose)
        lowering.cooldown = check_wait("cooldown", cooldown, hint="pass a number of epochs.")
        lowering.min_lr = check_number("min_lr", min_lr, "a number of at least 0", at_least=0.0)
        lowering.ignored = dict(kwargs)
        super().__init__(lowering)

    monitor = Setting[str]("Name of the metric.")
    mode = Setting[str]("`min`, `max` or `auto`.")
    min_delta = Setting[Any]("Smallest change that counts.")
    factor = Setting[float]("New rate = old rate * `factor`.")
    patience = Setting[Any]("Epochs, steps or seconds without improvement before a cut.")
    cooldown = Setting[int]("Epochs after a cut in which nothing is counted.")
    min_lr = Setting[float]("No rate goes below it.")
    verbose = Setting[int]("0 is silent, 1 says each cut.")
    best = View[float | None]("Best value so far.")
    wait = View[int]("Epochs without improvement so far.")
    cooldown_counter = View[int]("Epochs of the cooldown that are left.")

    def in_cooldown(self) -> bool:
        """Whether epochs are being sat out after a cut."""
        return self.cooldown_counter > 0

    def _reset(self) -> None:
        """Forget the best, the wait and the cooldown, as Keras's class does when training begins.

        For code that calls it, to begin anew in mid-run.
        """
        lowering: Any = self._peakhold_link.participant
        lowering.set_state(lowering.policy.anew(lowering.state))


@final
class _Lowering(Waiting[PlateauState]):
    """Lowers rates when its policy says so."""

    logs_learning_rate = True
    factor = 0.1
    _patience = 10
    cooldown: float = 0
    min_lr = 0.0
    verbose = 0

    def __init__(self, name: str, watch: Watch) -> None:
        self._settings: tuple[Any, ...] = ()
        """What the policy at hand was made of."""
        self._made: PlateauPolicy | None = None
        super().__init__(name, [watch])
        self.ignored: Mapping[str, Any] = {}

    @property
    def policy(self) -> PlateauPolicy:
        """With the settings as they are now; made anew when one of them is another."""
        watch = self.watches[0]
        numbers = (self.factor, self._patience, self.cooldown, self.min_lr)
        settings = (watch.monitor, watch.direction, watch.min_delta, *numbers)
        made = self._made
        if made is None or settings != self._settings:
            made = PlateauPolicy(Watched(watch.monitor, watch.criterion), *numbers)
            self._settings, self._made = settings, made
        return made

    def needs(self, run: RunView) -> Needs:
        """Begin anew; a rate that cannot be set, or an argument that is ignored, is said now."""
        super().needs(run)
        run.host.check_rates_settable(self.name)
        if self.ignored:
            names = ", ".join(f"{key}={value!r}" for key, value in self.ignored.items())
            self.warn_once(
                f"{self.name} knows no {names} and ignores it; did you mean min_delta, patience, "
                "cooldown or min_lr?",
                AdviceWarning,
            )
        return Needs(rates=True)

    def advise(self, settings: RunSettings) -> RunSettings:
        """Its patience, for rules about several."""
        watch = self.watches[0]
        plateau = Plateau(watch.monitor, watch.mode, self.patience)
        return replace(settings, plateaus=(*settings.plateaus, plateau))

    def measure(self, moment: Moment, logs: dict[str, Any]) -> Measured:
        """Log the rates that the epoch was trained with."""
        looked = super().measure(moment, logs)
        if moment.event is not Event.EPOCH_END:
            return NOTHING
        rates = moment.rates if self.run.is_of_trained else self.run.host.learning_rates()
        logged = {}
        for name in rates:
            logged[rate_key(name)] = rates[name]
        return Measured(logged, looked.answers)

    def _comparisons(self, moment: Moment) -> Mapping[str, Answer]:
        """With the best, as Keras compares."""
        watched = self.policy.watched
        value = watched.value(moment)
        if value is None or (watched.criterion is not None and not is_finite(value)):
            return {}
        return {watched.improves_answer: self.is_improvement(0, value, self.state.best)}

    def decide(self, moment: Moment) -> Any:
        """What the policy decides about this callback's own model's rates."""
        run = self.run
        if moment.event is Event.EPOCH_END and (run.rates_are_of_epoch or not run.is_of_trained):
            moment = moved(moment, rates=run.host.learning_rates())  # those of now are lowered
        return self.step(self.view(moment) if self._asks else moment)

    def apply(self, decision: Decision, moment: Moment, logs: dict[str, Any]) -> None:
        """Set a rate, and say so."""
        super().apply(decision, moment, logs)
        if isinstance(decision, SetLearningRate) and self.verbose:
            of = f" {decision.name}" if decision.name else ""
            self.run.say(
                f"\nEpoch {moment.at.number}: ReduceLROnPlateau reducing{of} learning rate to "
                f"{decision.value}."
            )

    def missing_words(self, monitor: str, logs: Mapping[str, Any]) -> str:
        """Keras's words."""
        return (
            f"Learning rate reduction is conditioned on metric `{monitor}` which is not "
            f"available. Available metrics are: {','.join(logs)}."
        )
