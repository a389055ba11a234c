"""Every check of a constructor's argument, in one file.

Each returns the value as the type it stands for, or raises `InvalidArgumentError` with the three
parts of the error grammar: what was expected, what was passed, what to do.
"""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

from peakhold._core.monitor import Relative
from peakhold.errors import InvalidArgumentError

__all__ = [
    "check_count",
    "check_delta",
    "check_monitor",
    "check_number",
    "check_text",
    "check_verbose",
    "check_wait",
]


def _as_int(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        number = float(value)  # epochs / 10 is a float, and means a count
        return int(number) if number.is_integer() else None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _as_float(value: Any) -> float | None:
    if isinstance(value, (bool, str, bytes)) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def check_count(name: str, value: Any, *, at_least: int = 0, hint: str | None = None) -> int:
    """An int of at least `at_least`; a float without a fraction counts as one."""
    number = _as_int(value)
    if number is None or number < at_least:
        raise InvalidArgumentError.for_argument(
            name, value, f"an int of at least {at_least}", hint=hint
        )
    return number


def check_wait(name: str, value: Any, *, hint: str | None = None) -> float:
    """How many checks to wait: at least 0; infinite is for ever.

    A fraction counts as in Keras, which compares: after 2.5 checks is after the third.
    """
    whole = _as_int(value)
    number = _as_float(value) if whole is None else whole
    if number is None or not number >= 0:  # NaN is neither
        raise InvalidArgumentError.for_argument(name, value, "a number of at least 0", hint=hint)
    return number


def check_number(
    name: str,
    value: Any,
    expected: str = "a finite number",
    *,
    at_least: float = -math.inf,
    below: float = math.inf,
    infinite: bool = False,
    hint: str | None = None,
) -> float:
    """A float in `[at_least, below)`; never NaN, infinite only on request."""
    number = _as_float(value)
    if (
        number is None
        or math.isnan(number)
        or (math.isinf(number) and not infinite)
        or number < at_least
        or (number >= below and not math.isinf(below))
    ):
        raise InvalidArgumentError.for_argument(name, value, expected, hint=hint)
    return number


def check_delta(name: str, value: Any) -> tuple[float, bool]:
    """A `min_delta`: `(size, is relative)`. Its sign is dropped, as Keras does."""
    hint = "pass the smallest change that counts, such as 0.001, or Relative(0.01) for one percent."
    relative = isinstance(value, Relative)
    number = _as_float(value.fraction if relative else value)
    if number is None or not math.isfinite(number):
        raise InvalidArgumentError.for_argument(
            name, value, "a finite number or Relative(fraction)", hint=hint
        )
    return abs(number), relative


def check_text(name: str, value: Any, expected: str, *, hint: str | None = None) -> str:
    """A string with something in it."""
    if not isinstance(value, str) or not value:
        raise InvalidArgumentError.for_argument(name, value, expected, hint=hint)
    return value


def check_monitor(value: Any) -> str:
    """The name of a metric."""
    return check_text(
        "monitor",
        value,
        "the name of a metric as a string",
        hint="pass the name as it stands in the logs, such as 'val_loss'.",
    )


def check_verbose(value: Any) -> int:
    """0, 1 or 2; a bool counts as 0 or 1, None as 0, and "auto", as people pass to `fit`, as 1."""
    if isinstance(value, (bool, type(None))):
        number: int | None = int(bool(value))
    else:
        number = 1 if value == "auto" else _as_int(value)
    if number is None or number < 0:
        raise InvalidArgumentError.for_argument(
            "verbose", value, "0 (silent) or 1 (messages)", hint="pass verbose=1 to see messages."
        )
    return number
