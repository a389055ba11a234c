"""Rows of named columns as text: what a log in CSV holds, whoever wrote it.

Rules of this file:

1. A last line without a line end is a whole row if it has all columns: an editor left the end out,
   or the program that wrote it. With fewer it is torn, and no row.
2. Columns keep their places and rows their cells, those without a name and those of one name, too.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, final

__all__ = ["MISSING", "Table", "beginning", "line_of", "lines_of", "parse", "up_to"]

MISSING: Final = "NA"
"""Stands for what a row does not know, as in Keras's logs."""

_DIGITS: Final = 18  # of an epoch; Python refuses to read a number of more than 4,300


@final
@dataclass(frozen=True, slots=True)
class Table:
    """What stands in a log."""

    header: list[str]
    rows: list[list[str]]
    torn: str = ""
    """A last line that is no whole row."""
    is_open: bool = False
    """Whether the last whole row has no line end."""
    line_end: str = "\r\n"

    def under(self, columns: list[str]) -> list[list[str]]:
        """The rows as they would stand under other columns."""
        if columns == self.header:
            return self.rows
        named = [dict(zip(self.header, row, strict=False)) for row in self.rows]
        return [[row.get(column, MISSING) for column in columns] for row in named]

    def widened(self, fresh: Iterable[str]) -> Table:
        """The same with more columns, sorted by name behind the first.

        Example:
            >>> Table(["epoch", "loss"], [["0", "0.5"], ["1", "0.4", "note"]]).widened(["acc"]).rows
            [['0', 'NA', '0.5'], ['1', 'NA', '0.4', 'note']]
        """
        names = [*self.header[1:], *fresh]
        order = sorted(range(len(names)), key=names.__getitem__)
        width = len(self.header)

        def moved(row: list[str]) -> list[str]:
            cells = [*row[1:width], *[MISSING] * (len(names) - len(row[1:width]))]
            return [*row[:1], *(cells[place] for place in order), *row[width:]]

        header = [*self.header[:1], *(names[place] for place in order)]
        return replace(self, header=header, rows=[moved(row) for row in self.rows])


def lines_of(rows: Iterable[Sequence[str]], separator: str, line_end: str = "\r\n") -> bytes:
    """Rows as they stand in a file."""
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator=line_end).writerows(rows)
    return text.getvalue().encode()


def line_of(cells: Sequence[str], separator: str, line_end: str = "\r\n") -> bytes:
    r"""One row as it stands in a file: what `lines_of` makes of it, which must look at each cell.

    Example:
        >>> line_of(["0", "0.5"], ","), line_of(["0", "a,b"], ",")
        (b'0,0.5\r\n', b'0,"a,b"\r\n')
    """
    line = separator.join(cells)
    if (
        '"' in line
        or "\n" in line
        or "\r" in line
        or " " in line
        or line.count(separator) >= len(cells)
        or not line
    ):
        return lines_of([cells], separator, line_end)
    return (line + line_end).encode()


def parse(content: bytes, separator: str) -> Table:
    r"""Read a log.

    Raises:
        ValueError: If it is not text.

    Example:
        >>> parse(b"epoch,loss\n0,0.5\n1,0", ",").rows
        [['0', '0.5'], ['1', '0']]
        >>> parse(b"epoch,loss\n0,0.5\n1", ",").torn
        '1'
    """
    text = content.decode("utf-8-sig")
    try:
        rows = [
            row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if row
        ]
    except csv.Error as error:
        raise ValueError(str(error)) from error
    line_end = "\n" if "\n" in text and "\r\n" not in text else "\r\n"
    if not rows or text.endswith(("\n", "\r")):
        return Table(rows[0] if rows else [], rows[1:], line_end=line_end)
    last = text[max(text.rfind("\n"), text.rfind("\r")) + 1 :]
    if _is_torn(last, rows):
        rows = rows[:-1]
        return Table(rows[0] if rows else [], rows[1:], last, line_end=line_end)
    return Table(rows[0], rows[1:], is_open=True, line_end=line_end)


def _is_torn(last: str, rows: list[list[str]]) -> bool:
    if len(rows) == 1:  # a first line: of a log, of something else, or the beginning of a log's
        return last != "epoch" and "epoch".startswith(last)
    row = rows[-1]
    return len(row) < len(rows[0]) or not row[-1] or last.count('"') % 2 == 1


# Going back to an earlier state


def up_to(
    last: list[str], rows: list[list[str]], *, expected: int, mine: int
) -> tuple[list[list[str]], int]:
    """The rows up to the last that was written before an interruption, and how many others went.

    Rows that people have added or removed move the place of that row, so its content tells it. Only
    rows of epochs after it go; what people have written behind it stays.

    Args:
        last: That row; empty if there was none.
        rows: All there are.
        expected: How many there were.
        mine: How many of them the interrupted run wrote. A row of an earlier run may be the same,
            but is at least as far away.

    Example:
        >>> up_to(["1", "a"], [["0", "a"], ["note"], ["1", "a"], ["2", "a"]], expected=2, mine=2)
        ([['0', 'a'], ['note'], ['1', 'a']], 1)
    """
    places = [place for place, row in enumerate(rows) if row == last]
    near = min(places, key=lambda place: abs(place + 1 - expected), default=None)
    end = min(expected, len(rows))
    if near is not None and len(rows) != expected - 1 and abs(near + 1 - expected) < max(mine, 1):
        end = near + 1
    epoch = int(last[0]) if last else -1
    later = [row for row in rows[end:] if not _epoch_of(row) > epoch]
    return [*rows[:end], *later], len(rows) - end - len(later)


def _epoch_of(row: list[str]) -> int:
    """The epoch that a row is of; -1 if it is of none, as what somebody has written."""
    cell = row[0].strip()
    return int(cell) if cell.isdecimal() and len(cell) <= _DIGITS else -1


def beginning(content: bytes, rows: list[list[str]], separator: str) -> bytes | None:
    """The first lines of a file, byte for byte, if they hold these rows."""
    head = b"".join(content.splitlines(keepends=True)[: len(rows)])
    try:
        table = parse(head, separator)
    except ValueError:
        return None
    same = [table.header, *table.rows] == rows
    return head if same and not table.is_open else None
