"""Where a loop is, as a backup holds it, and as a resumed loop finds it again.

Rules of this file:

1. A loop can be gone on with only where all that was run since the epoch began can be left out: at
   a border of the epoch's first pass over data, or at the epoch's end. What stands between the
   beginning of an epoch and its first batch is run again; nothing else is.
2. In a later pass the loop's code between the two has run, and cannot be left out: a schedule has
   been stepped. What can be gone on with there is the end of the first pass, of which a copy is
   held until the epoch ends.
3. What is in a place is numbers, words and arrays: it is part of the backup of that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, final

from peakhold.backup.state import are_rates, check_fields, is_count, is_tree
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
        ledger_offset: Asks where the ledger stands.
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
    program: Mapping[str, Any] = field(default_factory=dict)
    """What the run's first start said of schedulers and optimizers (`settings.py`)."""
    ends: dict[str, Any] = field(default_factory=dict)
    """By pass, where its source was at its end: what it needs for the next epoch."""

    def to_save(self, rates: Mapping[str, float] | None) -> dict[str, Any]:
        """As a backup holds it.

        Args:
            rates: Learning rates that the running epoch is trained with, as logs say them.
        """
        return {
            "format": _FORMAT,
            "step": self.step,
            "step_at_epoch": self.step_at_epoch,
            "epoch": self.epoch,
            "data_epoch": self.data_epoch,
            "logged": None if self.logged is None else self.logged.state(),
            "running": None if self.running is None else self.running.state(),
            "rates": None if self.running is None or rates is None else dict(rates),
            "program": dict(self.program),
            "ends": self.ends,
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
    """See that a saved place is one, before anything of it is used: anybody may have written it."""
    check_fields(saved, _FIELDS)
    if saved["running"] is not None:
        check_fields(saved["running"], _RUNNING)


def _or_none(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or holds(value)


_FIELDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "format": lambda value: value == _FORMAT,
    "step": is_count,
    "step_at_epoch": is_count,
    "epoch": is_count,
    "data_epoch": is_count,
    "logged": _or_none(is_tree),
    "running": _or_none(is_tree),
    "rates": _or_none(are_rates),
    "program": is_tree,
    "ends": lambda value: is_tree(value) and all(map(is_tree, value.values())),
    "ledger": is_count,
}
_RUNNING: Final[Mapping[str, Callable[[Any], bool]]] = {
    "name": lambda value: isinstance(value, str),
    "n_batches": is_count,
    "means": is_tree,
    "source": is_tree,
}
