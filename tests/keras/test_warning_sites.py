"""Warnings that take a fault to come about, in `fit` and in a loop: each points at the user's line.

That it does is looked at by `pointing.py`, as for every test; that each comes, here.
"""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

import peakhold
import peakhold.keras as pk
from keras_helpers import Curve, fit, model
from peakhold.backup.folder import BackupFolder
from peakhold.callbacks import csv_logger
from peakhold.checkpoint_files.run_files import RunFiles
from peakhold.errors import CheckpointDamagedError, PeakholdWarning, SaveError
from peakhold.store import Store

pytestmark = pytest.mark.torch_is_enough("whose line it is hangs on no backend")
LOSSES = [0.5, 0.4, 0.3, 0.2]


class _StopsError(Exception):
    pass


def in_fit(made, *, first=0, dies=None):
    class Dies(peakhold.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == dies:
                raise _StopsError

    try:
        fit(model(), [Curve(val_loss=LOSSES), *made(pk), pk.adapt(Dies())], 4, initial_epoch=first)
    except _StopsError:
        pass


def in_loop(made, *, first=0, dies=None):
    params = {"w": np.zeros(2)}
    host = peakhold.LoopHost(get_state=lambda: params, set_state=params.update)
    run = peakhold.CallbackList(made(peakhold), host=host, epochs=4, verbose=0)
    run.on_train_begin()
    for epoch in range(max(first, run.initial_epoch), 4):
        if epoch == dies:
            return
        run.on_epoch_begin(epoch)
        run.on_epoch_end(epoch, {"val_loss": LOSSES[epoch]})
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


FAULTS = {
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
