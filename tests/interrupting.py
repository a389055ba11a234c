"""Ctrl-C, or a signal's handler, at a given line of what the main thread does.

A real signal comes where it likes; here it comes at each line event of a hand-over in turn: of the
store, of its snapshot, of the writer and of `threading`. `tests/store/test_interrupts.py` has the short form, `tests/crash/test_store_interrupts.py`
the long one.
"""

import linecache
import sys
import threading
from pathlib import Path

import peakhold
from peakhold.files import background

_HOME = str(Path(peakhold.__file__).parent)
_OURS = (
    *(f"{_HOME}/store/{name}.py" for name in ("store", "saving", "owner")),
    *(f"{_HOME}/snapshots/{name}.py" for name in ("host_buffers", "memory", "copying", "plan")),
    f"{_HOME}/files/background.py",
    threading.__file__,
)


class Lines:
    """Does something at the N-th line event, counted from 1; 0 only counts.

    Args:
        at: Which.
        do: What; it may raise. What it returns is kept in `result`.
        files: Of which files' lines, by the beginning of their paths.
    """

    def __init__(self, at=0, do=lambda: None, *, files=_OURS):
        self.at, self.do, self._files = at, do, files
        self.count, self.result, self.where = 0, None, None
        self._lines = {}

    def __enter__(self):
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_):
        sys.settrace(None)

    def _enter(self, frame, event, argument):
        return self._line if frame.f_code.co_filename.startswith(self._files) else None

    def _line(self, frame, event, argument):
        if event == "line" and not self._is_between(frame):
            self.count += 1
            if self.count == self.at:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                self.result = self.do()
        return self._line

    def _is_between(self, frame):
        """Whether it is a line event where the interpreter looks for no signal.

        The line of a `with` comes once more between its block and its `__exit__`: an error raised
        there would leave what it holds locked. One raised at an `except` would stay "being handled".
        """
        before, self._lines[id(frame)] = self._lines.get(id(frame), 0), frame.f_lineno
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip()
        if line.startswith("with "):
            return before > frame.f_lineno
        return line.startswith(("except", "pass"))


def forget_threads_that_never_began():
    """What `Thread.start` was going to start when it was interrupted, `threading` lists for good."""
    background.drain()
    for thread in list(threading._limbo):
        if thread.ident is None:
            threading._limbo.pop(thread, None)


def interrupt():
    raise KeyboardInterrupt
