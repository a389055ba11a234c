"""What ends a run from outside: signals, a time limit, a file named `stop`.

Problem. A supervisor sends SIGTERM, somebody presses Ctrl-C, the time of a job is over, while a
batch is half done: its state is no place to go on from.

Solution. A signal's handler sets a flag. The loop looks at the next border, where it asks for its
next batch: there the state is saved, and an exception that no `except Exception` catches leaves the
loop: SystemExit(75) after SIGTERM (EX_TEMPFAIL: interrupted, run it again), KeyboardInterrupt after
Ctrl-C, `RunEndedSignal` else, which ends in the `with` of the run.

A second signal is raised where it comes. What the first one began to write is still waited for when
the `with` is left.

A run that is over by itself before it looks has nothing to save and nothing to go on with: the
signal is raised once more when the `with` is left, and does what it would have done without us.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, final

from peakhold import speech

__all__ = ["EXIT_INTERRUPTED", "EndingSignals", "RunEndedSignal"]

EXIT_INTERRUPTED: Final = 75
"""EX_TEMPFAIL of sysexits.h: interrupted; run it again."""

_NAMES: Final = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class RunEndedSignal(BaseException):
    """Leaves the loop of a run that has ended within an epoch; the run's `with` takes it."""


@final
class EndingSignals:
    """The signals of one run, as long as it trains.

    Args:
        wake: Called in the handler: sets a flag, nothing else.
        numbers: What is listened to, besides SIGTERM and SIGINT.
    """

    def __init__(self, wake: Callable[[], Any], numbers: tuple[int, ...] = ()) -> None:
        self._wake = wake
        self._numbers = (signal.SIGTERM, signal.SIGINT, *map(signal.Signals, numbers))
        self._previous: dict[signal.Signals, Any] = {}
        self._pid = os.getpid()
        self.came: signal.Signals | None = None
        """The first that came."""
        self.came_again = False
        """Whether a second came: then nothing is saved any more."""
        self.agreed: signal.Signals | None = None
        """Which of those that came to several workers ends all of them; each may hear its own."""

    def install(self) -> bool:
        """Take them over; False outside the main thread, where Python forbids it."""
        if threading.current_thread() is not threading.main_thread():
            return False
        for number in self._numbers:
            previous = signal.getsignal(number)
            if previous is None or previous is signal.SIG_IGN:
                continue  # somebody meant that
            self._previous[number] = previous
            signal.signal(number, self._handle)
        return True

    def uninstall(self) -> None:
        """Give them back, as far as they are still ours."""
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, previous)
        self._previous = {}

    def pass_on(self) -> None:
        """The run was over before it could end of a signal: it is for whoever had it before."""
        if self.came is not None:
            signal.raise_signal(self.came)

    @property
    def ended_by(self) -> signal.Signals | None:
        """What ends the loop."""
        return self.came if self.agreed is None else self.agreed

    @property
    def name(self) -> str:
        """What ends it, in words."""
        one = self.ended_by
        return "" if one is None else _NAMES.get(one, one.name)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        one = signal.Signals(number)
        if os.getpid() != self._pid:  # a forked child's own signals are its own
            _leave_to_python(one)
            signal.raise_signal(number)
            return
        if self.came is not None:
            self.came_again = True
            self._previous = {k: v for k, v in self._previous.items() if k != one}
            _leave_to_python(one)
            raise self.exception()
        self.came = one
        self._wake()
        if self.agreed is not None:
            return  # all end already
        speech.tell_in_handler(
            f"Peakhold: {self.name}: saves and ends after this batch. Again: ends at once, "
            "without saving."
        )

    def exception(self) -> BaseException:
        """What leaves the loop."""
        if self.ended_by is signal.SIGINT:
            return KeyboardInterrupt()
        return SystemExit(EXIT_INTERRUPTED)


def _leave_to_python(one: signal.Signals) -> None:
    """Have a signal do what it does in any program."""
    signal.signal(one, signal.default_int_handler if one == signal.SIGINT else signal.SIG_DFL)
