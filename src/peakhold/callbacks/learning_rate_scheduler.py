"""Set the learning rate of each epoch by a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable as Function
from dataclasses import replace
from typing import Any

from peakhold._core.arguments import check_verbose
from peakhold.advice import Facts, Schedule
from peakhold.errors import InvalidArgumentError
from peakhold.host.contract import CURVES_WITH_AN_END, rate_key, to_number
from peakhold.runtime.callback import Participant

__all__ = ["LearningRateScheduler"]


class LearningRateScheduler(Participant):
    """Set the learning rate of each epoch by a function.

    Args:
        schedule: `schedule(epoch, lr)` or `schedule(epoch)`; gets the index of the epoch, from 0,
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

    logs_learning_rate = True

    def __init__(self, schedule: Function[..., float], verbose: int = 0) -> None:
        super().__init__()
        if not callable(schedule):
            raise InvalidArgumentError.for_argument(
                "schedule",
                schedule,
                "a function of the epoch (and the rate)",
                hint="pass schedule=lambda epoch, lr: lr * 0.95.",
            )
        self.schedule = schedule
        self.verbose = check_verbose(verbose)

    def _check(self) -> None:
        self.host.check_rates_settable(type(self).__name__)

    def _epoch_begin(self, epoch: int) -> None:
        takes_rate = _takes_rate(self.schedule)
        for name, rate in self.host.learning_rates().items():
            result = self.schedule(epoch, rate) if takes_rate else self.schedule(epoch)
            number = to_number(result)
            if number is None or isinstance(result, bool):
                raise InvalidArgumentError.for_argument(
                    "schedule",
                    result,
                    "a function whose output is a float",
                    hint="return the new learning rate.",
                )
            self.host.set_learning_rate(name, number)
            if self.verbose:
                of = f"{name} " if name else ""
                self.host.say(
                    f"\nEpoch {epoch + 1}: LearningRateScheduler setting {of}learning rate to "
                    f"{number}."
                )

    def _tell(self, facts: Facts) -> Facts:
        # Of a function only this is known without calling it: Keras's own curves have an end.
        curve: Any = self.schedule
        name = type(curve).__name__
        if name not in CURVES_WITH_AN_END or getattr(curve, "cycle", False):
            return facts
        ends = int(curve.decay_steps) + (getattr(curve, "warmup_steps", None) or 0)
        schedule = Schedule(name, ends, by_epoch=True)
        return replace(facts, schedules=(*facts.schedules, schedule))

    def _measure(self, epoch: int, logs: dict[str, Any]) -> None:
        for name, rate in self.host.learning_rates().items():
            logs[rate_key(name)] = rate


def _takes_rate(schedule: Function[..., float]) -> bool:
    try:
        inspect.signature(schedule).bind(0, 0.0)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True
