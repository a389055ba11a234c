"""Keras's own code, run by one worker alone.

Making a variable under a `keras.distribution` of several processes, or in the scope of a strategy
of several workers, is a collective: all must do it, or none gets further. Keras's saving makes some
(an optimizer, to see which attributes one has), and only one worker saves. Distributions and scopes
belong to a thread: in another one there is none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras

__all__ = ["is_distributed", "undistributed"]


def is_distributed() -> bool:
    """Whether making a variable in this thread may take other workers."""
    if getattr(keras.distribution.distribution(), "_is_multi_process", False):
        return True
    distribute = getattr(sys.modules.get("tensorflow"), "distribute", None)
    return distribute is not None and bool(distribute.has_strategy())


def undistributed(call: Callable[..., Any], *args: Any) -> Any:
    """What a call returns in a thread of its own, if there are distributions in this one."""
    if not is_distributed():
        return call(*args)
    with ThreadPoolExecutor(1, "peakhold-undistributed") as thread:
        return thread.submit(call, *args).result()
