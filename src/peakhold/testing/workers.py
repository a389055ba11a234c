"""Workers in one process, for tests: a channel whose order, delays and deaths are scripted.

`FakeHub(n)` gives a `FakeChannel` for each of `n` workers, which run in threads. It passes the same
kit as the channels of the frameworks (`channel_tests.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, final

__all__ = ["FakeChannel", "FakeHub", "run_workers"]


@final
class FakeHub:
    """Keys and values that the channels of one test share.

    Args:
        size: How many workers there are.
        attempt: Names this start of them.
        before: Called with the rank, the name of the call (`set`, `get`, `replace`, `delete`) and
            the key before each call, outside of the lock: what it waits for is the schedule, and
            what it raises is what the worker gets.

    Example:
        >>> hub = FakeHub(2)
        >>> hub.channel(0).set("a", b"1")
        >>> hub.channel(1).get("a", 1.0)
        b'1'
    """

    def __init__(
        self,
        size: int,
        attempt: str = "0",
        before: Callable[[int, str, str], object] | None = None,
    ) -> None:
        self.size, self.attempt, self.before = size, attempt, before
        self.values: dict[str, bytes] = {}
        self.calls = 0
        """How often a channel was called."""
        self._changed = threading.Condition()
        self._dead: set[int] = set()

    def channel(self, rank: int) -> FakeChannel:
        """The channel of a worker."""
        return FakeChannel(self, rank)

    def kill(self, rank: int) -> None:
        """From now on a worker reaches nobody, and nobody hears of it any more."""
        with self._changed:
            self._dead.add(rank)
            self._changed.notify_all()

    def call(self, rank: int, name: str, key: str) -> None:
        """A worker's channel is called."""
        if self.before is not None:
            self.before(rank, name, key)
        self.calls += 1
        if rank in self._dead:
            raise ConnectionResetError(f"rank {rank} is dead")

    def write(self, key: str, value: bytes) -> None:
        """Let all see a value."""
        with self._changed:
            self.values[key] = value
            self._changed.notify_all()

    def read(self, rank: int, key: str, seconds: float) -> bytes | None:
        """A value, if it is there in time."""
        end = time.monotonic() + seconds
        with self._changed:
            while key not in self.values:
                left = end - time.monotonic()
                if left <= 0 or rank in self._dead:
                    return None
                self._changed.wait(left)
            return self.values[key]

    def forget(self, keys: Iterable[str]) -> None:
        """Keys are there no more."""
        with self._changed:
            for key in keys:
                self.values.pop(key, None)


@final
class FakeChannel:
    """How one worker of a test reaches the others.

    Args:
        hub: What they share.
        rank: Which worker this is.
    """

    def __init__(self, hub: FakeHub, rank: int) -> None:
        self._hub, self.rank, self.size, self.attempt = hub, rank, hub.size, hub.attempt

    def set(self, key: str, value: bytes) -> None:
        """Let all see a value."""
        self._hub.call(self.rank, "set", key)
        self._hub.write(key, value)

    def replace(self, key: str, value: bytes) -> None:
        """As `set`, for a key that was written before."""
        self._hub.call(self.rank, "replace", key)
        self._hub.write(key, value)

    def get(self, key: str, seconds: float) -> bytes | None:
        """A value, if it is there in time."""
        self._hub.call(self.rank, "get", key)
        return self._hub.read(self.rank, key, seconds)

    def delete(self, keys: Iterable[str]) -> None:
        """Forget keys."""
        keys = list(keys)
        self._hub.call(self.rank, "delete", ",".join(keys))
        self._hub.forget(keys)

    def another(self) -> FakeChannel:
        """The same: nothing is waited for under a lock."""
        return FakeChannel(self._hub, self.rank)

    def close(self) -> None:
        """Nothing is held."""


def run_workers(size: int, work: Callable[[int], Any], *, timeout_s: float = 60.0) -> list[Any]:
    """Run a function once for each worker, each in a thread of its own.

    Args:
        size: How many.
        work: Called with the rank.
        timeout_s: Seconds after which those that have not ended are an error.

    Returns:
        By rank, what it returned, or the exception that it raised.

    Raises:
        TimeoutError: If one has not ended; their threads are daemons.
    """
    results: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = work(rank)
        except BaseException as error:
            results[rank] = error

    threads = [
        threading.Thread(target=run, args=(rank,), name=f"worker-{rank}", daemon=True)
        for rank in range(size)
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    late = [thread.name for thread in threads if thread.is_alive()]
    if late:
        raise TimeoutError(f"{', '.join(late)} did not end within {timeout_s:g} s")
    return results
