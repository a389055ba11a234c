"""Which thread writes the files of one run, and from how many copies of the state."""

from __future__ import annotations

from collections.abc import Callable as Function
from collections.abc import Mapping
from typing import final

from peakhold.host.contract import OPTIMIZER, WEIGHTS, CannotPlanError, Host, PlannedFile
from peakhold.snapshots.pool import SnapshotPool

__all__ = ["Placement"]

_MOST = 2
"""Copies at a time: one is written, one is taken. Where the disk is slower than the epochs, the
second one would otherwise be allocated in mid-training, which takes ten times as long as the copy.
"""


@final
class Placement:
    """In the background from copies as long as that can be done, else while training waits.

    Args:
        in_background: Whether the background was asked for.
    """

    def __init__(self, *, in_background: bool = False) -> None:
        self.in_background = in_background
        self._copies: int | None = None

    @property
    def copies(self) -> int:
        """How many copies may be held at a time, at least 1."""
        return self._copies or 1

    def buffers_needed(
        self, host: Host, pool: SnapshotPool, suffix: str, tell: Function[[str], None]
    ) -> Mapping[str, int]:
        """What host memory to book before training: copies of each part at a time.

        What only a first plan costs is paid here. Where there can be none, the files will be
        written while training waits.
        """
        if not self.in_background:
            return {}
        if host.state_bytes() is None:  # not built: what a file needs is seen at the first save
            return dict.fromkeys({WEIGHTS, OPTIMIZER}.intersection(host.parts()), _MOST)
        plan = self.plan(host, pool, suffix, tell)
        self.in_background = plan is not None
        return {} if plan is None else dict.fromkeys(plan.parts, self.copies)

    def plan(
        self, host: Host, pool: SnapshotPool, suffix: str, tell: Function[[str], None]
    ) -> PlannedFile | None:
        """What a file of the model as it is now holds, to be written later.

        Args:
            host: The model.
            pool: Where the copies for it will be taken.
            suffix: The kind of file.
            tell: Called with the reason if the background was asked for and cannot be had.

        Returns:
            The plan; None if the file must be written while training waits.
        """
        if not self.in_background:
            return None
        try:
            plan = host.plan_file(suffix)
        except CannotPlanError as reason:
            tell(str(reason))
            return None
        if self._copies is None:
            sizes = range(_MOST, 0, -1)
            self._copies = next(
                (n for n in sizes if pool.affordable(plan.parts, n, plan.extra_bytes)), 0
            )
            if not self._copies:
                self.in_background = False
                tell(f"a copy of its state does not fit into memory_budget={pool.budget:,}")
        return plan if self._copies else None
