"""Signs of life: a thread that says where this worker is, and what is known of the others.

Rules of this file:

1. The thread has a connection of its own, holds the coordinator by nothing, and ends with the run,
   or when the process does.
2. A process of the same machine is asked for at the system; of others only their signs are known.
3. Where the main thread is inside a collective of the framework's, nothing else can say who is
   gone: the thread says it, once. Where it waits for others in our code, it hears it by itself.
4. A sign carries who calls for an end within the epoch (`border.py`); while one is agreed on, the
   thread looks more often, and less so as long as nothing moves.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from queue import Empty
from typing import TYPE_CHECKING, Any, Final, cast, final

from peakhold.distributed.border import Border
from peakhold.distributed.contract import Channel
from peakhold.speech import say

if TYPE_CHECKING:
    from peakhold.distributed.workers import Limits

__all__ = ["Life", "gone", "this_process"]

_TICK_S: Final = 0.005
"""Between two looks while something moves at the border; a look costs 0.1 ms for each worker."""
_WAITS: Final = ", waiting for rank "
_SLOWER: Final = 1.5
_SLOWEST_S: Final = 0.25


@final
class Life:
    """Signs of life of one worker, and those of the others.

    Args:
        channel: How workers talk.
        prefix: Of all keys of this run.
        limits: How often a sign is given, and when one is missed.
        where: Says where this worker is.
        border: Where all end within an epoch, if one of them asks for it.
    """

    def __init__(
        self,
        channel: Channel,
        prefix: str,
        limits: Limits,
        where: Callable[[], str],
        border: Border,
    ) -> None:
        self._channel, self._prefix, self._limits, self._where = channel, prefix, limits, where
        self._border = border
        self._other: Channel | None = None
        self._seen: dict[int, tuple[int, float, str]] = {}
        """By rank: the number of its newest sign, when that was seen first, and what it said."""
        self._process = this_process()
        self._begun: dict[int, list[Any]] = {}
        """The process of each that has given a sign of life."""
        self.processes: list[Any] = []
        """By rank: host, number and beginning of each worker's process, once they have met."""
        self._losses: dict[int, str] = {}
        """Who is known to be gone, and how."""
        self._told: set[int] = set()
        """Of whom it was said that nothing is heard."""
        self._called = -1
        """The newest agreement on a border that anybody calls for."""
        self.waiting_for: int | None = None
        """For which rank this worker waits now."""

    def begin(self) -> None:
        """Give signs of life from now on."""
        if self._other is None:
            self._other = self._channel.another()
            threading.Thread(target=self._live, name="peakhold-life", daemon=True).start()

    def _live(self) -> None:
        channel, border, n = cast("Channel", self._other), self._border, 0
        due, calls, pause = 0.0, -1, _TICK_S
        with contextlib.suppress(Exception):  # the group is gone: the main thread will say so
            while True:
                now = time.monotonic()
                if now >= due or border.calls != calls:
                    n, due, calls = n + 1, now + self._limits.beat, border.calls
                    self._tell(channel, n, calls)
                    self._look(channel)
                    self._say_who_is_missing()
                    self._look_who_is_gone(channel)
                moved = border.step(channel, self._called)
                pause = _TICK_S if moved else min(_SLOWER * pause, _SLOWEST_S)
                until = max(0.0, due - time.monotonic())
                try:
                    woken = border.wakes.get(
                        timeout=min(pause, until) if border.is_active else until
                    )
                except Empty:
                    continue
                if not woken:
                    break
                pause = _TICK_S
        with contextlib.suppress(Exception):
            channel.close()

    def _tell(self, channel: Channel, n: int, calls: int) -> None:
        with contextlib.suppress(ReferenceError, AttributeError):
            sign = json.dumps([n, self._said(), calls, self._process]).encode()
            key = f"{self._prefix}beat/{self._channel.rank}"
            (channel.set if n == 1 else channel.replace)(key, sign)

    def _said(self) -> str:
        where, rank = self._where(), self.waiting_for
        return where if rank is None else f"{where}{_WAITS}{rank}"

    def _look(self, channel: Channel) -> None:
        """See the newest signs of all others."""
        now = time.monotonic()
        for rank in range(channel.size):
            value = channel.get(f"{self._prefix}beat/{rank}", 0)
            if value is not None:
                n, said, calls, self._begun[rank] = json.loads(value)
                if self._seen.get(rank, (0,))[0] != n:
                    self._seen[rank] = n, now, said
                    self._called = max(self._called, calls)

    def _look_who_is_gone(self, channel: Channel) -> None:
        failed = channel.get(f"{self._prefix}failed", 0)
        if failed is not None:
            rank, message = json.loads(failed)
            self._losses[rank] = f"rank {rank} ended with {message}"
        for rank in self._others():
            if rank not in self._losses and channel.get(f"{self._prefix}left/{rank}", 0):
                self._losses[rank] = f"rank {rank} has left the run"
        self._look_at_processes()

    def _look_at_processes(self) -> None:
        for rank, process in enumerate(self.processes):
            if rank != self._channel.rank and rank not in self._losses and gone(process):
                self._losses[rank] = f"rank {rank} is gone: its process has ended"

    def waits(self, rank: int) -> bool:
        """Whether a worker waits for another one, as far as it has told."""
        return _WAITS in self._seen.get(rank, (0, 0.0, ""))[2]

    def process_of(self, rank: int) -> list[Any] | None:
        """The process of a worker that has given a sign of life."""
        return self._begun.get(rank)

    def newest_loss(self) -> tuple[int, str] | None:
        """Who is known to be gone, and how; in any thread."""
        self._look_at_processes()
        return next(iter(self._losses.items()), None)

    def _others(self) -> list[int]:
        return [rank for rank in range(self._channel.size) if rank != self._channel.rank]

    def _say_who_is_missing(self) -> None:
        """Of what was known at the look before: by now the main thread may have heard of it."""
        if self._border.is_over or not self.processes:
            return
        for rank in self._others():
            if rank in self._losses or self._is_silent(rank):
                self._say_once(rank)

    def _say_once(self, rank: int) -> None:
        here = [one for one in range(self._channel.size) if one not in self._losses]
        first = min(one for one in here if not self._is_silent(one))
        if rank in self._told or self.waiting_for is not None or self._channel.rank != first:
            return
        self._told.add(rank)
        what = self._losses.get(rank)
        what = f"rank {rank} gives no sign of life" if what is None else what
        with contextlib.suppress(ReferenceError, AttributeError):
            say(
                f"Peakhold: {what} (last seen {self.last_seen(rank)}). Rank {first}, "
                f"{self._said() or 'in this run'}, may be waiting for it in a collective of the "
                "framework's, which only the framework or the launcher ends."
            )

    def _is_silent(self, rank: int) -> bool:
        seen = self._seen.get(rank)
        return seen is not None and time.monotonic() - seen[1] >= self._limits.silent

    def last_seen(self, rank: int) -> str:
        """Where a rank was at its newest sign of life, and how long that is ago if it is silent."""
        seen = self._seen.get(rank)
        if seen is None:
            return "not seen yet"
        _, at, said = seen
        ago = time.monotonic() - at
        where = said or "in this run"
        return where if not self._is_silent(rank) else f"{where}; silent for {ago:.0f} s"

    def end(self) -> None:
        """No further sign."""
        self._border.wakes.put(False)


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
