"""A bar at the bottom of a terminal, and a line for each epoch above it. Rich draws it."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.text import Text

from peakhold import speech
from peakhold.run.display.beside import LastLine
from peakhold.run.display.progress import Row, RunProgress
from peakhold.run.display.words import bar_texts, row_text

__all__ = ["Bar"]

_WIDTH = 24
"""Columns of the bar itself."""


class Bar:
    """A bar with what is left, the speed, the best so far, and the checks until patience runs out.

    Args:
        stream: A terminal.
    """

    moves = True

    def __init__(self, stream: Any) -> None:
        self._console = Console(file=stream, force_terminal=True, highlight=False)
        self._line = LastLine(stream)

    @property
    def can_draw(self) -> bool:
        """Whether the terminal knows how a line is taken away."""
        return not (self._console.legacy_windows or self._console.is_dumb_terminal)

    def open(self, progress: RunProgress) -> None:
        """Take the last line."""
        self._line.take()

    def draw(self, progress: RunProgress, now: float) -> None:
        """Draw it anew."""
        console, part = self._console, progress.part
        before, *after = bar_texts(progress, now)
        line = Text(f"{before} ")
        if part.n_batches:
            bar = ProgressBar(total=part.n_batches, completed=part.done, width=_WIDTH)
            for segment in console.render(bar):
                line.append(segment.text, segment.style)
            line.append(" ")
        line.append("  ".join(after))
        line.truncate(console.width - 1, overflow="ellipsis")  # a full line would be two
        with console.capture() as captured:
            console.print(line, end="", no_wrap=True, crop=False)
        self._line.draw(captured.get())

    def row(self, progress: RunProgress, row: Row) -> None:
        """Print it above the bar."""
        speech.say(row_text(row))

    def close(self) -> None:
        """Leave the lines, and no bar."""
        self._line.give_back()
