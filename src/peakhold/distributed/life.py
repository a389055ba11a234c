"""Signs of life: a thread that says where this worker is, and what is known of the others.

Rules of this file:

1. The thread has a connection of its own, holds the coordinator by nothing, and ends with the run,
   or when the process does.
2. A process of the same machine is asked for at the system; of others only their signs are known.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast, final

from peakhold.distributed.contract import Channel

if TYPE_CHECKING:
    from peakhold.distributed.workers import Limits

__all__ = ["Life", "gone", "this_process"]


@final
class Life:
    """Signs of life of one worker, and those of the others.

    Args:
        channel: How workers talk.
        prefix: Of all keys of this run.
        limits: How often a sign is given, and when one is missed.
        where: Says where this worker is.
    """

    def __init__(
        self, channel: Channel, prefix: str, limits: Limits, where: Callable[[], str]
    ) -> None:
        self._channel, self._prefix, self._limits, self._where = channel, prefix, limits, where
        self._other: Channel | None = None
        self._over = threading.Event()
        self._seen: dict[int, tuple[int, float, str]] = {}
        """By rank: the number of its newest sign, when that was seen first, and what it said."""
        self.waiting_for: int | None = None
        """For which rank this worker waits now."""

    def begin(self) -> None:
        """Give signs of life from now on."""
        if self._other is None:
            self._other = self._channel.another()
            threading.Thread(target=self._live, name="peakhold-life", daemon=True).start()

    def _live(self) -> None:
        channel, n = cast("Channel", self._other), 0
        key = f"{self._prefix}beat/{self._channel.rank}"
        with contextlib.suppress(Exception):  # the group is gone: the main thread will say so
            while True:
                n += 1
                with contextlib.suppress(ReferenceError, AttributeError):
                    sign = json.dumps([n, self._said()]).encode()
                    (channel.set if n == 1 else channel.replace)(key, sign)
                self._look(channel)
                if self._over.wait(self._limits.beat):
                    break
        with contextlib.suppress(Exception):
            channel.close()

    def _said(self) -> str:
        where, rank = self._where(), self.waiting_for
        return where if rank is None else f"{where}, waiting for rank {rank}"

    def _look(self, channel: Channel) -> None:
        """See the newest signs of all others."""
        now = time.monotonic()
        for rank in range(channel.size):
            value = channel.get(f"{self._prefix}beat/{rank}", 0)
            if value is not None:
                n, said = json.loads(value)
                if self._seen.get(rank, (0,))[0] != n:
                    self._seen[rank] = n, now, said

    def last_seen(self, rank: int) -> str:
        """Where a rank was at its newest sign of life, and how long that is ago if it is silent."""
        seen = self._seen.get(rank)
        if seen is None:
            return "not seen yet"
        _, at, said = seen
        ago = time.monotonic() - at
        where = said or "in this run"
        return where if ago < self._limits.silent else f"{where}; silent for {ago:.0f} s"

    def end(self) -> None:
        """No further sign."""
        self._over.set()


def this_process() -> list[Any]:
    """Where this process runs, its number there, and when it began: no other has all three."""
    pid = os.getpid()
    return [_place(), pid, _began(pid)]


def gone(process: list[Any]) -> bool:
    """Whether a process is known to have ended; False where nobody can tell."""
    place, pid, began = process
    if place != _place():
        return False
    if began is not None:
        return bool(_began(pid) != began)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _place() -> str:
    """The machine, this start of it, and whose process numbers these are."""
    words = [socket.gethostname()]
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id") as file:
            words.append(file.read().strip())
        words.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(words)


def _began(pid: int) -> str | None:
    """When a process began, in the system's ticks; None if it is not there, or has ended.

    One that has ended and was not waited for yet (`Z`) is not there.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {b"Z", b"X"} else fields[19].decode()
