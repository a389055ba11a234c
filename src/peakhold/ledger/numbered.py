"""A folder of runs with numbers, as `production_callbacks` lays it out: what is there of each run.

    best-1.keras  log-1.csv  tensorboard/run-1      run 1, which has ended
    best-2.keras  log-2.csv  tensorboard/run-2  backup-2/

Whether a run has ended is told by its backup alone: its folder is the first thing that a run makes,
and the last that goes, at a good end.
"""

from __future__ import annotations

import os
import re
from typing import Final, NamedTuple, final

from peakhold.files.rows import parse
from peakhold.ledger.reader import Columns, RecordedHistory
from peakhold.ledger.reading import read_small

__all__ = ["NumberedRun", "history_of_log", "is_unfinished", "numbered_runs"]

_FILES: Final = re.compile(r"(best|log|backup)-([1-9][0-9]{0,17})(?:\.|$)")
_BOARD: Final = re.compile(r"run-([1-9][0-9]{0,17})$")
_LARGEST: Final = 1 << 28
"""Bytes of a log that is read."""
_DIGITS: Final = 18
_TRAINED: Final = frozenset({"best", "log"})


@final
class NumberedRun(NamedTuple):
    """One run of such a folder."""

    number: int
    kinds: frozenset[str]
    """What is there of it: `best`, `log`, `backup`, `tensorboard`."""
    log: str
    """Path of its metrics; there if `kinds` has `log`."""
    backup: str
    """Path of the folder of its backups."""
    is_unfinished: bool
    """Whether it is still to be ended: running, or interrupted."""


def numbered_runs(folder: str | os.PathLike[str]) -> list[NumberedRun]:
    """The runs of a folder, by their numbers; none if it has another layout.

    Args:
        folder: Its path; it need not be there.

    Raises:
        OSError: If it is there, and cannot be looked into.

    Example:
        >>> numbered_runs("nowhere")
        []
    """
    found: dict[int, set[str]] = {}
    for name in _names(folder):
        if match := _FILES.match(name):
            found.setdefault(int(match[2]), set()).add(match[1])
    for name in _names(os.path.join(folder, "tensorboard")):
        if match := _BOARD.match(name):
            found.setdefault(int(match[1]), set()).add("tensorboard")
    return [_run(folder, number, frozenset(found[number])) for number in sorted(found)]


def _run(folder: str | os.PathLike[str], number: int, kinds: frozenset[str]) -> NumberedRun:
    log, backup = (os.path.join(folder, f"{name}-{number}") for name in ("log", "backup"))
    return NumberedRun(number, kinds, f"{log}.csv", backup, is_unfinished(backup, kinds))


def is_unfinished(backup: str | os.PathLike[str], kinds: frozenset[str]) -> bool:
    """Whether a run is still to be ended.

    Without a backup in its folder, it was killed either before its first epoch or when it was over
    already.

    Args:
        backup: The folder of its backups.
        kinds: What else is there of it.
    """
    if any(name.startswith("step-") for name in _names(backup)):
        return True
    return os.path.isdir(backup) and not kinds & _TRAINED


def history_of_log(path: str | os.PathLike[str]) -> RecordedHistory:
    """What a log in CSV says was measured, as `CSVLogger` writes it; empty if it is no such log.

    Args:
        path: The log.
    """
    columns = Columns()
    data = read_small(path, _LARGEST)
    try:
        log = parse(data or b"", ",")
    except ValueError:
        return columns.table()
    names = log.header[1:]
    if log.header[:1] == ["epoch"]:
        for row in log.rows:
            if row[0].isdecimal() and len(row[0]) <= _DIGITS:
                cells = {name: _number(cell) for name, cell in zip(names, row[1:], strict=False)}
                known = {name: cell for name, cell in cells.items() if cell is not None}
                columns.add(int(row[0]), None, known)
    return columns.table()


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:  # not known in that epoch, or somebody's note
        return None


def _names(folder: str | os.PathLike[str]) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
