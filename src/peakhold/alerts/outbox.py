"""Messages that wait to be sent: a bounded queue and a thread of its own.

Rules of this file:

1. A push is a push: no I/O, no waiting for the network, whatever state the receiver is in.
2. The thread starts with the first message and ends with the last, or with `close` if it was asked
   to stay: then no later push starts one, wherever it comes from. Else an idle outbox holds neither
   a thread nor a socket. It is a daemon: the end of the process waits for it so long and no longer.
3. In order, one at a time. A message that passed its tries is given up, and the next has its turn.
   What is cut off without an answer is sent again: it may come twice, and is not lost.
4. That messages were not delivered is said once, to whoever asks first; with nobody to ask
   (training is over), on stderr.
5. The tries are ten lines here and no library: they wait as the receiver asks, and what they wait
   for is cut short by the end of the process.
6. A forked child has the queue but not the thread. It drops the queue: the parent sends it.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar, final

from peakhold import process
from peakhold.alerts.outcome import Outcome, Sender

__all__ = ["Outbox"]

Message = TypeVar("Message")

_LONGEST_BACKOFF_S = 60.0
_LONGEST_REQUEST_S = 3600.0
"""The longest `Retry-After` that is waited for."""


@final
class Outbox(Generic[Message]):
    """Sends messages in the background.

    Args:
        sender: Where to.
        tries: How often one message is tried. At least 1.
        timeout_s: Seconds for one try.
        exit_timeout_s: Seconds that the end of the process waits for messages under way.
        size: Messages that may wait. If there are more, the oldest is dropped.
        what: What one message is, in words.
        stays: Whether the thread waits for more messages until `close`.
        clock: Seconds, for what is left of the exit's limit.
        pause: Waits so many seconds between two tries; None: until the process ends, at most.
        chance: A number from 0 to 1, which spreads the tries of many runs; None: drawn.

    Example:
        >>> from peakhold.alerts import Outcome
        >>> class Printer:
        ...     where = "here"
        ...     def send(self, text, timeout_s):
        ...         print(text)
        ...         return Outcome(True)
        >>> outbox = Outbox(Printer())
        >>> outbox.push("training began"); outbox.flush(10)
        training began
        True
    """

    def __init__(
        self,
        sender: Sender[Message],
        *,
        tries: int = 5,
        timeout_s: float = 10.0,
        exit_timeout_s: float = 5.0,
        size: int = 64,
        what: str = "an alert",
        stays: bool = False,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Any] | None = None,
        chance: Callable[[], float] | None = None,
    ) -> None:
        self.sender = sender
        self.tries, self.timeout_s, self.exit_timeout_s = tries, timeout_s, exit_timeout_s
        self.size, self._what, self._stays = size, what, stays
        self.attended = False
        """Whether somebody asks for `complaint()`; if not, the thread says it."""
        self._clock, self._chance = clock, chance or _chance
        self._given_pause = pause
        self._renew()
        _boxes.add(self)

    def _renew(self) -> None:
        # Reentrant: the collector may run the end of another run, which pushes, inside of a push.
        self._changed = threading.Condition(threading.RLock())
        self._queue: deque[Message] = deque()
        self._thread: threading.Thread | None = None
        self._exit = threading.Event()
        self._exit_at: float | None = None
        self._is_closed = False
        self._trouble = ""
        """Why the last try failed, while others follow."""
        self._pause = self._given_pause or self._exit.wait
        self._complaint: str | None = None
        self._complained = False
        self.n_lost = 0
        """Messages given up or dropped."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Threads and locks do not travel, and messages must not be sent twice.
        return nothing, ()

    def push(self, text: Message) -> None:
        """Hand a message over; one that is waiting already is not sent twice."""
        with self._changed:
            if text in self._queue:
                return
            if len(self._queue) >= self.size:
                del self._queue[min(1, len(self._queue) - 1)]  # the first is under way
                self._lose("too many were waiting")
            self._queue.append(text)
            if self._thread is not None:
                self._changed.notify_all()
                return
            self._thread = threading.Thread(target=self._run, name="peakhold-alerts", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is ending, and starts no more threads
            self._begin_exit()
            self._run()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing waits any more; False if that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue, timeout_s)

    def close(self, timeout_s: float) -> None:
        """Wait so long until nothing waits any more; what still does is lost, and the thread ends.

        Args:
            timeout_s: Seconds.
        """
        is_empty = self.flush(timeout_s)
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            if not is_empty:
                for _ in range(len(self._queue)):
                    self._queue.popleft()
                    self._lose(self._trouble or f"it took longer than {timeout_s:.3g} s")
                self._exit.set()  # nobody waits between two tries for what is lost
                self._exit_at = self._clock()

    def complaint(self) -> str | None:
        """Once: that messages were not delivered, and why."""
        with self._changed:
            told, self._complaint = self._complaint, None
            return told

    # In the thread

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    self._changed.notify_all()
                    if self._is_closed or not self._stays:
                        self._thread = None
                        return
                    self._changed.wait()
                text = self._queue[0]
            reason = self._deliver(text)
            with self._changed:
                if self._queue and self._queue[0] is text:  # else it is lost already
                    self._queue.popleft()
                    if reason is not None:
                        self._lose(reason)

    def _deliver(self, text: Message) -> str | None:
        """Send one message; returns why not."""
        outcome, n = Outcome(False, "the process ended"), 0
        for n in range(1, self.tries + 1):
            limit_s = self._limit()
            if limit_s <= 0:
                break
            outcome = self._try(text, limit_s)
            self._trouble = outcome.reason
            if outcome.delivered:
                return None
            if not outcome.retry or n == self.tries or not self._rest(outcome, n):
                break
        return f"{outcome.reason} ({n} {'try' if n == 1 else 'tries'})"

    def _limit(self) -> float:
        if self._exit_at is None:
            return self.timeout_s
        return min(self.timeout_s, self._exit_at - self._clock())

    def _try(self, text: Message, limit_s: float) -> Outcome:
        try:
            return self.sender.send(text, limit_s)
        except Exception as error:  # of somebody else's sender; its text may hold the address
            return Outcome(False, type(error).__name__)

    def _rest(self, outcome: Outcome, n: int) -> bool:
        """Wait before the next try; False if that would be too long."""
        if outcome.wait_s is None:
            backoff_s = min(2.0 ** (n - 1), _LONGEST_BACKOFF_S)
            self._pause(backoff_s * (0.5 + self._chance() / 2))
            return True
        if outcome.wait_s > _LONGEST_REQUEST_S:
            return False
        until = self._clock() + outcome.wait_s
        self._pause(outcome.wait_s)
        if self._exit_at is None:
            return True
        # The process ends: what we were asked to wait is waited, or there is no other try.
        if until > self._exit_at:
            return False
        time.sleep(max(until - self._clock(), 0.0))
        return True

    def _lose(self, reason: str) -> None:
        self.n_lost += 1
        if self._complained:
            return
        self._complained = True
        self._complaint = (
            f"{self._what} to {self.sender.where} was not delivered: {reason}. "
            "Training goes on; this is said once."
        )
        if not self.attended:
            self.complain()

    def complain(self) -> None:
        """Say on stderr what nobody asked for."""
        told = self.complaint()
        if told is not None:
            with contextlib.suppress(Exception):  # a closed stderr at the very end
                sys.stderr.write(f"Peakhold: {told}\n")  # in one piece: other threads write, too
                sys.stderr.flush()

    # At the end of the process

    def _begin_exit(self) -> None:
        with self._changed:
            if self._exit_at is None:
                self._exit_at = self._clock() + self.exit_timeout_s
            self.attended = False
        self._exit.set()

    def _end_exit(self) -> None:
        left = (self._exit_at or 0.0) - self._clock()
        if not self.flush(max(left, 0.0)):
            with self._changed:
                self._lose("the process ended")
        self.complain()


_boxes: weakref.WeakSet[Outbox[Any]] = process.each_in_forked_child(Outbox._renew)


def _chance() -> float:
    import random  # slow to import, and needed only after a failure

    return random.random()  # noqa: S311 - it spreads load, it guards nothing


def nothing() -> None:
    """Give None, which is what an outbox or a watch becomes in a copied or pickled callback.

    Both belong to one process and one run.
    """


def _drain() -> None:
    boxes = list(_boxes)
    for box in boxes:
        box._begin_exit()
    for box in boxes:
        box._end_exit()


process.at_exit(_drain)
