"""P10: `CSVLogger("logs/train.csv", append=True)`, the job is killed and started again.

"Each epoch once, no torn row, no gap, late metrics have a column": also where the killed epoch has
written its row already, also if that is the first, and also if its row came with a new column.
"""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

of_no_framework = pytest.mark.torch_is_enough(
    "rows of a log are Python's; what a resumed fit trains is looked at on every backend"
)

PROGRAM = """
import os, signal, sys
if os.environ["KERAS_BACKEND"] == "torch":
    import torch
import keras
import numpy as np
from peakhold.keras import BackupAndRestore, CSVLogger

KILL_AT = int(sys.argv[1])


class Late(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch >= 2:
            logs["late"] = float(epoch)


class Kill(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == KILL_AT:
            os.kill(os.getpid(), signal.SIGKILL)


class Logger(CSVLogger):  # its row is on disk when the next callback is called
    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)


keras.utils.set_random_seed(3)
x = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
model.compile("adam", "mse", metrics=["mae"])
model.fit(x, x[:, :1], epochs=4, batch_size=8, verbose=0, callbacks=[
    Late(), Logger("logs/train.csv", append=True), Kill(), BackupAndRestore("backup")])
"""


def run(folder, kill_at=None):
    """The job: here if it lives, else in a process of its own; returns what stands in the log."""
    if kill_at is None:
        with contextlib.chdir(folder):
            exec(PROGRAM.replace("int(sys.argv[1])", "-1"), {"__name__": "__main__"})
    else:
        (folder / "program.py").write_text(PROGRAM)
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment.setdefault("KERAS_BACKEND", "tensorflow")
        done = subprocess.run(
            [sys.executable, "program.py", str(kill_at)],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    return (folder / "logs" / "train.csv").read_bytes()


@of_no_framework
def test_each_epoch_is_there_once_and_a_plain_second_run_adds_to_the_file(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    unbroken = run(whole)

    for kill_at in (0, 2):
        content = run(killed, kill_at)
        # Its row is written, and not in the backup.
        assert content.splitlines()[-1].startswith(str(kill_at).encode())
    assert run(killed) == unbroken

    head, *rows = unbroken.splitlines()
    assert run(killed).splitlines() == [head, *rows, *rows]
