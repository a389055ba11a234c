"""The coordinator of a run with one worker: it answers at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from peakhold._core.decisions import Decision
from peakhold._core.moments import Moment

__all__ = ["LocalCoordinator"]


@final
class LocalCoordinator:
    """One worker agrees with itself."""

    def begin(self, run: Mapping[str, str]) -> Mapping[str, str]:
        """The name it came with."""
        return run

    def aggregate(self, moment: Moment) -> Moment:
        """The moment as it is."""
        return moment

    def decide(
        self, decided: Mapping[str, tuple[Decision, ...]]
    ) -> Mapping[str, tuple[Decision, ...]]:
        """What was decided."""
        return decided

    def commit(self, moment: Moment) -> None:
        """Nobody to wait for."""
