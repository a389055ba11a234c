"""What a program says of a callback: its arguments, as people read them.

For comparing one program with another: of the run that is resumed, of another worker.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

from peakhold._core.monitor import Relative
from peakhold._core.patience import Epochs, Seconds, Steps
from peakhold.runtime.callback import plain_class
from peakhold.trees import fold

__all__ = ["arguments_of", "texts"]

_TALK: Final = {"verbose"}
"""Arguments that change nothing but what is printed."""


def arguments_of(callback: Any) -> dict[str, str]:
    """The arguments of one of our callbacks."""
    unshown = {*callback._peakhold_unshown, *_TALK}
    given = {}
    for argument in inspect.signature(plain_class(type(callback))).parameters:
        if argument not in unshown:
            try:
                given[argument] = getattr(callback, argument)
            except Exception:  # noqa: S112 - of a user's own property
                continue
    return texts(given)


def texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Settings as people read them; those that have no such text are left out."""
    told = {name: _text(value) for name, value in values.items()}
    return {name: text for name, text in told.items() if text is not None}


def _text(value: Any) -> str | None:
    text: str | None = fold(
        value,
        lambda one, _: _text_of_one(one),
        lambda _, __, parts, ___: None if None in parts else f"[{', '.join(map(str, parts))}]",
        is_leaf=lambda node: not isinstance(node, (list, tuple)),
    )
    return text


def _text_of_one(value: Any) -> str | None:
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None or isinstance(value, (bool, int, str, Epochs, Steps, Seconds, Relative)):
        return repr(value)
    return None
