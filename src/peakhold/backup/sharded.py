"""The backups of a model that lies in pieces on several workers: each writes its own.

    backup/                 rank 0's pieces, and all that is no tensor
    backup/rank-1/          rank 1's pieces, under the same steps
    backup/rank-2/ …

Rules of this file:

1. A step is good if it is whole on all workers. Nobody begins step s + 1 before all have told that
   step s is durable on theirs, or has failed (`durable`, in the exchange before a commit); the
   newest step that all have is kept by all, whatever fails meanwhile.
2. As many workers as before take their own pieces, bit for bit. With another number each takes the
   pieces of all, and what it holds is put together of them.
3. Which step it is, is agreed: the newest that nobody finds damaged.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, final

from peakhold.backup.folder import BackupFolder
from peakhold.backup.interrupted import STATE
from peakhold.errors import CheckpointDamagedError, CheckpointDamagedWarning, StoreError
from peakhold.host.pieces import is_piece, joined
from peakhold.snapshots.pool import Held
from peakhold.store import Reader
from peakhold.trees import NOTHING, leaf_list, merge

if TYPE_CHECKING:
    from peakhold.backup.folder import Place
    from peakhold.runtime.run_view import RunView

__all__ = ["ShardedFolder"]

_RANK: Final = re.compile(r"rank-([1-9]\d*)\Z")


@final
class ShardedFolder:
    """Backups of one worker's pieces, beside those of the others.

    Args:
        path: The folder of all.
        rank: This worker's number.
        n_workers: How many there are.
        owns_frame: As for `BackupFolder`.
    """

    is_followed: Final = False
    in_pieces: Final = True

    def __init__(
        self, path: str, rank: int, n_workers: int, owns_frame: Callable[[FrameType], bool]
    ) -> None:
        self.path, self._rank, self._size = os.path.realpath(path), rank, n_workers
        self._owns_frame = owns_frame
        self._own = BackupFolder(_of(self.path, rank), owns_frame)
        self._common: int | None = None
        """The newest step that all are known to have."""
        self._durable: int | None = None
        self._loaded_from = n_workers
        """How many workers the pieces are of that were loaded."""

    # Reading

    def agreed(self, run: RunView) -> tuple[dict[str, Any], str] | None:
        """The parts of the newest step that is whole on all workers, and its path; None if none is.

        Raises:
            CheckpointDamagedError: If there are backups, and none is whole.
        """
        last = max(run.gather("the last step of each backup", self._own.last_step))
        self._own.last_step = last  # steps are the same on all workers
        candidates = run.agree("the backups that there are", self._candidates())
        error: StoreError | OSError | None = None
        for step, n_workers in candidates:
            parts = None
            try:
                parts = self._load(step, n_workers)
            except (StoreError, OSError) as why:
                error = why
            said = run.gather(f"the backup of step {step}", None if parts else str(error))
            wrong = [(rank, words) for rank, words in enumerate(said) if words is not None]
            if parts is not None and not wrong:
                self._common = self._durable = step
                self._loaded_from = n_workers
                return parts, os.path.join(self.path, f"step-{step:08d}")
            run.warn(
                f"passed over the backup of step {step} in {self.path!r}, which is not whole on "
                f"rank {wrong[0][0]}: {wrong[0][1]}",
                CheckpointDamagedWarning,
            )
        if candidates:
            raise CheckpointDamagedError(
                f"expected a backup that is whole on all workers, got path={self.path!r} with none."
            )
        return None

    def _candidates(self) -> list[tuple[int, int]]:
        """Steps, the newest first, with how many workers wrote each."""
        if self._rank:
            return []
        found, reader = [], Reader(self.path)
        for entry in reader.list()[::-1]:
            with contextlib.suppress(StoreError):
                state = reader.load(entry.step, [STATE])[STATE]
                found.append((entry.step, int(state.get("n_workers") or 1)))
        return found

    def _load(self, step: int, n_workers: int) -> dict[str, Any]:
        """What this worker needs of a step."""
        if n_workers == self._size:
            parts = dict(Reader(_of(self.path, self._rank)).load(step).parts)
            if self._rank:
                own, all_ = parts[STATE], dict(Reader(self.path).load(step, [STATE])[STATE])
                if any(own.get(key) != all_.get(key) for key in ("run_id", "epoch", "batch")):
                    raise CheckpointDamagedError(
                        f"expected pieces of one moment in step {step}, got path={self.path!r}, "
                        f"where those of rank {self._rank} are of another."
                    )
                parts[STATE] = {**all_, "held": own.get("held")}
            return parts
        of_all = [Reader(_of(self.path, rank)).load(step).parts for rank in range(n_workers)]
        return {
            name: tree if name == STATE else _together([parts.get(name) for parts in of_all])
            for name, tree in of_all[0].items()
        }

    def part(self, place: Place) -> Any:
        """One part of a backup that the one at hand refers to."""
        step, name = place
        if self._loaded_from == self._size:
            return Reader(_of(self.path, self._rank)).load(step, [name])[name]
        return _together(
            [
                Reader(_of(self.path, rank)).load(step, [name])[name]
                for rank in range(self._loaded_from)
            ]
        )

    # Writing

    def durable(self) -> int | None:
        """The newest step of this worker's that is on disk; waits for the last one."""
        self._own.wait()
        step = self._own.last_step
        if step >= 0 and self._own.is_durable:
            self._durable = step
        return self._durable

    def all_have(self, steps: Sequence[int | None]) -> None:
        """What all have told: the newest step that each of them has."""
        known = [step for step in steps if step is not None]
        self._common = min(known) if len(known) == len(steps) else None

    def save(
        self, parts: Mapping[str, Any], held: list[Held], *, refers_to: list[int], **about: Any
    ) -> None:
        """Begin to write this worker's pieces; the newest step that all have stays."""
        common = {self._common} if self._common is not None and self._size > 1 else set()
        self._own.save(parts, held, refers_to=sorted({*refers_to, *common}), **about)

    @property
    def last_step(self) -> int:
        """The newest step that was begun."""
        return self._own.last_step

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever written there, on any worker."""
        return self._own.is_new

    def skip(self) -> None:
        """Rank 0 writes a step that has no pieces: it is one of all workers'."""
        self._own.last_step += 1

    def has(self, step: int) -> bool:
        """Whether what this worker would refer to is there."""
        return self._loaded_from == self._size and self._own.has(step)

    def wait(self, deadline: float | None = None) -> bool:
        """Wait until what was begun is durable."""
        return self._own.wait(deadline)

    def trouble(self) -> str | None:
        """Why the last backup failed, if that is news."""
        return self._own.trouble()

    # The end

    def close(self) -> None:
        """Wait for the last backup, and let the folder go."""
        self._own.close()

    def remove(self, others: tuple[str, ...] = ()) -> None:
        """Delete this worker's backups; rank 0's, which is called last, also what others left."""
        if self._rank == 0:
            for name in os.listdir(self.path):
                if _RANK.match(name):
                    with contextlib.suppress(StoreError):
                        BackupFolder(os.path.join(self.path, name), self._owns_frame).remove()
        self._own.remove(others)

    def file(self, which: int, name: str) -> str:
        """Path of a file of the newest (0) or the one before (1), as far as there is one."""
        return self._own.file(which, name)


def _of(path: str, rank: int) -> str:
    return os.path.join(path, f"rank-{rank}") if rank else path


def _together(trees: Sequence[Any]) -> Any:
    """One tree of those of all workers: pieces joined, all else as rank 0 has it."""
    found = zip(*[leaf_list(tree, is_leaf=is_piece) for tree in trees], strict=True)
    joint = iter([joined(same) if is_piece(same[0]) else same[0] for same in found])
    return merge(trees[0], NOTHING, lambda *_: next(joint), is_piece)
