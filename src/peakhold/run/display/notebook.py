"""A table in a notebook, updated in place: a row for each epoch, and above them where the run is.

What a notebook keeps is its last state, as HTML and, for whoever shows none, as text.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable
from typing import Any, Final

from peakhold.run.display.progress import Row, RunProgress
from peakhold.run.display.words import bar_texts, duration, number, row_text, standing

__all__ = ["NotebookTable", "shell_of_notebook"]

_SHOWN: Final = 20
"""Rows: a table of all epochs would be sent anew at each of them."""
_SLOWER: Final = 0.5
"""Seconds between two drawings: each is a message to a browser."""


def shell_of_notebook() -> Any:
    """IPython's shell, if this process is a notebook's kernel; else None."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell if getattr(shell, "kernel", None) is not None else None


class NotebookTable:
    """A canvas of a notebook's cell."""

    moves = True

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._best: Row | None = None
        self._best_text: str | None = None
        self._patience_left: int | None = None
        self._n_rows = 0
        self._above = ""
        self._handle: Any = None
        self._drawn = 0.0

    def open(self, progress: RunProgress) -> None:
        """Put an empty table below the cell that runs."""
        self._above = progress.name
        self._handle = sys.modules["IPython"].display.display(self, display_id=True)

    def draw(self, progress: RunProgress, now: float) -> None:
        """Show where the run is."""
        if now - self._drawn >= _SLOWER:
            self._drawn = now
            self._above = "  ".join(bar_texts(progress, now))
            self._update()

    def row(self, progress: RunProgress, row: Row) -> None:
        """Add a row."""
        self._n_rows += 1
        self._rows = [*self._rows, row][-_SHOWN:]
        if row.is_best:
            self._best = row
        self._best_text, self._patience_left = row.best, row.patience_left
        self._above = f"{row.label} is over"
        self._update()

    def close(self) -> None:
        """Leave the table."""
        self._above = ""
        self._update()

    def _update(self) -> None:
        if self._handle is not None:
            self._handle.update(self)

    def _shown(self) -> list[Row]:
        best = self._best
        return ([] if best is None or best in self._rows else [best]) + self._rows

    def __repr__(self) -> str:
        return "\n".join(filter(None, [self._above, *map(row_text, self._shown())]))

    def _repr_html_(self) -> str:
        rows = self._shown()
        parts = [_paragraph(self._above)]
        if rows:
            names = list(dict.fromkeys(name for row in rows for name in row.metrics))
            parts += ["<table><thead>", _cells("th", ["", *names, "time"], ""), "</thead><tbody>"]
            parts += [self._html_of(row, names) for row in rows]
            parts.append("</tbody></table>")
        hidden = self._n_rows - len(rows)
        parts.append(_paragraph(f"{hidden} earlier rows are not shown" if hidden else ""))
        parts.append(_paragraph(standing(self._best_text, self._patience_left)))
        return "".join(parts)

    def _html_of(self, row: Row, names: list[str]) -> str:
        numbers = [number(row.metrics[name]) if name in row.metrics else "" for name in names]
        seconds = "" if row.seconds is None else duration(row.seconds)
        return _cells("td", [row.label, *numbers, seconds], "b" if row is self._best else "")


def _cells(tag: str, texts: Iterable[str], inner: str) -> str:
    begin, end = (
        (f"<{tag}><{inner}>", f"</{inner}></{tag}>") if inner else (f"<{tag}>", f"</{tag}>")
    )
    return f"<tr>{''.join(f'{begin}{html.escape(text)}{end}' for text in texts)}</tr>"


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>" if text else ""
