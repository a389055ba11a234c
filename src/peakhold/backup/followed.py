"""The folder of a `BackupAndRestore` as a worker sees it that does not write: rank 0 does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, final

from peakhold.backup.folder import file_in
from peakhold.errors import CheckpointNotFoundError
from peakhold.store import Checkpoint, Reader

if TYPE_CHECKING:
    from peakhold.backup.folder import Place

__all__ = ["FollowedFolder"]


@final
class FollowedFolder:
    """Backups that another worker writes.

    Args:
        path: The folder, which all workers see.
    """

    last_step: Final = -1
    is_new: Final = False
    is_followed: Final = True
    in_pieces: Final = False

    def __init__(self, path: str) -> None:
        self.path = path
        self._reader = Reader(path)

    def newest(self) -> Checkpoint | None:
        """Rank 0 says which."""
        return None

    def at(self, step: int) -> Checkpoint:
        """The backup that rank 0 goes on from.

        Raises:
            CheckpointNotFoundError: If this worker does not see it.
        """
        try:
            return self._reader.load(step)
        except CheckpointNotFoundError as error:
            error.add_note(
                "Rank 0 goes on from a backup there: backup_dir must be a folder that all workers "
                "see."
            )
            raise

    def part(self, place: Place) -> Any:
        """One part of a backup that this one refers to."""
        return self._reader.load(place[0], [place[1]])[place[1]]

    def has(self, step: int) -> bool:
        """Nothing of this worker's is there."""
        return False

    def save(self, parts: Mapping[str, Any], held: Any, **about: Any) -> None:
        """Rank 0 writes."""

    def wait(self, deadline: float | None = None) -> bool:
        """Nothing of this worker's is under way."""
        return True

    def trouble(self) -> str | None:
        """None of this worker's."""
        return None

    def close(self) -> None:
        """Nothing is held."""

    def remove(self, others: tuple[str, ...] = ()) -> None:
        """Rank 0 deletes."""

    def file(self, which: int, name: str) -> str:
        """Path of a file of the newest (0) or the one before (1), as far as there is one."""
        return file_in(self._reader.list(), self.path, which, name)
