"""Streams while a bar is at the bottom: what others write comes above it, as they wrote it.

Rules of this file:

1. A write is the stream's own, letter by letter, with what it returns or raises; the bar's line is
   taken away before it, and comes back with the next drawing.
2. Who writes half a line has the line until it is whole.
3. A stream that is still held when the bar is gone (by a handler of `logging`) goes on as a way to
   the real one.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from typing import Any, Final

__all__ = ["LastLine", "is_terminal", "real"]

_ERASED: Final = "\r\x1b[2K"
"""To the first column, and clear the line: what every terminal of the last forty years knows."""


class LastLine:
    """The last line of a terminal, which a bar may have while nobody else writes on it.

    Args:
        stream: The terminal.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self._is_drawn = False
        self._is_free = True
        self._replaced: list[tuple[str, _Beside, Any]] = []

    def take(self) -> None:
        """Stand before `sys.stdout`, and before `sys.stderr` where it is a terminal, too."""
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is self.stream or is_terminal(stream):
                other = _Beside(self, stream)
                setattr(sys, name, other)
                self._replaced.append((name, other, stream))

    def give_back(self) -> None:
        """Take the bar away, and let streams be what they were, unless somebody replaced them."""
        for name, other, stream in self._replaced:
            if getattr(sys, name) is other:
                setattr(sys, name, stream)
        self._replaced = []
        with contextlib.suppress(Exception):
            self.erase()
            self.stream.flush()

    def draw(self, text: str) -> None:
        """Show a line in the place of the one before; not while somebody is on it.

        Args:
            text: No wider than the terminal; without an end.
        """
        if self._is_free:
            self.stream.write(f"{_ERASED}{text}")
            self._is_drawn = True
            self.stream.flush()

    def erase(self) -> None:
        """Take it away."""
        if self._is_drawn:
            self._is_drawn = False
            self.stream.write(_ERASED)
            self.stream.flush()

    def written(self, text: str) -> None:
        """Somebody else has written this."""
        if text:
            self._is_free = text.endswith(("\n", "\r"))


class _Beside:
    """A stream that takes the bar away before it writes."""

    def __init__(self, line: LastLine, stream: Any) -> None:
        self._peakhold_line = line
        self._peakhold_stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._peakhold_stream, name)

    def __iter__(self) -> Any:
        return iter(self._peakhold_stream)

    def write(self, text: str) -> Any:
        with contextlib.suppress(Exception):
            self._peakhold_line.erase()
        written = self._peakhold_stream.write(text)
        self._peakhold_line.written(text)
        return written

    def writelines(self, lines: Iterable[str]) -> None:
        for text in lines:
            self.write(text)


def real(stream: Any) -> Any:
    """The stream itself, of one that stands before it."""
    return stream._peakhold_stream if isinstance(stream, _Beside) else stream


def is_terminal(stream: Any) -> bool:
    """Whether a person is there; a stream that is none, closed, or breaks has nobody."""
    try:
        return bool(stream.isatty())
    except Exception:
        return False
