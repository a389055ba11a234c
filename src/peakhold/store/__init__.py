"""A folder of checkpoints that cannot lie: crash-safe, verified, asynchronous, framework-neutral.

`Store` writes, `Reader` looks on. Keep policies say which checkpoints stay. `HostBuffers` and
`submit` are the snapshot and the writer thread for those who write files of their own.
"""

from peakhold._core.policies.keep import KeepAny, KeepBest, KeepEvery, KeepLast, KeepPolicy
from peakhold.store.arrays import RawTensor
from peakhold.store.background import Task, drain, submit
from peakhold.store.disk import Disk
from peakhold.store.entry import Checkpoint, Entry, Finding
from peakhold.store.reader import Reader
from peakhold.store.saving import Pending, StoreStats
from peakhold.store.snapshot import HostBuffers, Snapshot, draft
from peakhold.store.store import Store

__all__ = [
    "Checkpoint",
    "Disk",
    "Entry",
    "Finding",
    "HostBuffers",
    "KeepAny",
    "KeepBest",
    "KeepEvery",
    "KeepLast",
    "KeepPolicy",
    "Pending",
    "RawTensor",
    "Reader",
    "Snapshot",
    "Store",
    "StoreStats",
    "Task",
    "draft",
    "drain",
    "submit",
]
