"""Getting a save that was decided onto the disk, and telling what becomes of it.

Rules of this file:

1. There is one way to write a file, and two threads to do it in. In the background, training waits
   for a plan of the file and for one copy of the state, and for nothing else.
2. No file that was asked for is dropped. The training thread waits when two are under way; only a
   fixed name lets the newer save take the place of one that has not begun, for it would replace its
   file. Before that the newer state is looked at: what is not finite replaces nothing.
3. What cannot be written from copies is written while training waits, after what is under way.
4. What happens is told as facts, on the thread that trains, each before the next step is taken.
"""

from __future__ import annotations

from collections.abc import Callable as Function
from collections.abc import Iterator
from typing import final

from peakhold.checkpoint_files.folder import CheckpointFolder
from peakhold.checkpoint_files.placement import Placement
from peakhold.checkpoint_files.queue import SaveQueue, wait_for_saves_to
from peakhold.checkpoint_files.requests import SaveBegun, SaveOutcome, SaveRequest
from peakhold.host.contract import Host, PlannedFile
from peakhold.snapshots.pool import SnapshotPool

__all__ = ["CheckpointWriter"]


@final
class CheckpointWriter:
    """Writes files in the background or at once.

    Attributes:
        queue: The saves under way; it outlives a run, for a `fit` that raised may leave some.
        placement: Which thread writes, in the run at hand.
    """

    def __init__(self) -> None:
        self.queue = SaveQueue()
        self.placement = Placement()

    def carry_out(
        self,
        request: SaveRequest,
        plan: PlannedFile | None,
        *,
        host: Host,
        pool: SnapshotPool,
        folder: CheckpointFolder,
        tell: Function[[str], None],
    ) -> Iterator[SaveBegun | SaveOutcome]:
        """Write one file; the facts must be taken one after the other, to the last.

        Args:
            request: What to write.
            plan: How, from copies; None if it must be written while training waits.
            host: The model.
            pool: Where copies are taken.
            folder: Where to.
            tell: Called with the reason if there is a plan and training has to wait nevertheless.

        Yields:
            What has become of earlier saves, that this one has begun, and, if training waited for
            it or it is refused, what has become of this one.

        Raises:
            Exception: What the framework raises if the model cannot be written at all.
        """
        if plan is not None:
            if request.replaces and self.queue.waiting == request.path:
                bad = request.bad_among(host.nonfinite)
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
                if request.exempt is not None:
                    held.start_check(plan.parts)
                yield SaveBegun(request)
                self.queue.begin(folder, request, plan, held)
                return
        self.queue.wait()
        wait_for_saves_to(folder.filepath)
        yield from self.queue.news()
        yield SaveBegun(request)
        yield _write_now(request, host, folder)


def _write_now(request: SaveRequest, host: Host, folder: CheckpointFolder) -> SaveOutcome:
    if request.must_know_whether_finite:
        request = request.found(finite=not host.nonfinite())
    try:
        return folder.save(request, lambda file, scratch: host.write(file, folder.suffix, scratch))
    except (OSError, MemoryError) as error:
        return SaveOutcome(request, error=error)
