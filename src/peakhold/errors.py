"""Every error and warning Peakhold raises, in one tree.

    PeakholdError
     ├── InvalidArgumentError (ValueError)      a constructor's argument, before anything runs
     ├── MonitorError (ValueError)              the monitored metric
     │    ├── MonitorNotFoundError              nobody logs it
     │    ├── DirectionUnknownError             larger or smaller is better? pass mode
     │    └── NotAScalarError                   an array where a number belongs
     ├── LearningRateScheduleError (TypeError)  a schedule owns the rate, a callback cannot set it
     ├── HostError (TypeError)                  the model cannot do what a callback needs
     ├── NeutralCallbackError (TypeError)       a loop's callback was given to `fit`
     ├── NonFiniteLossError (RuntimeError)      `TerminateOnNaN(raise_error=True)`
     └── SaveError (OSError)                    a folder or file cannot be written

    PeakholdWarning (UserWarning)
     ├── AdviceWarning                          told before it hurts; `peakhold.silence("E6")`
     ├── MonitorWarning                         a metric that is missing, or not finite, once
     └── SaveWarning                            a save that failed or was refused; training goes on

Each is also the builtin that a caller would catch. A message is `expected …, got name=value.`,
then a `Hint:` line where we know what to do; what the text names is an attribute, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = [
    "AdviceWarning",
    "DirectionUnknownError",
    "HostError",
    "InvalidArgumentError",
    "LearningRateScheduleError",
    "MonitorError",
    "MonitorNotFoundError",
    "MonitorWarning",
    "NeutralCallbackError",
    "NonFiniteLossError",
    "NotAScalarError",
    "PeakholdError",
    "PeakholdWarning",
    "SaveError",
    "SaveWarning",
]


def _with_hint(text: str, hint: str | None) -> str:
    return f"{text}\nHint: {hint}" if hint else text


class PeakholdError(Exception):
    """The root of every error that Peakhold raises."""


class InvalidArgumentError(PeakholdError, ValueError):
    """An argument that cannot mean anything; raised by constructors."""

    argument: str
    """Name of the argument."""
    value: Any
    """What was passed."""

    @classmethod
    def for_argument(
        cls, argument: str, value: Any, expected: str, *, hint: str | None = None
    ) -> InvalidArgumentError:
        """Build the message `expected {expected}, got {argument}={value!r}.`."""
        error = cls(_with_hint(f"expected {expected}, got {argument}={value!r}.", hint))
        error.argument, error.value = argument, value
        return error


class MonitorError(PeakholdError, ValueError):
    """Something is wrong with the monitored metric."""

    monitor: str
    """Name of the monitored metric."""


class MonitorNotFoundError(MonitorError):
    """The monitored metric is logged by nobody."""

    available: tuple[str, ...]
    """The names that are logged."""

    @classmethod
    def for_monitor(
        cls,
        callback: str,
        monitor: str,
        available: Iterable[str],
        *,
        suggestion: str | None = None,
        hint: str | None = None,
    ) -> MonitorNotFoundError:
        """Name the monitor, what there is instead, and the likeliest meaning."""
        names = tuple(available)
        text = (
            f"expected a metric that is logged, got monitor={monitor!r} in {callback}. "
            f"Available metrics are: {', '.join(names) or 'none'}."
        )
        if hint is None:
            hint = (
                f"did you mean {suggestion!r}?"
                if suggestion
                else "monitor one of these, or add the metric to `compile` "
                "(a callback of yours that logs it stands before this one)."
            )
        error = cls(_with_hint(text, hint))
        error.monitor, error.available = monitor, names
        return error


class DirectionUnknownError(MonitorError):
    """`mode="auto"` and nothing says whether larger or smaller is better."""

    @classmethod
    def for_monitor(cls, callback: str, monitor: str) -> DirectionUnknownError:
        """Say which two words there are to choose from."""
        error = cls(
            _with_hint(
                f"expected mode='min' or mode='max' for a metric whose direction nothing tells, "
                f"got mode='auto' with monitor={monitor!r} in {callback}.",
                "pass mode='max' if larger values are better, mode='min' if smaller ones are.",
            )
        )
        error.monitor = monitor
        return error


class NotAScalarError(MonitorError):
    """The monitored metric is an array with more than one element."""

    @classmethod
    def for_value(cls, callback: str, monitor: str, value: Any) -> NotAScalarError:
        """Show the value and how such metrics are made to give one number."""
        error = cls(
            _with_hint(
                f"expected one number for monitor={monitor!r} in {callback}, got value={value!r}.",
                "make the metric a single number (for F1Score and its like: average='macro').",
            )
        )
        error.monitor = monitor
        return error


class LearningRateScheduleError(PeakholdError, TypeError):
    """The learning rate belongs to a schedule and cannot be set."""


class HostError(PeakholdError, TypeError):
    """The model or optimizer cannot do what a callback asks of it."""

    @classmethod
    def lacks(cls, callback: str, need: str, got: Any, *, hint: str) -> HostError:
        """Say what `callback` needs and what it was given."""
        return cls(_with_hint(f"expected {need} for {callback}, got model={got!r}.", hint))


class NeutralCallbackError(PeakholdError, TypeError):
    """A callback made for loops was given to `model.fit`."""


class NonFiniteLossError(PeakholdError, RuntimeError):
    """The loss is NaN or infinite and the user asked to hear of it as an error."""


class SaveError(PeakholdError, OSError):
    """A file or folder that a callback was told to write cannot be written."""

    path: str
    """The file or folder."""

    @classmethod
    def for_path(
        cls, path: str, reason: str, *, expected: str, hint: str | None = None
    ) -> SaveError:
        """Name the path and the reason."""
        error = cls(_with_hint(f"expected {expected}, got path={path!r}: {reason}.", hint))
        error.path = path
        return error


class PeakholdWarning(UserWarning):
    """The root of every warning that Peakhold gives."""


class AdviceWarning(PeakholdWarning):
    """Settings that work against each other; silence one with `peakhold.silence(code)`."""


class MonitorWarning(PeakholdWarning):
    """A monitored metric that is missing or not finite."""


class SaveWarning(PeakholdWarning):
    """A save that failed or was refused; training went on."""
