"""The best snapshot on disk: for those who have no host memory for it.

A private store in the folder for temporary files holds it; it is gone with its callback. It stands
where a `Held` would.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, final

from peakhold._core.policies.keep import KeepLast
from peakhold.errors import CheckpointNotFoundError, StoreError
from peakhold.host.contract import HostState
from peakhold.snapshots.pool import Held
from peakhold.snapshots.tree import check_storable
from peakhold.store.store import Store

__all__ = ["Spill", "Spilled"]


@final
class Spill:
    """A folder for the best snapshot of one callback; an older one goes when a newer is safe."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="peakhold-best-")
        self._finalizer = weakref.finalize(self, _remove, self.folder, os.getpid())
        self._store = Store(self.folder, KeepLast(1), undo=0)
        self._numbers = itertools.count(1)

    @classmethod
    def fitting(cls, host: HostState, parts: Sequence[str]) -> Spill:
        """A folder for what a host's parts hold.

        Raises:
            InvalidArgumentError: If they hold, as far as they are there, what cannot be written.
        """
        if host.ensure_built(parts):
            check_storable(host.borrow(parts))
        return cls()

    def save(self, trees: Mapping[str, Any]) -> Spilled:
        """Write live arrays; when this returns, they may change.

        Raises:
            SaveError: If the disk does not take them; the one before is still there.
        """
        step = next(self._numbers)
        self._store.save(step, trees, immutable=True).result()
        self._store.wait()  # until the one before is gone, too
        return Spilled(self, step, trees)

    def load(self, step: int, part: str) -> Any:
        """One part, verified.

        Raises:
            CheckpointNotFoundError: If somebody has cleared the folder away.
            CheckpointDamagedError: If what is there is not what was saved.
            PartMissingError: The same, of one part.
            OSError: If it cannot be looked at now.
        """
        try:
            return self._store.load(step, [part])[part]
        except (StoreError, OSError) as error:
            what = "could not be read"
            if isinstance(error, CheckpointNotFoundError):
                what = "was deleted while training went on"
            error.add_note(
                f"{self.folder} held the best weights, for which memory had no room, and {what}. "
                "The model has its last weights. Set TMPDIR to a folder that nobody clears, or "
                "raise memory_budget."
            )
            raise


def _remove(folder: str, pid: int) -> None:
    if os.getpid() == pid:  # a forked child that ends leaves it to its parent
        shutil.rmtree(folder, ignore_errors=True)


class _PartsOnDisk(Mapping[str, Any]):
    """Parts that are read when they are asked for."""

    def __init__(self, spill: Spill, step: int, names: Iterable[str]) -> None:
        self._spill, self._step, self._names = spill, step, tuple(names)

    def __getitem__(self, part: str) -> Any:
        return self._spill.load(self._step, part)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@final
class Spilled:
    """What was saved, in the place of a `Held`."""

    def __init__(self, spill: Spill, step: int, names: Iterable[str]) -> None:
        self.parts: Mapping[str, Any] = _PartsOnDisk(spill, step, names)
        """Tree of arrays by part, read anew each time."""
        self.token = Held.new_token()
        """Of this snapshot alone."""

    def share(self) -> Spilled:
        """As `Held.share`; nothing is counted on disk."""
        return self

    def release(self) -> None:
        """As `Held.release`; the next save frees the disk."""

    def restore(self, host: HostState) -> None:
        """Put the parts back into the model."""
        host.restore(dict(self.parts))

    def give_away(self, part: str) -> Any:
        """The tree of a part, in arrays of its own."""
        return self.parts[part]

    def __reduce__(self) -> Any:
        return Held.of, (dict(self.parts),)
