"""What `keep_last=` and `keep_best=` of a templated `ModelCheckpoint` mean, as keep policies.

The rules are those of `keep.py`, over the same records: a sidecar knows of a file what a manifest
knows of a checkpoint. Two things are added for files. `keep_best` says how many there will be, so
places that nothing takes which can be ranked are the newest others'; and one good state always
stays beside the newest, whether or not `keep_last` was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from peakhold._core.monitor import Direction
from peakhold._core.policies.keep import CheckpointInfo, KeepAny, KeepBest, KeepLast, KeepPolicy

__all__ = ["KeepBestOrNewest", "keep_files"]


@final
@dataclass(frozen=True)
class KeepBestOrNewest:
    """Keep the best, and the newest that cannot be ranked where there are not enough of these.

    Whether those are finite is not asked: `keep_files` keeps the newest that is, whatever happens.

    Args:
        best: What is best, and how many stay.

    Example:
        >>> losses = {1: {"loss": 0.5}, 2: {}, 3: {}}
        >>> infos = [CheckpointInfo(s, commit=s, metrics=m) for s, m in losses.items()]
        >>> sorted(KeepBestOrNewest(KeepBest("loss", "min", n=2)).keeps(infos))
        [1, 3]
    """

    best: KeepBest

    @property
    def at_most(self) -> int | None:
        """The number asked for."""
        return self.best.n

    def keeps(self, infos: Sequence[CheckpointInfo]) -> frozenset[int]:
        """Return the commit numbers to keep."""
        ranked = [info.commit for info in self.best.ranked(infos)]
        others = sorted({info.commit for info in infos}.difference(ranked), reverse=True)
        return frozenset([*ranked, *others][: self.best.n])


def keep_files(
    last: int | None, best: int | None, monitor: str, direction: Direction | None
) -> KeepPolicy | None:
    """The policy that stands for two arguments; None if all files stay.

    Args:
        last: How many of the newest stay, at least 1; None if that is no rule.
        best: How many of the best stay, at least 1; None if that is no rule.
        monitor: Name of the metric that ranks.
        direction: Which of its values are better. None: not known yet, and with `best` nothing
            goes before it is.

    Example:
        >>> keep_files(3, None, "loss", None)
        KeepLast(n=3)
    """
    newest = KeepLast(last or 1)
    if best is None:
        return None if last is None else newest
    if direction is None:
        return None
    return KeepAny(newest, KeepBestOrNewest(KeepBest(monitor, direction.value, best)))
