"""A folder of checkpoints that cannot lie: crash-safe, verified, asynchronous, framework-neutral.

`Store` writes, `Reader` looks on. Keep policies say which checkpoints stay. `HostBuffers` and
`submit` are the snapshot and the writer thread for those who write files of their own.

Names are loaded when they are first used: `import peakhold` needs only `files` and `sidecar` from
here, and neither NumPy nor msgspec for them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peakhold._core.policies.keep import KeepAny, KeepBest, KeepEvery, KeepLast, KeepPolicy
    from peakhold.disk.disk import Disk
    from peakhold.files.background import Task, drain, submit
    from peakhold.snapshots.arrays import RawTensor
    from peakhold.snapshots.host_buffers import HostBuffers, Snapshot, draft
    from peakhold.store.entry import Checkpoint, Entry, Finding
    from peakhold.store.reader import Reader
    from peakhold.store.saving import Pending, StoreStats
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

_HOMES = {
    "peakhold._core.policies.keep": (
        "KeepAny",
        "KeepBest",
        "KeepEvery",
        "KeepLast",
        "KeepPolicy",
    ),
    "peakhold.snapshots.arrays": ("RawTensor",),
    "peakhold.files.background": (
        "Task",
        "drain",
        "submit",
    ),
    "peakhold.disk.disk": ("Disk",),
    "peakhold.store.entry": (
        "Checkpoint",
        "Entry",
        "Finding",
    ),
    "peakhold.store.reader": ("Reader",),
    "peakhold.store.saving": (
        "Pending",
        "StoreStats",
    ),
    "peakhold.snapshots.host_buffers": (
        "HostBuffers",
        "Snapshot",
        "draft",
    ),
    "peakhold.store.store": ("Store",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
