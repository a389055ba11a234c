"""Whether the loop that something belongs to is still there, where no hook says that it has gone.

A fit that raised calls nobody. What it held is let go by the next one, unless it is still running:
two fits cannot run in one thread at a time, and another thread's frames can be looked at.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import final

__all__ = ["LoopThread"]


@final
class LoopThread:
    """The thread that a loop runs in: that of now.

    Args:
        owns_frame: Whether a frame is that loop.
    """

    def __init__(self, owns_frame: Callable[[FrameType], bool]) -> None:
        self._owns_frame = owns_frame
        self._thread = threading.get_ident()

    def runs_elsewhere(self) -> bool:
        """Whether the loop is going on in another thread than the one that asks."""
        if self._thread == threading.get_ident():
            return False
        frame = sys._current_frames().get(self._thread)
        while frame is not None:
            if self._owns_frame(frame):
                return True
            frame = frame.f_back
        return False
