"""When to write a checkpoint.

State moves on facts: `best` changes when a file is *committed*, not when its save was decided.
While a save is under way, the value to beat is the pending one; if the save fails, it is again the
committed one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

from peakhold._core.decisions import Save, Skip
from peakhold._core.monitor import Criterion
from peakhold._core.observation import Observation

__all__ = ["EveryBatches", "EveryBatchesState", "SaveBest", "SaveBestState"]


@final
@dataclass(frozen=True, slots=True)
class SaveBestState:
    """Plain numbers: its own JSON."""

    best: float | None = None
    """Value of the best committed file, or the threshold to beat."""
    pending: float | None = None
    """Value of the save that is under way."""

    @property
    def to_beat(self) -> float | None:
        """A pending save was only asked for because it beats the committed one."""
        return self.best if self.pending is None else self.pending


@final
@dataclass(frozen=True, slots=True)
class SaveBest:
    """Save when the metric is better than every committed file's.

    Args:
        criterion: What counts as better.
        threshold: Value to beat before anything was saved, or None.
    """

    criterion: Criterion
    threshold: float | None = None

    def init(self) -> SaveBestState:
        """The state before the first check."""
        return SaveBestState(best=self.threshold)

    def step(
        self, state: SaveBestState, observation: Observation
    ) -> tuple[SaveBestState, Save | Skip]:
        """Take one check into account."""
        if not observation.usable:
            return state, Skip(observation.defect or "not a finite number")
        if not self.criterion.improves(observation.value, state.to_beat):
            return state, Skip(f"did not improve from {state.to_beat:.6g}")
        return replace(state, pending=observation.value), Save("better than every saved file")

    def committed(self, state: SaveBestState) -> SaveBestState:
        """Fact: the pending save is durable."""
        return SaveBestState(best=state.pending if state.pending is not None else state.best)

    def failed(self, state: SaveBestState) -> SaveBestState:
        """Fact: the pending save came to nothing."""
        return replace(state, pending=None)


@final
@dataclass(frozen=True, slots=True)
class EveryBatchesState:
    """Plain numbers: its own JSON."""

    seen: int = 0
    """Batches since the last save."""
    last_batch: int | None = None
    """Index of the last batch seen in this epoch."""


@final
@dataclass(frozen=True, slots=True)
class EveryBatches:
    """Due after every `n` batches, counted over epochs (Keras's `save_freq=n`).

    With `steps_per_execution` a hook stands for several batches: their number is the distance
    between two indices.
    """

    n: int

    def init(self) -> EveryBatchesState:
        """The state before the first batch."""
        return EveryBatchesState()

    def step(self, state: EveryBatchesState, batch: int) -> tuple[EveryBatchesState, bool]:
        """Take one hook into account; True when a save is due."""
        new_epoch = state.last_batch is None or batch <= state.last_batch
        seen = state.seen + (batch + 1 if new_epoch else batch - (state.last_batch or 0))
        due = seen >= self.n
        return EveryBatchesState(0 if due else seen, batch), due
