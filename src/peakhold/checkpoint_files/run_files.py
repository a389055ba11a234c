"""The files of one run: what can be wrong with their name, where they are, and which is the best.

Rules of this file:

1. What is wrong with the name or the folder is said before training.
2. What an earlier run left is known from the sidecar alone, and only in a run that goes on from it.
"""

from __future__ import annotations

import os
from typing import NamedTuple, final

from peakhold._core.monitor import Direction
from peakhold._core.policies.keep import KeepBest
from peakhold.checkpoint_files.folder import CheckpointFolder
from peakhold.checkpoint_files.queue import wait_for_saves_to
from peakhold.checkpoint_files.template import CheckpointTemplate, static_folder
from peakhold.files.sidecar import SavedFile
from peakhold.runtime.run_view import RunView

__all__ = ["BestFile", "RunFiles"]


@final
class BestFile(NamedTuple):
    """The best committed file, as far as this run knows."""

    path: str
    """As the user would spell it."""
    value: float
    epoch: int
    """Index, from 0."""
    is_earlier: bool = False
    """Whether it is of an earlier turn of the same object, which counted its own epochs."""


@final
class RunFiles:
    """The files that one run writes under a template.

    Args:
        filepath: The template, as the user wrote it.
        earlier: Those of the turn before, if this one goes on from it: they are its own.

    Attributes:
        template: The same, as names are made from it.
        goes_on: Whether the run goes on from files that are there, whosever they are.
    """

    goes_on: bool
    _earlier: CheckpointFolder | None

    def __init__(self, filepath: str, earlier: RunFiles | None = None) -> None:
        self.template = CheckpointTemplate(filepath)
        self._earlier = None if earlier is None else earlier._folder or earlier._earlier
        self.goes_on = earlier is not None and earlier.goes_on
        self._folder: CheckpointFolder | None = None
        self._began_in = os.curdir
        self._worker = 0

    @property
    def filepath(self) -> str:
        """The template, as the user wrote it."""
        return self.template.filepath

    def prepare(
        self, run: RunView, name: str, accepted: tuple[str, ...] | None, *, counts_batches: bool
    ) -> None:
        """See that such files can be written, and clear away what killed writers left.

        Args:
            run: The run.
            name: The class of the callback, for messages.
            accepted: Suffixes that this class takes for any model; None: it takes all.
            counts_batches: Whether batches are looked at.

        Raises:
            PeakholdError: If they cannot.
        """
        host = run.host
        self._began_in = os.getcwd()
        self.template.check_suffix(host, name, accepted)
        self.check_placeholders(run, counts_batches=counts_batches)
        self._worker = run.rank
        folder = self.folder(run.id)
        host.check_file(self.template.suffix)
        folder.check(host.state_bytes())
        wait_for_saves_to(self.filepath)  # another callback's fit may have raised
        folder.sweep()

    def check_placeholders(self, run: RunView, *, counts_batches: bool) -> None:
        """See that something fills every place; some hosts know the names after the first batch.

        Raises:
            InvalidArgumentError: If nothing does.
        """
        if not run.has_user_callbacks:  # a user's callback may log what fills a place
            self.template.check_placeholders(run.host, counts_batches=counts_batches)

    def folder(self, run_id: str) -> CheckpointFolder:
        """Where they are; known by the name that the run has now, which a backup may have given."""
        if self._folder is None or self._folder.run_id != run_id:
            path = self.absolute(self.filepath)
            suffix, worker = self.template.suffix, self._worker
            self._folder = CheckpointFolder(
                path, suffix, run_id, worker=worker, earlier=self._earlier
            )
        return self._folder

    def damage(self) -> tuple[str, ...]:
        """What has been found wrong with sidecars since it was asked last, in words."""
        return () if self._folder is None else self._folder.take_damage()

    def absolute(self, path: str) -> str:
        """What a path meant when the run began, wherever the process goes."""
        return os.path.abspath(os.path.join(self._began_in, path))

    def find_best(
        self, run_id: str, monitor: str, direction: Direction
    ) -> tuple[str, SavedFile] | None:
        """Path of the best file that an earlier run left, there and whole, and what it is."""
        found = self.folder(run_id).best(monitor, direction)
        return None if found is None else (self.spelled(found[0]), found[1])

    def find_newest(self, run_id: str) -> str | None:
        """Path of the newest file that an earlier run left, if it is there."""
        found = self.folder(run_id).newest()
        return None if found is None else self.spelled(found)

    def find_better(
        self, run_id: str, value: float, monitor: str, direction: Direction
    ) -> tuple[str, SavedFile] | None:
        """Path of the best file, of whatever run, that is better than a value; and what it is."""
        ranks = KeepBest(monitor, direction.value)
        found = self.folder(run_id).better_than(value, ranks)
        return None if found is None else (self.spelled(found[0]), found[1])

    def is_there(self, path: str | None) -> bool:
        """Whether something stands under a path that the user would spell so."""
        return path is None or os.path.exists(self.absolute(path))

    def spelled(self, path: str) -> str:
        """A path as the user would spell it."""
        return path if os.path.isabs(self.filepath) else self._relative(path)

    def _relative(self, path: str) -> str:
        folder = static_folder(self.filepath)
        inside = os.path.relpath(path, self.absolute(folder))
        return inside if folder == "." else os.path.join(folder, inside)
