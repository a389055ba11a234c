"""Arguments, and the table of `explain()`, of a callback that watches one metric or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from peakhold._core.arguments import check_monitor, check_number
from peakhold._core.decisions import Decision
from peakhold._core.moments import number_of
from peakhold._core.numbers import number_from_json, number_to_json
from peakhold._core.observation import is_finite
from peakhold._core.policies.early_stopping import EarlyStoppingState
from peakhold.errors import InvalidArgumentError

__all__ = ["one_for_each", "row", "row_from_json", "row_to_json", "table"]

_NUMBERS = ("value", "best")
"""Cells of a row that may be NaN or infinite."""


def one_for_each(
    monitor: Any, mode: Any, min_delta: Any, baseline: Any
) -> tuple[list[str], list[str], list[Any], list[float | None]]:
    """Everything that may differ from metric to metric, one for each."""
    several = isinstance(monitor, (list, tuple))
    names = [check_monitor(name) for name in monitor] if several else [check_monitor(monitor)]
    if not names or len(set(names)) < len(names):
        raise InvalidArgumentError.for_argument(
            "monitor",
            monitor,
            "the name of a metric, or a list of different ones",
            hint="pass the names as they stand in the logs, such as ['val_accuracy', 'val_f1'].",
        )

    def spread(argument: str, value: Any) -> list[Any]:
        if not isinstance(value, (list, tuple)):
            return [value] * len(names)
        if len(value) != len(names):
            raise InvalidArgumentError.for_argument(
                argument,
                value,
                f"one value, or a list of {len(names)}, one for each monitor",
                hint=f"the monitors are {names}.",
            )
        return list(value)

    baselines = [
        None if value is None else check_number("baseline", value, infinite=True)
        for value in spread("baseline", baseline)
    ]
    return names, spread("mode", mode), spread("min_delta", min_delta), baselines


def row(
    epoch: int,
    values: Sequence[float | None],
    state: EarlyStoppingState,
    decisions: Sequence[Decision],
) -> dict[str, Any]:
    """What happened in an epoch; with several metrics, lists.

    Args:
        epoch: As the loop counts.
        values: What each metric said; at least one said something.
        state: The state after the epoch.
        decisions: What was decided.
    """
    states = (state, *state.others)
    cells: dict[str, list[Any]] = {
        "value": list(values),
        "best": [each.best for each in states],
        "wait": [each.wait for each in states],
    }
    single = len(states) == 1
    return {
        "epoch": epoch,
        **({name: column[0] for name, column in cells.items()} if single else cells),
        "decision": ", ".join(decision.word for decision in decisions),
        "reason": "; ".join(decision.reason for decision in decisions),
    }


def row_to_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as plain JSON."""
    return {**row, **{name: _each(number_to_json, row[name]) for name in _NUMBERS}}


def row_from_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row that `row_to_json` wrote."""
    return {**row, **{name: _each(number_from_json, row[name]) for name in _NUMBERS}}


def _each(convert: Callable[[Any], Any], cell: Any) -> Any:
    return [convert(value) for value in cell] if isinstance(cell, (list, tuple)) else convert(cell)


def table(
    history: Iterable[Mapping[str, Any]], names: Sequence[str], first_epoch: int = 0
) -> list[str]:
    """Rows as lines of a table, with a head; epochs are counted from 1.

    Args:
        history: The rows.
        names: Of the metrics.
        first_epoch: What the loop calls its first epoch.
    """
    head = ("epoch", *(title for name in names for title in (name, "best", "wait")))
    rows = [(*head, "decision", "reason")] + [
        (
            str(number_of(row["epoch"], first_epoch)),
            *_cells(row, len(names)),
            row["decision"],
            row["reason"],
        )
        for row in history
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    n = len(head)
    lines = []
    for cells in rows:
        numbers = [cell.rjust(width) for cell, width in zip(cells[:n], widths, strict=False)]
        words = [cell.ljust(width) for cell, width in zip(cells[n:], widths[n:], strict=True)]
        lines.append("  ".join(numbers + words).rstrip())
    return lines


def _cells(row: Mapping[str, Any], n_metrics: int) -> list[str]:
    """Value, best and wait of each metric."""
    columns = (row["value"], row["best"], row["wait"])
    if n_metrics == 1:
        return [_short(columns[0]), _short(columns[1]), str(columns[2])]
    cells = zip(*columns, strict=True)
    return [text for v, b, wait in cells for text in (_short(v), _short(b), str(wait))]


def _short(value: Any) -> str:
    return f"{value:.6g}" if is_finite(value if isinstance(value, float) else None) else str(value)
