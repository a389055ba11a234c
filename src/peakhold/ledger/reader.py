"""To read a run's record: as it holds now, whoever is writing it meanwhile.

Rules of this file:

1. What an earlier attempt wrote beyond the position that a later one goes on from is not shown
   (`goes_on`); the last attempt counts, and those that it goes on from.
2. A torn last line is a line that is being written: passed over in silence. Any other line that is
   none of ours is passed over, and told.
3. A file is read up to where it ended when it was opened, in pieces. What has no end of a line for
   longer than any line of ours is not kept in memory, and holes in a file are not read at all.
4. A history reads a line up to its metrics, where it is as we write it: what stands behind says
   nothing of them, and is most of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

from peakhold import speech
from peakhold._core.observation import Event
from peakhold.errors import RecordDamagedWarning
from peakhold.ledger.lines import LONGEST, from_line, measured_in
from peakhold.ledger.reading import open_to_read

__all__ = ["TELLING", "Columns", "RecordedHistory", "history", "last_event", "read_events"]

TELLING: Final = frozenset({"start", "goes_on", "moment", "end"})
"""Kinds of events of which the last says how a run stands."""

_PIECE: Final = 1 << 20
_TAIL: Final = 1 << 16
_MOST_CELLS: Final = 1 << 25
"""Of a history; a record in which each epoch has other metrics would fill the memory."""
_GOES_ON: Final = b'"goes_on"'
_START: Final = b'{"kind":"start"'
_EPOCH_END: Final = f'"{Event.EPOCH_END}"'.encode("ascii")

OnDamage = Callable[[int, str], object]
"""Told where a line begins that cannot be read, in bytes, and what is wrong with it."""


def read_events(
    path: str | os.PathLike[str], *, on_damage: OnDamage | None = None
) -> Iterator[dict[str, Any]]:
    """The events of a run, in their order.

    Args:
        path: Its `events.jsonl`. Where there is none, there are no events.
        on_damage: Told of each line that cannot be read. Defaults to one warning for the file.

    Yields:
        Each event as a dict of its own, with numbers where words stand for them.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "events.jsonl")
        >>> with open(path, "wb") as file:
        ...     _ = file.write(b'{"kind":"note","text":"whole"}' + bytes([10]) + b'{"kind":"no')
        >>> list(read_events(path))
        [{'kind': 'note', 'text': 'whole'}]
    """
    unread = _PassedOver(path, on_damage)
    for at, line in _lines_that_count(path, unread):
        event = from_line(line)
        if event is None:
            unread.tell(at, "it is no event")
        else:
            yield event
    unread.close()


@final
class _PassedOver:
    """What cannot be read of one file."""

    def __init__(self, path: str | os.PathLike[str], on_damage: OnDamage | None) -> None:
        self._path, self._on_damage = path, on_damage
        self._n = 0
        self._first: tuple[int, str] | None = None

    def tell(self, at: int, what: str) -> None:
        """One line of it."""
        if self._on_damage is not None:
            self._on_damage(at, what)
            return
        self._n += 1
        self._first = self._first or (at, what)

    def close(self) -> None:
        """Warn, if nobody else is told."""
        if self._first is not None:
            at, what = self._first
            lines = "1 line that cannot" if self._n == 1 else f"{self._n} lines that cannot"
            speech.warn(
                f"{os.fspath(self._path)} has {lines} be read; the first begins at byte {at}: "
                f"{what}. The others count.",
                RecordDamagedWarning,
            )


def _lines_that_count(
    path: str | os.PathLike[str], unread: _PassedOver
) -> Iterator[tuple[int, bytes]]:
    """Where each line begins, and the line, without those of attempts that count no more."""
    descriptor = open_to_read(path)
    if descriptor is None:
        if os.path.lexists(path):
            unread.tell(0, "it is no file that can be read")
        return
    with open(descriptor, "rb", buffering=0) as file:
        size = os.fstat(descriptor).st_size
        void = iter([*_void(_goes_on(descriptor, size)), (size, size)])
        begins, ends = next(void)
        for at, line in _lines(descriptor, size, unread):
            while at >= ends:
                begins, ends = next(void)
            if at < begins:
                yield at, line
        del file


def _lines(descriptor: int, size: int, unread: _PassedOver | None) -> Iterator[tuple[int, bytes]]:
    at, rest = 0, b""
    """Where the rest begins, which has no end of a line yet."""
    while at + len(rest) < size:
        piece = os.pread(descriptor, min(_PIECE, size - at - len(rest)), at + len(rest))
        if not piece:
            return  # it was cut meanwhile
        *whole, last = piece.split(b"\n")
        if whole:
            whole[0] = rest + whole[0]
            rest = last
            for line in whole:
                yield at, line
                at += len(line) + 1
        else:
            rest += last
        if len(rest) > LONGEST:
            if unread is not None:
                unread.tell(at, f"it is longer than {LONGEST:,} bytes")
            end = _next_line(descriptor, at + len(rest), size)
            if end is None:
                return
            at, rest = end, b""


def _next_line(descriptor: int, at: int, size: int) -> int | None:
    """Where the next line begins at or behind a place within one; None: nowhere."""
    while at < size:
        at = _next_data(descriptor, at, size)
        piece = os.pread(descriptor, min(_PIECE, size - at), at) if at < size else b""
        if not piece:
            return None
        found = piece.find(b"\n")
        if found >= 0:
            return at + found + 1
        at += len(piece)
    return None


def _next_data(descriptor: int, at: int, size: int) -> int:
    """The place itself, or the end of the hole that it is in."""
    if not hasattr(os, "SEEK_DATA"):
        return at
    try:
        return os.lseek(descriptor, at, os.SEEK_DATA)
    except OSError:  # there is nothing but a hole
        return size


# What counts


def _goes_on(descriptor: int, size: int) -> list[tuple[int, int]]:
    """Of each event `goes_on`: where it goes on from, and where it begins."""
    found: list[tuple[int, int]] = []
    if not _has(descriptor, size, _GOES_ON):
        return found
    for at, line in _lines(descriptor, size, None):
        event = from_line(line) if _GOES_ON in line else None
        if event is not None and event["kind"] == "goes_on":
            came_from = event.get("from")
            if type(came_from) is int and 0 <= came_from <= at:
                found.append((came_from, at))
    return found


def _has(descriptor: int, size: int, mark: bytes) -> bool:
    """Whether these bytes are anywhere in a file; holes are passed over."""
    at = 0
    while (at := _next_data(descriptor, at, size)) < size:
        piece = os.pread(descriptor, min(_PIECE, size - at), at)
        if mark in piece:
            return True
        if len(piece) < len(mark):
            return False
        at += len(piece) - len(mark) + 1  # it may begin in one piece and end in the next
    return False


def _void(goes_on: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The stretches that count no more, in order: from where, up to where.

    The last attempt counts. Of those before it, the one counts that wrote what it goes on from: an
    attempt that began behind that place never was.
    """
    void, limit = [], None
    for came_from, beginning in reversed(goes_on):
        if limit is None or beginning < limit:
            void.append((came_from, beginning))
            limit = came_from if limit is None else min(limit, came_from)
    return void[::-1]


# The end


def last_event(path: str | os.PathLike[str], kinds: frozenset[str]) -> dict[str, Any] | None:
    """The last event of one of these kinds, seen from the end; None if it is not near the end.

    Args:
        path: The run's `events.jsonl`.
        kinds: Which count.
    """
    descriptor = open_to_read(path)
    if descriptor is None:
        return None
    try:
        size = os.fstat(descriptor).st_size
        reach = _TAIL
        while True:
            begin = max(0, size - reach)
            data = os.pread(descriptor, size - begin, begin)
            lines = data.split(b"\n")[:-1]  # what stands behind the last end is torn
            for line in reversed(lines if begin == 0 else lines[1:]):
                event = from_line(line)
                if event is not None and event["kind"] in kinds:
                    return event
            if begin == 0 or reach >= LONGEST:
                return None
            reach *= 16
    finally:
        os.close(descriptor)


# The history


@final
@dataclass(frozen=True, slots=True)
class RecordedHistory:
    """What was measured, by epoch: columns of one length.

    Example:
        >>> past = RecordedHistory([0, 1], {"loss": [0.5, 0.25]})
        >>> past.history["loss"][past.epoch.index(1)]
        0.25
    """

    epoch: list[int] = field(default_factory=list)
    """The epochs, as the loop counts them."""
    history: dict[str, list[float | None]] = field(default_factory=dict)
    """By metric, its value at the end of each; None where it was not measured."""
    step: list[int | None] = field(default_factory=list)
    """Updates of the model up to the end of each; None where nobody has counted."""


@final
class Columns:
    """Columns that grow; an epoch that comes again takes the place of what it was before."""

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}
        self._steps: list[int | None] = []
        self._columns: dict[str, list[float | None]] = {}

    def add(self, epoch: int, step: int | None, metrics: Mapping[str, float]) -> bool:
        """Add an epoch; False if it has names for which there is no room any more."""
        row = self._rows.setdefault(epoch, len(self._steps))
        if row < len(self._steps):
            self._steps[row] = step
            for known in self._columns.values():
                if row < len(known):
                    known[row] = None
        else:
            self._steps.append(step)
        has_room = True
        for name, metric in metrics.items():
            column = self._columns.get(name)
            if column is None:
                if len(self._columns) * len(self._steps) > _MOST_CELLS:
                    has_room = False
                    continue
                column = self._columns[name] = []
            missing = row - len(column)
            if missing > 0:
                column.extend([None] * missing)
            if missing >= 0:
                column.append(metric)
            else:
                column[row] = metric
        return has_room

    def table(self) -> RecordedHistory:
        """All of them, of one length."""
        n = len(self._steps)
        for column in self._columns.values():
            column.extend([None] * (n - len(column)))
        return RecordedHistory([*self._rows], self._columns, self._steps)


def history(path: str | os.PathLike[str], *, on_damage: OnDamage | None = None) -> RecordedHistory:
    """What was measured at the end of each epoch, since the run that it is of began.

    Args:
        path: The run's `events.jsonl`.
        on_damage: Told of each line that cannot be read. Defaults to one warning for the file.
    """
    columns = Columns()
    unread = _PassedOver(path, on_damage)
    for at, line in _lines_that_count(path, unread):
        if _EPOCH_END not in line:
            if line.startswith(_START):  # a fit with the same list, after the one before
                columns = Columns()
            elif not line.startswith(b'{"kind":"'):
                unread.tell(at, "it is no event")
            continue
        event = measured_in(line)
        if event is None or "event" not in event:
            event = from_line(line)
        if event is None:
            unread.tell(at, "it is no event")
        elif event["kind"] == "moment" and event.get("event") == str(Event.EPOCH_END):
            epoch, step, metrics = event.get("epoch"), event.get("step"), event.get("metrics", {})
            if type(epoch) is not int or type(step) is not int or not isinstance(metrics, dict):
                unread.tell(at, "it is no moment")
            elif not columns.add(epoch, step, metrics):
                unread.tell(at, "it has more metrics than a history has room for")
    unread.close()
    return columns.table()
