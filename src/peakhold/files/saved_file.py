"""What is known of one file that was written: an entry of a sidecar."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, Final, final

from peakhold._core.monitor import Criterion, Direction
from peakhold._core.numbers import number_from_json, numbers_from_json, numbers_to_json
from peakhold._core.observation import is_finite
from peakhold._core.policies.keep import CheckpointInfo

__all__ = ["LARGEST", "SavedFile", "entry_from_json", "entry_to_json", "infos_of"]

LARGEST: Final = (1 << 63) - 1
"""No count of ours is larger, nor any that a file system knows; a larger one is somebody's joke."""


@final
@dataclass(frozen=True, slots=True)
class SavedFile:
    """One file that was written."""

    checksum: str
    """xxh3-128 of the file's content, in hexadecimal."""
    size: int
    """Bytes."""
    epoch: int
    """The epoch, as the loop counts: from 0 in `fit`."""
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
    """An entry as a sidecar has it; None if it cannot be one.

    Each member is what we write, or it is none of ours: what is taken in here is compared, added to
    and written again by others, who do not look at it.
    """
    if not isinstance(raw, Mapping):
        return None
    members = {key: raw[key] for key in _FIELDS if key in raw}
    members["metrics"] = metrics = members.get("metrics", {})
    if isinstance(metrics, dict):
        if not all(map(_is_number_or_word, metrics.values())):
            return None
        members["metrics"] = numbers_from_json(metrics)
    if not all(_IS_OURS[key](value) for key, value in members.items()):
        return None
    try:
        return SavedFile(**members)
    except TypeError:  # one that each has is missing
        return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_checksum(value: Any) -> bool:
    return isinstance(value, str) and _CHECKSUM.fullmatch(value) is not None


def _is_count(count: Any) -> bool:
    return type(count) is int and 0 <= count <= LARGEST


def _is_time(ns: Any) -> bool:
    return type(ns) is int and abs(ns) <= LARGEST >> 1


def _is_number(found: Any) -> bool:
    """Whether it is a finite number; `math.isfinite` has no answer for the largest."""
    return type(found) in (int, float) and abs(found) <= sys.float_info.max


def _is_number_or_word(value: Any) -> bool:
    return _is_number(value) or (isinstance(value, str) and number_from_json(value) is not value)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def entry_to_json(saved: SavedFile) -> dict[str, Any]:
    """The entry as a sidecar has it."""
    members = dict(zip(_FIELDS, _values_of(saved), strict=True))
    return {**members, "metrics": numbers_to_json(saved.metrics)}


_FIELDS: Final = tuple(one.name for one in fields(SavedFile))
_values_of: Final = attrgetter(*_FIELDS)
_CHECKSUM: Final = re.compile("[0-9a-f]{32}")
_IS_OURS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "checksum": _is_checksum,
    "size": _is_count,
    "epoch": _is_count,
    "monitor": _is_text,
    "mode": lambda value: value is None or value in tuple(Direction),
    "value": lambda value: value is None or _is_number(value),
    "saved_at": _is_text,
    "run_id": _is_text,
    "batch": lambda value: value is None or _is_count(value),
    "metrics": _is_mapping,
    "versions": lambda value: _is_mapping(value) and all(map(_is_text, value.values())),
    "order": _is_count,
    "mtime_ns": lambda value: value is None or _is_time(value),
    "finite": lambda value: isinstance(value, bool),
}
