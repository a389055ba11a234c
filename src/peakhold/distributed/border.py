"""A stop within an epoch: all workers end after the same batch, which they agree on ahead of it.

Problem. One worker wants to end training now: Ctrl-C, SIGTERM, a loss that is NaN. If it stops
alone, the others wait for it in their next collective. Asking all at each batch would cost a
collective for each batch of each run that nobody stops.

Solution. The threads that give signs of life carry the proposal, while training goes on. Each has
its main loop count batches from then on, and says where that is. Rank 0's thread picks a *border*,
a batch ahead of all of them. Each thread acknowledges it if its own loop has not come there yet,
else a later one is picked. A loop that comes to the border waits there; when all are there, all
hear it at once, and end.

        rank 0's thread                    each thread                 each main loop
        ---------------                    -----------                 --------------
                                 <-------  "at epoch 4, batch 120"     tells of each batch
        picks (4, 125)           ------->
                                 <-------  "not there yet" | "past it"
        all: it holds; else picks again
                                 <-------  "it is there" | "the epoch has ended"
        all there: "end", with what each has asked for                 ends
        else: "the epoch's end will do"                                goes on

Rules of this file:

1. A main loop waits only at a border that its own thread has acknowledged, until all are there, a
   later one is picked, or there will be none. Threads wait for nobody: so somebody always moves.
2. Where an epoch ends before the border, the round at its end takes the proposals along.
3. No thread is made here, and nothing is waited for but by `settled`: whoever calls `step` is the
   thread. Tests call both in any order.
4. What a signal's handler calls takes no lock.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any, Final, Protocol, TypeAlias, final

from peakhold.distributed.contract import Channel

__all__ = ["END", "OVER", "Border", "Point", "Proposer"]

Point: TypeAlias = tuple[float, float]
"""An epoch, and how many of its batches are done."""

END: Final = math.inf
"""In the place of a number of batches: the epoch has ended."""

OVER: Final = (math.inf, END)
"""The place of a worker whose training has ended."""


class Proposer(Protocol):
    """What a border asks of the run; all in the thread."""

    def wants(self) -> bool:
        """Whether this worker has something to propose."""

    def proposal(self) -> Any:
        """What it proposes, as plain JSON; asked of all workers."""

    def count(self) -> None:
        """Have batches told from now on; told again, it does nothing."""

    def rest(self) -> None:
        """Batches need not be told any more; in the main thread."""


@final
class Border:
    """Where all workers of a run end together, within an epoch.

    Args:
        rank: This worker's number.
        size: How many there are.
        prefix: Of all keys of this run.
    """

    def __init__(self, rank: int, size: int, prefix: str) -> None:
        self._rank, self._size, self._prefix = rank, size, prefix
        self.proposer: Proposer | None = None
        """The run, once it has begun."""
        self.wakes: SimpleQueue[bool] = SimpleQueue()
        """Wakes the thread: False for the end. A handler may put, whatever it interrupted."""
        self.number = 0
        """Which agreement is the next one, or under way."""
        self.is_active = False
        """Whether one is under way."""
        self.is_over = False
        """Whether this worker's training has ended: nobody is missed any more."""
        # Shared with the main thread
        self._changed = threading.Condition()
        self._at: Point | None = None
        """Where the main loop is, as far as it has told since this agreement began."""
        self._border: Point | None = None
        """What was acknowledged last; None: nothing."""
        self._waits = self._missed = False
        self._agreed: Sequence[Any] | None = None
        # The thread's own
        self._has_told_place = self._has_told_arrival = False
        self._n_seen = 0
        self._lead = _Lead(size)

    # The main thread

    def propose(self) -> None:
        """This worker has something to propose: have the thread look. For handlers, too."""
        self.wakes.put(True)

    def reach(self, place: Point) -> bool:
        """The main loop is at a place; whether it must wait there (`settled`)."""
        with self._changed:
            if not self.is_active:
                if self.proposer is not None:
                    self.proposer.rest()
                return False
            if self._at is None:
                self.wakes.put(True)
            self._at, border = place, self._border
            if border is None or place < border or self._missed:
                return False
            self._waits = place[0] == border[0] and place[1] != END
            self._missed = not self._waits
            self.wakes.put(True)
            return self._waits

    def settled(self, seconds: float) -> bool:
        """Whether the main loop need not wait any more; for so long it is waited here."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waits, seconds)

    def take(self) -> Sequence[Any] | None:
        """What all have proposed, by rank, if all end here; told once."""
        with self._changed:
            agreed, self._agreed = self._agreed, None
            return agreed

    # The thread

    @property
    def calls(self) -> int:
        """The number of the agreement that this worker calls for; -1: of none."""
        wants = self.is_active or (self.proposer is not None and self.proposer.wants())
        return self.number if wants else -1

    def step(self, channel: Channel, called: int) -> bool:
        """Do what can be done now.

        Args:
            channel: The thread's own connection.
            called: The newest agreement that any worker calls for.

        Returns:
            Whether anything has come of it.
        """
        if self.proposer is None:
            return False
        if not self.is_active:
            if max(called, self.calls) < self.number:
                return False
            with self._changed:
                self.is_active = True
                self.proposer.count()
            return True
        key = f"{self._prefix}border/{self.number}/"
        verdict = channel.get(f"{key}verdict", 0)
        if verdict is not None:
            self._settle(json.loads(verdict))
            return True
        moved = self._tell_place(channel, key) or self._acknowledge(channel, key)
        moved = self._tell_arrival(channel, key) or moved
        if self._rank == 0:
            moved = self._lead.step(channel, key) or moved
        return moved

    def _tell_place(self, channel: Channel, key: str) -> bool:
        if self._has_told_place or self._at is None or self.proposer is None:
            return False
        self._has_told_place = True
        _set(channel, f"{key}at/{self._rank}", [self._at, self.proposer.proposal()])
        return True

    def _acknowledge(self, channel: Channel, key: str) -> bool:
        picked = channel.get(f"{key}pick/{self._n_seen}", 0)
        if picked is None:
            return False
        epoch, batch = json.loads(picked)
        with self._changed:
            at = self._at
            is_ahead = at is not None and at < (epoch, batch)
            self._border = (epoch, batch) if is_ahead else None
            self._waits = self._missed = False  # at the one before
            self._changed.notify_all()
        _set(channel, f"{key}answer/{self._n_seen}/{self._rank}", [is_ahead, at])
        self._n_seen, self._has_told_arrival = self._n_seen + 1, False
        return True

    def _tell_arrival(self, channel: Channel, key: str) -> bool:
        if self._has_told_arrival or not (self._waits or self._missed):
            return False
        self._has_told_arrival = True
        _set(channel, f"{key}there/{self._n_seen - 1}/{self._rank}", self._waits)
        return True

    def _settle(self, agreed: Sequence[Any] | None) -> None:
        with self._changed:
            self._agreed = agreed
            self.is_active, self.number = False, self.number + 1
            self._at = self._border = None
            self._waits = self._missed = False
            self._changed.notify_all()
        self._has_told_place = self._has_told_arrival = False
        self._n_seen, self._lead = 0, _Lead(self._size)

    def missing(self, channel: Channel) -> int | None:
        """A worker that is not at the border yet; None where that is not known."""
        key = f"{self._prefix}border/{self.number}/there/{self._n_seen - 1}/"
        late = (r for r in range(self._size) if r != self._rank and not channel.get(f"{key}{r}", 0))
        return next(late, None)


@final
class _Lead:
    """What rank 0's thread does in one agreement.

    Args:
        size: How many workers there are.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._places: dict[int, Point] = {}
        """The newest that each has told."""
        self._proposals: dict[int, Any] = {}
        self._n_picked = 0
        self._answers: dict[int, bool] = {}
        self._arrivals: dict[int, bool] = {}
        self._moved = 0.0
        """How many batches one of them has done between two answers."""

    def step(self, channel: Channel, key: str) -> bool:
        """Gather, and pick a border, or say what has come of it."""
        if not self._n_picked:
            for rank, (place, proposal) in self._read(channel, f"{key}at/", self._proposals):
                self._places[rank] = tuple(place)
                self._proposals[rank] = proposal
            return len(self._proposals) == self._size and self._pick(channel, key)
        newest = self._n_picked - 1
        for rank, (is_ahead, place) in self._read(channel, f"{key}answer/{newest}/", self._answers):
            self._answers[rank] = is_ahead
            self._moved = max(self._moved, _between(self._places[rank], place))
            self._places[rank] = tuple(place)
        for rank, is_there in self._read(channel, f"{key}there/{newest}/", self._arrivals):
            self._arrivals[rank] = is_there
        if not all(self._arrivals.values()):
            return self._say(channel, key, None)
        if len(self._answers) < self._size:
            return False
        if not all(self._answers.values()):
            return self._pick(channel, key)
        if len(self._arrivals) < self._size:
            return False
        return self._say(channel, key, [self._proposals[rank] for rank in range(self._size)])

    def _read(self, channel: Channel, key: str, known: dict[int, Any]) -> list[tuple[int, Any]]:
        """What has been told since, by rank."""
        found = []
        for rank in range(self._size):
            value = None if rank in known else channel.get(f"{key}{rank}", 0)
            if value is not None:
                found.append((rank, json.loads(value)))
        return found

    def _pick(self, channel: Channel, key: str) -> bool:
        epoch, batch = max(self._places[rank] for rank in range(self._size))
        if batch == END:
            return self._say(channel, key, None)
        margin = max(2 * self._moved, 2**self._n_picked)  # twice as far as they came meanwhile
        _set(channel, f"{key}pick/{self._n_picked}", [epoch, batch + margin])
        self._n_picked += 1
        self._answers.clear()
        self._arrivals.clear()
        return True

    @staticmethod
    def _say(channel: Channel, key: str, agreed: Sequence[Any] | None) -> bool:
        _set(channel, f"{key}verdict", agreed)
        return True


def _between(before: Point, now: Sequence[float]) -> float:
    """How many batches lie between two places of one epoch."""
    return now[1] - before[1] if now[0] == before[0] and now[1] != END else 0.0


def _set(channel: Channel, key: str, value: Any) -> None:
    channel.set(key, json.dumps(value).encode())
