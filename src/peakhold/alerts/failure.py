"""Notice that a run ended without its last hook.

Problem. An exception in `fit`, or in a loop, ends it without any hook: no callback hears of it.

What doesn't work. Keeping the loop's frame to look at: it keeps the training data alive. Wrapping
`fit`: callbacks are passed to it, they do not call it.

Solution. A run that has begun and not ended is open. That it will not end any more is noticed at
the first of:

1. an exception that nobody catches, in the thread of the run (`sys.excepthook`,
   `threading.excepthook`) or in the cell of a notebook: the exception is known;
2. the end of the list that calls the callbacks: `fit` lets go of it when its exception is dealt
   with. The exception is known only if it is being handled just then;
3. the next run of the same callback, and the end of the process.

What still fails. SIGKILL, a power cut and a signal that nobody handles end the process with nobody
left to say so; SIGTERM is the session's. An exception that is caught far outside is noticed late,
and without its name.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, final

from peakhold import process

# Imported before our own farewell is registered, so that the outboxes' comes after it.
from peakhold.alerts.outbox import nothing

__all__ = ["OpenRun"]

_UNKNOWN = "it ended without on_train_end, most likely by an exception"


@final
class OpenRun:
    """One open run.

    Args:
        owner: What lives as long as the run, and no longer.
        on_failure: Called once with the reason, in any thread, if the run will not end any more. It
            must do little: the collector may be on the stack.

    Example:
        >>> class Run: ...
        >>> run = Run()
        >>> watch = OpenRun(run, print)
        >>> del run
        it ended without on_train_end, most likely by an exception
    """

    def __init__(self, owner: Any, on_failure: Callable[[str], Any]) -> None:
        self.thread, self._pid = threading.get_ident(), os.getpid()
        self._on_failure = on_failure
        self._finalizer = weakref.finalize(owner, self._gone)
        self._finalizer.atexit = False
        _open.add(self)
        _install()

    def __reduce__(self) -> tuple[Any, ...]:
        return nothing, ()  # a copy of a callback watches no run

    def close(self) -> None:
        """The run has ended as it should."""
        _open.discard(self)
        self._finalizer.detach()

    def fail(self, reason: str) -> None:
        """Tell, once."""
        told = self not in _open or os.getpid() != self._pid
        self.close()
        if not told:
            with contextlib.suppress(Exception):
                self._on_failure(reason)

    def _gone(self) -> None:
        error = sys.exc_info()[1]
        self.fail(_UNKNOWN if error is None else words(error))


def words(error: BaseException) -> str:
    """An exception in one line.

    Example:
        >>> words(ZeroDivisionError("division by zero"))
        'ZeroDivisionError: division by zero'
    """
    name = type(error).__name__
    with contextlib.suppress(Exception):
        lines = str(error).strip().splitlines()
        return f"{name}: {lines[0]}" if lines else name
    return name


_open: set[OpenRun] = set()
_installed: set[str] = set()


def _fail_in(thread: int | None, error: BaseException | None) -> None:
    for watch in list(_open):
        if error is not None and watch.thread == thread:
            watch.fail(words(error))


def _install() -> None:
    """Once for each hook; they stay, and pass everything on."""
    if "excepthook" not in _installed:
        _installed.add("excepthook")
        _chain_excepthooks()
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None and "IPython" not in _installed:
        _installed.add("IPython")
        shell.events.register("post_run_cell", _after_cell)


def _chain_excepthooks() -> None:
    before, thread_before = sys.excepthook, threading.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        _fail_in(threading.get_ident(), error)
        before(kind, error, trace)

    def thread_excepthook(args: threading.ExceptHookArgs) -> None:
        _fail_in(threading.get_ident(), args.exc_value)
        thread_before(args)

    sys.excepthook, threading.excepthook = excepthook, thread_excepthook


def _after_cell(result: Any) -> None:
    """IPython hands exceptions to no hook, but tells of each cell how it ended."""
    _fail_in(threading.get_ident(), getattr(result, "error_in_exec", None))


def _fail_at_exit() -> None:
    for watch in list(_open):
        watch.fail("the process ended before on_train_end")


process.at_exit(_fail_at_exit)
process.in_forked_child(_open.clear)
