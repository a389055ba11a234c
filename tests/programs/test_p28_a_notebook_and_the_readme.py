"""P28: a cell of a notebook, run three times; and the README, from its first line to a resumed loop."""

import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

import keras
from keras_helpers import saved_weights
from peakhold.keras import (
    BackupAndRestore,
    EarlyStopping,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
)

of_no_framework = pytest.mark.torch_is_enough("how much is said is Python's")
once = pytest.mark.torch_is_enough("its scripts are the same on every backend")

README = pathlib.Path(__file__).parents[2] / "README.md"


# The notebook


class CtrlC(keras.callbacks.Callback):
    """Somebody presses it in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch is not None and self.at == self.epoch and batch == 1:
            signal.raise_signal(signal.SIGINT)

    def on_epoch_begin(self, epoch, logs=None):
        self.at = epoch


@pytest.fixture
def cell(xy, classifier, tmp_path, monkeypatch, capsys):
    """The cell: it builds, compiles and fits. Gives the model, the epochs and what was said."""
    monkeypatch.chdir(tmp_path)

    def run(rate, *, patience=20, press_at=None, epochs=8, verbose=1, more=()):
        keras.utils.set_random_seed(7)
        model = classifier(optimizer=keras.optimizers.Adam(rate))
        callbacks = [
            ReduceLROnPlateau("val_loss", patience=5),
            EarlyStopping("val_loss", patience=patience, restore_best_weights=True),
            ModelCheckpoint("best.keras", monitor="val_loss", save_best_only=True),
            BackupAndRestore("backup"),
            *more,
            CtrlC(press_at),
        ]
        history = None
        try:
            history = model.fit(
                *xy, validation_split=0.25, epochs=epochs, batch_size=16, verbose=verbose,
                callbacks=callbacks,
            )  # fmt: skip
        except KeyboardInterrupt:
            assert press_at is not None
        said = capsys.readouterr().out
        lines = [line for line in said.splitlines() if line.startswith("Peakhold: ")]
        return model, history and history.epoch, lines

    return run


@pytest.mark.parametrize("verbose", [*(pytest.param(n, marks=of_no_framework) for n in (0, 2)), 1])
def test_p28_a_cell_three_times_with_ctrl_c_and_other_rates(cell, verbose):
    cell(0.01, press_at=3, verbose=verbose)

    # The second time: another rate, another patience, and Ctrl-C again.
    model, _, said = cell(0.05, patience=15, press_at=5, verbose=verbose)
    told = [line for line in said if "in this program" in line]
    assert [line.partition(" in this program")[0] for line in told] == [
        "Peakhold: BackupAndRestore: learning_rate is 0.05",
        "Peakhold: BackupAndRestore: patience of EarlyStopping(val_loss) is 15",
    ]
    assert "and 0.01 in the backup, which counts" in told[0]
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
    goes_on = "Peakhold: BackupAndRestore goes on with epoch 4 of 8, from 'backup'."
    assert (goes_on in said) is (verbose != 0)
    assert told == said[:2] if verbose == 0 else said.index(goes_on) < said.index(told[0])

    # The third time it does as the hint says, and ends.
    model, epochs, said = cell(
        0.05, patience=15, verbose=verbose, more=[LearningRateScheduler(lambda epoch, rate: 0.05)]
    )
    assert epochs == list(range(8))
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)
    assert not pathlib.Path("backup").exists()
    assert saved_weights("best.keras")


def test_p28_a_cell_three_times_without_a_change(cell):
    unbroken = cell(0.01)[0].get_weights()
    pathlib.Path("best.keras").unlink()

    cell(0.01, press_at=2)
    cell(0.01, press_at=5)
    model, epochs, said = cell(0.01)

    assert epochs == list(range(8))
    assert not [line for line in said if "in this program" in line]
    for one, other in zip(unbroken, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


# The README


def blocks():
    return re.findall(
        r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )


def run(folder, source, *before):
    program = folder / "program.py"
    program.write_text("".join(before) + source)
    return subprocess.run(
        [sys.executable, "-W", "error::peakhold.errors.PeakholdWarning", program.name],
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


KILLED_IN_EPOCH = """
import os
import {module} as lib

def on_epoch_begin(self, epoch, *arguments, hook=lib.CallbackList.on_epoch_begin, **more):
    hook(self, epoch, *arguments, **more)
    if epoch == {epoch}:
        os._exit(9)

lib.CallbackList.on_epoch_begin = on_epoch_begin
"""


@once
def test_p28_the_readme_from_its_first_line(tmp_path):
    """All of its Python in one program, as it stands, in a folder of its own."""
    done = run(tmp_path, "\n".join(blocks()))

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    said = [line for line in lines if line.startswith("Peakhold: ")]
    assert not [line for line in said if "cannot" in line or "silence" in line]
    ends = [line for line in said if line.startswith("Peakhold: training ended after epoch")]
    assert len(ends) == 2
    assert sum(line.startswith("Peakhold: best val_") for line in said) == 2
    made = {path.name for path in (tmp_path / "models").iterdir()}
    assert {"best.keras", "log.csv"} <= made
    assert "backup" not in made, "it has ended well"
    assert (tmp_path / "runs" / "line" / "best.safetensors").exists()


@once
@pytest.mark.parametrize("part", ["fit", "loop"])
def test_p28_what_the_readme_says_of_a_killed_run(tmp_path, part):
    """Start it again: both scripts, as they stand, and the same file in the end."""
    source = blocks()[0 if part == "fit" else 1]
    file = "models/best.keras" if part == "fit" else "runs/line/best.safetensors"
    log = "models/log.csv" if part == "fit" else "runs/line/metrics.csv"
    module = "keras.callbacks" if part == "fit" else "peakhold"
    epochs = {}
    for name in ("unbroken", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "killed":
            begins = KILLED_IN_EPOCH.format(module=module, epoch=4)
            assert run(folder, source, begins).returncode == 9
        done = run(folder, source)
        assert done.returncode == 0, done.stderr
        epochs[name] = done.stdout

    # The last backup may still have been on its way to the disk.
    goes_on = r"^Peakhold: BackupAndRestore goes on with epoch [1-5] of \d+(, after its batch \d+)?, from '"
    assert re.search(goes_on, epochs["killed"], re.MULTILINE)
    assert "in this program" not in epochs["killed"]
    one, other = (tmp_path / name / file for name in ("unbroken", "killed"))
    if part == "fit":
        for a, b in zip(saved_weights(one), saved_weights(other), strict=True):
            np.testing.assert_array_equal(a, b)
    else:
        assert one.read_bytes() == other.read_bytes()
    logs = [(tmp_path / name / log).read_text() for name in epochs]
    assert logs[0] == logs[1]
    ends = [re.search(r"training ended after epoch \d+", text)[0] for text in epochs.values()]
    assert ends[0] == ends[1]
