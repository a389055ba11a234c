"""What is known of one file that was written: an entry of a sidecar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any, Final, final

from peakhold._core.monitor import Criterion, Direction
from peakhold._core.numbers import numbers_from_json, numbers_to_json
from peakhold._core.observation import is_finite
from peakhold._core.policies.keep import CheckpointInfo

__all__ = ["SavedFile", "entry_from_json", "entry_to_json", "infos_of"]


@final
@dataclass(frozen=True, slots=True)
class SavedFile:
    """One file that was written."""

    checksum: str
    """xxh3-128 of the file's content, in hexadecimal."""
    size: int
    """Bytes."""
    epoch: int
    """Index of the epoch, from 0."""
    monitor: str
    mode: str | None
    """`min` or `max`; None if nothing was ranked."""
    value: float | None
    """The monitored metric; None if it was not logged or not finite."""
    saved_at: str
    """UTC, ISO 8601."""
    run_id: str
    batch: int | None = None
    """Index of the batch, from 0, if the save came inside an epoch."""
    metrics: dict[str, float] = field(default_factory=dict)
    """All metrics of that moment, NaN and infinite ones, too; only finite ones in old sidecars."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of Peakhold and of the framework."""
    order: int = 0
    """Running number of the commit, over all names of the template; 0 in old sidecars."""
    mtime_ns: int | None = None
    """When the file was last changed, in nanoseconds; None in old sidecars."""
    finite: bool = True
    """False if the loss or a variable was NaN or infinite when it was saved."""

    def is_worse_than(self, other: SavedFile) -> bool:
        """Whether both were ranked by the same metric, and the other one is better."""
        if self.mode is None or (self.monitor, self.mode) != (other.monitor, other.mode):
            return False
        return Criterion(Direction(self.mode)).better(other.value, self.value)


def infos_of(saved: Sequence[SavedFile]) -> list[CheckpointInfo]:
    """What keep policies may know of files, in the order given.

    Commits are numbered from 1 by age, for old sidecars do not number theirs: there the epoch says
    which is older. Nobody counts steps here, so the step is the same number.
    """

    def age(place: int) -> tuple[int, int, bool, int]:
        file = saved[place]
        at_epoch_end = file.batch is None
        return file.order, file.epoch, at_epoch_end, -1 if file.batch is None else file.batch

    def metrics(file: SavedFile) -> dict[str, float]:
        value = file.value
        return {} if value is None or not is_finite(value) else {file.monitor: value}

    commits = {place: n for n, place in enumerate(sorted(range(len(saved)), key=age), start=1)}
    return [
        CheckpointInfo(
            step=commits[place],
            commit=commits[place],
            epoch=file.epoch,
            metrics=metrics(file),
            finite=file.finite,
        )
        for place, file in enumerate(saved)
    ]


def entry_from_json(raw: Any) -> SavedFile | None:
    """An entry as a sidecar has it; None if it cannot be one."""
    if not isinstance(raw, Mapping):
        return None
    value = raw.get("value")
    rankable = value is None or (isinstance(value, (int, float)) and math.isfinite(value))
    numbers = [raw.get("epoch"), raw.get("order", 0), raw.get("batch") or 0, raw.get("size")]
    if not (isinstance(raw.get("checksum"), str) and rankable):
        return None
    if not isinstance(raw.get("monitor"), str) or raw.get("mode") not in (None, *Direction):
        return None
    if not all(isinstance(number, int) for number in numbers):
        return None
    try:
        saved = SavedFile(**{key: value for key, value in raw.items() if key in _FIELDS})
        return replace(saved, metrics=numbers_from_json(saved.metrics))
    except (TypeError, AttributeError, OverflowError):
        return None


def entry_to_json(saved: SavedFile) -> dict[str, Any]:
    """The entry as a sidecar has it."""
    members = dict(zip(_FIELDS, _values_of(saved), strict=True))
    return {**members, "metrics": numbers_to_json(saved.metrics)}


_FIELDS: Final = tuple(one.name for one in fields(SavedFile))
_values_of: Final = attrgetter(*_FIELDS)
