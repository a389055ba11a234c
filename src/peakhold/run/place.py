"""Where a loop is, as a backup holds it, and as a resumed loop finds it again.

Rules of this file:

1. A loop can be gone on with only where all that was run since the epoch began can be left out: at
   a border of the epoch's first pass over data, or at the epoch's end. What stands between the
   beginning of an epoch and its first batch is run again; nothing else is.
2. What is in a place is numbers, words and arrays: it is part of the backup of that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, final

from peakhold.run.means import Means

if TYPE_CHECKING:
    from peakhold.run.sources import Source

__all__ = ["TRAIN", "DataPass", "RunPlace"]

TRAIN: Final = "train"
_FORMAT: Final = 1


@final
class DataPass:
    """One pass over data: its batches, and what was logged in it.

    Args:
        name: `train`, `val`, ….
        source: Where its batches come from.
        is_first: Whether it is the first of its epoch, and not inside another: it can be gone on
            with.
    """

    def __init__(self, name: str, source: Source, *, is_first: bool) -> None:
        self.name, self.source, self.is_first = name, source, is_first
        self.n_batches = 0
        """Batches that are done."""
        self.means = Means()
        self.batch: Any = None
        """The batch that the loop has now."""

    @property
    def prefix(self) -> str:
        """What is put before the names of metrics."""
        return "" if self.name == TRAIN else f"{self.name}_"

    def state(self) -> dict[str, Any]:
        """As a backup holds it."""
        return {
            "name": self.name,
            "n_batches": self.n_batches,
            "means": self.means.state(),
            "source": self.source.state(),
        }


@final
@dataclass(slots=True)
class RunPlace:
    """Where a loop is.

    Args:
        ledger_offset: Asks where the ledger stands; all before it is made durable first.
    """

    ledger_offset: Callable[[], int]
    step: int = 0
    """Batches of training that are done, in all epochs."""
    step_at_epoch: int = 0
    """The same when the running epoch began."""
    epoch: int = 0
    """The running epoch, or check, from 0."""
    data_epoch: int = 0
    """Passes over the training data that have begun before, in a loop without epochs."""
    logged: Means | None = None
    """What was logged outside of passes, in this epoch."""
    running: DataPass | None = None
    """The pass that can be gone on with, if the loop is in one now."""
    rates: Mapping[str, float] | None = None
    """Learning rates that the running epoch is trained with, as logs say them."""
    program: Mapping[str, Any] = field(default_factory=dict)
    """What the run's first start said of schedulers and optimizers (`settings.py`)."""
    ends: dict[str, Any] | None = None
    """By pass, where its source was at its end: what it needs for the next epoch."""

    def to_save(self) -> dict[str, Any]:
        """As a backup holds it."""
        return {
            "format": _FORMAT,
            "step": self.step,
            "step_at_epoch": self.step_at_epoch,
            "epoch": self.epoch,
            "data_epoch": self.data_epoch,
            "logged": None if self.logged is None else self.logged.state(),
            "running": None if self.running is None else self.running.state(),
            "rates": None if self.rates is None else dict(self.rates),
            "program": dict(self.program),
            "ends": self.ends or {},
            "ledger": self.ledger_offset(),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take over the counts of a saved place.

        Raises:
            ValueError: If it is no place of ours, or of a later version.
        """
        _check(saved)
        self.step, self.step_at_epoch = int(saved["step"]), int(saved["step_at_epoch"])
        self.epoch, self.data_epoch = int(saved["epoch"]), int(saved["data_epoch"])
        self.ends, self.program = dict(saved["ends"]), dict(saved["program"])


def _check(saved: Mapping[str, Any]) -> None:
    """See that a saved place is one, before anything of it is used: anybody may have written it.

    Raises:
        ValueError: If a field is missing, or holds something else than it should.
    """
    for name, holds in _FIELDS.items():
        if not holds(saved.get(name)):
            raise ValueError(f"its {name!r} is {saved.get(name)!r:.60}")
    running = saved["running"]
    if running is not None:
        for name, holds in _RUNNING.items():
            if not holds(running.get(name)):
                raise ValueError(f"its 'running' has {name!r} {running.get(name)!r:.60}")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _is_tree(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_tree_or_none(value: Any) -> bool:
    return value is None or isinstance(value, Mapping)


def _are_rates(value: Any) -> bool:
    return value is None or (
        isinstance(value, Mapping) and all(isinstance(one, (int, float)) for one in value.values())
    )


_FIELDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "format": lambda value: value == _FORMAT,
    "step": _is_count,
    "step_at_epoch": _is_count,
    "epoch": _is_count,
    "data_epoch": _is_count,
    "logged": _is_tree_or_none,
    "running": _is_tree_or_none,
    "rates": _are_rates,
    "program": _is_tree,
    "ends": lambda value: _is_tree(value) and all(map(_is_tree, value.values())),
    "ledger": _is_count,
}
_RUNNING: Final[Mapping[str, Callable[[Any], bool]]] = {
    "name": lambda value: isinstance(value, str),
    "n_batches": _is_count,
    "means": _is_tree,
    "source": _is_tree,
}
