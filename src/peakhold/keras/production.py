"""The callbacks of a serious run, in one call.

Rules of this file:

1. What is returned is a plain list: Keras, KerasTuner and `copy` look for exactly that type.
2. Each run has a folder, laid out as `peakhold.Run` does: the first `run_dir` itself, later ones
   `run-2`, …, within it. A run that ended keeps its files. One that did not end is resumed under
   its names; if an older version has begun it, under those that it had there.
3. Whether a run ended is told by its record, and by its backup, which is deleted at a good end; and
   nothing is written here: a list that is never used leaves nothing behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable as Function
from typing import Any, NamedTuple

import keras
from peakhold._core.arguments import check_count, check_monitor, check_verbose
from peakhold._core.policies.plateau import before_stopping
from peakhold.alerts.secret import Secret
from peakhold.disk.local_path import local_path
from peakhold.errors import InvalidArgumentError
from peakhold.keras import drop_ins as ours
from peakhold.keras.tensorboard import TensorBoard
from peakhold.ledger.numbered import (
    CHECKPOINTS,
    METRICS,
    TENSORBOARD,
    folder_of,
    is_unfinished,
    numbered_runs,
)

__all__ = ["production_callbacks"]

_EVENTS = ("stop", "failure", "resume")
_VARIABLES = {"SlackAlert": "PEAKHOLD_SLACK_WEBHOOK", "Alert": "PEAKHOLD_ALERT_URL"}


def production_callbacks(
    run_dir: str | os.PathLike[str],
    monitor: str = "val_loss",
    mode: str | None = None,
    patience: int = 10,
    alert: Any = None,
    resume: Any = True,
    *,
    plateau: Any = True,
    stopping: Any = True,
    best: Any = True,
    tensorboard: Any = True,
    csv: Any = True,
    record: Any = True,
    verbose: int = 0,
) -> list[Any]:
    r"""Make the callbacks of a serious run, in an order and with settings that agree.

    In this order: `ReduceLROnPlateau`, `EarlyStopping` with the best weights restored,
    `ModelCheckpoint` of the best, `TensorBoard`, `CSVLogger`, an alert, `RunRecord`,
    `BackupAndRestore`.

    The files of run 1 are in `run_dir`: `best.keras`, `metrics.csv`, `tensorboard`, the record
    (`run.json`, `events.jsonl`, `heartbeat`) and, while it runs, `checkpoints`; those of run 2 in
    `run-2` within it. The same line after a run that ended begins the next one; after one that was
    killed, interrupted, or stopped because of NaN, it goes on with that run, under its names, also
    if an older version gave it others (`best-1.keras`, `backup-1`, no record). Make the list right
    before its `fit`, and one for each.

    Args:
        run_dir: The folder; made if need be. One run at a time.
        monitor: Name of the metric that lowers the rate, stops and ranks. Defaults to `"val_loss"`.
        mode: `"min"`, `"max"`, or None: what the metric or its name says. Defaults to `None`.
        patience: Epochs without improvement that stopping sits out, at least 2. The rate is lowered
            after less than half as many. Defaults to `10`.
        alert: Slack's webhook or a URL of Apprise's; an alert; True: as the environment says
            (`PEAKHOLD_SLACK_WEBHOOK` or `PEAKHOLD_ALERT_URL`); None: the same, and none if it says
            nothing; False: none. Defaults to `None`.
        resume: False leaves `BackupAndRestore` out and begins a run of its own; one of yours takes
            its place. Defaults to `True`.
        plateau: False leaves it out; a callback takes its place. Defaults to `True`.
        stopping: The same. Defaults to `True`.
        best: The same. Defaults to `True`.
        tensorboard: The same. Defaults to `True`.
        csv: The same. Defaults to `True`.
        record: The same. Defaults to `True`.
        verbose: 1 says each cut, stop and save. Defaults to `0`.

    Returns:
        A plain list, to print, extend and reorder.

    Raises:
        InvalidArgumentError: If `run_dir` is a file, for `patience=1`, ….

    Example:
        >>> callbacks = production_callbacks("runs/digits", "val_accuracy", patience=6)
        >>> print(*callbacks, sep="\n")
        ReduceLROnPlateau(monitor='val_accuracy', factor=0.3, patience=2, min_delta=0.0)
        EarlyStopping(monitor='val_accuracy', patience=6, restore_best_weights=True)
        ModelCheckpoint(filepath='runs/digits/best.keras', monitor='val_accuracy', save_best_only=True)
        TensorBoard(log_dir='runs/digits/tensorboard')
        CSVLogger(filename='runs/digits/metrics.csv', append=True)
        RunRecord(folder='runs/digits')
        BackupAndRestore(backup_dir='runs/digits/checkpoints')
    """  # noqa: E501 - a line that is printed
    address = Secret(alert) if isinstance(alert, str) else alert
    alert = None  # no frame of ours holds the URL when something is raised
    folder = _check_folder(run_dir)
    monitor, mode = check_monitor(monitor), _check_mode(mode)
    ranks: dict[str, Any] = {"monitor": monitor, "mode": mode, "verbose": check_verbose(verbose)}
    lowers = plateau is True and bool(stopping)
    patience = check_count(
        "patience",
        patience,
        at_least=2 if lowers else 1,
        hint="a lower rate needs an epoch to show what it does; or pass plateau=False."
        if lowers
        else None,
    )
    files = _files_of_run(folder, resume)

    def make_plateau() -> Any:
        return ours.ReduceLROnPlateau(**ranks, **before_stopping(patience))

    def make_stopping() -> Any:
        return ours.EarlyStopping(**ranks, patience=patience, restore_best_weights=True)

    def make_best() -> Any:
        return ours.ModelCheckpoint(files.best, **ranks, save_best_only=True)

    def make_record() -> Any:
        settings = {"monitor": monitor, "mode": mode, "patience": patience}
        return None if files.home is None else ours.RunRecord(files.home, settings=settings)

    parts: list[tuple[str, Any, Function[[], Any]]] = [
        ("plateau", plateau, make_plateau),
        ("stopping", stopping, make_stopping),
        ("best", best, make_best),
        ("tensorboard", tensorboard, lambda: TensorBoard(files.tensorboard)),
        # A second fit with the same list adds its rows.
        ("csv", csv, lambda: ours.CSVLogger(files.log, append=True)),
        (
            "alert",
            _checked_alert(address),
            lambda: _alert(address, monitor, mode, f"{os.path.basename(folder)} {files.number}"),
        ),
        # Ahead of the backup, which goes at a good end: then the record says so already.
        ("record", record, make_record),
        ("resume", resume, lambda: ours.BackupAndRestore(files.backup)),
    ]
    made = [_part(name, given, make) for name, given, make in parts]
    return [callback for callback in made if callback is not None]


def _check_mode(mode: Any) -> str:
    if mode is None:
        return "auto"
    if mode not in {"auto", "min", "max"}:
        raise InvalidArgumentError.for_argument("mode", mode, "'min', 'max' or None")
    return str(mode)


def _part(name: str, given: Any, make: Function[[], Any]) -> Any:
    """What stands in the list for an argument; None if nothing does."""
    if given is True:
        return make()
    if given is False or given is None:
        return None
    if isinstance(given, keras.callbacks.Callback):
        return given
    raise InvalidArgumentError.for_argument(
        name,
        given,
        "True, False, or a callback for Keras",
        hint="False leaves it out; a callback of peakhold.keras or Keras takes its place.",
    )


# The alert


def _checked_alert(given: Any) -> Any:
    """What `_part` makes of the argument: a URL asks for an alert, as the environment does."""
    if given is None:
        return any(Secret.from_environment(name) for name in _VARIABLES.values())
    return True if isinstance(given, Secret) else given


def _alert(address: Any, monitor: str, mode: str, name: str) -> Any:
    url = address if isinstance(address, Secret) else None
    if url is not None:
        text = url.reveal()
        apprise, text = "://" in text and not text.startswith(("http://", "https://")), ""
    else:
        apprise = not Secret.from_environment(_VARIABLES["SlackAlert"]) and bool(
            Secret.from_environment(_VARIABLES["Alert"])
        )
    kind: Any = ours.Alert if apprise else ours.SlackAlert
    return kind(url, on=_EVENTS, monitor=monitor, mode=mode, name=name)


# The run's number, and its names


class _FilesOfRun(NamedTuple):
    """Where the run that a line begins, or goes on with, has its files."""

    number: int
    home: str | None
    """Its folder; None if an older version has begun it, which had none."""
    best: str
    tensorboard: str
    log: str
    backup: str


def _check_folder(run_dir: Any) -> str:
    hint = "pass a path such as 'runs/digits'."
    folder = local_path("run_dir", run_dir, "the path of a folder", hint=hint)
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise InvalidArgumentError.for_argument(
            "run_dir", folder, "the path of a folder, not of a file", hint=hint
        )
    return os.path.normpath(folder)


def _files_of_run(folder: str, resume: Any) -> _FilesOfRun:
    number, is_older = _number(folder, resume)
    home = folder_of(folder, number)
    if not is_older:
        names = ("best.keras", TENSORBOARD, METRICS, CHECKPOINTS)
        return _FilesOfRun(number, home, *(os.path.join(home, name) for name in names))
    board = os.path.join(TENSORBOARD, f"run-{number}")
    older = (f"best-{number}.keras", board, f"log-{number}.csv", f"backup-{number}")
    return _FilesOfRun(number, None, *(os.path.join(folder, name) for name in older))


def _number(folder: str, resume: Any) -> tuple[int, bool]:
    """The number of the run, and whether it is one that an older version has begun."""
    runs = numbered_runs(folder)
    if not runs:
        return 1, False
    newest = runs[-1]
    backup = getattr(resume, "backup_dir", None)  # of one's own: it alone says whether it ended
    goes_on = newest.is_unfinished if backup is None else is_unfinished(backup, newest.kinds)
    if resume and goes_on:
        return newest.number, newest.folder is None
    return newest.number + 1, False
