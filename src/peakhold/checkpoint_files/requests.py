"""What is handed from hand to hand: a save that was asked for, and what became of it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import final

from peakhold.checkpoint_files.retention import Retention
from peakhold.files.sidecar import SavedFile

__all__ = ["SaveOutcome", "SaveRequest", "about_to_be_saved"]


@final
@dataclass(frozen=True, slots=True)
class SaveRequest:
    """One file that is to be written."""

    path: str
    """As the user spelled it."""
    target: str
    """The same, absolute: the process may be elsewhere when it is written."""
    saved: SavedFile
    """What the sidecar will say of it, but for checksum and size."""
    goes_on: bool
    """Whether this run goes on from a file of ours under this name."""
    value: float | None = None
    """The value that counts as best once this is committed; None if it is not ranked."""
    retention: Retention | None = None
    """None: all files stay."""
    replaces: bool = False
    """Whether its file is to replace that of the save before."""
    exempt: frozenset[str] | None = None
    """Variables that may hold NaN or infinity; None: all of them may."""
    is_retry: bool = False
    ticket: int = 0
    """Names the decision that asked for it."""
    number: int = 0
    """Of its epoch, for people: as the loop counts, or from 1."""
    must_know_whether_finite: bool = field(init=False)
    """Whether retention has to know if the file holds a bad state, and nothing refuses one."""

    def __post_init__(self) -> None:
        must = self.retention is not None and self.exempt is None
        object.__setattr__(self, "must_know_whether_finite", must)

    def found(self, *, finite: bool) -> SaveRequest:
        """The same, now that the variables have been looked at."""
        return replace(self, saved=replace(self.saved, finite=self.saved.finite and finite))


@final
@dataclass(frozen=True, slots=True)
class SaveOutcome:
    """What became of a request: committed, unless one of the last two says otherwise."""

    request: SaveRequest
    aside: str | None = None
    """Where the file is kept that stood there."""
    again: bool = False
    """Whether this run had written a file of this name before."""
    trouble: str | None = None
    """Why older files could not be cleared away; the new one is safe."""
    bad: frozenset[str] = frozenset()
    """Names of variables with NaN or infinity: then nothing was written."""
    error: BaseException | None = None
    was_before: bool = True
    """Whether that one was there before this run."""
    best: tuple[str, SavedFile] | None = None
    """With `keep_best`: the best file that is there now, and what it is."""
    rewritten: bool = False
    """Whether somebody had changed this run's own file, which was replaced like it."""
    damage: tuple[str, ...] = ()
    """What was found wrong with sidecars, in words."""

    @property
    def committed(self) -> bool:
        """Whether the file is on disk, under its name."""
        return self.error is None and not self.bad


def about_to_be_saved(
    epoch: int,
    batch: int | None,
    numbers: Mapping[str, float],
    *,
    monitor: str,
    mode: str | None,
    run_id: str,
    versions: Mapping[str, str],
) -> SavedFile:
    """What is known of a file before it is written.

    Args:
        epoch: The epoch, as the loop counts.
        batch: Index of the batch, from 0; None if batches are not looked at.
        numbers: All that were logged, NaN and infinity, too.
        monitor: Name of the metric that ranks; only a finite value does.
        mode: `min` or `max`; None if nothing is ranked.
        run_id: The run that writes.
        versions: Of Peakhold and of the framework.
    """
    finite = {name: number for name, number in numbers.items() if math.isfinite(number)}
    return SavedFile(
        checksum="",
        size=0,
        epoch=epoch,
        batch=batch,
        monitor=monitor,
        mode=mode,
        value=finite.get(monitor),
        saved_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        run_id=run_id,
        metrics=dict(sorted(numbers.items())),
        versions=dict(versions),
        finite="loss" not in numbers or "loss" in finite,
    )
