"""Snapshots that the callbacks of one run share.

Callbacks that want the same parts of the model at the same moment get one copy of each part. A
snapshot is counted: whoever keeps it says `share()`, whoever is done says `release()`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

from peakhold.host import Host

__all__ = ["Held", "SnapshotPool"]

_tokens = itertools.count(1)


@final
class Held:
    """Copies of named parts of the model, of one moment."""

    def __init__(self, pool: SnapshotPool, token: int, parts: Mapping[str, Any]) -> None:
        self._pool = pool
        self.token = token
        """Equal for snapshots of one moment."""
        self.parts = parts
        """Tree of arrays by part; nobody writes to them while a reference is held."""

    def share(self) -> Held:
        """One more reference."""
        return self

    def release(self) -> None:
        """One reference less; the memory is used again after the last."""

    def restore(self, host: Host) -> None:
        """Put the parts back into the model."""
        host.restore(dict(self.parts))

    def nonfinite(self) -> frozenset[str]:
        """Names of weights that hold NaN or infinity; waits for the check."""
        return self._pool.host.nonfinite_in(dict(self.parts))

    def give_away(self, part: str) -> Any:
        """The tree of a part, whose arrays nobody will write to again."""
        return self.parts[part]


@final
class SnapshotPool:
    """The host memory of one run's snapshots.

    Args:
        host_of: The host of the run.
    """

    def __init__(self, host_of: Callable[[], Host]) -> None:
        self._host_of = host_of
        self._token = next(_tokens)
        self._taken: dict[str, Any] = {}

    @property
    def host(self) -> Host:
        """The model."""
        return self._host_of()

    def new_moment(self) -> None:
        """What is taken from now on may differ from what was taken before."""
        self._token, self._taken = next(_tokens), {}

    def take(self, parts: Iterable[str]) -> Held:
        """Copy parts of the model, or share what was copied at this moment already."""
        parts = list(parts)
        missing = [part for part in parts if part not in self._taken]
        self._taken.update(self.host.snapshot(missing))
        return Held(self, self._token, {part: self._taken[part] for part in parts})
