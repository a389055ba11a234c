"""What `ModelCheckpoint(save_best_only=True)` compares an epoch with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from peakhold._core.decisions import Skip
from peakhold._core.observation import Observation, is_finite
from peakhold._core.policies.save_when import SaveBestState
from peakhold.checkpoint_files.folder import static_folder
from peakhold.checkpoint_files.writing import CheckpointWriting
from peakhold.errors import MonitorNotFoundError, MonitorWarning
from peakhold.host.contract import to_number

__all__ = ["CheckpointRanking"]


class CheckpointRanking(CheckpointWriting):
    """The part of `ModelCheckpoint` that decides whether an epoch is worth a file."""

    _missing: MonitorNotFoundError | None
    """Raised when the next epoch begins: the metric is nowhere."""
    _replayed: int | None
    """The epoch that the best file is of, if an earlier run wrote it."""

    @property
    def best(self) -> float | None:
        """The value to beat: of the best file, one that is being written included."""
        return self._state.to_beat

    @best.setter
    def best(self, value: float | None) -> None:
        self._state = SaveBestState(best=value)

    @property
    def _best_text(self) -> str:
        return "None" if self.best is None else f"{self.best:.5f}"

    def _is_better(self, epoch: int, value: float) -> bool:
        """Whether this epoch is better than every file, those under way included."""
        _, decision = self._policy.step(self._state, Observation(epoch, value))
        if not isinstance(decision, Skip) or self._replays(epoch, value):
            return True
        self._why_not = f"{self.monitor} {decision.reason}"
        self._say(f"\nEpoch {epoch + 1}: {self.monitor} did not improve from {self._best_text}")
        return False

    def _replays(self, epoch: int, value: float) -> bool:
        """Whether the best file is of this very epoch, from before the interruption, and no better.

        Then the epoch is trained again, and what comes of it replaces the file.
        """
        best = self._state.best
        return (
            self._replayed == epoch
            and self._state.pending is None
            and is_finite(value)
            and not self._criterion.better(best, value)
        )

    def _save_unranked(self, logs: Mapping[str, Any]) -> bool:
        """The monitor is not there: save once if it should have been and nothing is known."""
        error = self._missed(logs)
        if error is None:
            return False
        self._why_not = f"{self.monitor!r} was not logged"
        first = self._missing is None and self.latest_path is None and self.best is None
        self._missing = error
        self._warn_once(
            f"Can save best model only with {self.monitor} available. {error}", MonitorWarning
        )
        return first

    def _loss_defect(self, logs: Mapping[str, Any]) -> str | None:
        """What the loss tells against a save, or None."""
        loss = to_number(logs.get("loss")) if self.check_finite else None
        return None if loss is None or is_finite(loss) else f"the loss is {loss}"

    def _take_over(self) -> None:
        """In a run that goes on: take the best from the files that are there, once."""
        files = self._files
        if not self._resumes or files is None or files.resumed:
            return
        files.resumed = True
        if not self.save_best_only or self._direction is None:
            return
        found = files.best(self.monitor, str(self._direction), self._criterion.better)
        if found is None:
            self._state = SaveBestState(best=self.initial_value_threshold)
            return
        path, entry = found
        folder = static_folder(self.filepath)
        name = os.path.basename(path)
        self.best_path = name if folder == "." else os.path.join(folder, name)
        self.best_epoch = entry.epoch
        if not self._criterion.better(self.initial_value_threshold, entry.value):
            self._state, self._replayed = SaveBestState(best=entry.value), entry.epoch
