"""Interrupted runs whose files are checked in: they are gone on with for ever.

`python tests/golden_runs.py loop|fit|production FOLDER` left what lies in `tests/golden`, one folder for each
form that was ever written. Never change the runs: users' files do not change.
"""

import math
import os
import pathlib
import shutil
import sys

import numpy as np

import peakhold

FOLDERS = pathlib.Path(__file__).parent / "golden"
N_EPOCHS, INTERRUPTED = 8, 5
CURVE = (0.9, 0.5, 0.6, 0.7, 0.8, 0.55, 0.4, 0.45)
LOSSES = (0.9, 0.5, math.nan, 0.6, math.inf, 0.7, 0.4, 0.8)
OTHERS = (1.0, math.nan, -math.inf, 0.5, 0.25, 0.5, math.inf, 0.5)


class Interrupted(Exception):  # noqa: N818 - it is none
    """What ends the first half of a run."""


class Watcher:
    """A user's callback with a state of all kinds; for loops and, below, for `fit`."""

    def __init__(self):
        super().__init__()
        self.seen, self.largest, self.sums = [], -math.inf, np.zeros(2)

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append((epoch, float(logs["val_loss"])))
        self.largest = max(self.largest, float(logs["other"]))
        self.sums += [1, epoch]

    def state_dict(self):
        return {"seen": list(self.seen), "largest": self.largest, "sums": self.sums, "word": "NaN"}

    def load_state_dict(self, state):
        assert state["word"] == "NaN"  # a string stays one
        self.seen, self.largest = [tuple(pair) for pair in state["seen"]], state["largest"]
        self.sums = np.array(state["sums"])


class LoopWatcher(Watcher, peakhold.Callback):
    """In a loop."""


def members(lib, watcher, file):
    """The callbacks of both runs; paths are relative, for states are filed under them."""
    return [
        watcher,
        lib.CSVLogger("log.csv", append=True),
        lib.ModelCheckpoint(file, monitor="val_loss", save_best_only=True),
        lib.ReduceLROnPlateau("val_loss", patience=9),
        lib.BackupAndRestore("backup"),
        lib.EarlyStopping("val_loss", patience=20, restore_best_weights=True),
    ]


def outcome(callbacks, weights):
    """What must be the same for a run that was interrupted and for one that was not."""
    watcher, _, saver, plateau, _, stopper = callbacks
    return {
        "weights": [np.array(one) for one in weights],
        "stopper": stopper.state_dict(),
        "plateau": plateau.state_dict(),
        "saver": [saver.best, saver.best_epoch],
        "watcher": [watcher.seen, watcher.largest, watcher.sums.tolist()],
        "log": pathlib.Path("log.csv").read_text("utf-8"),
    }


def loop(*, interrupted=None):
    """A loop over NumPy arrays in the current folder."""
    params, rate = {"w": np.zeros(3), "b": np.ones((1, 2), np.float32)}, [0.5]
    host = peakhold.LoopHost(
        get_state=lambda: params,
        set_state=params.update,
        get_learning_rate=lambda: rate[0],
        set_learning_rate=lambda value: rate.__setitem__(0, value),
    )
    ours = members(peakhold, LoopWatcher(), "best.safetensors")
    callbacks = peakhold.CallbackList(ours, host=host, epochs=N_EPOCHS, verbose=0)
    callbacks.on_train_begin()
    for epoch in range(ours[4].initial_epoch, N_EPOCHS):
        callbacks.on_epoch_begin(epoch)
        params["w"] = params["w"] + epoch
        params["b"] = params["b"] * np.float32(1.5)
        if epoch == interrupted:
            raise Interrupted
        logs = {"loss": 0.5, "val_loss": LOSSES[epoch], "other": OTHERS[epoch]}
        callbacks.on_epoch_end(epoch, logs)
    callbacks.on_train_end()
    return outcome(ours, params.values())


def fit(*, interrupted=None):
    """A `fit` with averages of the weights in the current folder; nothing in it is drawn."""
    import keras
    import peakhold.keras as pk

    class Scripted(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == interrupted:
                raise Interrupted
            logs.update(val_loss=LOSSES[epoch], other=OTHERS[epoch])

    net = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, kernel_initializer="ones", name="only")]
    )
    net.compile(keras.optimizers.SGD(0.1, momentum=0.5, use_ema=True, ema_momentum=0.5), "mse")
    watcher = type("FitWatcher", (Watcher, keras.callbacks.Callback), {"__module__": __name__})
    ours = members(pk, watcher(), "best.keras")
    x = np.linspace(-1, 1, 24, dtype="float32").reshape(8, 3)
    net.fit(
        x, x[:, :2], batch_size=4, epochs=N_EPOCHS, shuffle=False, verbose=0,
        callbacks=[Scripted(), *ours],
    )  # fmt: skip
    averages = net.optimizer._model_variables_moving_average
    variables = [*net.weights, *(v for v in averages if v is not None)]
    return outcome(ours, [keras.ops.convert_to_numpy(variable) for variable in variables])


def production(*, interrupted=None, epochs=N_EPOCHS):
    """A `fit` with the callbacks of a serious run; nothing in it is drawn.

    Its `main` has left what versions wrote that put all runs of a folder side by side: of two, the first
    ended, and the second was interrupted.
    """
    import keras
    import peakhold.keras as pk

    class Scripted(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == interrupted:
                raise Interrupted
            logs["val_loss"] = CURVE[epoch]

    net = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, kernel_initializer="ones", name="only")]
    )
    net.compile(keras.optimizers.SGD(0.1, momentum=0.5), "mse")
    ours = pk.production_callbacks("run", patience=6, alert=False, tensorboard=False)
    x = np.linspace(-1, 1, 24, dtype="float32").reshape(8, 3)
    net.fit(
        x, x[:, :2], batch_size=4, epochs=epochs, shuffle=False, verbose=0,
        callbacks=[Scripted(), *ours],
    )  # fmt: skip
    stopper = next(one for one in ours if isinstance(one, pk.EarlyStopping))
    return {
        "weights": [keras.ops.convert_to_numpy(variable) for variable in net.weights],
        "stopper": stopper.state_dict(),
        "rate": float(keras.ops.convert_to_numpy(net.optimizer.learning_rate)),
    }


def main(kind, folder):
    """Leave what an interrupted run leaves, without what only its process needs."""
    from peakhold.store import drain

    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    os.chdir(folder)
    if kind == "production":
        production(epochs=2)
    try:
        {"loop": loop, "fit": fit, "production": production}[kind](interrupted=INTERRUPTED)
    except Interrupted:
        drain()
    backup = "run/backup-2" if kind == "production" else "backup"
    shutil.rmtree(f"{backup}/.trash")
    os.unlink(f"{backup}/.lock")
    for step in (0, 1):  # which nothing needs
        shutil.rmtree(f"{backup}/step-0000000{step}", ignore_errors=True)


if __name__ == "__main__":
    import golden_runs  # so that its classes have the name that they have in a test

    golden_runs.main(*sys.argv[1:])
