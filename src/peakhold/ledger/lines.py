"""One line of a run's record: strict JSON, one object, its kind first.

    {"kind": "moment", "time": 1764343025.123, "event": "on_epoch_end", "epoch": 3, …}

Rules of this file:

1. A reader without our code needs a JSON parser and nothing else. Every line is ASCII.
2. NaN and infinity are words where nothing but a number stands (`metrics`, `rates`), and a mark
   elsewhere (`{"$float": "NaN"}`), as in every file (`_core/numbers.py`, `snapshots/tree.py`).
3. Most lines need neither: they go through the standard library's encoder and decoder as they are,
   and only a line that holds such a value, or looks like it, is taken apart.
4. Tuples come back as lists, and keys as strings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, cast

import numpy as np

from peakhold._core.numbers import numbers_from_json, numbers_to_json
from peakhold.errors import InvalidArgumentError
from peakhold.snapshots.tree import TreeError, flatten, unflatten

__all__ = ["LONGEST", "from_line", "measured_in", "to_line"]

LONGEST: Final = 1 << 24
"""Bytes of a line; what is longer was not written here, and is not read."""
_NUMBERS_ONLY: Final = ("metrics", "rates")
_SEPARATORS: Final = (",", ":")
_METRICS: Final = b'"metrics":{'


def _plain(value: Any) -> Any:
    """What the encoder does not know: a number of NumPy's, or a mapping that is no dict."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__}")


_STRICT: Final = json.JSONEncoder(
    allow_nan=False, check_circular=False, separators=_SEPARATORS, default=_plain
)

_scan: Final = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # `loads` without its looks around
"""A value at a place in a text, and where it ends."""


def to_line(event: Mapping[str, Any]) -> bytes:
    r"""An event as a line, with its end.

    Args:
        event: What JSON can hold; NaN and infinity, too. `kind` says what it is.

    Raises:
        InvalidArgumentError: If it holds something else, or is longer than a line may be.

    Example:
        >>> to_line({"kind": "note", "metrics": {"loss": float("nan")}})
        b'{"kind":"note","metrics":{"loss":"NaN"}}\n'
    """
    try:
        text = _STRICT.encode(event if type(event) is dict else dict(event))
    except ValueError:
        text = '"$'  # a number that JSON has not
    except (TypeError, RecursionError) as error:
        raise _unwritable(event, str(error)) from error
    if '"$' in text:
        text = _marked(event)
    if len(text) >= LONGEST:
        raise _unwritable(event, f"it is {len(text):,} bytes long")
    return text.encode("ascii") + b"\n"


def _marked(event: Mapping[str, Any]) -> str:
    """The same, with words and marks."""
    try:
        plain = json.loads(json.dumps(dict(event), default=_plain))
    except (TypeError, ValueError, RecursionError) as error:
        raise _unwritable(event, str(error)) from error
    return _STRICT.encode(
        {
            name: numbers_to_json(value)
            if name in _NUMBERS_ONLY and isinstance(value, dict)
            else flatten(name, value)[0]
            for name, value in plain.items()
        }
    )


def _unwritable(event: Mapping[str, Any], why: str) -> InvalidArgumentError:
    return InvalidArgumentError.for_argument(
        "event",
        sorted(map(str, event)),
        f"dicts, lists, numbers, strings, booleans and None under each key ({why})",
        hint="convert arrays and objects to these, or leave them out.",
    )


def from_line(line: bytes) -> dict[str, Any] | None:
    """The event that a line holds; None if it is not a line of a record.

    Args:
        line: With or without its end.

    Example:
        >>> from_line(b'{"kind":"note","metrics":{"loss":"NaN"}}')
        {'kind': 'note', 'metrics': {'loss': nan}}
        >>> from_line(b'{"kind":"no')
    """
    try:
        text = str(line, "utf-8").rstrip("\n ")
        event, end = _scan(text, 0)
        if (
            end != len(text)
            or not isinstance(event, dict)
            or not isinstance(event.get("kind"), str)
        ):
            return None
        if b'"NaN"' in line or b'Infinity"' in line or b'"$' in line:
            return {name: _value(name, value) for name, value in event.items()}
    except (ValueError, StopIteration, RecursionError, TreeError):
        return None
    return cast("dict[str, Any]", event)


def measured_in(line: bytes) -> dict[str, Any] | None:
    """What a line says up to its metrics, of a moment as we write it, where little else is read.

    Three times as quick as `from_line`: what stands behind is most of it. It is not looked at.

    Args:
        line: Without its end.

    Returns:
        None if it is not as simple as that: then `from_line` knows.

    Example:
        >>> measured_in(b'{"kind":"moment","epoch":3,"metrics":{"loss":0.5},"steps":{}}')
        {'kind': 'moment', 'epoch': 3, 'metrics': {'loss': 0.5}}
        >>> measured_in(b'{"kind":"moment","of":[{"metrics":{"loss":0.5}}],"metrics":{}}')
    """
    begin = line.find(_METRICS)
    end = line.find(b"}", begin)
    if begin < 0 or end < 0 or not line.endswith(b"}"):
        return None
    return from_line(line[: end + 1] + b"}")


def _value(name: str, value: Any) -> Any:
    if name in _NUMBERS_ONLY and isinstance(value, dict):
        return numbers_from_json(value)
    return unflatten(value, _no_tensor)


def _no_tensor(name: str) -> Any:
    raise TreeError(f"there is no tensor {name!r} in a line")
