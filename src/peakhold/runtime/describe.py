"""What a callback looks like when it is printed: as it was written."""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["describe"]


def describe(callback: Any, unshown: tuple[str, ...] = ()) -> str:
    """The class with the arguments that are not its defaults; never raises.

    Args:
        callback: Any object that keeps its constructor's arguments under their names.
        unshown: Arguments that may hold what nobody should read.
    """
    said = []
    for name, parameter in inspect.signature(type(callback).__init__).parameters.items():
        if name in unshown or parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            continue
        try:
            value = getattr(callback, name, parameter.default)
            given = not (value is parameter.default or value == parameter.default)
            if value == (0, 0) and parameter.default == 0:  # TensorBoard keeps a range of batches
                given = False
            if given and name != "self":
                said.append(f"{name}={value!r}")
        except Exception:  # noqa: S112 - of a half-made callback, or of a value that cannot compare
            continue
    return f"{type(callback).__name__}({', '.join(said)})"
