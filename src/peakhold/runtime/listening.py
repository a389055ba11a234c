"""Who is told of every moment, with what was decided and what became of it.

The public listener. `peakhold.extend.listening(function)` has a function called with each `Told`:
in the thread that trains, after the moment was applied and recorded. It must not change anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, final

from peakhold._core.decisions import Decision
from peakhold._core.facts import Fact
from peakhold._core.moments import Moment

__all__ = ["LISTENERS", "Listener", "Told", "Trace", "listening", "tell"]


@final
class Trace(NamedTuple):
    """One step of a policy: all that it hung on, so that it can be taken again."""

    policy: Any
    before: Any
    """The state before the facts."""
    facts: tuple[Fact, ...]
    """What became known since the step before."""
    moment: Moment
    """As the policy saw it."""
    decisions: tuple[Decision, ...]
    was_set: bool
    """Whether somebody has set the state from outside since the step before."""


@final
@dataclass(frozen=True, slots=True)
class Told:
    """One moment of one run, and what came of it."""

    run_id: str
    moment: Moment
    decided: Mapping[str, tuple[Decision, ...]] = field(default_factory=dict)
    """By participant, as its state is filed: what it decided."""
    facts: Mapping[str, tuple[Fact, ...]] = field(default_factory=dict)
    """What became known since the moment before, ahead of these decisions."""
    traces: Mapping[str, tuple[Trace, ...]] = field(default_factory=dict)
    """Of those whose decisions are a policy's: the steps, so that they can be taken again."""
    rank: int = 0
    """Which worker tells it; those above 0 take no steps at moments at which rank 0 decides."""


Listener: TypeAlias = Callable[[Told], object]

LISTENERS: list[Listener] = []
"""Those who listen now; empty, and then nothing is kept for them."""


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have every moment of every run told to a function, as long as the block runs.

    Args:
        listener: Called with each `Told`, in the thread that trains.

    Example:
        >>> from peakhold import EarlyStopping
        >>> told = []
        >>> with listening(told.append):
        ...     EarlyStopping("loss").on_epoch_end(0, {"loss": 0.5})
        >>> told[-1].moment.metrics
        {'loss': 0.5}
    """
    LISTENERS.append(listener)
    try:
        yield
    finally:
        LISTENERS.remove(listener)


def tell(told: Told) -> None:
    """Tell all who listen."""
    for listener in [*LISTENERS]:
        listener(told)
