"""Write each epoch's metrics into a CSV file.

Rules of this file:

1. The file is whole at every moment: a row is added by one write, and whatever changes more than
   the end (a new column, a repaired line, the first row of a new log) is committed as a new file.
2. No row is lost and no column shifts: rows find their columns by name.
3. No file is held open between epochs: there is nothing to close when training breaks.
4. A row is removed only by a resume: a backup knows how many rows there were, and epochs after it
   will be run, and written, again. A row that could not be written is tried again, and backed up.
"""

from __future__ import annotations

import csv
import errno
import io
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
from peakhold.advice import RunSettings
from peakhold.errors import InvalidArgumentError, LearningRateScheduleError, SaveError, SaveWarning
from peakhold.host.contract import to_number
from peakhold.host.finding import traits_of
from peakhold.runtime.callback import link_of
from peakhold.runtime.participant import RESUMED, Needs, Participant, Start
from peakhold.runtime.participating import Participating, Setting
from peakhold.runtime.run_view import RunView

__all__ = ["CSVLogger"]

_MISSING = "NA"


class CSVLogger(Participating):
    """Write each epoch's metrics into a CSV file.

    Columns are `epoch` (from 0, as in Keras), then the metrics by name. A metric that appears later
    gets its column then; earlier rows read `NA` there. The learning rate has a column whenever a
    callback of the run sets or logs it, wherever that callback stands in the list.

    Args:
        filename: The file, a string or path. Its folder is made.
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
        given: Any = filename
        path = os.fspath(given) if isinstance(given, (str, os.PathLike)) else given
        path = check_text(
            "filename", path, "the path of a file", hint="pass a path such as 'logs/train.csv'."
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

    adds_to_files = True

    def __init__(
        self, filename: str, sep: str, *, append: bool, learning_rate: bool | None
    ) -> None:
        self.filename, self.sep, self.append = filename, sep, append
        self.learning_rate = learning_rate
        self._loaded: Mapping[str, Any] = {}
        self._reset()

    def _reset(self) -> None:
        self.keys: list[str] | None = None
        self._written, self._rows = 0, 0
        self._last: list[str] = []
        self._rates: list[dict[str, float]] = []
        self._unwritten: list[dict[str, str]] = []

    # Before the first row

    def place(self) -> str:
        """The file."""
        return self.filename

    def advise(self, settings: RunSettings) -> RunSettings:
        """Say which file it writes."""
        return replace(settings, paths=(*settings.paths, os.path.abspath(self.filename)))

    def needs(self, run: RunView) -> Needs:
        """Begin anew.

        Raises:
            SaveError: If the file cannot be written, or is no log of this kind.
        """
        self._reset()
        folder = os.path.dirname(self.filename) or "."
        try:
            os.makedirs(folder, exist_ok=True)
            new = not os.path.lexists(self.filename)
            with open(self.filename, "ab"):
                pass
            if new:
                os.unlink(self.filename)
        except OSError as error:
            raise SaveError.for_path(
                self.filename, error.strerror or str(error), expected="a file that can be written"
            ) from error
        if self.append:
            self._check_file()
        return Needs(rates=True)

    def _check_file(self) -> None:
        header, _, _ = self._read()
        if header and header[0] != "epoch":
            raise SaveError.for_path(
                self.filename,
                f"its first line is {self.sep.join(header)!r}",
                expected=f"a log whose first column is 'epoch', separated by {self.sep!r}",
                hint="pass the separator of that file, another filename, or append=False.",
            )

    def begin(self, run: RunView, start: Start) -> None:
        """Bring the file to what this run goes on from."""
        files.sweep(os.path.dirname(self.filename) or ".")
        loaded, self._loaded = self._loaded, {}
        if start is RESUMED:
            self._go_on(loaded)
        elif self.append:
            header, rows, torn = self._read()
            if torn:
                self._rewrite(header, rows)
                self.run.warn(
                    f"CSVLogger removed the torn last line of {self.filename!r}: {torn!r}.",
                    SaveWarning,
                )
            self.keys, self._rows = header[1:] if header else None, len(rows)

    # Rows

    def record(self, moment: Moment, logs: dict[str, Any], decided: Sequence[Decision]) -> None:
        """Write an epoch's row, and those that could not be written before."""
        if moment.event is not Event.EPOCH_END:
            return
        row = {key: _text(value) for key, value in logs.items()}
        rates = {rate_key(name): rate for name, rate in moment.rates.items()}
        if self._wants_rate(rates):
            row = {**{key: repr(rate) for key, rate in rates.items()}, **row}
        self._rates.append(rates)
        row["epoch"] = str(moment.at.epoch)
        self._unwritten.append(row)
        self._write_rows()

    def _write_rows(self) -> None:
        try:
            while self._unwritten:
                self._add(self._unwritten[0])
                del self._unwritten[0]
        except OSError as error:
            self.run.warn(
                f"CSVLogger could not write epoch {int(self._unwritten[0]['epoch']) + 1} to "
                f"{self.filename!r}: {error}. Training goes on, and it is tried again.",
                SaveWarning,
            )

    def _add(self, row: Mapping[str, str]) -> None:
        fresh = sorted(row.keys() - {"epoch"} - set(self.keys or ()))
        if self.keys is None:  # the first row of a new log, header and all at once
            self._last = [row["epoch"], *(row[key] for key in fresh)]
            self._rewrite(["epoch", *fresh], [self._last])
            self.keys, self._rows = fresh, 0
        else:
            if fresh:
                header, rows, _ = self._read()
                columns = ["epoch", *sorted({*header[1:], *fresh})]
                self._rewrite(columns, self._widen(header, rows, columns))
                self.keys = columns[1:]
            cells = [row.get(column, _MISSING) for column in ("epoch", *self.keys)]
            self._append([cells])
            self._last = cells
        self._written += 1
        self._rows += 1

    def _widen(
        self, header: Sequence[str], rows: Sequence[Sequence[str]], columns: Sequence[str]
    ) -> list[list[str]]:
        """Rows under new columns; those of this run get the rates they were trained with."""
        widened = []
        for index, old in enumerate(rows):
            named = dict(zip(header, old, strict=False))
            run_index = index - (len(rows) - self._written)
            if run_index >= 0:
                for key, rate in self._rates[run_index].items():
                    named.setdefault(key, repr(rate))
            widened.append([named.get(column, _MISSING) for column in columns])
        return widened

    # The learning rate

    def _wants_rate(self, rates: Mapping[str, float]) -> bool:
        if self.learning_rate is not None:
            return self.learning_rate
        if any(_logs_rate(callback) for callback in self.run.callbacks):
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

    def _lines(self, rows: Iterable[Sequence[str]]) -> bytes:
        text = io.StringIO()
        csv.writer(text, delimiter=self.sep).writerows(rows)
        return text.getvalue().encode()

    def _append(self, rows: Sequence[Sequence[str]]) -> None:
        descriptor = os.open(self.filename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            lines, before = self._lines(rows), os.fstat(descriptor).st_size
            if os.write(descriptor, lines) < len(lines):  # a full disk takes what fits
                os.ftruncate(descriptor, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            files.flush(descriptor)
        finally:
            os.close(descriptor)

    def _rewrite(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        content = self._lines([header, *rows])
        files.commit(self.filename, lambda file: file.write(content))

    def _read(self) -> tuple[list[str], list[list[str]], str]:
        """Header, rows, and the last line if it is torn (it does not end in a line end)."""
        try:
            with open(self.filename, newline="", encoding="utf-8") as file:
                text = file.read()
        except FileNotFoundError:
            return [], [], ""
        except ValueError as error:
            raise SaveError.for_path(
                self.filename, "it is not text", expected="a log in CSV"
            ) from error
        whole, end, torn = text.rpartition("\n")
        rows = list(csv.reader(io.StringIO(whole + end, newline=""), delimiter=self.sep))
        rows = [row for row in rows if row]
        return (rows[0], rows[1:], torn) if rows else ([], [], torn)

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
        if self.keys is None:
            if not self.append:
                return
            header, rows, torn = self._read()
            if torn or len(rows) > self._rows:
                self._rewrite(header, rows[: self._rows])
            self.keys = header[1:] if rows[: self._rows] else None
            return
        columns, (header, rows, torn) = ["epoch", *self.keys], self._read()
        kept = rows[: self._rows]
        if header != columns:  # a column that came later goes with the rows that brought it
            named = [dict(zip(header, row, strict=False)) for row in kept]
            kept = [[row.get(column, _MISSING) for column in columns] for row in named]
        if self._rows and len(kept) == self._rows - 1:
            kept.append(self._last)
        if len(kept) < self._rows:
            self.run.warn(
                f"CSVLogger goes on with {self.filename!r}, where {self._rows - len(kept)} rows "
                "are missing that were there when the run was interrupted.",
                SaveWarning,
            )
            self._rows, self._written = len(kept), min(self._written, len(kept))
        if torn or header != columns or kept != rows:
            self._cut(columns, kept)

    def _cut(self, columns: Sequence[str], kept: Sequence[Sequence[str]]) -> None:
        """Write header and rows anew; where they are the file's beginning, byte for byte."""
        content = self._lines([columns, *kept])
        try:
            with open(self.filename, "rb") as file:
                lines = file.read().splitlines(keepends=True)
        except FileNotFoundError:
            lines = []
        head = lines[: len(kept) + 1]
        if len(head) == len(kept) + 1 and _parsed(head, self.sep) == [list(columns), *kept]:
            content = b"".join(head)
        files.commit(self.filename, lambda file: file.write(content))


def _parsed(lines: Iterable[bytes], separator: str) -> list[list[str]]:
    text = b"".join(lines).decode("utf-8", "replace")
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))


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
