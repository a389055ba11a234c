"""What needs no terminal: nothing, or a line for each epoch."""

from __future__ import annotations

from peakhold import speech
from peakhold.run.display.progress import Row, RunProgress
from peakhold.run.display.words import row_text

__all__ = ["Lines", "Nothing"]


class Nothing:
    """Shows nothing."""

    moves = False

    def open(self, progress: RunProgress) -> None:
        """Show nothing."""

    def draw(self, progress: RunProgress, now: float) -> None:
        """Show nothing."""

    def row(self, progress: RunProgress, row: Row) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""


class Lines(Nothing):
    """A line for each epoch, or check."""

    def row(self, progress: RunProgress, row: Row) -> None:
        """Print it."""
        speech.say(row_text(row))
