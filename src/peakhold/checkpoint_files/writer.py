"""Getting a save that was decided onto the disk, and telling what becomes of it.

Rules of this file:

1. There is one way to write a file, and two threads to do it in. In the background, training waits
   for a plan of the file and for one copy of the state, and for nothing else.
2. No file that was asked for is dropped. The training thread waits when two are under way; only a
   fixed name lets the newer save take the place of one that has not begun, for it would replace its
   file. Before that the newer state is looked at: what is not finite replaces nothing.
3. What cannot be written from copies is written while training waits, after what is under way.
4. What becomes of a save is told on the thread that trains, before the next step is taken.
"""

from __future__ import annotations

import os
from collections.abc import Callable as Function
from collections.abc import Iterator, Mapping
from typing import final

from peakhold.checkpoint_files.folder import CheckpointFolder
from peakhold.checkpoint_files.queue import SaveQueue, wait_for_saves_to
from peakhold.checkpoint_files.requests import SaveOutcome, SaveRequest
from peakhold.host.contract import OPTIMIZER, WEIGHTS, CannotPlanError, Host, PlannedFile
from peakhold.snapshots.pool import SnapshotPool

__all__ = ["CheckpointWriter", "Placement", "bad_now"]

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
        self.copies = 1
        """How many copies may be held at a time, at least 1."""
        self._counted = False

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
        if not self._counted:
            self._counted = True
            sizes = range(_MOST, 0, -1)
            copies = next((n for n in sizes if pool.affordable(plan.parts, n, plan.extra_bytes)), 0)
            if not copies:
                self.in_background = False
                tell(f"a copy of its state does not fit into memory_budget={pool.budget:,}")
                return None
            self.copies = copies
        return plan


@final
class CheckpointWriter:
    """Writes files in the background or at once.

    Attributes:
        queue: The saves under way; it outlives a run, for a `fit` that raised may leave some.
        placement: Which thread writes, in the run at hand.

    Args:
        name: The class of the callback, for what is said when it is gone.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.queue = SaveQueue(name)
        self.placement = Placement()

    def __reduce__(self) -> tuple[type[CheckpointWriter], tuple[str]]:
        return CheckpointWriter, (self._name,)  # a copy has nothing under way, and is in no run

    def carry_out(
        self,
        request: SaveRequest,
        plan: PlannedFile | None,
        *,
        host: Host,
        pool: SnapshotPool,
        folder: CheckpointFolder,
        tell: Function[[str], None],
    ) -> Iterator[SaveOutcome]:
        """Write one file; the facts must be taken one after the other, to the last.

        Args:
            request: What to write.
            plan: How, from copies; None if it must be written while training waits.
            host: The model.
            pool: Where copies are taken.
            folder: Where to.
            tell: Called with the reason if there is a plan and training has to wait nevertheless.

        Yields:
            What has become of earlier saves, and, if training waited for this one or it is refused,
            of this one.

        Raises:
            Exception: What the framework raises if the model cannot be written at all.
        """
        if plan is not None:
            if request.replaces and self.queue.waiting == request.path:
                bad = bad_now(request, host)
                if bad:
                    yield SaveOutcome(request, bad=bad)
                    return
                self.queue.replace_waiting()
            self.queue.wait_for_room(self.placement.copies)
            yield from self.queue.news()
            # What was just told may have been refused by the disk, and then keeps its copy.
            self.queue.wait_for_room(self.placement.copies)
            try:
                held = pool.take(plan.parts)
            except MemoryError:
                tell("there is no memory for a copy of its state")
            else:
                if request.exempt is not None or request.must_know_whether_finite:
                    held.start_check(plan.parts)  # here: the model may be gone when it is written
                self.queue.begin(folder, request, plan, held)
                return
        self.queue.wait()
        wait_for_saves_to(folder.filepath)
        yield from self.queue.news()
        yield _write_now(request, host, folder)


def bad_now(request: SaveRequest, host: Host) -> frozenset[str]:
    """Variables of the model that forbid this save; they are looked at only if one could."""
    return frozenset() if request.exempt is None else host.nonfinite() - request.exempt


def _write_now(request: SaveRequest, host: Host, folder: CheckpointFolder) -> SaveOutcome:
    if request.must_know_whether_finite:
        request = request.found(finite=not host.nonfinite())
    scratch = os.path.dirname(request.target) or "."
    try:
        return folder.save(request, lambda file: host.write(file, folder.suffix, scratch))
    except (OSError, MemoryError) as error:
        return SaveOutcome(request, error=error)
