"""Which backups to keep: the newest, and those that they refer to.

Best weights do not change with every epoch, so a backup need not hold them again: it refers to the
earlier backup that does. That one then stays as long as one of the newest refers to it. What it
refers to in its turn is not needed: each backup names all that it needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from peakhold._core.policies.keep import CheckpointInfo, KeepLast

__all__ = ["KeepBackups"]

_OLD_REFERENCE: Final = "refers_to_step_"
"""How the first backups said it: a metric of this name and a number, whose value is the step."""


@final
@dataclass(frozen=True)
class KeepBackups:
    """Keep the newest backups, those whose values are finite, and what these refer to.

    Args:
        n: How many. At least 1.

    Example:
        >>> infos = [CheckpointInfo(step=s, commit=s) for s in (1, 2, 3)]
        >>> infos.append(CheckpointInfo(step=4, commit=4, refers_to=(1,)))
        >>> sorted(KeepBackups(2).keeps(infos))
        [1, 3, 4]
    """

    n: int = 2

    @property
    def at_most(self) -> int | None:
        """No bound is known: each may refer to others."""
        return None

    def keeps(self, infos: Sequence[CheckpointInfo]) -> frozenset[int]:
        """Return the commit numbers to keep."""
        newest = KeepLast(self.n).keeps(infos)
        referred = {step for info in infos if info.commit in newest for step in _references(info)}
        return newest | {info.commit for info in infos if info.step in referred}


def _references(info: CheckpointInfo) -> set[int]:
    old = {
        int(value)
        for name, value in info.metrics.items()
        if name.startswith(_OLD_REFERENCE) and math.isfinite(value)
    }
    return old.union(info.refers_to)
