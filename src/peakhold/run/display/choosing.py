"""Which display there is, where a program runs."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from peakhold.run.display.beside import is_terminal, real
from peakhold.run.display.display import Canvas, Display
from peakhold.run.display.lines import Lines, Nothing
from peakhold.run.display.notebook import NotebookTable, shell_of_notebook

__all__ = ["display_for"]


def display_for(verbose: Any = "auto") -> Display:
    """The display of a run.

    Args:
        verbose: 0: nothing. 1 or `"auto"`: a table in a notebook; a bar in a terminal, where Rich
            is installed (`peakhold[progress]`); else a line an epoch. 2: a line an epoch.

    Example:
        >>> display = display_for(2)
        >>> display.begin("runs/digits", n_epochs=9)
        >>> display.epoch_begins(0, n_batches=100)
        >>> display.batch_done(0)
        >>> display.end("runs/digits: all 9 epochs")
        runs/digits: all 9 epochs
    """
    return Display(_canvas_for(verbose))


def _canvas_for(verbose: Any) -> Canvas:
    if not verbose:
        return Nothing()
    if verbose == 2:
        return Lines()
    try:
        return _moving() or Lines()
    except Exception:  # a library that is broken, a console of somebody's own
        return Lines()


def _moving() -> Canvas | None:
    """What moves, where that can be shown."""
    if shell_of_notebook() is not None:
        return NotebookTable()
    stream = real(sys.stdout)
    if not is_terminal(stream) or importlib.util.find_spec("rich") is None:
        return None
    from peakhold.run.display.bar import Bar

    bar = Bar(stream)
    return bar if bar.can_draw else None
