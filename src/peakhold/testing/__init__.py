"""Test kits that are shipped: what proves our store proves yours.

`StoreTests` is the contract of a store as a class of tests; subclass it and say how a store is
opened. `FailingDisk` makes the N-th call to the operating system fail; `WatchedDisk` is for
recorders of your own. `ChannelTests` and `CoordinatorTests` are the contract of what several
workers talk by; `FakeHub` gives workers in threads of one process, on a schedule of yours.
"""

from peakhold.testing.channel_tests import ChannelTests, CoordinatorTests
from peakhold.testing.failing_disk import CALLS, FailingDisk, WatchedDisk
from peakhold.testing.store_tests import StoreTests
from peakhold.testing.workers import FakeChannel, FakeHub, run_workers

__all__ = [
    "CALLS",
    "ChannelTests",
    "CoordinatorTests",
    "FailingDisk",
    "FakeChannel",
    "FakeHub",
    "StoreTests",
    "WatchedDisk",
    "run_workers",
]
