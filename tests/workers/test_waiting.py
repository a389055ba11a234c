"""Waits: for whom, how long, what is said meanwhile, and what ends them."""

import itertools
import threading
import time

import pytest

from peakhold.distributed import Limits, Workers
from peakhold.errors import WorkerLostError, WorkersError
from peakhold.testing import FakeHub, run_workers

pytestmark = pytest.mark.torch_is_enough("no framework has a part in it")


def met(hub, rank, **limits):
    """A worker that has met the others."""
    workers = Workers(hub.channel(rank), Limits(30, 30, beat=0.01, **limits), lambda: f"at {rank}")
    workers.meet(None)
    return workers


def until(holds):
    """A thread of ours gets there."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_what_was_told_before_a_worker_left_is_heard():
    """Its answer came, and it left, between the look for the one and the look for the other."""
    answered, first_look = threading.Event(), threading.Event()

    def before(rank, call, key):
        if (rank, call) == (1, "get") and key.endswith("left/0") and here == threading.get_ident():
            first_look.set()  # the answer was not there
            answered.wait(30)

    here = None
    hub = FakeHub(2, before=before)

    def work(rank):
        nonlocal here
        workers = met(hub, rank)
        if rank == 1:
            here = threading.get_ident()
            return workers.agree("the end", None)
        first_look.wait(30)
        workers.agree("the end", "all is well")
        workers.close()
        answered.set()
        return None

    assert run_workers(2, work) == [None, "all is well"]


def test_who_is_late_is_named_once_and_again_and_is_an_error_at_the_limit(capsys):
    hub, ended = FakeHub(3), threading.Event()

    def work(rank):
        workers = met(hub, rank, notice=0.5, again=1.0)
        try:
            if rank == 2:
                ended.wait(30)
                return None
            workers.limits.wait = 3.0
            return workers.gather("the commit", rank)
        except WorkersError as error:
            return str(error)
        finally:
            if rank == 0:
                ended.set()
            workers.close()

    results = run_workers(3, work)

    assert results[0].startswith("expected rank 2 (at 2) at the commit within 3 s, got no sign")
    assert results[1].startswith("expected rank 0") or "rank 0 ended with" in results[1]
    said = [line for line in capsys.readouterr().out.splitlines() if "waiting for rank 2" in line]
    assert 2 <= len(said) <= 3
    assert said[0].endswith("rank 0 is at the commit.")


def test_whoever_waits_at_a_border_hears_of_a_worker_that_is_gone():
    hub = FakeHub(2)

    class Wants:
        def __init__(self, wants):
            self.wants, self.proposal = (lambda: wants), (lambda: None)
            self.count = self.rest = lambda: None

    def work(rank):
        workers = met(hub, rank)
        workers.border.proposer = Wants(rank == 0)
        until(lambda: workers.border.is_active)
        if rank == 1:
            workers.border.reach((0, 1))
            until(lambda: any("/answer/0/1" in key for key in list(hub.values)))
            workers.close()
            return None
        batches = itertools.count(1)
        until(lambda: workers.border.reach((0, next(batches))))
        with pytest.raises(WorkerLostError, match="rank 1, which has ended its run"):
            workers.await_border("the border")
        workers.close()
        return "heard"

    assert run_workers(2, work) == ["heard", None]
