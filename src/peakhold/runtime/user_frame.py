"""Whose line a warning points at: the user's own."""

from __future__ import annotations

import sys

__all__ = ["depth_of_user"]


def depth_of_user() -> int:
    """The `stacklevel` of the first frame that is neither ours nor the framework's.

    To be called by the function that warns.
    """
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(("peakhold.", "keras.")) or name.startswith("peakhold.demo"):
            break
        depth, frame = depth + 1, frame.f_back
    return depth
