"""Which backups to keep: the newest, and those that they refer to.

Best weights do not change with every epoch, so a backup need not hold them again: it names the
earlier backup that does, in its metrics (`REFERS` and a number). That one then stays as long as one
of the kept names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from peakhold._core.policies.keep import CheckpointInfo, KeepLast

__all__ = ["REFERS", "KeepBackups"]

REFERS = "refers_to_step_"


@final
@dataclass(frozen=True)
class KeepBackups:
    """Keep the newest backups, those whose values are finite, and what these refer to.

    Args:
        n: How many. At least 1.

    Example:
        >>> infos = [CheckpointInfo(step=s, commit=s) for s in (1, 2, 3)]
        >>> infos.append(CheckpointInfo(step=4, commit=4, metrics={"refers_to_step_0": 1}))
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
        referred = {
            int(value)
            for info in infos
            if info.commit in newest
            for name, value in info.metrics.items()
            if name.startswith(REFERS)
        }
        return newest | {info.commit for info in infos if info.step in referred}
