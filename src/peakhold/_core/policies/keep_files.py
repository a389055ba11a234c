"""Which files of a templated `ModelCheckpoint` may go: a pure function of what is known of them.

Rules for this file, those of `keep.py`:

1. A file stays if any rule keeps it: the newest and the best are safe from each other's rule.
2. The newest file stays whatever the rules say: it is what a restart resumes from. So does the
   newest without NaN or infinity, and `keep_last` counts such files as if there were no others: a
   run that turned to NaN cannot rotate its last good state away.
3. What cannot be ranked is never better than anything. Of equal values the older is the better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

from peakhold._core.observation import is_finite

__all__ = ["SavedFile", "superfluous"]

Better: TypeAlias = Callable[[float | None, float | None], bool]


@final
@dataclass(frozen=True, slots=True)
class SavedFile:
    """What is known of one file."""

    name: str
    order: int
    """Running number of its commit: the larger, the newer; 0 if it was not recorded."""
    epoch: int
    """Index of the epoch, from 0."""
    batch: int | None = None
    """Index of the batch, from 0; None if the save came at the end of the epoch."""
    value: float | None = None
    """The monitored metric; None if it was not logged or not finite."""
    finite: bool = True
    """False if the loss or a variable was NaN or infinite when it was saved."""


def superfluous(
    files: Iterable[SavedFile],
    *,
    keep_last: int | None = None,
    keep_best: int | None = None,
    better: Better | None = None,
) -> list[SavedFile]:
    """The files that no rule keeps, the oldest first.

    Args:
        files: All there are, in any order.
        keep_last: How many of the newest stay, at least 1; None if that is no rule.
        keep_best: How many of the best stay, at least 1; None if that is no rule. Places that no
            ranked file takes are taken by the newest of the others.
        better: Ranks two values. Without it, and with `keep_best`, nothing is superfluous.

    Example:
        >>> files = [SavedFile(f"{n}.keras", n, n, value=v) for n, v in enumerate((0.3, 0.2, 0.4))]
        >>> smaller = lambda a, b: a < b
        >>> [file.name for file in superfluous(files, keep_last=1, keep_best=1, better=smaller)]
        ['0.keras']
    """
    if (keep_last is None and keep_best is None) or (keep_best is not None and better is None):
        return []
    oldest_first = sorted(files, key=_age)
    good = [file for file in oldest_first if file.finite]
    kept = _newest(oldest_first, keep_last or 1) | _newest(good, keep_last or 1)
    if keep_best is not None and better is not None:
        kept |= {file.name for file in _best_first(oldest_first, better)[:keep_best]}
    return [file for file in oldest_first if file.name not in kept]


def _age(file: SavedFile) -> tuple[int, int, bool, int]:
    at_epoch_end = file.batch is None
    return file.order, file.epoch, at_epoch_end, -1 if file.batch is None else file.batch


def _newest(oldest_first: Sequence[SavedFile], count: int) -> set[str]:
    return {file.name for file in oldest_first[-count:]}


def _best_first(oldest_first: Sequence[SavedFile], better: Better) -> list[SavedFile]:
    """The best first; then those with NaN in them; then those without a value, newest first."""
    ranked: list[SavedFile] = []
    for finite in (True, False):
        tier: list[SavedFile] = []
        for file in oldest_first:
            if file.finite is not finite or not is_finite(file.value):
                continue
            place = next((i for i, o in enumerate(tier) if better(file.value, o.value)), len(tier))
            tier.insert(place, file)
        ranked += tier
    return ranked + [file for file in reversed(oldest_first) if not is_finite(file.value)]
