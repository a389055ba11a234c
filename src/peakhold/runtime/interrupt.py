"""Ctrl-C as a request: the first one ends training after the current batch, the second at once.

Problem. A KeyboardInterrupt raised in the middle of a batch ends `fit` without any hook: best
weights are not restored, files stay open. And a handler that `fit` leaves behind when it raises
would swallow the Ctrl-C of whatever runs next.

What doesn't work. Raising from a hook: the callbacks after it are skipped. Taking the handler away
"when fit ends": no hook runs when it raises. Keeping the loop's frame to see whether it still runs:
it would pin the training data.

Solution. A handler is installed on train begin (main thread only: elsewhere Python forbids it).
On a signal it walks the interrupted stack for a frame that the host knows as its loop. Found: ask
the loop to stop, and let the last callback raise KeyboardInterrupt once everything is put right.
Not found: the handler is stale; it puts the old one back and passes the signal on.

What still fails. A loop that never looks at `stop_training` goes on until the second Ctrl-C. So a
loop of somebody's own, which may stand in an `except KeyboardInterrupt`, is told what its Ctrl-C
has done, when it is pressed.
SIG_IGN and handlers not made by Python are left alone: somebody meant that.

`LoopSignal` is what Ctrl-C and SIGTERM (`termination.py`) have in common.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, final

from peakhold import speech

__all__ = ["Interrupt", "LoopSignal"]


class LoopSignal:
    """A signal's handler for the time of one training run.

    Args:
        owns_frame: Whether a frame is the loop of this run.
    """

    number: signal.Signals

    def __init__(self, owns_frame: Callable[[FrameType], bool]) -> None:
        self._owns_frame = owns_frame
        self._previous: Any = None
        self._pid = os.getpid()
        self.installed = False
        self.requested = False

    def install(self) -> bool:
        """Take the signal over; False where that is not possible or not wanted."""
        if threading.current_thread() is not threading.main_thread():
            return False
        previous = signal.getsignal(self.number)
        # A run that raised left its handler behind: take what it had found, not itself.
        while isinstance(stale := getattr(previous, "__self__", None), LoopSignal):
            if stale.is_running():
                break
            previous = stale._previous
        if previous is None or previous is signal.SIG_IGN:
            return True
        self._previous = previous
        signal.signal(self.number, self._handle)
        self.installed = True
        return True

    def uninstall(self) -> None:
        """Give the signal back, if it is still ours."""
        if self.installed and getattr(signal.getsignal(self.number), "__self__", None) is self:
            signal.signal(self.number, self._previous)
        self.installed = False

    def is_running(self) -> bool:
        """Whether the loop of this run is on the stack of the thread that asks."""
        return self._loop_is_in(sys._getframe())

    def _loop_is_in(self, frame: FrameType | None) -> bool:
        while frame is not None:
            if self._owns_frame(frame):
                return True
            frame = frame.f_back
        return False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        raise NotImplementedError


@final
class Interrupt(LoopSignal):
    """The SIGINT handler of one training run.

    Args:
        owns_frame: Whether a frame is the loop of this run.
        on_request: Called at the first signal, in the handler: set flags, nothing else.
        words: What is said then; None: nothing.
    """

    number = signal.SIGINT

    def __init__(
        self,
        owns_frame: Callable[[FrameType], bool],
        on_request: Callable[[], Any],
        words: str | None = None,
    ) -> None:
        super().__init__(owns_frame)
        self._on_request, self._words = on_request, words

    def _handle(self, number: int, frame: FrameType | None) -> None:
        stale = not self._loop_is_in(frame)
        if stale or self.requested:
            self.uninstall()
            if stale and callable(self._previous):
                self._previous(number, frame)
                return
            if stale and self._previous is signal.SIG_DFL:
                signal.raise_signal(signal.SIGINT)
                return
            raise KeyboardInterrupt
        self.requested = True
        self._on_request()
        if self._words is not None:
            speech.tell_in_handler(self._words)
