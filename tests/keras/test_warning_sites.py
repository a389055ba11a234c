"""Warnings that take a fault to come about, in `fit` and in a loop: each points at the user's line.

That it does is looked at by `pointing.py`, as for every test; that each comes, here.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import keras
import peakhold
import peakhold.keras as pk
from keras_helpers import Curve, fit, model
from peakhold.backup.folder import BackupFolder
from peakhold.callbacks import csv_logger
from peakhold.checkpoint_files.run_files import RunFiles
from peakhold.errors import CheckpointDamagedError, MonitorWarning, PeakholdWarning, SaveError
from peakhold.files import background
from peakhold.snapshots.pool import SnapshotPool
from peakhold.store import Store

pytestmark = pytest.mark.torch_is_enough("whose line it is hangs on no backend")
LOSSES = [0.5, 0.4, 0.3, 0.2]


class _StopsError(Exception):
    pass


def in_fit(made, *, first=0, dies=None, strike=None, loss=0.5, epochs=4):
    class Happens(peakhold.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            background.drain()
            if epoch == dies:
                raise _StopsError
            if epoch == 2 and strike is not None:
                strike()

    logged = Curve(val_loss=LOSSES, loss=[loss] * 4)
    try:
        fit(model(), [logged, *made(pk), pk.adapt(Happens())], epochs, initial_epoch=first)
    except _StopsError:
        pass


def in_loop(made, *, first=0, dies=None, strike=None, loss=0.5, epochs=4):
    params = {"w": np.zeros(2)}
    host = peakhold.LoopHost(get_state=lambda: params, set_state=params.update)
    run = peakhold.CallbackList(made(peakhold), host=host, epochs=epochs, verbose=0)
    run.on_train_begin()
    for epoch in range(max(first, run.initial_epoch), epochs):
        background.drain()
        if epoch == dies:
            return
        if epoch == 2 and strike is not None:
            strike()
        run.on_epoch_begin(epoch)
        run.on_epoch_end(epoch, {"val_loss": LOSSES[epoch], "loss": loss})
    run.on_train_end()


def refusing(error):
    def refuse(*args, **named):
        raise error

    return refuse


def a_backup_that_cannot_be_closed(run, patch):
    patch(Store, "close", refusing(SaveError("the disk is full")))
    run(lambda lib: [lib.BackupAndRestore("b", delete_checkpoint=False)])


def a_backup_that_cannot_be_deleted(run, patch):
    patch(Store, "_delete", refusing(OSError(5, "no")))
    run(lambda lib: [lib.BackupAndRestore("b")])


def a_best_that_is_lost(run, patch):
    def made(lib):
        stopper = lib.EarlyStopping("val_loss", patience=9, restore_best_weights=True)
        return [stopper, lib.BackupAndRestore("b")]

    run(made, dies=2)
    patch(BackupFolder, "part", refusing(CheckpointDamagedError("the part is damaged")))
    run(made)


def a_log_that_is_not_durable(run, patch):
    patch(csv_logger._Writing, "_told_failure", lambda self: True)
    patch(csv_logger._Writing, "_rewrite", refusing(OSError(5, "no")))
    run(lambda lib: [lib.CSVLogger("log.csv")])


def a_sidecar_that_is_damaged_by_the_first_save(run, patch):
    def made(lib):
        suffix = "keras" if lib is pk else "safetensors"
        return [lib.ModelCheckpoint(f"m.{suffix}", "val_loss", mode="min", save_best_only=True)]

    run(made)
    asked = []

    def damage(self):
        asked.append(self)
        return ["its sidecar is damaged"] if len(asked) > 1 else []

    patch(RunFiles, "damage", damage)
    run(made, first=2)


def moved(folder):
    def strike():
        os.rename(folder, f"{folder}-away")

    return strike


def a_file_there(folder):
    def strike():
        moved(folder)()
        Path(folder).write_text("mine")

    return strike


def a_file_where_backups_lie(run, patch):
    run(lambda lib: [lib.BackupAndRestore("b")], strike=a_file_there("b"))


def a_file_where_a_log_lies(run, patch):
    run(lambda lib: [lib.CSVLogger("logs/log.csv")], strike=a_file_there("logs"))


def a_file_where_events_lie(run, patch):
    def made(lib):
        graph = {"write_graph": False} if lib is pk else {}
        return [lib.TensorBoard("t", **graph)]

    run(made, strike=a_file_there("t"))


def a_log_is_gone(run, patch):
    run(lambda lib: [lib.CSVLogger("logs/log.csv")], strike=moved("logs"))


def events_are_gone(run, patch):
    run(lambda lib: [lib.TensorBoard("t")], strike=moved("t"))


def another_monitor_after_a_crash(run, patch):
    for monitor in ("val_loss", "loss"):
        run(
            lambda lib, monitor=monitor: [
                lib.EarlyStopping(monitor, patience=9), lib.BackupAndRestore("b")
            ],
            dies=2 if monitor == "val_loss" else None,
        )  # fmt: skip


def a_metric_that_super_does_not_find(run, patch):
    def made(lib):
        class Own(lib.EarlyStopping):
            def get_monitor_value(self, logs):
                return super().get_monitor_value(logs)

        return [Own("f1", mode="max", patience=9)]

    run(made)


def a_server_that_is_not_there(run, patch):
    run(lambda lib: [lib.RemoteMonitor("http://127.0.0.1:9", timeout=1)])


def checkpoint(lib, **arguments):
    suffix = "keras" if lib is pk else "safetensors"
    return [lib.ModelCheckpoint(f"m.{suffix}", **arguments)]


def a_loss_that_is_nan(run, patch):
    run(checkpoint, loss=float("nan"))


def a_weight_that_was_never_finite(run, patch):
    patch(SnapshotPool, "look_for_exempt", lambda self: frozenset({"w"}))
    run(checkpoint)


def a_slip_in_a_run_of_one_epoch(run, patch):
    run(
        lambda lib: checkpoint(lib, monitor="f1", mode="max", save_best_only=True),
        epochs=1,
    )


def a_log_that_was_edited_after_a_crash(run, patch):
    def made(lib):
        return [lib.CSVLogger("log.csv", append=True), lib.BackupAndRestore("b")]

    run(made, dies=2)
    header, _, *rows = Path("log.csv").read_text().splitlines(keepends=True)
    Path("log.csv").write_text(header + "".join(rows))
    run(made)


def a_flush_that_fails(run, patch):
    real, fails = os.fsync, []

    def fsync(descriptor):
        if fails:
            raise fails.pop()
        real(descriptor)

    patch(os, "fsync", fsync)
    run(lambda lib: [lib.CSVLogger("log.csv")], strike=lambda: fails.append(OSError(5, "no")))


FAULTS = {
    a_log_that_was_edited_after_a_crash: "CSVLogger",
    a_flush_that_fails: "CSVLogger could not flush",
    a_file_where_backups_lie: "the backup in",
    a_file_where_a_log_lies: "CSVLogger",
    a_file_where_events_lie: "TensorBoard",
    a_log_is_gone: "CSVLogger",
    events_are_gone: "t",
    another_monitor_after_a_crash: "begins afresh",
    a_metric_that_super_does_not_find: "f1",
    a_server_that_is_not_there: "Could not reach",
    a_loss_that_is_nan: "does not save epoch 1",
    a_weight_that_was_never_finite: "they are not checked",
    a_slip_in_a_run_of_one_epoch: "f1",
    a_backup_that_cannot_be_closed: "the last backup failed",
    a_backup_that_cannot_be_deleted: "could not be deleted",
    a_best_that_is_lost: "BackupAndRestore lost what EarlyStopping",
    a_log_that_is_not_durable: "CSVLogger could not make",
    a_sidecar_that_is_damaged_by_the_first_save: "ModelCheckpoint: its sidecar is damaged",
}


@pytest.mark.parametrize("run", [in_fit, in_loop])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_a_warning(fault, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.warns(PeakholdWarning, match=FAULTS[fault]):
        fault(run, monkeypatch.setattr)


@pytest.mark.parametrize(
    "make",
    [
        lambda: pk.EarlyStopping("val_loss"),
        lambda: pk.ModelCheckpoint("m.keras", "val_loss", save_best_only=True),
    ],
    ids=["EarlyStopping", "ModelCheckpoint"],
)
def test_in_fit_a_metric_that_never_came_is_a_warning(make, tmp_path, monkeypatch):
    """In a loop: `tests/loops/test_missing_metrics.py`."""
    monkeypatch.chdir(tmp_path)

    class Stops(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    with pytest.warns(MonitorWarning, match="val_loss"):
        fit(model(), [make(), Stops()], 4, validation_freq=2)


def test_what_is_told_when_the_process_ends_points_at_the_program(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
        import numpy as np
        from peakhold.store import Store
        from peakhold.testing import FailingDisk

        store = Store("checkpoints", disk=FailingDisk(at=1, calls=("rename",), forever=True))
        store.save(1, {"model": {"w": np.zeros(3)}})
        """)
    )
    done = subprocess.run(
        [sys.executable, str(program)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 0, done.stderr
    assert f"{program}:1: SaveWarning: " in done.stderr and "step 1 failed" in done.stderr
