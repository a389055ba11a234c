"""What several workers of one run agree by: the coordinator, and the channel under it.

Only the session asks a coordinator: when a run begins, at each moment between batches, at a commit
and at the end; and a `Run`, about its folder. No policy, no property and no signal handler does.
All values are plain JSON. Within an epoch nobody is asked, unless a worker wants to end it, or to
save in it: then threads agree on a batch to do it at (`border.py`), where there is a `border`.

A *round* is one exchange: each worker gives a value, rank 0 makes an answer of them, all get it.
`aggregate` is the first half of it and `decide` the second; between the two rank 0 decides.
`gather` and `agree` are rounds whose answer needs no deciding.

Whoever brings another way for processes to talk writes a `Channel` (six methods); `Workers` makes
a coordinator of it, with limits, names of who is late, and errors that reach all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from peakhold.distributed.border import Border

__all__ = ["Channel", "Coordinator"]


class Coordinator(Protocol):
    """One truth for all workers of a run.

    Attributes:
        rank: This worker's number, from 0. Rank 0 decides and writes.
        size: How many workers there are.
        attempt: Names this start of the workers: after a restart it is another one.
    """

    rank: int
    size: int
    attempt: str

    @property
    def border(self) -> Border | None:
        """Where all end together within an epoch; None: only at an epoch's end."""

    def meet(self, offer: Any) -> list[Any]:
        """A run begins: what each worker offers, by rank. Has a limit of its own, a short one.

        Raises:
            WorkersError: If not all begin a run.
        """

    def gather(self, what: str, value: Any) -> list[Any]:
        """The values of all workers, by rank.

        Args:
            what: For messages, and to be the same on all workers: else they are not at one place.
            value: This worker's.

        Raises:
            WorkersError: As for all that wait: if one is lost, fails, is elsewhere, or late.
        """

    def agree(self, what: str, value: Any) -> Any:
        """Rank 0's value, for all."""

    def aggregate(self, what: str, report: Any) -> list[Any] | None:
        """The first half of a round: on rank 0 the reports of all; on the others None, at once."""

    def decide(self, what: str, answer: Any = None) -> Any:
        """The second half: rank 0 gives its answer, the others wait for it."""

    def await_border(self, what: str) -> None:
        """The main loop is at a border: wait until it holds, or another one does, or none."""

    def lost(self) -> tuple[int, str] | None:
        """A worker that is known to be gone, and how; None if all are there. In any thread."""

    def fail(self, error: BaseException) -> None:
        """Tell all others that this worker ends with an error; never raises."""

    def close(self) -> None:
        """This worker has nothing more to say in this run."""


class Channel(Protocol):
    """Keys and values that all workers see. A key is written once, and by one worker.

    Attributes:
        rank: This worker's number, from 0.
        size: How many workers there are.
        attempt: Names this start of the workers.
    """

    rank: int
    size: int
    attempt: str

    def set(self, key: str, value: bytes) -> None:
        """Let all see a value.

        Raises:
            ConnectionError: If whoever holds the keys is gone; so do the others.
        """

    def get(self, key: str, seconds: float) -> bytes | None:
        """A value; None if it is not there within so many seconds. 0: at once."""

    def replace(self, key: str, value: bytes) -> None:
        """As `set`, for a key that was written before; whoever reads may find either value."""

    def delete(self, keys: Iterable[str]) -> None:
        """Forget keys; where that cannot be done they stay."""

    def another(self) -> Channel:
        """A connection of its own to the same keys: one that waits does not keep this one."""

    def close(self) -> None:
        """Let the connection go."""
