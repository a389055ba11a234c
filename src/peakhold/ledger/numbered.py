"""A folder of several runs, as `production_callbacks` lays it out: what is there of each.

Run 1 has the folder itself, each later one a folder within it, all laid out like a run's
(`folder.py`). What older versions wrote lies side by side, under numbers:

    run.json  events.jsonl  best.keras  metrics.csv  tensorboard/            run 1, which has ended
    run-2/    run.json  events.jsonl  best.keras  metrics.csv  checkpoints/  run 2
    best-1.keras  log-1.csv  tensorboard/run-1  backup-1/                    of an older version

Whether a run has ended is told by its record, and by its backup: its folder is the first thing
that a run makes, and goes at a good end.
"""

from __future__ import annotations

import os
import re
from typing import Final, NamedTuple, final

from peakhold.files.rows import parse
from peakhold.ledger.reader import TELLING, Columns, RecordedHistory, last_event
from peakhold.ledger.reading import read_small
from peakhold.ledger.run_file import read_run_file

__all__ = [
    "CHECKPOINTS",
    "EVENTS",
    "METRICS",
    "TENSORBOARD",
    "NumberedRun",
    "folder_of",
    "history_of_log",
    "is_unfinished",
    "numbered_runs",
]

EVENTS: Final = "events.jsonl"
METRICS: Final = "metrics.csv"
CHECKPOINTS: Final = "checkpoints"
TENSORBOARD: Final = "tensorboard"

_OWN: Final = {METRICS: "log", CHECKPOINTS: "backup"}
_BEST: Final = re.compile(r"best\.[a-z0-9]+$")
_FOLDER: Final = re.compile(r"run-([1-9][0-9]{0,17})$")
_FILES: Final = re.compile(r"(best|log|backup)-([1-9][0-9]{0,17})(?:\.|$)")
_LARGEST: Final = 1 << 28
"""Bytes of a log that is read."""
_DIGITS: Final = 18
_TRAINED: Final = frozenset({"best", "log"})


@final
class NumberedRun(NamedTuple):
    """One run of such a folder."""

    number: int
    kinds: frozenset[str]
    """What is there of it: `record`, `best`, `log`, `backup`, `tensorboard`."""
    log: str
    """Path of its metrics; there if `kinds` has `log`."""
    backup: str
    """Path of the folder of its backups."""
    folder: str | None = None
    """Its own folder; None if it is of an older version, which had none."""

    @property
    def is_unfinished(self) -> bool:
        """Whether it is still to be ended: running, or interrupted."""
        if self.folder is not None:
            last = last_event(os.path.join(self.folder, EVENTS), TELLING)
            if last is not None and last["kind"] == "end":
                return False
        return is_unfinished(self.backup, self.kinds)


def folder_of(folder: str | os.PathLike[str], number: int) -> str:
    """Where a run of a number lies.

    Args:
        folder: That of all.
        number: From 1.

    Example:
        >>> folder_of("runs/digits", 1), folder_of("runs/digits", 2)
        ('runs/digits', 'runs/digits/run-2')
    """
    return os.fspath(folder) if number == 1 else os.path.join(folder, f"run-{number}")


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
    names = _names(folder)
    older: dict[int, set[str]] = {}
    for name in names:
        if match := _FILES.match(name):
            older.setdefault(int(match[2]), set()).add(match[1])
    for name in _names(os.path.join(folder, TENSORBOARD)):
        if match := _FOLDER.match(name):
            older.setdefault(int(match[1]), set()).add("tensorboard")
    runs = {number: _older(folder, number, kinds) for number, kinds in older.items()}
    if not older and (kinds := _kinds(folder)):
        runs[1] = _own(folder, 1, kinds)
    for name in names:
        match = _FOLDER.match(name)
        path = os.path.join(folder, name)
        if match and match[1] != "1" and os.path.isdir(path):
            runs[int(match[1])] = _own(folder, int(match[1]), _kinds(path))
    return [runs[number] for number in sorted(runs)]


def _kinds(own: str | os.PathLike[str]) -> set[str]:
    """What lies in a run's own folder."""
    names = _names(own)
    kinds = {_OWN[name] for name in names if name in _OWN}
    if read_run_file(own) is not None:
        kinds.add("record")
    if any(map(_BEST.match, names)):
        kinds.add("best")
    if any(not _FOLDER.match(name) for name in _names(os.path.join(own, TENSORBOARD))):
        kinds.add("tensorboard")
    return kinds


def _own(folder: str | os.PathLike[str], number: int, kinds: set[str]) -> NumberedRun:
    own = folder_of(folder, number)
    log, backup = (os.path.join(own, name) for name in (METRICS, CHECKPOINTS))
    return NumberedRun(number, frozenset(kinds), log, backup, own)


def _older(folder: str | os.PathLike[str], number: int, kinds: set[str]) -> NumberedRun:
    log, backup = (os.path.join(folder, f"{name}-{number}") for name in ("log", "backup"))
    return NumberedRun(number, frozenset(kinds), f"{log}.csv", backup)


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
