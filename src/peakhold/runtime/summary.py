"""The lines at the end of a run: why it ended, what was best and where it is, how long it took.

Every end is one of a closed list, and so is every sentence here: `tests/runtime/test_summary.py`
has each with its text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

from peakhold._core.moments import number_of
from peakhold.advice import differing

__all__ = ["Best", "Ending", "cause", "duration", "shown", "summarize", "why"]


@final
@dataclass(frozen=True, slots=True)
class Best:
    """What one callback holds for the best."""

    monitor: str
    value: float
    epoch: int
    """As the loop counts."""
    where: str
    """Where the best state lies now."""
    is_earlier: bool = False
    """Whether it is of an earlier fit of the same object, whose epochs were counted apart."""
    note: str = ""
    """What else is to be said of it."""


@final
@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended."""

    n_epochs_done: int
    last_epoch: int | None
    """As the loop counts."""
    epochs: int | None
    """Epochs asked for."""
    seconds: float
    reason: str | None
    interrupted: bool
    running_epoch: int | None = None
    """An epoch that has begun and not ended; None if there is none."""
    was_asked: bool = True
    """Whether somebody has set `stop_training`; a loop may end by itself."""
    first_epoch: int = 0
    """What the loop calls its first epoch."""

    def number(self, epoch: int) -> int:
        """An epoch's number for people, from 1."""
        return number_of(epoch, self.first_epoch)

    def when(self, best: Best) -> str:
        """The epoch of a best, from 1."""
        of = " of an earlier fit" if best.is_earlier else ""
        return f"epoch {self.number(best.epoch)}{of}"


def duration(seconds: float) -> str:
    """A time for people.

    Example:
        >>> duration(75.2), duration(3.21), duration(7384)
        ('1 min 15 s', '3.2 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def summarize(ending: Ending, participants: Iterable[Any]) -> list[str]:
    """The lines; the second only if somebody has something to say of it."""
    told = [one.summary() for one in participants if one.ranks_epochs]
    bests = [t for t in told if isinstance(t, Best)]
    notes = [t for t in told if isinstance(t, str)]
    lines = (why(ending), _best(bests, notes, ending), _took(ending))
    return [f"Peakhold: {line}" for line in lines if line]


def cause(ending: Ending) -> str:
    """By what a run ended."""
    if ending.interrupted:
        return "Ctrl-C"
    if ending.reason is not None:
        return ending.reason
    last = ending.last_epoch
    if last is None and ending.running_epoch is None:
        return "none was run"
    if ending.epochs is None:  # nobody knows how many there were to be
        return "something set stop_training" if ending.was_asked else "the loop ended"
    if last is None or ending.number(last) < ending.epochs:
        return "something set stop_training" if ending.was_asked else "the loop was left"
    return "all epochs were run"


def why(ending: Ending) -> str:
    """One sentence: where a run ended, and by what."""
    last = ending.last_epoch
    if last is None and ending.running_epoch is None:
        return f"training ended without an epoch: {cause(ending)}."
    if last is None or (ending.interrupted and ending.running_epoch is not None):
        running = ending.first_epoch if ending.running_epoch is None else ending.running_epoch
        place = f"in epoch {ending.number(running)}"
    else:
        place = f"after epoch {ending.number(last)}"
    of = f" of {ending.epochs}" if ending.epochs else ""
    return f"training ended {place}{of}: {cause(ending)}."


def shown(value: float) -> str:
    """A metric for people: five decimals, or as many as it takes to tell it from 0.

    Example:
        >>> shown(0.97222222), shown(3e-8), shown(0.0), shown(1234.5)
        ('0.97222', '3.00e-08', '0.00000', '1234.50000')
    """
    return f"{value:.5f}" if value == 0 or round(abs(value), 3) else f"{value:.2e}"


def _best(bests: list[Best], notes: list[str], ending: Ending) -> str:
    merged: dict[tuple[str, str], list[Best]] = {}
    for best in bests:
        merged.setdefault((best.monitor, ending.when(best)), []).append(best)
    parts = [
        f"best {monitor} {shown(same[0].value)} at {when}, "
        + ", ".join(dict.fromkeys(b.where for b in same))
        for (monitor, when), same in merged.items()
    ]
    named = differing((best.monitor, best.epoch) for best in bests if not best.is_earlier)
    notes = [*(best.note for best in bests if best.note), *notes]
    words = [*parts, *dict.fromkeys(notes), *(advice.text for advice in named)]
    return "; ".join(words) + "." if words else ""


def _took(ending: Ending) -> str:
    done, took = ending.n_epochs_done, duration(ending.seconds)
    text = f"{_epochs(done)} took {took}"
    running, last, left = ending.running_epoch, ending.last_epoch, 0
    if ending.epochs is not None and (running is not None or last is not None):
        # An epoch that Ctrl-C cut short is still to be run, though `fit` tells of its end.
        n_run = ending.number(last or 0) if running is None else ending.number(running) - 1
        left = ending.epochs - n_run
    if left <= 0 or not done:
        return f"{text}."
    return f"{text}; ended {_epochs(left)} early, about {duration(ending.seconds / done * left)}."


def _epochs(count: int) -> str:
    return f"{count} epoch" if count == 1 else f"{count} epochs"
