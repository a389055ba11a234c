"""What is told of a worker that is gone, whatever the moment at which it is looked for."""

import pytest

from peakhold.distributed import Limits, Workers
from peakhold.errors import WorkerFailedError
from peakhold.testing import FakeHub, run_workers


@pytest.mark.parametrize("before_which", ["failed", "left/1"])
def test_one_that_fails_while_it_is_looked_for_has_failed(before_which):
    """Not just left: it says why, and then leaves, and both may fall between our two looks."""
    ends = []

    def schedule(rank, call, key):
        if rank == 0 and call == "get" and key.endswith(before_which) and ends:
            ends.pop()()

    def work(rank):
        workers = Workers(hub.channel(rank), Limits(wait=20.0, beat=60.0))
        workers.meet(None)

        def end():
            workers.fail(ValueError("no such metric"))
            workers.close()

        if rank == 1:
            ends.append(end)
            return None
        return workers.gather("the end of epoch 1", 1)

    hub = FakeHub(2, before=schedule)
    found, _ = run_workers(2, work)

    assert isinstance(found, WorkerFailedError), found
    assert "ValueError: no such metric" in str(found)
