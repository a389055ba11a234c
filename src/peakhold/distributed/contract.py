"""The coordinator: the three places at which workers must agree, and the beginning.

Only the session asks it: when a run begins, at each moment (aggregate, decide), and at a commit. No
policy, no property, no signal handler and no thread of ours does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

from peakhold._core.decisions import Decision
from peakhold._core.moments import Moment

__all__ = ["Coordinator"]

T = TypeVar("T")


class Coordinator(Protocol):
    """One truth for all workers of a run."""

    def begin(self, run: Mapping[str, str]) -> Mapping[str, str]:
        """A run begins: the name and the time of beginning that all of them use."""

    def aggregate(self, moment: Moment) -> Moment:
        """One moment out of those of all workers."""

    def decide(
        self, decided: Mapping[str, tuple[Decision, ...]]
    ) -> Mapping[str, tuple[Decision, ...]]:
        """What counts, out of what this worker's participants decided, by participant."""

    def commit(self, moment: Moment) -> None:
        """All workers have come to the commit of this moment."""
