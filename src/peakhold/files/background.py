"""One thread for each process that writes to disk while training goes on.

Rules for this file:

1. One thread, whatever the number of stores and drop-ins: two writers would only make the disk seek
   and the interpreter switch.
2. Not a daemon: what was asked for is finished at the end of the process and after an exception.
   It starts with the first job and ends when there is none, so an idle process exits at once. To
   start it costs a switch or two of the interpreter, so a job may say that it can wait for another.
3. A forked child has the queue but not the thread. It drops the queue: the parent writes these
   jobs, and a job written twice under one name is the worst of outcomes.
4. At the very end of the interpreter nobody waits for a new thread, and late enough it never
   begins: then the job runs in the caller.
5. Ctrl-C, and the handler of any signal, come between any two lines of whoever hands over or waits,
   and a handler may hand over and wait itself. So nobody holds a lock here while he does something:
   each step is one call that cannot be interrupted (`append`, `popleft`, `setdefault`), and what an
   interrupt has left undone, a job in no queue or a queue without a thread, is done by whoever next
   waits or hands over.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar, final

from peakhold import process
from peakhold.errors import StoreForkedError

__all__ = ["Task", "drain", "nudge", "nudge_from_anywhere", "submit"]

T = TypeVar("T")

_LOOK_S: Final = 1.0
"""How long to wait before looking whether what is waited for is still being seen to (rule 5)."""


@final
class Task(Generic[T]):
    """A job that was handed to the writer thread, and what became of it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work: Callable[[], T] | None = work
        self._pid = os.getpid()
        self.value: T | None = None
        """What it returned; None while it runs, and if it raised."""
        self.error: BaseException | None = None
        """What the job raised, or None; None while it runs."""
        self.done = False
        """True when the job has ended, well or not."""
        self._claim: dict[str, object] = {}
        """Who does it: one that runs it, or the error that it was cancelled with."""
        self._end = threading.Lock()  # released at the end: a waiter holds it for no longer
        self._end.acquire()
        self.queued = False
        """True once it has been in the queue."""

    @property
    def begun(self) -> bool:
        """True when somebody runs it, or nobody ever will."""
        return bool(self._claim)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end, whatever it is; False if it has not come in time.

        Raises:
            StoreForkedError: In a forked child, where the job does not exist.
        """
        if os.getpid() != self._pid:
            raise StoreForkedError.for_path("a task of the parent")
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.done:
            claim = self._claim.get("by")
            if isinstance(claim, BaseException):  # an interrupt has come between (rule 5)
                self.error, self.done = claim, True
                break
            _writer.see_to(self)  # type: ignore[arg-type]  # the queue does not look at values
            left = _LOOK_S if until is None else min(_LOOK_S, until - time.monotonic())
            if left <= 0:
                break
            if self._end.acquire(timeout=left):
                self._release()
        return self.done

    def result(self, timeout_s: float | None = None) -> T:
        """Wait for the job and return its value.

        Args:
            timeout_s: Seconds to wait at most; None waits as long as it takes.

        Raises:
            TimeoutError: If the job has not ended in time; it goes on.
            StoreForkedError: In a forked child, where the job does not exist.
            BaseException: Whatever the job raised.
        """
        if not self.wait(timeout_s):
            raise TimeoutError(f"the job has not ended within {timeout_s} s")
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # set when there is no error

    def run(self) -> None:
        """Do the job, once; nothing escapes."""
        me = object()
        work: Callable[[], T] | None = None
        try:
            if self._claim.setdefault("by", me) is not me:
                return
            work, self._work = self._work, None  # the job's arrays are let go when it ends
            if work is not None:
                self.value = work()
        except BaseException as exc:
            if self._claim.get("by") is not me:
                raise
            _let_go_of_frames(exc)
            self.error = exc
        # The end is told before the job is dropped: the job may hold the last reference to a
        # store, and a store that is collected waits for this very task.
        self.done = True
        self._release()
        del work

    def cancel(self, error: BaseException) -> bool:
        """End the job with `error` if it has not begun; True if it had not."""
        if self._claim.setdefault("by", error) is not error:
            return False
        self.error, self.done, self._work = error, True, None
        self._release()
        return True

    def _release(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is free already
            self._end.release()


def _let_go_of_frames(error: BaseException | None) -> None:
    """Where it was raised stays known; what the functions there held (arrays, a store) does not.

    Whoever keeps the error, to tell it when a store is gone, would keep that store.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


@final
class _Writer:
    def __init__(self) -> None:
        self._jobs: deque[Task[object]] = deque()
        self._turn: dict[str, int] = {}
        """Which thread does the jobs; empty if none does."""
        self._thread: threading.Thread | None = None
        """The last that had its turn."""
        self._starting: threading.Thread | None = None
        """One that will look for jobs as soon as it runs."""
        self.ending = False
        """True once what is handed over is done by who hands it over."""

    def submit(self, task: Task[object], *, may_wait: bool = False) -> None:
        self._jobs.append(task)
        task.queued = True
        if not may_wait:
            self.see_to_jobs()

    def see_to(self, task: Task[object]) -> None:
        """Have a job done that somebody waits for, whatever has come between (rule 5)."""
        if self._turn.get("of") == threading.get_ident():
            task.run()  # whoever waits is who would do it
            return
        if not (task.queued or task.begun):
            self._jobs.append(task)
            task.queued = True
        self.see_to_jobs()

    def see_to_jobs(self) -> None:
        """Start a thread for the jobs that are there, if there are any and none is at them."""
        if sys.is_finalizing():
            self._turn.clear()  # whoever had it will never run again
        if not self._jobs or self._turn:  # who has the turn looks again when it is over
            return
        if self._starting is not None and self._starting.is_alive():
            return
        if self.ending or sys.is_finalizing():  # rule 4
            self._run_here()
            return
        thread = threading.Thread(target=self._run, name="peakhold-writer", daemon=False)
        self._starting = thread
        try:
            thread.start()
        except RuntimeError as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # it hit `start` in a bad place
                raise error.__context__ from None
            self._starting = None  # the system is out of threads
            self._run_here()

    def _run(self) -> None:
        thread = threading.current_thread()
        while True:
            # Before the look at the jobs: whoever adds one from here on sees to it himself.
            if self._starting is thread:
                self._starting = None
            if not self._jobs or not self._take_turn():
                return
            self._thread = thread
            try:
                self._do_jobs()
            finally:
                self._turn.clear()

    def _run_here(self) -> None:
        while self._jobs and self._take_turn():
            try:
                interrupt = self._do_jobs()
            finally:
                self._turn.clear()
            if interrupt is not None:
                raise interrupt

    def _take_turn(self) -> bool:
        me = threading.get_ident()
        return self._turn.setdefault("of", me) == me

    def _do_jobs(self) -> BaseException | None:
        """Do all there are; the Ctrl-C that a job was ended by, if there was one."""
        while self._jobs:
            self._jobs[0].run()  # it stays there meanwhile: an interrupt must not lose it
            task = self._jobs.popleft()
            error = task.error
            del task  # an idle writer holds nobody's arrays
            if isinstance(error, KeyboardInterrupt):
                return error
            del error
        return None

    def drain(self) -> None:
        me = threading.get_ident()
        while (self._jobs or self._turn) and self._turn.get("of") != me:
            thread = self._thread
            if thread is not None and thread.is_alive():
                thread.join()
            else:  # it has not begun yet, or somebody does the jobs himself
                marker: Task[object] = Task(lambda: None)
                self.submit(marker)
                marker.wait()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()


_writer = _Writer()


def _forget_in_child() -> None:
    global _writer  # noqa: PLW0603 - one writer for each process is the point
    _writer = _Writer()


process.in_forked_child(_forget_in_child)


def submit(work: Callable[[], T] | Task[T], *, may_wait: bool = False) -> Task[T]:
    """Hand a job to the process's writer thread; jobs run one after the other, in order.

    Args:
        work: Called without arguments in the writer thread. It must not wait for another task. Or
            a task that was made before.
        may_wait: Whether it is soon enough to do it before the next job that may not wait, when
            somebody waits for it, or after `nudge`: no thread is started for it.

    Returns:
        The task; its `result()` gives the value or raises what the job raised.

    Example:
        >>> submit(lambda: 6 * 7).result()
        42
    """
    task = work if isinstance(work, Task) else Task(work)
    _writer.submit(task, may_wait=may_wait)  # type: ignore[arg-type]  # values are not looked at
    return task


def nudge() -> None:
    """Have the jobs done that were said to be able to wait."""
    _writer.see_to_jobs()


def nudge_from_anywhere() -> None:
    """The same, for what is called as an object is collected, in whatever line of any thread.

    That may be a line of `threading` that holds a lock, and `Thread.start` waits for it: for ever,
    in the thread that holds it. A bare thread waits for nothing, and starts the other.
    """
    if _writer.ending or sys.is_finalizing():  # no thread is started then (rule 4)
        nudge()
        return
    with contextlib.suppress(RuntimeError):  # out of threads: whoever waits or hands over does it
        _thread.start_new_thread(nudge, ())


def drain() -> None:
    """Wait until the writer thread has nothing left to do."""
    _writer.drain()


def _end() -> None:
    _writer.ending = True
    _writer.drain()


# The interpreter joins threads before it runs exit hooks: a job that such a hook submits would be
# cut off with the thread that has begun to do it.
process.at_exit(_end)
