"""The signals of one run: Ctrl-C and SIGTERM, as long as it trains."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import Any, final

from peakhold.runtime.interrupt import Interrupt
from peakhold.runtime.termination import Termination

__all__ = ["Signals"]


@final
class Signals:
    """Handlers that are installed while a run trains.

    Args:
        owns_frame: Whether a frame is the loop of this run.
        on_interrupt: Called in the handler of Ctrl-C: may set flags, nothing else.
        on_termination: Called on a thread of its own; returns when all is finished, True if
            `terminate` was called meanwhile. None: nobody has anything to finish.
        words: What is said at the first Ctrl-C; None: nothing.
    """

    def __init__(
        self,
        owns_frame: Callable[[FrameType], bool],
        on_interrupt: Callable[[], Any],
        on_termination: Callable[[], Any] | None,
        words: str | None = None,
    ) -> None:
        self._interrupt = Interrupt(owns_frame, on_interrupt, words)
        self._termination = (
            None if on_termination is None else Termination(owns_frame, on_termination)
        )

    def install(self) -> bool:
        """Install them; whether Ctrl-C can be caught here."""
        if self._termination is not None:
            self._termination.install()
        return self._interrupt.install()

    def terminate(self) -> None:
        """Have SIGTERM take its usual course now, as if it had come; in the main thread.

        Where it is not listened to, somebody has it ignored, or trains in another thread.
        """
        if self._termination is not None and self._termination.installed:
            self._termination.pass_on()

    def uninstall(self) -> None:
        """Put back what stood there before."""
        self._interrupt.uninstall()
        if self._termination is not None:
            self._termination.uninstall()
