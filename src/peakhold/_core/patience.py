"""How long to wait for an improvement: in epochs, steps or seconds.

A policy never measures: a moment says how many steps or seconds the run has spent, and the time
between two runs is in none of them. Steps and seconds are looked at when there is
a metric to look at, at the end of an epoch: the wait ends there, not before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias, final

from peakhold._core.arguments import check_count, check_number, check_wait
from peakhold._core.moments import Spent
from peakhold.errors import InvalidArgumentError

__all__ = [
    "Epochs",
    "Patience",
    "Seconds",
    "Steps",
    "check_patience",
    "lap",
    "spent_words",
    "waited_out",
]


@final
@dataclass(frozen=True, slots=True)
class Epochs:
    """A patience in epochs: `Epochs(5)` means what `5` means.

    Epochs that did not log the metric (`validation_freq=2`) do not count.

    Args:
        n: How many. At least 0.

    Example:
        >>> from peakhold import EarlyStopping
        >>> EarlyStopping("loss", patience=Epochs(5)).patience
        5
    """

    n: int


@final
@dataclass(frozen=True, slots=True)
class Steps:
    """A patience in steps of training.

    In `fit` and wherever the model has an optimizer of Keras, its updates; in other loops, the
    batches that `CallbackList.on_train_batch_end` was told of, else `steps` of its parameters for
    each epoch. Counted on in a run that is resumed.

    Args:
        n: How many. At least 1.

    Raises:
        InvalidArgumentError: If it is not an int of at least 1.

    Example:
        >>> Steps(10_000)
        Steps(n=10000)
    """

    n: int

    def __post_init__(self) -> None:
        n = check_count("Steps", self.n, at_least=1, hint="pass a number of steps: Steps(10_000).")
        object.__setattr__(self, "n", n)


@final
@dataclass(frozen=True, slots=True)
class Seconds:
    """A patience in seconds of training, validation included.

    The time between two runs does not count in a run that is resumed.

    Args:
        s: How many. Above 0.

    Raises:
        InvalidArgumentError: If it is not a finite number above 0.

    Example:
        >>> Seconds(3600)
        Seconds(s=3600.0)
    """

    s: float

    def __post_init__(self) -> None:
        hint = "pass a number of seconds: Seconds(3600)."
        number = check_number("Seconds", self.s, "a finite number above 0", hint=hint)
        if number <= 0:
            raise InvalidArgumentError.for_argument(
                "Seconds", self.s, "a finite number above 0", hint=hint
            )
        object.__setattr__(self, "s", number)


Patience: TypeAlias = float | Steps | Seconds
"""A number is one of checks; infinite is for ever."""


def check_patience(name: str, value: Any, *, hint: str) -> Patience:
    """A number of checks, `Epochs` as such a number, `Steps` or `Seconds`."""
    if isinstance(value, (Steps, Seconds)):
        return value
    return check_wait(name, value.n if isinstance(value, Epochs) else value, hint=hint)


def lap(patience: Patience, mark: float | None, spent: Spent) -> tuple[float | None, float]:
    """Steps or seconds since the last look, and the mark of this one.

    Args:
        patience: Says what to count. Epochs are counted by checks: then there is no mark.
        mark: Where the last look was, in the same run; None if there was none.
        spent: What the run has spent by now.

    Returns:
        The new mark, and what has passed; nothing without an earlier mark, or while nobody counts.

    Example:
        >>> lap(Steps(100), 40.0, Spent(seconds=3.5, steps=60))
        (60.0, 20.0)
    """
    now: float | None = None
    if isinstance(patience, Seconds):
        now = spent.seconds
    elif isinstance(patience, Steps) and spent.steps is not None:
        now = float(spent.steps)
    if now is None:
        return mark, 0.0
    return now, 0.0 if mark is None else now - mark


def waited_out(patience: Patience, checks: int, spent: float) -> bool:
    """Whether the wait is over.

    Args:
        patience: How long to wait. 0 acts like 1, as in Keras.
        checks: Checks without improvement, at least 0; without one, nothing was waited for.
        spent: Steps or seconds since the last improvement; unused with an int.
    """
    if checks == 0:
        return False
    if isinstance(patience, Steps):
        return spent >= patience.n
    if isinstance(patience, Seconds):
        return spent >= patience.s
    return checks >= max(patience, 1)


def spent_words(patience: Patience, checks: int, spent: float, *, unit: str) -> str:
    """The wait in words: `3 epochs`, `1200 steps`, `61.5 s`.

    Args:
        patience: How long was to be waited.
        checks: Checks without improvement.
        spent: Steps or seconds since the last improvement.
        unit: What a check is, in the singular.
    """
    if isinstance(patience, Seconds):
        return f"{spent:.4g} s"
    count, unit = (round(spent), "step") if isinstance(patience, Steps) else (checks, unit)
    return f"{count} {unit}" + ("s" if count != 1 else "")
