"""Write each epoch's metrics into a CSV file.

Rules of this file:

1. The file is whole at every moment: a row is added by one write, and whatever changes more than
   the end (a new column, a repaired line, the first row over an earlier log) is committed as a new
   file.
2. No row is lost and no column shifts: rows find their columns by name, also in a file that
   somebody has changed meanwhile. One that is deleted begins anew, with its header; one that is no
   log any more gets nothing, and that is said.
3. No file is held open between epochs: there is nothing to close when training breaks. What is no
   file (a FIFO, a device) is held open for the run, and gets a new header with a new column.
4. A row is removed only by a resume: a backup knows how many rows there were, and epochs after it
   will be run, and written, again. A row that could not be written is tried again, and backed up.
5. A row is there when its epoch is recorded. It is durable before a backup that knows of it, and
   before training is over; training does not wait for that.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from peakhold import files
from peakhold._core.arguments import check_text
from peakhold._core.decisions import Decision
from peakhold._core.moments import Moment, rate_key
from peakhold._core.numbers import numbers_from_json, numbers_to_json
from peakhold._core.observation import Event
from peakhold.advice import Folder, RunSettings
from peakhold.disk.local_path import local_path
from peakhold.errors import InvalidArgumentError, LearningRateScheduleError, SaveError, SaveWarning
from peakhold.files.log_file import ChangedError, LogFile
from peakhold.files.rows import MISSING, Table, beginning, line_of, lines_of, parse, up_to
from peakhold.host.contract import to_number
from peakhold.host.finding import traits_of
from peakhold.runtime.callback import link_of
from peakhold.runtime.participant import RESUMED, Needs, Participant, Start
from peakhold.runtime.participating import Participating, Setting
from peakhold.runtime.run_view import RunView
from peakhold.runtime.summary import Ending

__all__ = ["CSVLogger"]

_TRIES = 9
"""How often in a row a file may change while a row is added to it."""


class CSVLogger(Participating):
    """Write each epoch's metrics into a CSV file.

    Columns are `epoch` (from 0, as in Keras, or as a loop counts), then the metrics by name. A
    metric that appears later gets its column then; earlier rows read `NA` there. The learning rate,
    that of the epoch, has a column whenever a callback of the run sets or logs it, wherever that
    callback stands in the list.

    A row is in the file when the hook returns. A thread flushes it to the disk: before a backup
    that counts it, and before training is over.

    Args:
        filename: The file, a string or path. Its folder is made. A FIFO that a program reads, a
            device or `/dev/stdout` gets the rows as they come.
        separator: One character between fields. Defaults to `","`.
        append: Whether to go on in an existing file: its torn last line is repaired, its columns
            and the new ones are united. Otherwise the first row replaces it. Defaults to `False`.
        learning_rate: Whether the learning rate has a column; None: if a callback of the run sets
            or logs it. Defaults to `None`.

    Raises:
        InvalidArgumentError: If `filename` is a folder, or `separator` is not one character.
        SaveError: On train begin, if the file cannot be written, or is no log of this kind.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp(), "logs", "train.csv")
        >>> logger = CSVLogger(path)
        >>> logger.on_epoch_end(0, {"loss": 0.5})
        >>> logger.on_epoch_end(1, {"loss": 0.4, "val_loss": 0.6})
        >>> path.read_text().split()
        ['epoch,loss,val_loss', '0,0.5,NA', '1,0.4,0.6']

    Source:
        `keras.callbacks.CSVLogger` of Keras 3.15; K-C1 to K-C7.
    """

    filename = Setting[str]("The file.")
    sep = Setting[str]("The character between fields.")
    append = Setting[bool]("Whether to go on in an existing file.")
    learning_rate = Setting["bool | None"]("Whether the learning rate has a column.")
    keys = Setting["list[str] | None"](
        "Columns after `epoch`; None before the file of this run is known."
    )

    def __init__(
        self,
        filename: str | os.PathLike[str],
        separator: str = ",",
        append: bool = False,
        *,
        learning_rate: bool | None = None,
    ) -> None:
        path = local_path(
            "filename", filename, "the path of a file", hint="pass a path such as 'logs/train.csv'."
        )
        if os.path.isdir(path):
            raise InvalidArgumentError.for_argument(
                "filename",
                path,
                "the path of a file, not of a folder",
                hint=f"pass {os.path.join(path, 'train.csv')!r}.",
            )
        sep = check_text("separator", separator, "one character", hint="pass ',' or '\\t'.")
        if len(sep) != 1 or sep in '"\r\n':
            raise InvalidArgumentError.for_argument(
                "separator", separator, "one character that is no quote or line end"
            )
        super().__init__(_Writing(path, sep, append=bool(append), learning_rate=learning_rate))


class _Writing(Participant):
    """Writes the rows; see `CSVLogger` for the arguments."""

    reads_steps = False
    adds_to_files = True

    records_only = True

    def __init__(
        self, filename: str, sep: str, *, append: bool, learning_rate: bool | None
    ) -> None:
        self.filename, self.sep, self.append = filename, sep, append
        self.learning_rate = learning_rate
        self._loaded: Mapping[str, Any] = {}
        self._file: LogFile | None = None
        self._reset()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_file": None}

    def _reset(self) -> None:
        self.keys: list[str] | None = None
        self._close()
        self._begun, self._line_end, self._gap = False, "\r\n", ""
        self._written, self._rows = 0, 0
        self._last: list[str] = []
        self._rates: list[dict[str, float]] = []
        self._others_log_rates = False
        self._unwritten: list[dict[str, str]] = []
        self._refused_for: str | None = None
        """Why they could not be written, once that was told."""

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    @property
    def _log(self) -> LogFile:
        """The file; another one if `filename` was set in mid-run."""
        if self._file is None or self._file.given != self.filename:
            self._close()
            self._file = LogFile(self.filename)
            self._file.open()
        return self._file

    # Before the first row

    def place(self) -> str:
        """The file."""
        return self.filename

    def advise(self, settings: RunSettings) -> RunSettings:
        """Say which file it writes."""
        path = os.path.abspath(self.filename)
        folder = Folder(self.name, os.path.dirname(path))
        return replace(settings, paths=(*settings.paths, path), folders=(*settings.folders, folder))

    def needs(self, run: RunView) -> Needs:
        """Begin anew.

        Raises:
            SaveError: If the file cannot be written, or is no log of this kind.
        """
        self._reset()
        try:
            log = self._log
        except OSError as error:
            raise SaveError.because_of(
                error, self.filename, expected="a file that can be written"
            ) from error
        if self.append and not log.is_stream:
            self._read()
        return Needs(rates=True)

    def begin(self, run: RunView, start: Start) -> None:
        """Bring the file to what this run goes on from."""
        files.sweep(os.path.dirname(self._log.path))
        self._others_log_rates = any(_logs_rate(callback) for callback in run.callbacks)
        loaded, self._loaded = self._loaded, {}
        if start is RESUMED:
            self._go_on(loaded)
        elif self.append and not self._log.is_stream:
            table = self._read()
            self._take(table)
            if table.torn:
                self._rewrite(table)
                self.run.warn(
                    f"CSVLogger removed the torn last line of {self.filename!r}: {table.torn!r}.",
                    SaveWarning,
                )
            elif table.is_open and table.rows:
                self.run.warn(
                    f"CSVLogger goes on behind the last line of {self.filename!r}, which has no "
                    f"line end but all columns: {self.sep.join(table.rows[-1])!r}.",
                    SaveWarning,
                )

    # Rows

    def record(self, moment: Moment, logs: dict[str, Any], decided: Sequence[Decision]) -> None:
        """Write an epoch's row, and those that could not be written before."""
        if moment.event is not Event.EPOCH_END:
            return
        row, rates = {}, {}
        for key, value in logs.items():
            row[key] = repr(value) if type(value) is float else _text(value)
        for name, rate in moment.rates.items():
            rates[rate_key(name)] = rate
        if self._wants_rate(rates):
            for key, rate in rates.items():
                if key not in row:
                    row[key] = repr(rate)
        self._rates.append(rates)
        row["epoch"] = str(moment.at.epoch)
        self._unwritten.append(row)
        self._write_rows()

    def settle(self) -> None:
        """What could not be written is tried once more; then all is on disk."""
        if self._unwritten:
            self._write_rows()
        if self._file is None:
            return
        self._file.wait()
        if self._told_failure():
            try:
                self._rewrite(self._read())
            except OSError as error:
                self.run.warn(
                    f"CSVLogger could not make {self.filename!r} durable: {error}. It is there, "
                    "but a power cut may take its last rows.",
                    SaveWarning,
                )

    def end(self, ending: Ending) -> None:
        """Let a FIFO's reader go, and say what is missing."""
        self._close()
        if self._unwritten:
            first, last = self._number(self._unwritten[0]), self._number(self._unwritten[-1])
            self.run.warn(
                f"{len(self._unwritten)} rows of CSVLogger could not be written to "
                f"{self.filename!r}, epochs {first} to {last}: {self._refused_for}.",
                SaveWarning,
            )

    def _write_rows(self) -> None:
        try:
            while self._unwritten:
                row = self._unwritten[0]
                if not self._add_known(row):
                    self._add(row)
                del self._unwritten[0]
        except OSError as error:
            reason = (error.strerror or str(error)).rstrip(".")
            if reason == self._refused_for:
                return
            self._refused_for = reason
            self.run.warn(
                f"CSVLogger could not write epoch {self._number(self._unwritten[0])} to "
                f"{self.filename!r}: {reason}. Training goes on, and it is tried again.",
                SaveWarning,
            )
        else:
            self._refused_for = None

    def _add_known(self, row: Mapping[str, str]) -> bool:
        """Add a row under the columns that there are to a file that is as it was left.

        Nearly every row is such a one; for all others this does nothing.
        """
        log, keys = self._file, self.keys
        if (
            log is None or log.given != self.filename or not log.takes_lines
            or keys is None or len(row) != len(keys) + 1
            or not (self.append or self._begun) or self._gap
        ):  # fmt: skip
            return False
        cells = [row["epoch"]]
        for column in keys:
            if column not in row:
                return False
            cells += (row[column],)
        try:
            log.append(line_of(cells, self.sep, self._line_end))
        except ChangedError:
            return False
        self._last, self._begun = cells, True
        self._written += 1
        self._rows += 1
        return True

    def _add(self, row: Mapping[str, str]) -> None:
        for left in reversed(range(_TRIES)):
            try:
                cells = self._add_through(row) if self._log.is_stream else self._add_to_file(row)
            except ChangedError:
                if not left:
                    raise
            else:
                self._last, self._begun = cells, True
                self._written += 1
                self._rows += 1
                return

    def _add_through(self, row: Mapping[str, str]) -> list[str]:
        """Add a row to what cannot be read: a new column takes a new header."""
        fresh = sorted(row.keys() - {"epoch"} - set(self.keys or ()))
        keys = sorted([*(self.keys or ()), *fresh])
        lines = [["epoch", *keys]] if fresh or not self._begun else []
        cells = self._cells(row, keys)
        self._log.append(lines_of([*lines, cells], self.sep))
        self.keys = keys
        return cells

    def _add_to_file(self, row: Mapping[str, str]) -> list[str]:
        log = self._log
        if self._told_failure():
            return self._add_anew(row, self._read())
        goes_on = self.append or self._begun
        if goes_on and not log.is_as_left:
            table = self._read()
            if self.keys is not None and not table.header:
                self._tell_gone(row)
            self._take(table)
            if table.torn:
                return self._add_anew(row, table)
        if self.keys is None or row.keys() - {"epoch"} - set(self.keys):
            return self._add_anew(row, self._read() if goes_on else Table([], []))
        cells = self._cells(row, self.keys)
        log.append(self._gap.encode() + lines_of([cells], self.sep, self._line_end))
        self._gap = ""
        return cells

    def _add_anew(self, row: Mapping[str, str], table: Table) -> list[str]:
        """Write all there is anew, with this row; into a new file if there is none."""
        header = table.header or ["epoch"]
        fresh = sorted(row.keys() - set(header))
        wide = self._with_rates(replace(table, header=header).widened(fresh))
        cells = self._cells(row, wide.header[1:])
        content = lines_of([wide.header, *wide.rows, cells], self.sep, table.line_end)
        if table.header or os.path.exists(self._log.path):
            self._log.replace(content)
        else:
            self._log.create(content)
        self.keys, self._line_end, self._gap = wide.header[1:], table.line_end, ""
        return cells

    @staticmethod
    def _cells(row: Mapping[str, str], keys: Iterable[str]) -> list[str]:
        return [row.get(column, MISSING) for column in ("epoch", *keys)]

    def _with_rates(self, table: Table) -> Table:
        """Rows of this run get the rates they were trained with, where a column for them is new."""
        places = {name: place for place, name in enumerate(table.header)}
        known = self._rates[: len(self._rates) - len(self._unwritten)]
        mine = min(self._written, len(table.rows), len(known))
        for row, rates in zip(table.rows[len(table.rows) - mine :], known[-mine:], strict=False):
            for key, rate in rates.items():
                place = places.get(key)
                if mine and place is not None and row[place] == MISSING:
                    row[place] = repr(rate)
        return table

    def _tell_gone(self, row: Mapping[str, str]) -> None:
        self._written = self._rows = 0
        self.run.warn(
            f"{self.filename!r} was deleted or emptied while CSVLogger was writing it; it starts "
            f"again with epoch {self._number(row)}.",
            SaveWarning,
        )

    def _number(self, row: Mapping[str, str]) -> int:
        return self.run.number(int(row["epoch"]))

    def _told_failure(self) -> bool:
        """Whether a flush has failed; then all is written anew, for the disk may have lost some."""
        log = self._log
        failure = log.failure()
        if failure is not None:
            self.run.warn(
                f"CSVLogger could not flush {self.filename!r}: {failure}. The whole log is written "
                "again.",
                SaveWarning,
            )
        return log.has_failed

    # The learning rate

    def _wants_rate(self, rates: Mapping[str, float]) -> bool:
        if self.learning_rate is not None:
            return self.learning_rate
        if self._others_log_rates:
            return True
        # A user's callback that sets it shows only by the change. A schedule changes it, too, but
        # that is the optimizer's doing.
        changed = bool(self._rates) and rates != self._rates[-1]
        known = self.keys is not None and any(key in self.keys for key in rates)
        return known or (changed and self._settable())

    def _settable(self) -> bool:
        try:
            self.run.trained.check_rates_settable("CSVLogger")
        except (LearningRateScheduleError, TypeError):
            return False
        return True

    # The file

    def _read(self) -> Table:
        """What stands there.

        Raises:
            SaveError: If it is no log of this kind.
        """
        content = self._log.read() or b""
        try:
            table = parse(content, self.sep)
        except ValueError as error:
            self._log.distrust()
            raise SaveError.for_path(
                self.filename, "it is not text", expected="a log in CSV"
            ) from error
        if table.header and table.header[0] != "epoch":
            self._log.distrust()
            raise SaveError.for_path(
                self.filename,
                f"its first line is {self.sep.join(table.header)!r}",
                expected=f"a log whose first column is 'epoch', separated by {self.sep!r}",
                hint="pass the separator of that file, another filename, or append=False.",
            )
        return table

    def _take(self, table: Table) -> None:
        """Go on from what stands there."""
        self.keys, self._rows = table.header[1:] if table.header else None, len(table.rows)
        self._line_end, self._gap = table.line_end, table.line_end if table.is_open else ""

    def _rewrite(self, table: Table) -> None:
        header = [table.header] if table.header else []
        self._log.replace(lines_of([*header, *table.rows], self.sep, table.line_end))

    # Resume

    def state_dict(self) -> dict[str, Any]:
        """What is in the file, and what is not yet, as plain JSON."""
        return {
            **self.header(),
            "rows": self._rows,
            "written": self._written,
            "keys": self.keys,
            "last": list(self._last),
            "unwritten": [dict(row) for row in self._unwritten],
            # Rates seldom change: as often as each came in a row.
            "rates": [
                [len(list(same)), numbers_to_json(rates)] for rates, same in groupby(self._rates)
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: in the next run, rows that were written after it are removed.

        Raises:
            InvalidArgumentError: If the state is of another class.
        """
        self._loaded, self.is_loaded = self.check_header(state), True

    def _go_on(self, state: Mapping[str, Any]) -> None:
        self.keys, self._last = state["keys"], list(state["last"])
        self._written, self._rows = int(state["written"]), int(state["rows"])
        self._rates = [
            numbers_from_json(rates) for count, rates in state["rates"] for _ in range(count)
        ]
        self._unwritten = [dict(row) for row in state["unwritten"]]
        if self._log.is_stream:
            return
        if self.keys is None and not self.append:
            return
        table = self._read()
        columns = table.header if self.keys is None else ["epoch", *self.keys]
        rows = table.under(columns)
        rows, n_dropped = up_to(self._last, rows, expected=self._rows, mine=self._written)
        if self._rows and len(rows) == self._rows - 1 and rows[-1:] != [self._last]:
            rows.append(self._last)
        if len(rows) < self._rows:
            self.run.warn(
                f"CSVLogger goes on with {self.filename!r}, where {self._rows - len(rows)} rows "
                "are missing that were there when the run was interrupted.",
                SaveWarning,
            )
        self._rows, self._written = len(rows), min(self._written, len(rows))
        self.keys = columns[1:] if columns and (rows or self.keys is not None) else None
        self._begun, self._line_end = self.keys is not None, table.line_end
        self._gap = table.line_end if table.is_open else ""
        if n_dropped or table.torn or columns != table.header or rows != table.rows:
            lines = [columns, *rows]
            head = beginning(self._log.read() or b"", lines, self.sep)
            self._log.replace(head or lines_of(lines, self.sep, table.line_end))
            self._gap = ""


def _logs_rate(callback: Any) -> bool:
    """Whether a callback logs the learning rate: one of ours, or a framework's own."""
    link = link_of(callback)
    if link is not None:
        return link.participant.logs_learning_rate
    traits = traits_of(callback)
    return traits is not None and traits.logs_rate


def _text(value: Any) -> str:
    """A log value as Keras writes it."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float)):
        return repr(value)
    number = to_number(value)
    if number is not None:
        return repr(number)
    if hasattr(value, "shape"):
        import numpy as np

        value = np.asarray(value).ravel().tolist()
    if isinstance(value, Iterable):
        return f'"[{", ".join(map(str, value))}]"'
    return str(value)
