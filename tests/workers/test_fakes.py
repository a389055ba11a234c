"""The fakes of the other tests pass the kit that the channels of the frameworks pass."""

from peakhold.testing import ChannelTests, CoordinatorTests
from peakhold.testing.workers import FakeHub, run_workers


def run(size, work):
    hub = FakeHub(size)
    return run_workers(size, lambda rank: work(hub.channel(rank)))


class TestFakeChannel(ChannelTests):
    def run(self, size, work):
        return run(size, work)


class TestWorkers(CoordinatorTests):
    def run(self, size, work):
        return run(size, work)
