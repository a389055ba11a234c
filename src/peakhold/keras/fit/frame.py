"""What only the call stack tells about a running `fit`.

Rules of this file:

1. Nothing here is needed for a result to be right: every answer may be None, and then each callback
   acts alone, in the order of the list, and no hint is given.
2. No frame is kept: a frame keeps the training data alive.

Keras's hooks do not say which list calls them, whether validation will run (both needed before the
first batch), or whether the list dispatches batch hooks in threads. All three stand in the locals
of frames of Keras's own that are on the stack when our hooks run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

__all__ = ["calling_list", "first_validation", "fit_runs", "is_fit_of", "validation_runs"]

_NEAR = 6  # frames between our hook and Keras's list: a user's override or two


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def calling_list(callback: Any, of: Any) -> Any:
    """The `CallbackList` that is calling this callback now, or None.

    Args:
        callback: The one whose hook runs.
        of: The class of lists of its framework.
    """
    for depth, frame in enumerate(_stack(sys._getframe(1))):
        if depth > _NEAR:
            return None
        caller = frame.f_locals.get("self")
        if isinstance(caller, of) and any(one is callback for one in caller.callbacks):
            return caller
    return None


def is_fit_of(frame: FrameType, model: Any) -> bool:
    """Whether a frame is this model's `fit`."""
    return frame.f_code.co_name == "fit" and frame.f_locals.get("self") is model


def fit_runs(model: Any) -> bool:
    """Whether this model's `fit` is running, in this thread."""
    return any(is_fit_of(frame, model) for frame in _stack(sys._getframe(1)))


def fit_locals(model: Any) -> dict[str, Any]:
    """What the running `fit` of this model knows; empty if none is on the stack."""
    return next((f.f_locals for f in _stack(sys._getframe(1)) if is_fit_of(f, model)), {})


def validation_runs(model: Any) -> bool | None:
    """Whether the running `fit` of this model will validate; None if no `fit` is on the stack."""
    for frame in _stack(sys._getframe(1)):
        if is_fit_of(frame, model) and "validation_data" in frame.f_locals:
            if frame.f_locals["validation_data"] is None:
                return False
            return _reaches_validation(frame.f_locals)
    return None


def first_validation(model: Any) -> int | None:
    """The epoch, from 1, after which the running `fit` of this model validates first; or None."""
    local = fit_locals(model)
    frequency = local.get("validation_freq", 1)
    if local.get("validation_data") is None:
        return None
    if isinstance(frequency, int):
        return frequency
    return min((epoch for epoch in frequency if isinstance(epoch, int)), default=None)


def _reaches_validation(local: dict[str, Any]) -> bool:
    frequency, epochs = local.get("validation_freq", 1), local.get("epochs")
    if not isinstance(epochs, int):
        return True
    if isinstance(frequency, int):
        return frequency <= epochs
    return any(epoch <= epochs for epoch in frequency)
