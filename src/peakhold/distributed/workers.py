"""The coordinator of several workers, over any channel.

Problem. Whoever waits for another process may wait for ever: it may have raised, been killed, be
stuck, or be at another place of its program. Collectives of the frameworks say nothing of that for
half an hour, and then name nobody.

Solution. All that is exchanged are keys and values (`Channel`), and whoever waits looks up every
half second: did somebody fail, is the awaited process gone, is it late? A thread of ours writes
signs of life, over a connection of its own.

Rules of this file:

1. Each wait has a limit, and its error names the rank that was waited for and where that one is.
2. A round's key is its number; what it is about goes with it, and is compared. Workers that are at
   different places get an error at once.
3. A process that is known to be gone is an error at once; one that is only silent is named, and is
   an error at the limit: a long call into C keeps its thread from a sign of life, too.
4. An error on one worker reaches all others with its message, at their next wait.
5. Keys carry the attempt and the run: nothing of an earlier start is ever read.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import weakref
from collections.abc import Callable
from typing import Any, Final, final

from peakhold.distributed.border import Border
from peakhold.distributed.contract import Channel
from peakhold.distributed.life import Life, gone, this_process
from peakhold.errors import (
    InvalidArgumentError,
    WorkerFailedError,
    WorkerLostError,
    WorkersDifferError,
    WorkersError,
    WorkersTimeoutError,
)
from peakhold.process import at_exit
from peakhold.speech import say

__all__ = ["Limits", "Workers"]

_SLICE_S: Final = 0.5
"""For so long it is waited before it is looked what is wrong."""


@final
class Limits:
    """For how long workers wait for one another, in seconds.

    Args:
        wait: For anything; None: `PEAKHOLD_WORKERS_LIMIT`, or 30 minutes.
        handshake: For all to begin a run; None: `PEAKHOLD_HANDSHAKE_LIMIT`, or 60.
        notice: After that, who is late is said.
        again: And then again, each time after so long.
        silent: A worker without a sign of life for so long is called silent.
        beat: Between two signs of life.

    Raises:
        InvalidArgumentError: For a limit that is no positive number.
    """

    def __init__(
        self,
        wait: float | None = None,
        handshake: float | None = None,
        *,
        notice: float = 60.0,
        again: float = 300.0,
        silent: float = 30.0,
        beat: float = 2.0,
    ) -> None:
        self.wait = _limit("wait", wait, "PEAKHOLD_WORKERS_LIMIT", 1800.0)
        self.handshake = _limit("handshake", handshake, "PEAKHOLD_HANDSHAKE_LIMIT", 60.0)
        self.notice, self.again, self.silent, self.beat = notice, again, silent, beat


def _limit(argument: str, value: float | None, variable: str, default: float) -> float:
    name, given = argument, value
    if value is None:
        text = os.environ.get(variable)
        if not text:
            return default
        name, given = variable, text  # type: ignore[assignment]
    try:
        seconds = float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        seconds = 0.0
    if not seconds > 0:
        raise InvalidArgumentError.for_argument(
            name, given, "seconds, more than 0", hint="30 minutes are 1800."
        )
    return seconds


_runs: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
"""How many runs have begun on a channel: its keys carry the number."""

_open: set[Workers] = set()
"""Those that have not said that they are through: a run that raised is ended by nobody."""

_hears: list[bool] = []
"""Whether the end of this process is heard of."""


@final
class Workers:
    """One truth for all workers of a run.

    Args:
        channel: How they talk. The same object for all runs of a process: runs are counted by it.
        limits: For how long they wait.
        where: Says where this worker is, for those who wait for it; asked in a thread of ours.
    """

    def __init__(
        self,
        channel: Channel,
        limits: Limits | None = None,
        where: Callable[[], str] = str,
    ) -> None:
        self.rank, self.size, self.attempt = channel.rank, channel.size, channel.attempt
        self.limits = limits or Limits()
        run = _runs[channel] = _runs.get(channel, -1) + 1
        self._channel = channel
        self._prefix = f"peakhold/{channel.attempt}/{run}/"
        self._round = 0
        self._answers: list[str] = []
        """Answers that somebody may not have read yet."""
        self._read: list[str] = []
        """Keys that nobody will read again: forgotten when the others have their answer."""
        self.border = Border(self.rank, self.size, self._prefix)
        self._life = Life(channel, self._prefix, self.limits, where, self.border)
        self._processes: list[Any] = []
        """Host, number and beginning of each worker's process, by rank."""
        self._closed, self._pid = False, os.getpid()
        self._is_cut_off = False
        """Whether the group is gone: nobody can be told anything."""
        for earlier in [one for one in _open if one._channel is channel]:
            earlier.close()  # of a run that raised
        _hear_of_ends()
        _open.add(self)

    # A run begins

    def meet(self, offer: Any) -> list[Any]:
        """A run begins: what each worker offers, by rank."""
        self._life.begin()
        met = self._gather("train begin", [this_process(), offer], self.limits.handshake)
        self._processes = self._life.processes = [process for process, _ in met]
        return [given for _, given in met]

    # Rounds

    def gather(self, what: str, value: Any) -> list[Any]:
        """The values of all workers, by rank."""
        return self._gather(what, value, self.limits.wait)

    def _gather(self, what: str, value: Any, limit: float) -> list[Any]:
        values = self._aggregate(what, value, limit)
        gathered: list[Any] = self._decide(what, values, limit)
        return gathered

    def agree(self, what: str, value: Any) -> Any:
        """Rank 0's value, for all."""
        self._begin_round()
        return self._decide(what, value, self.limits.wait)

    def aggregate(self, what: str, report: Any) -> list[Any] | None:
        """The first half of a round: on rank 0 the reports of all; on the others None, at once."""
        return self._aggregate(what, report, self.limits.wait)

    def decide(self, what: str, answer: Any = None) -> Any:
        """The second half: rank 0 gives its answer, the others wait for it."""
        return self._decide(what, answer, self.limits.wait)

    def _begin_round(self) -> str:
        self._round += 1
        return f"{self._prefix}{self._round}"

    def _aggregate(self, what: str, report: Any, limit: float) -> list[Any] | None:
        key = self._begin_round()
        if self.rank:
            with self._connected(0):
                self._channel.set(f"{key}/{self.rank}", _packed(what, report))
            return None
        reports = [report]
        began = time.monotonic()
        for rank in range(1, self.size):
            there, value = self._wait(f"{key}/{rank}", rank, what, began, limit)
            if there != what:
                self._raise_differing(rank, there, what)
            reports.append(value)
        # All have read the answers of before.
        self._read += [*self._answers, *[f"{key}/{r}" for r in range(1, self.size)]]
        self._answers.clear()
        return reports

    def _decide(self, what: str, answer: Any, limit: float) -> Any:
        key = f"{self._prefix}{self._round}/answer"
        if self.rank == 0:
            with self._connected(0):
                self._channel.set(key, _packed(what, answer))
            self._answers.append(key)
            with contextlib.suppress(ConnectionError):
                self._channel.delete(self._read)
            self._read.clear()
            return answer
        # Rank 0 may wait for somebody else, whom it can name: it comes to the limit first.
        there, value = self._wait(key, 0, what, time.monotonic(), 1.1 * limit + 1.0)
        if there != what:
            self._raise_differing(0, there, what)
        return value

    def _raise_differing(self, rank: int, there: str, here: str) -> None:
        error = WorkersDifferError.of_rank(
            rank,
            f"expected all workers at one place of the run, got rank {self.rank} at {here}, and "
            f"rank {rank} at {there}.",
            hint="give all workers the same number of epochs, and call the same hooks on each; a "
            "run of one worker alone goes into `with peakhold.distributed.alone():`.",
        )
        self.fail(error)
        raise error

    # Waiting

    def _wait(self, key: str, rank: int, what: str, began: float, limit: float) -> tuple[str, Any]:
        told = began + self.limits.notice
        self._life.waiting_for = rank
        try:
            while True:
                with self._connected(rank):
                    value = self._channel.get(key, min(_SLICE_S, limit))
                if value is not None:
                    return _unpacked(value)
                try:
                    self._look_for_trouble(rank)
                except WorkersError:
                    # It may have told this one, and ended, since it was looked for.
                    value = None if self._is_cut_off else self._channel.get(key, 0)
                    if value is None:
                        raise
                    return _unpacked(value)
                told = self._look_at_clock(rank, what, began, told, limit)
        finally:
            self._life.waiting_for = None

    def await_border(self, what: str) -> None:
        """The main loop is at a border that is not confirmed: wait until it is, or is none."""
        began = time.monotonic()
        told, late = began + self.limits.notice, None
        others = [rank for rank in range(self.size) if rank != self.rank]
        try:
            while not self.border.settled(_SLICE_S):
                for rank in others:
                    self._look_for_trouble(rank)
                with self._connected(0):
                    late = self.border.missing(self._channel)
                if late is not None:
                    self._life.waiting_for = late
                    told = self._look_at_clock(late, what, began, told, self.limits.wait)
        finally:
            self._life.waiting_for = None

    def _look_at_clock(
        self, rank: int, what: str, began: float, told: float, limit: float
    ) -> float:
        """Name who is late, raise if it is too late; when to name it next."""
        now = time.monotonic()
        if now - began >= limit:
            raise self._late(rank, what, limit)
        if now < told:
            return told
        is_first = self.rank == min(r for r in range(self.size) if r != rank)
        if is_first and not self._life.waits(rank):  # else that one says for whom
            say(
                f"Peakhold: waiting for {self._named(rank)}, for {now - began:.0f} s; "
                f"rank {self.rank} is at {what}."
            )
        return now + self.limits.again

    @contextlib.contextmanager
    def _connected(self, rank: int) -> Any:
        """What a lost connection means."""
        try:
            yield
        except ConnectionError as error:
            self._is_cut_off = True
            raise WorkerLostError.of_rank(
                rank,
                f"expected the group of workers, got no connection to it: {error}; the process "
                "that holds it (rank 0's, or the launcher's) is gone.",
                hint="start all workers again; BackupAndRestore goes on from the last backup.",
            ) from error

    def _look_for_trouble(self, rank: int) -> None:
        """Raise if somebody has failed, or the awaited process is gone."""
        with self._connected(rank):
            failed = self._channel.get(f"{self._prefix}failed", 0)
            left = self._channel.get(f"{self._prefix}left/{rank}", 0)
            if failed is None and left is not None:  # said before it left: since we looked, or late
                failed = self._channel.get(f"{self._prefix}failed", _SLICE_S)
        if failed is not None:
            who, message = json.loads(failed)
            raise WorkerFailedError.of_rank(who, f"rank {who} ended with {message}")
        if left is not None or self._is_gone(rank):
            how = "has ended its run" if left is not None else "is gone: its process has ended"
            raise WorkerLostError.of_rank(
                rank,
                f"expected {self.size} workers, got rank {rank}, which {how} "
                f"({self._life.last_seen(rank)}).",
                hint="look for that worker's own error, above or in its log; start all workers "
                "again, and BackupAndRestore goes on from the last backup.",
            )

    def _is_gone(self, rank: int) -> bool:
        if self._processes:
            return gone(self._processes[rank])
        process = self._life.process_of(rank)  # in the handshake: begun, and not come to it
        return process is not None and gone(process)

    def _named(self, rank: int) -> str:
        """A rank, where it is, and whether it gives a sign of life."""
        return f"rank {rank} ({self._life.last_seen(rank)})"

    def _late(self, rank: int, what: str, limit: float) -> WorkersTimeoutError:
        if not self._processes:  # the handshake
            text = (
                f"expected all {self.size} workers to begin a run within {limit:g} s, got none of "
                f"rank {rank}."
            )
            hint = (
                "pass the callbacks on every rank, not under `if rank == 0:`. If rank "
                f"{rank} is only slow to start, set PEAKHOLD_HANDSHAKE_LIMIT to more seconds. For "
                "a run of one worker alone: `with peakhold.distributed.alone():`."
            )
        else:
            text = (
                f"expected {self._named(rank)} at {what} within {limit:g} s, got no sign of it "
                "there."
            )
            hint = (
                "its stack says where it hangs (`py-spy dump --pid`). If it only takes long, "
                "set PEAKHOLD_WORKERS_LIMIT to more seconds."
            )
        error = WorkersTimeoutError.of_rank(rank, text, hint=hint)
        self.fail(error)
        return error

    # The end

    def lost(self) -> tuple[int, str] | None:
        """A worker that is known to be gone, and how; in any thread."""
        return self._life.newest_loss()

    def fail(self, error: BaseException) -> None:
        """Tell all others that this worker ends with an error; never raises."""
        if self._closed or self._is_cut_off or self._pid != os.getpid():
            return
        if isinstance(error, WorkerFailedError):
            return
        message = f"{type(error).__name__}: {error}"
        with contextlib.suppress(Exception):
            if self._channel.get(f"{self._prefix}failed", 0) is None:
                self._channel.set(
                    f"{self._prefix}failed", json.dumps([self.rank, message]).encode()
                )

    def close(self) -> None:
        """This worker has nothing more to say in this run."""
        if self._closed or self._pid != os.getpid():  # a forked child speaks for nobody
            return
        self._closed = True
        _open.discard(self)
        self._life.end()
        if not self._is_cut_off:
            with contextlib.suppress(Exception):
                self._channel.set(f"{self._prefix}left/{self.rank}", b"1")


def _hear_of_ends() -> None:
    """Others hear how this process ends: by which error of the user's own code, or at all.

    `sys.excepthook` is passed on to whoever had it before; whoever takes it later has it.
    """
    if not _hears:
        _hears.append(True)
        at_exit(_close_all)
    hook = sys.excepthook
    if getattr(hook, "_peakhold_tells", False):
        return

    def tell(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
        for workers in list(_open):
            workers.fail(error)
        hook(kind, error, traceback)

    tell._peakhold_tells = True  # type: ignore[attr-defined]
    sys.excepthook = tell


def _close_all() -> None:
    for workers in list(_open):
        workers.close()


def _packed(what: str, value: Any) -> bytes:
    try:
        return json.dumps([what, value]).encode()
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError.for_argument(
            "value",
            type(value).__name__,
            f"plain JSON for the other workers, at {what} ({error})",
            hint="a participant's state_dict() is plain JSON: numbers, words, lists and dicts.",
        ) from error


def _unpacked(value: bytes) -> tuple[str, Any]:
    what, plain = json.loads(value)
    return what, plain
