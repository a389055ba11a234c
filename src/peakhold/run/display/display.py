"""The calls by which a run is shown, whatever shows it. The rules: `__init__.py`."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from peakhold import speech
from peakhold.run.display.lines import Lines, Nothing
from peakhold.run.display.progress import Row, RunProgress, Stretch

__all__ = ["Canvas", "Display"]

_SHORTEST: Final = 0.1
"""Seconds between two drawings."""
_SHARE: Final = 0.01
"""Of the time, for drawing."""


class Canvas(Protocol):
    """What a run is drawn on. What it raises is caught, and it is not used again."""

    moves: bool
    """Whether there is anything to draw between two rows."""

    def open(self, progress: RunProgress) -> None:
        """A run begins."""

    def draw(self, progress: RunProgress, now: float) -> None:
        """Show where it is."""

    def row(self, progress: RunProgress, row: Row) -> None:
        """An epoch, or a check, is over."""

    def close(self) -> None:
        """The run is over; what stays is what people shall read afterwards."""


class Display:
    """A run as people see it. No call here raises, but for what stops a program (Ctrl-C).

    Args:
        canvas: What it is drawn on.
        clock: Seconds, from anywhere.
    """

    def __init__(self, canvas: Canvas, clock: Callable[[], float] = time.monotonic) -> None:
        self.progress = RunProgress()
        self._canvas = canvas
        self._clock = clock
        self._done = 0
        self._next_look = math.inf

    def begin(self, name: str, n_epochs: int | None, first_epoch: int = 0) -> None:
        """A run begins, or goes on.

        Args:
            name: What it is called: its folder.
            n_epochs: Of the whole run; None: not known, or none.
            first_epoch: The first that is trained now, from 0.
        """
        now = self._clock()
        self.progress = RunProgress(name, n_epochs, first_epoch, began=now, epoch_began=now)
        self._safely(lambda canvas: canvas.open(self.progress))

    def epoch_begins(self, number: int | None, n_batches: int | None = None) -> None:
        """An epoch begins, or goes on in its middle; or a run without epochs.

        Args:
            number: From 0; None: a run without epochs.
            n_batches: How many it has; None: not known.
        """
        progress = self.progress
        progress.epoch, progress.epoch_began = number, self._clock()
        progress.parts = [Stretch(None, n_batches)]
        self._look_soon()

    def part_begins(self, name: str | None, n_batches: int | None = None) -> None:
        """Other batches are gone through inside of this epoch: an evaluation.

        Args:
            name: `val`, say.
            n_batches: How many; None: not known.
        """
        self.progress.part.done = self._done
        self.progress.parts.append(Stretch(name, n_batches, began=self._clock()))
        self._look_soon()

    def part_ends(self) -> None:
        """They are through; what was under way before goes on."""
        parts = self.progress.parts
        if len(parts) > 1:
            over = parts.pop()
            parts[-1].waited(self._clock() - over.began)
            self._look_soon()

    def _look_soon(self) -> None:
        self._done = self.progress.part.done
        self._next_look = -math.inf

    def batch_done(self, i: int) -> None:
        """A batch is done.

        Args:
            i: Which of its epoch, or its evaluation, from 0; a run that goes on in the middle of
                an epoch goes on counting.
        """
        self._done = i + 1
        if self._clock() >= self._next_look:
            self._look()

    def _look(self) -> None:
        began = self._clock()
        self.progress.part.seen(self._done, began)
        self._safely(lambda canvas: canvas.draw(self.progress, began))
        ended = self._clock()
        wait = max(_SHORTEST, (ended - began) / _SHARE)
        self._next_look = ended + wait if self._canvas.moves else math.inf

    def epoch_ends(
        self,
        number: int,
        metrics: Mapping[str, float],
        best_text: str | None = None,
        patience_left: int | None = None,
    ) -> None:
        """An epoch is over.

        Args:
            number: From 0.
            metrics: Its values.
            best_text: The best so far: `val_loss 0.0912 (epoch 23)`.
            patience_left: Checks without an improvement until patience runs out; None: nothing
                waits for one.
        """
        self.progress.epoch = number
        now = self._clock()
        while len(self.progress.parts) > 1:
            self.part_ends()
        part = self.progress.part
        part.done = self._done
        row = Row(self.progress.label(), metrics, best_text, patience_left)
        row.seconds, row.speed = now - self.progress.epoch_began, part.speed(now)
        self._row(row)

    def checked(
        self,
        step: int,
        metrics: Mapping[str, float],
        best_text: str | None = None,
        patience_left: int | None = None,
    ) -> None:
        """A check was made in a run without epochs.

        Args:
            step: How many steps were made before it.
            metrics: See `epoch_ends`, as for the rest.
            best_text: The best so far.
            patience_left: Checks without an improvement until patience runs out.
        """
        self._row(Row(f"Step {step:,}", metrics, best_text, patience_left))

    def _row(self, row: Row) -> None:
        progress = self.progress
        row.is_best = row.best is not None and row.best != progress.best
        progress.best, progress.patience_left = row.best, row.patience_left
        self._safely(lambda canvas: canvas.row(progress, row))
        self._look_soon()

    def say(self, text: str) -> None:
        """A message, on a line of its own."""
        speech.say(text)

    def end(self, text: str | None = None) -> None:
        """The run is over, however it ended.

        Args:
            text: The last line.
        """
        self._safely(lambda canvas: canvas.close())
        self._canvas, self._next_look = Nothing(), math.inf
        if text:
            speech.say(text)

    def _safely(self, show: Callable[[Canvas], Any]) -> None:
        canvas = self._canvas
        try:
            show(canvas)
        except Exception:
            self._canvas, self._next_look = Lines(), math.inf
            with contextlib.suppress(Exception):
                canvas.close()
