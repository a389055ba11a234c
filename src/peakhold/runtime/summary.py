"""The three lines at the end of a run: why it ended, what was best, what stopping saved."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

from peakhold.advice import differing

__all__ = ["Best", "Ending", "duration", "summarize", "why"]


@final
@dataclass(frozen=True, slots=True)
class Best:
    """What one callback holds for the best."""

    monitor: str
    value: float
    epoch: int
    """Index, from 0."""
    where: str
    """Where the best state lies now."""


@final
@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended."""

    n_epochs_done: int
    last_epoch: int | None
    """Index, from 0."""
    epochs: int | None
    """Epochs asked for."""
    seconds: float
    reason: str | None
    interrupted: bool


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
    """The lines; none if nobody in the run ranks epochs."""
    tellers = [one for one in participants if one.ranks_epochs]
    if not tellers:
        return []
    told = [teller.summary() for teller in tellers]
    bests = [t for t in told if isinstance(t, Best)]
    notes = [t for t in told if isinstance(t, str)]
    return [f"Peakhold: {line}" for line in (why(ending), _best(bests, notes), _saved(ending))]


def why(ending: Ending) -> str:
    """One sentence: where a run ended, and by what."""
    last = (
        "before its first epoch"
        if ending.last_epoch is None
        else f"after epoch {ending.last_epoch + 1}"
    )
    of = f" of {ending.epochs}" if ending.epochs and ending.last_epoch is not None else ""
    if ending.interrupted:
        return f"training ended {last}{of}: Ctrl-C."
    if ending.reason is not None:
        return f"training ended {last}{of}: {ending.reason}."
    if ending.epochs is not None and (
        ending.last_epoch is None or ending.last_epoch + 1 < ending.epochs
    ):
        return f"training ended {last}{of}: something set stop_training."
    return f"training ended {last}{of}: all epochs were run."


def _best(bests: list[Best], notes: list[str]) -> str:
    merged: dict[tuple[str, int], list[Best]] = {}
    for best in bests:
        merged.setdefault((best.monitor, best.epoch), []).append(best)
    parts = [
        f"best {monitor} {same[0].value:.5f} at epoch {epoch + 1}, "
        + ", ".join(dict.fromkeys(b.where for b in same))
        for (monitor, epoch), same in merged.items()
    ]
    text = "; ".join([*parts, *dict.fromkeys(notes)]) or "no epoch could be ranked"
    named = differing((best.monitor, best.epoch) for best in bests)
    return "; ".join([text, *(advice.text for advice in named)]) + "."


def _saved(ending: Ending) -> str:
    took = duration(ending.seconds)
    if ending.epochs is None or ending.last_epoch is None:
        return f"{ending.n_epochs_done} epochs took {took}."
    left = ending.epochs - ending.last_epoch - 1
    if left <= 0 or not ending.n_epochs_done:
        return f"{ending.n_epochs_done} epochs took {took}; stopping saved none."
    rest = duration(ending.seconds / ending.n_epochs_done * left)
    return f"{ending.n_epochs_done} epochs took {took}; stopping saved {left} epochs, about {rest}."
