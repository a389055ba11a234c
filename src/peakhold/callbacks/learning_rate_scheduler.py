"""Set the learning rate of each epoch by a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable as Function
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

from peakhold._core.arguments import check_verbose
from peakhold._core.decisions import Decision, SetLearningRate
from peakhold._core.moments import Moment
from peakhold._core.observation import Event
from peakhold.advice import RunSettings, Schedule
from peakhold.errors import InvalidArgumentError
from peakhold.host.contract import CURVES_WITH_AN_END, rate_key, to_number
from peakhold.runtime.participant import NOTHING, Measured, Needs, Participant
from peakhold.runtime.participating import Participating, Setting
from peakhold.runtime.run_view import RunView

__all__ = ["LearningRateScheduler"]


class LearningRateScheduler(Participating):
    """Set the learning rate of each epoch by a function.

    Args:
        schedule: `schedule(epoch, lr)` or `schedule(epoch)`; gets the epoch, as hooks count it,
            and the rate now, and returns the new one. Which of the two it is, is read from its
            signature: a TypeError inside it is not mistaken for the wrong number of arguments
            (K-E13).
        verbose: 0 is silent, 1 says each rate. Defaults to `0`.

    Raises:
        InvalidArgumentError: If `schedule` cannot be called, or returns no number.
        LearningRateScheduleError: On train begin, if a schedule owns the rate.

    Example:
        >>> class Optimizer:
        ...     learning_rate = 0.1
        >>> class Model:
        ...     optimizer = Optimizer()
        >>> scheduler = LearningRateScheduler(lambda epoch, lr: lr / 2)
        >>> scheduler.set_model(Model())
        >>> scheduler.on_epoch_begin(0)
        >>> scheduler.model.optimizer.learning_rate
        0.05

    Source:
        `keras.callbacks.LearningRateScheduler` of Keras 3.15.
    """

    def __init__(self, schedule: Function[..., float], verbose: int = 0) -> None:
        if not callable(schedule):
            raise InvalidArgumentError.for_argument(
                "schedule",
                schedule,
                "a function of the epoch (and the rate)",
                hint="pass schedule=lambda epoch, lr: lr * 0.95.",
            )
        super().__init__(_Scheduling(schedule, check_verbose(verbose)))

    schedule = Setting[Any]("The function.")
    verbose = Setting[int]("0 is silent, 1 says each rate.")


@final
class _Scheduling(Participant):
    """Asks the user's function, and sets what it says."""

    logs_learning_rate = True
    decides_early = True
    reads_steps = False

    def __init__(self, schedule: Function[..., float], verbose: int) -> None:
        self.schedule, self.verbose = schedule, verbose

    def needs(self, run: RunView) -> Needs:
        """A rate that cannot be set is said now."""
        run.host.check_rates_settable(self.name)
        return Needs(rates=True)

    def advise(self, settings: RunSettings) -> RunSettings:
        """Of a function only this is known without calling it: Keras's own curves have an end."""
        curve: Any = self.schedule
        name = type(curve).__name__
        if name not in CURVES_WITH_AN_END or getattr(curve, "cycle", False):
            return settings
        ends = int(curve.decay_steps) + (getattr(curve, "warmup_steps", None) or 0)
        schedule = Schedule(name, ends, by_epoch=True)
        return replace(settings, schedules=(*settings.schedules, schedule))

    def measure(self, moment: Moment, logs: dict[str, Any]) -> Measured:
        """Log the rates that the epoch was trained with."""
        if moment.event is not Event.EPOCH_END:
            return NOTHING
        run = self.run
        rates = moment.rates if run.host is run.trained else run.host.learning_rates()
        return Measured({rate_key(name): rate for name, rate in rates.items()})

    def decide(self, moment: Moment) -> Sequence[Decision]:
        """The rates of the epoch that begins.

        Raises:
            InvalidArgumentError: If the function returns something else than a number.
        """
        if moment.event is not Event.EPOCH_BEGIN:
            return ()
        decisions = []
        for name, rate in self.run.host.learning_rates().items():
            epoch = moment.at.epoch
            result = _asked(self.schedule, epoch, rate)
            number = to_number(result)
            if number is None or isinstance(result, bool):
                raise InvalidArgumentError.for_argument(
                    "schedule",
                    result,
                    "a function whose output is a float",
                    hint="return the new learning rate.",
                )
            decisions.append(SetLearningRate("the schedule says so", name, number))
        return decisions

    def apply(self, decision: Decision, moment: Moment, logs: dict[str, Any]) -> None:
        """Set a rate, and say so."""
        if not isinstance(decision, SetLearningRate):
            return
        self.run.host.set_learning_rate(decision.name, decision.value)
        if self.verbose:
            of = f"{decision.name} " if decision.name else ""
            self.run.say(
                f"\nEpoch {moment.at.number}: LearningRateScheduler setting {of}learning rate "
                f"to {decision.value}."
            )


def _asked(schedule: Function[..., float], epoch: int, rate: float) -> Any:
    """What the user's function says."""
    try:
        inspect.signature(schedule).bind(epoch, rate)
    except TypeError:
        return schedule(epoch)
    except ValueError:  # a builtin without a signature, such as a list's `__getitem__`
        try:
            return schedule(epoch, rate)
        except TypeError:
            return schedule(epoch)
    return schedule(epoch, rate)
