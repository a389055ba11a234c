"""One thread for each process that writes to disk while training goes on.

Rules for this file:

1. One thread, whatever the number of stores and drop-ins: two writers would only make the disk seek
   and the interpreter switch.
2. Not a daemon: what was asked for is finished at the end of the process and after an exception.
   It starts with the first job and ends when there is none, so an idle process exits at once.
3. A forked child has the queue but not the thread. It drops the queue: the parent writes these
   jobs, and a job written twice under one name is the worst of outcomes.
4. At the very end of the interpreter no thread can be started; then the job runs in the caller.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar, final

from peakhold import process
from peakhold.errors import StoreForkedError

__all__ = ["Task", "drain", "submit"]

T = TypeVar("T")


@final
class Task(Generic[T]):
    """A job that was handed to the writer thread, and what became of it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work: Callable[[], T] | None = work
        self._ended = threading.Event()
        self._pid = os.getpid()
        self._claim = threading.Lock()
        self.done = False
        """True when the job has ended, well or not."""
        self.error: BaseException | None = None
        """What the job raised, or None; None while it runs."""
        self.value: T | None = None
        """What it returned; None while it runs, and if it raised."""

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end, whatever it is; False if it has not come in time.

        Raises:
            StoreForkedError: In a forked child, where the job does not exist.
        """
        if os.getpid() != self._pid:
            raise StoreForkedError.for_path("a task of the parent")
        return self._ended.wait(timeout_s)

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
        with self._claim:
            work, self._work = self._work, None  # the job's arrays are let go when it ends
        if work is None:
            return
        try:
            self.value = work()
        except BaseException as exc:
            self.error = exc
        # The event is set before the job is dropped: the job may hold the last reference to a
        # store, and a store that is collected waits for this very task.
        self._end()
        del work

    def cancel(self, error: BaseException) -> bool:
        """End the job with `error` if it has not begun; True if it had not."""
        with self._claim:
            work, self._work = self._work, None
        if work is None:
            return False
        self.error = error
        self._end()
        return True

    def _end(self) -> None:
        self.done = True
        self._ended.set()


@final
class _Writer:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: deque[Task[object]] = deque()
        self._thread: threading.Thread | None = None

    def submit(self, task: Task[object]) -> None:
        with self._lock:
            self._jobs.append(task)
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name="peakhold-writer", daemon=False)
            self._thread = thread
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending (rule 4), or the system is out of threads
            self._run()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._thread = None
                    return
                task = self._jobs.popleft()
            task.run()
            del task  # an idle writer holds nobody's arrays

    def drain(self) -> None:
        while True:
            with self._lock:
                thread = self._thread
            if thread is None or thread is threading.current_thread():
                return
            thread.join()


_writer = _Writer()


def _forget_in_child() -> None:
    global _writer  # noqa: PLW0603 - one writer for each process is the point
    _writer = _Writer()


process.in_forked_child(_forget_in_child)


def submit(work: Callable[[], T] | Task[T]) -> Task[T]:
    """Hand a job to the process's writer thread; jobs run one after the other, in order.

    Args:
        work: Called without arguments in the writer thread. It must not wait for another task. Or
            a task that was made before.

    Returns:
        The task; its `result()` gives the value or raises what the job raised.

    Example:
        >>> submit(lambda: 6 * 7).result()
        42
    """
    task = work if isinstance(work, Task) else Task(work)
    _writer.submit(task)  # type: ignore[arg-type]  # the queue does not look at values
    return task


def drain() -> None:
    """Wait until the writer thread has nothing left to do."""
    _writer.drain()


# The interpreter joins threads before it runs exit hooks: a job that such a hook submits would be
# cut off with the thread that has begun to do it.
process.at_exit(drain)
