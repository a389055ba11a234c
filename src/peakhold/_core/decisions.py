"""What a policy can ask for. Each decision carries its reason; shells carry it out and print it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias, final

__all__ = [
    "Continue",
    "Decision",
    "Remember",
    "Save",
    "SetLearningRate",
    "Skip",
    "Stop",
]


@final
@dataclass(frozen=True, slots=True)
class Continue:
    """Nothing to do."""

    reason: str
    word: ClassVar[str] = "continue"


@final
@dataclass(frozen=True, slots=True)
class Remember:
    """This epoch is the best so far: keep its weights."""

    reason: str
    word: ClassVar[str] = "best so far"


@final
@dataclass(frozen=True, slots=True)
class Stop:
    """End training."""

    reason: str
    word: ClassVar[str] = "stop"


@final
@dataclass(frozen=True, slots=True)
class SetLearningRate:
    """Give the optimizer called `name` (empty if there is only one) a new rate."""

    reason: str
    name: str
    value: float
    word: ClassVar[str] = "set learning rate"


@final
@dataclass(frozen=True, slots=True)
class Save:
    """Write a checkpoint."""

    reason: str
    word: ClassVar[str] = "save"


@final
@dataclass(frozen=True, slots=True)
class Skip:
    """Write none."""

    reason: str
    word: ClassVar[str] = "skip"


Decision: TypeAlias = Continue | Remember | Stop | SetLearningRate | Save | Skip
