"""Test kits that are shipped: what proves our store proves yours.

`StoreTests` is the contract of a store as a class of tests; subclass it and say how a store is
opened. `FailingDisk` makes the N-th call to the operating system fail; `WatchedDisk` is for
recorders of your own.
"""

from peakhold.testing.failing_disk import CALLS, FailingDisk, WatchedDisk
from peakhold.testing.store_tests import StoreTests

__all__ = ["CALLS", "FailingDisk", "StoreTests", "WatchedDisk"]
