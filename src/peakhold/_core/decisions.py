"""What a policy can ask for. Each decision carries its reason; shells carry it out and print it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias, final

__all__ = [
    "Continue",
    "Decision",
    "Missing",
    "Remember",
    "Restore",
    "Save",
    "SetLearningRate",
    "Skip",
    "Stop",
    "Tell",
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
    ticket: int = 0
    """Names this decision in the fact that answers it."""
    word: ClassVar[str] = "best so far"


@final
@dataclass(frozen=True, slots=True)
class Restore:
    """Put the best epoch's state back into the model."""

    reason: str
    word: ClassVar[str] = "restore"


@final
@dataclass(frozen=True, slots=True)
class Stop:
    """End training."""

    reason: str
    bad: bool = False
    """Whether the state that training ends with is not one to go on from."""
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
    ticket: int = 0
    """Names this decision in the fact that answers it."""
    value: float | None = None
    """The value by which it was ranked; None if it was not."""
    handed_over: bool = False
    """Whether a user's own code saves: what it asks for then is decided when it asks."""
    retry: int | None = None
    """The ticket of a failed save whose copy of the state is to be written once more."""
    word: ClassVar[str] = "save"


@final
@dataclass(frozen=True, slots=True)
class Skip:
    """Write none."""

    reason: str
    bad: bool = False
    """Whether the state is worth no file (it is not finite), and not merely no better."""
    word: ClassVar[str] = "skip"


@final
@dataclass(frozen=True, slots=True)
class Tell:
    """Tell people."""

    reason: str
    kind: str
    """`when`: a condition has become true; `best`: there is a new best."""
    word: ClassVar[str] = "tell"


@final
@dataclass(frozen=True, slots=True)
class Missing:
    """A metric that is watched was not logged where it should have been."""

    reason: str
    monitor: str
    fatal: bool
    """Whether training would be wasted: an error. Otherwise a warning, once."""
    word: ClassVar[str] = "missing"


Decision: TypeAlias = (
    Continue | Missing | Remember | Restore | Save | SetLearningRate | Skip | Stop | Tell
)
