"""Test kits that are shipped: what proves our store proves yours.

`StoreTests` is the contract of a store as a class of tests; subclass it and say how a store is
opened. `HostTests` is that of a host, the border between callbacks and what is trained: it proves
one for a kind of model that is not known here. `FailingDisk` makes the N-th call to the operating
system fail; `WatchedDisk` is for recorders of your own. `ChannelTests` and `CoordinatorTests` are
the contract of what several workers talk by; `FakeHub` gives workers in threads of one process, on
a schedule of yours.
"""

from typing import TYPE_CHECKING

from peakhold._names import lazily
from peakhold.testing.channel_tests import ChannelTests, CoordinatorTests
from peakhold.testing.failing_disk import CALLS, FailingDisk, WatchedDisk
from peakhold.testing.store_tests import StoreTests
from peakhold.testing.workers import FakeChannel, FakeHub, run_workers

if TYPE_CHECKING:
    from peakhold.testing.host_tests import HostTests

__all__ = [
    "CALLS",
    "ChannelTests",
    "CoordinatorTests",
    "FailingDisk",
    "FakeChannel",
    "FakeHub",
    "HostTests",
    "StoreTests",
    "WatchedDisk",
    "run_workers",
]

# It brings the callbacks along, which a test of a disk has no use for.
__getattr__ = lazily(globals(), {"HostTests": "peakhold.testing.host_tests"})
