"""What became of a decision. Each fact names the decision it answers by its ticket.

A fact may come late: a save is durable moments after it was decided, and whether a state is finite
is known after it was looked at. `Committed` told late changes no decision, for a policy compares
with what is under way as if it were there; `Failed` told late puts the value to beat back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, final

__all__ = ["Committed", "Fact", "Failed", "Found", "NotFinite"]


@final
@dataclass(frozen=True, slots=True)
class Committed:
    """What was asked for is done: the file is durable, the snapshot is taken and finite."""

    ticket: int


@final
@dataclass(frozen=True, slots=True)
class Failed:
    """It came to nothing, and what was there before is as it was."""

    ticket: int
    reason: str
    may_retry: bool = False
    """Whether a copy of the state is kept, so that the same can be asked for once more."""


@final
@dataclass(frozen=True, slots=True)
class NotFinite:
    """The state holds NaN or infinity: it came to nothing, and asking again would not help."""

    ticket: int
    defect: str


@final
@dataclass(frozen=True, slots=True)
class Found:
    """The best that an earlier run left, in a run that goes on from it. It answers no decision."""

    value: float | None
    """None if nothing was left."""
    epoch: int | None = None
    """Index of its epoch, from 0."""
    ticket: int = 0


Fact: TypeAlias = Committed | Failed | Found | NotFinite
