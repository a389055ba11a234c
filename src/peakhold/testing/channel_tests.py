"""The contract of a channel, and of a coordinator, as classes of tests.

Subclass one, say how the workers' channels are made, and run it with pytest: what proves ours
proves yours. `ChannelTests` looks at keys and values; `CoordinatorTests` at rounds over them.

    class TestMyChannel(ChannelTests):
        def run(self, size, work):
            ...     # run work(channel) once for each of `size` workers; their results, by rank
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from peakhold.distributed.contract import Channel, Coordinator
from peakhold.distributed.workers import Limits, Workers
from peakhold.errors import (
    WorkerFailedError,
    WorkerLostError,
    WorkersDifferError,
    WorkersError,
    WorkersTimeoutError,
)

__all__ = ["ChannelTests", "CoordinatorTests"]

_SOON = 20.0
"""Seconds; only waited for where something is broken."""


class ChannelTests:
    """What a channel must do."""

    def run(self, size: int, work: Callable[[Channel], Any]) -> list[Any]:
        """Run `work` once for each of `size` workers, at the same time, each with its channel.

        Returns:
            By rank, what it returned, or the exception that it raised.
        """
        raise NotImplementedError

    def _run(self, size: int, work: Callable[[Channel], Any]) -> list[Any]:
        results = self.run(size, work)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    def test_each_has_a_rank_and_all_one_size_and_attempt(self) -> None:
        """Ranks count from 0."""
        found = self._run(3, lambda channel: [channel.rank, channel.size, channel.attempt])

        assert [one[0] for one in found] == [0, 1, 2]
        assert {one[1] for one in found} == {3}
        assert len({one[2] for one in found}) == 1

    def test_what_one_sets_all_get(self) -> None:
        """Bytes, whatever is in them; also where the reader was there first."""
        value = bytes(range(256)) * 300

        def work(channel: Channel) -> Any:
            if channel.rank == 1:
                channel.set("kit/all", value)
            return channel.get("kit/all", _SOON) == value

        assert self._run(2, work) == [True, True]

    def test_an_empty_value_is_a_value(self) -> None:
        """It is no missing one."""

        def work(channel: Channel) -> Any:
            if channel.rank == 0:
                channel.set("kit/empty", b"")
            return channel.get("kit/empty", _SOON) == b""

        assert self._run(2, work) == [True, True]

    def test_what_is_not_there_is_none_after_its_time(self) -> None:
        """And at once, where nobody waits."""

        def work(channel: Channel) -> Any:
            began = time.monotonic()
            assert channel.get("kit/nothing", 0) is None
            at_once = time.monotonic() - began
            assert channel.get("kit/nothing", 0.3) is None
            return at_once < time.monotonic() - began - 0.2

        assert self._run(2, work) == [True, True]

    def test_a_replaced_value_is_the_new_one(self) -> None:
        """For signs of life, which are written again and again."""

        def work(channel: Channel) -> Any:
            if channel.rank == 0:
                channel.set("kit/beat", b"1")
                channel.replace("kit/beat", b"2")
                channel.set("kit/beaten", b"")
            channel.get("kit/beaten", _SOON)
            return channel.get("kit/beat", _SOON) == b"2"

        assert self._run(2, work) == [True, True]

    def test_what_is_deleted_is_not_there(self) -> None:
        """Deleting what is not there does no harm."""

        def work(channel: Channel) -> Any:
            if channel.rank == 0:
                channel.set("kit/a", b"1")
                channel.delete(["kit/a", "kit/never"])
                channel.set("kit/gone", b"")
            channel.get("kit/gone", _SOON)
            return channel.get("kit/a", 0)

        assert self._run(2, work) == [None, None]

    def test_another_connection_sees_the_same_while_the_first_one_waits(self) -> None:
        """A thread of ours gives signs of life meanwhile."""

        def work(channel: Channel) -> Any:
            import threading

            other = channel.another()
            if channel.rank == 1:
                return channel.get("kit/late", _SOON) == b"x"
            got: list[Any] = []
            waits = threading.Thread(target=lambda: got.append(channel.get("kit/later", _SOON)))
            waits.start()
            other.set("kit/late", b"x")
            other.set("kit/later", b"y")
            waits.join(_SOON)
            other.close()
            return got == [b"y"]

        assert self._run(2, work) == [True, True]


class CoordinatorTests:
    """What a coordinator must do."""

    limits = Limits(wait=15.0, handshake=15.0, beat=0.1)

    def run(self, size: int, work: Callable[[Channel], Any]) -> list[Any]:
        """As `ChannelTests.run`; each call of it is a group of its own, or goes on in one."""
        raise NotImplementedError

    def _run(
        self, size: int, work: Callable[[Coordinator], Any], limits: Limits | None = None
    ) -> list[Any]:
        def coordinated(channel: Channel) -> Any:
            workers = Workers(channel, limits or self.limits)
            try:
                return work(workers)
            finally:
                workers.close()

        return self.run(size, coordinated)

    def test_all_meet(self) -> None:
        """Each has the offers of all."""
        found = self._run(3, lambda workers: workers.meet({"rank": workers.rank}))

        assert found == [[{"rank": 0}, {"rank": 1}, {"rank": 2}]] * 3

    def test_rounds_follow_one_another(self) -> None:
        """Values of all to all, rank 0's to all, and what rank 0 makes of all."""

        def work(workers: Coordinator) -> Any:
            workers.meet(None)
            seen: list[Any] = []
            for i in range(5):
                seen.append(workers.gather(f"a {i}", workers.rank * 10 + i))
                seen.append(workers.agree(f"b {i}", workers.rank + i))
                reports = workers.aggregate(f"c {i}", workers.rank)
                answer = None if reports is None else sum(reports)
                seen.append(workers.decide(f"c {i}", answer))
            return seen

        first, *others = self._run(3, work)

        assert first[:3] == [[0, 10, 20], 0, 3]
        assert first[-3:] == [[4, 14, 24], 4, 3]
        assert others == [first, first]

    def test_floats_come_through_bit_for_bit(self) -> None:
        """NaN and infinities, too."""
        numbers = [0.1 + 0.2, 1e-310, -0.0, math.inf, -math.inf, math.nan, 1e308]

        def work(workers: Coordinator) -> Any:
            workers.meet(None)
            return [one.hex() for one in workers.agree("numbers", numbers)]

        assert self._run(2, work) == [[one.hex() for one in numbers]] * 2

    def test_workers_at_different_places_are_an_error_on_all(self) -> None:
        """At once, with both places."""

        def work(workers: Coordinator) -> Any:
            workers.meet(None)
            workers.gather("the end of epoch 3" if workers.rank else "the end of training", 1)

        found = self._run(2, work)

        assert isinstance(found[0], WorkersDifferError), found
        assert "the end of epoch 3" in str(found[0])
        assert "the end of training" in str(found[0])
        assert isinstance(found[1], WorkersError)

    def test_an_error_on_one_reaches_the_others(self) -> None:
        """With its message and its rank."""

        def work(workers: Coordinator) -> Any:
            workers.meet(None)
            if workers.rank == 1:
                workers.fail(ValueError("no such metric"))
                return "failed"
            return workers.gather("the end of epoch 1", 1)

        found = self._run(3, work)

        assert found[1] == "failed"
        for error in (found[0], found[2]):
            assert isinstance(error, WorkerFailedError), found
            assert error.rank == 1
            assert "rank 1" in str(error)
            assert "ValueError: no such metric" in str(error)

    def test_one_that_has_left_is_an_error_at_once(self) -> None:
        """Nobody waits for the limit."""

        def work(workers: Coordinator) -> Any:
            workers.meet(None)
            if workers.rank == 1:
                workers.close()
                return "left"
            return workers.gather("the end of epoch 2", 1)

        found = self._run(2, work)

        assert isinstance(found[0], WorkerLostError), found
        assert found[0].rank == 1

    def test_one_that_does_not_begin_is_named_at_the_limit(self) -> None:
        """Both readings are said: only on one rank, or slow."""

        def work(workers: Coordinator) -> Any:
            if workers.rank == 1:
                return "never"
            return workers.meet(None)

        found = self._run(2, work, Limits(wait=15.0, handshake=0.4, beat=0.1))

        # One that has ended without a word has left, if its channel could say so.
        assert isinstance(found[0], (WorkersTimeoutError, WorkerLostError)), found
        assert found[0].rank == 1
