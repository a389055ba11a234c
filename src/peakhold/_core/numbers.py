"""NaN and infinity in JSON, which has no numbers for them: one word for each, in every file.

    NaN    Infinity    -Infinity

These are Python's and JavaScript's own words: `float(word)` and `Number(word)` read them. A place
that holds nothing but numbers (a metric, a field of a state) holds the word itself. Where a user's
own string may stand, the word comes in a mark that nobody else writes: `{"$float": "NaN"}`, see
`snapshots/tree.py`. Files of before have `nan`, `inf` and `-inf` in some places: read, not written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["number_from_json", "number_to_json", "numbers_from_json", "numbers_to_json"]

_NUMBERS: Final = {
    "NaN": math.nan,
    "Infinity": math.inf,
    "-Infinity": -math.inf,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
}


def number_to_json(value: Any) -> Any:
    """A float that JSON has no number for as its word; everything else as it is.

    Example:
        >>> [number_to_json(value) for value in (0.5, 1e999, -1e999, None)]
        [0.5, 'Infinity', '-Infinity', None]
    """
    if not isinstance(value, float) or math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def number_from_json(value: Any) -> Any:
    """A word as the number that it stands for; everything else as it is, to be checked or not.

    Example:
        >>> [number_from_json(value) for value in (0.5, "-Infinity", "inf", "infinite", None)]
        [0.5, -inf, inf, 'infinite', None]
    """
    return _NUMBERS.get(value, value) if isinstance(value, str) else value


def numbers_to_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """`number_to_json` for each value."""
    return {name: number_to_json(value) for name, value in values.items()}


def numbers_from_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """`number_from_json` for each value; none of them may be a text of somebody's own."""
    return {name: number_from_json(value) for name, value in values.items()}
