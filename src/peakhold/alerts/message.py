"""The text of an alert: what happened, in which run, and how it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

__all__ = ["Standing", "compose"]


@final
@dataclass(frozen=True, slots=True)
class Standing:
    """How a run stands."""

    run: str
    """What the run is called."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Metrics to show, by name."""
    monitor: str | None = None
    best: float | None = None
    best_epoch: int | None = None
    """Its number, from 1."""
    steps: Mapping[str, int] = field(default_factory=dict)
    """The step that a value is of, where it is one of a single batch."""


def compose(news: str, standing: Standing) -> str:
    """Two lines: the news with the run, then the values and the best.

    Example:
        >>> standing = Standing("a1", {"loss": 0.25}, "loss", 0.25, 3)
        >>> print(compose("epoch 3 of 9: loss < 0.5", standing))
        [a1] epoch 3 of 9: loss < 0.5
        loss 0.25; best loss 0.25 at epoch 3
    """
    facts = [
        f"{name} {value:.6g}"
        + (f" at step {standing.steps[name]}" if name in standing.steps else "")
        for name, value in standing.values.items()
    ]
    if standing.best is not None and standing.best_epoch is not None:
        facts.append(f"best {standing.monitor} {standing.best:.6g} at epoch {standing.best_epoch}")
    first = f"[{standing.run}] {news}"
    return f"{first}\n{'; '.join(facts)}" if facts else first
