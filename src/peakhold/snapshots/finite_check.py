"""Looking for NaN and infinity in a snapshot while training goes on.

The checks of one snapshot have a thread of their own, which ends with them: they do not queue
behind a writer that is busy with the disk. A check that was not started, or whose thread stayed
behind in the parent of a fork, is made by whoever asks for its result.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from typing import final

__all__ = ["FiniteCheck", "start_checks"]


@final
class FiniteCheck:
    """One look at one part of one snapshot, shared by all who hold it.

    Args:
        look: Returns the names of arrays that hold NaN or infinity.
    """

    def __init__(self, look: Callable[[], frozenset[str]]) -> None:
        self._look: Callable[[], frozenset[str]] | None = look
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._bad: frozenset[str] = frozenset()

    def result(self) -> frozenset[str]:
        """The names; waits for the end."""
        if os.getpid() != self._pid:
            # The parent's thread may have held the lock when it forked, and is not here.
            return self._look() if self._look is not None else self._bad
        self._run()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()  # it is done; now it is gone, too
        return self._bad

    def _run(self) -> None:
        with self._lock:
            if self._look is not None:
                self._bad = self._look()
                self._look = None  # an ended check holds nobody's arrays


def start_checks(checks: Iterable[FiniteCheck]) -> None:
    """Begin with those that have not begun, one after the other, in a thread."""
    new = [check for check in checks if check._thread is None and check._look is not None]
    if not new:
        return

    def run() -> None:
        for check in new:
            # What goes wrong here goes wrong for whoever asks for the result, too: raised there.
            with contextlib.suppress(Exception):
                check._run()

    thread = threading.Thread(target=run, name="peakhold-finite", daemon=False)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is ending, or the system is out of threads
        return
    for check in new:
        check._thread = thread
