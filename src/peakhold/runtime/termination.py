"""SIGTERM: what is under way is finished, within a time; then the signal takes its usual course.

Problem. A supervisor (docker, SLURM, Kubernetes, a spot instance) sends SIGTERM and, some seconds
later, SIGKILL. Between the two there is time to make the last save durable. But the handler runs
wherever the main thread happens to be, which may hold the very lock that the writer needs.

What doesn't work. Waiting in the handler (it may wait for itself). A `threading.Thread` made in the
handler: its start takes a lock that the interrupted code may hold. Raising SystemExit from the
handler at once: the save under way is finished only because the interpreter waits for its thread,
and then the process does not end with the status that the supervisor expects.

Solution. The handler starts a bare thread and returns; training goes on meanwhile. The thread asks
each callback to finish, with a deadline, and then sends the signal again. Now the handler passes it
on: a handler of the user's is called; without one the process dies of SIGTERM, as it would have.

Of several workers, all end so, at one batch (`ending_by_signal.py`): there the main thread has all
finished, and lets the signal take its course itself (`pass_on`).

PID 1 of a container gets no signal that it has no handler for, not even its own: it ends as a shell
would tell of one that SIGTERM ended, and would otherwise train on until SIGKILL.

What still fails. A batch that takes longer than the deadline: Python runs no handler inside of it.
A second SIGTERM does not hurry it: launchers send several, and the deadline is near anyway.
"""

from __future__ import annotations

import _thread
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, final

from peakhold.runtime.interrupt import LoopSignal

__all__ = ["Termination"]


@final
class Termination(LoopSignal):
    """The SIGTERM handler of one training run.

    Args:
        owns_frame: Whether a frame is the loop of this run.
        finish: Called on a thread of its own; returns when all is finished, or in time. True: the
            main thread has passed the signal on.
    """

    number = signal.SIGTERM

    def __init__(self, owns_frame: Callable[[FrameType], bool], finish: Callable[[], Any]) -> None:
        super().__init__(owns_frame)
        self._finish = finish
        self._finished = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        stale = os.getpid() != self._pid or not self._loop_is_in(frame)
        if stale:
            self.uninstall()
        if stale or self._finished:
            self._pass_on(frame)
        elif not self.requested:
            self.requested = True
            _thread.start_new_thread(self._finish_and_repeat, ())

    def _finish_and_repeat(self) -> None:
        is_passed_on = False
        try:
            is_passed_on = self._finish() is True
        finally:
            if not is_passed_on:
                self._finished = True
                # To the process: if `fit` has ended meanwhile, its handler is not ours any more.
                os.kill(os.getpid(), signal.SIGTERM)

    def pass_on(self) -> None:
        """All is finished: let the signal take its usual course. In the main thread.

        It returns if a handler of the user's does, which may only have set a flag.
        """
        self._finished = True
        signal.raise_signal(signal.SIGTERM)

    def _pass_on(self, frame: FrameType | None) -> None:
        if callable(self._previous):
            self.requested = self._finished = False  # it may only have set a flag
            self._previous(signal.SIGTERM, frame)
            return
        self.uninstall()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        if os.getpid() == 1:
            os._exit(128 + signal.SIGTERM)
