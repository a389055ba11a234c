"""Runs that are interrupted and started again by the same line, and all that they leave.

`start` is that line. As a program this module is one process of such a run:

    python resume_runs.py <folder> <kind> <seed> [call:<n> | time:<seconds> | batch:<n> | term:<epoch>]

kills itself with `kill -9` before the n-th call that writes to the disk, or after so many seconds of
`fit`, or after its n-th batch, or with SIGTERM in an epoch, and otherwise writes what the run left into
`<folder>/outcome.json`.
"""

import functools
import hashlib
import json
import os
import pathlib
import signal
import sys
import time

if os.environ.get("KERAS_BACKEND") == "torch":
    import torch

    torch.set_num_threads(1)

import numpy as np

import keras
import peakhold.keras as pk
from killing import armed, die
from peakhold.store import drain
from run_programs import moments_of
from scripted import CURVE
from sidecar_lines import entries_of
from zygote import Zygote, environment_of

BACKEND = keras.backend.backend()
KINDS = ("scripted", "real")


class Script(keras.callbacks.Callback):
    """A user's callback that logs a scripted loss."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = CURVE[epoch]


class Counter(keras.callbacks.Callback):
    """A user's callback with a state of its own, which it forgets on train begin."""

    def on_train_begin(self, logs=None):
        self.n_epochs, self.n_batches = 0, 0

    def on_train_batch_end(self, batch, logs=None):
        self.n_batches += 1

    def on_epoch_end(self, epoch, logs=None):
        self.n_epochs += 1

    def state_dict(self):
        return {"epochs": self.n_epochs, "batches": self.n_batches}

    def load_state_dict(self, state):
        self.n_epochs, self.n_batches = state["epochs"], state["batches"]


class Terminate(keras.callbacks.Callback):
    """Sends SIGTERM when an epoch begins."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGTERM)


class Kill(keras.callbacks.Callback):
    """`kill -9` after so many batches, when what is being written is on disk."""

    def __init__(self, n_batches):
        super().__init__()
        self.left = n_batches

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            drain()
            die()


def data(n=64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 4)).astype("float32")
    return x, (x.sum(axis=1, keepdims=True) > 0).astype("float32")


def build(kind, *, with_input=True):
    layers = [keras.Input((4,))] if with_input else []
    layers.append(keras.layers.Dense(8, activation="relu"))
    if kind == "real":
        layers += [keras.layers.Dropout(0.4), keras.layers.BatchNormalization()]
    layers.append(keras.layers.Dense(1, activation="sigmoid"))
    net = keras.Sequential(layers)
    optimizer = keras.optimizers.Adam(0.01) if kind == "real" else keras.optimizers.SGD(0.1)
    net.compile(optimizer, "binary_crossentropy", metrics=["accuracy", "AUC"])
    return net


def callbacks(folder, kind, **backup):
    """In an order in which each of Keras's own would go wrong."""
    folder = pathlib.Path(folder)
    patience = 6 if kind == "scripted" else 50
    return [
        *([Script()] if kind == "scripted" else []),
        pk.CSVLogger(folder / "log.csv", append=True),
        Counter(),
        pk.ModelCheckpoint(folder / "best.keras", save_best_only=True),
        pk.ReduceLROnPlateau(patience=5 if kind == "scripted" else 2, factor=0.5),
        pk.RunRecord(folder / "record"),
        pk.BackupAndRestore(folder / "backup", **backup),
        pk.EarlyStopping(patience=patience, restore_best_weights=kind == "scripted"),
    ]


def digest(arrays):
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()[:16]


WITHIN = "within"
"""Real training, twelve batches in an epoch, a backup after every fifth: kinds of `process` alone."""


def start(
    folder, kind="scripted", *, seed=1, also=(), epochs=12, net=None, ours=None, batch_size=16,
    **backup,
):  # fmt: skip
    """The line that starts a run and resumes it.

    Args:
        folder: Where everything lies.
        kind: One of `KINDS`.
        seed: Of the process; on TensorFlow a resumed one needs the same (K-R14).
        also: Further callbacks, at the end of the list.
        epochs: As for `fit`.
        net: The model; None builds one.
        ours: The callbacks; None makes new ones.
        batch_size: As for `fit`.
        **backup: Arguments of `BackupAndRestore`.
    """
    keras.utils.set_random_seed(1 if BACKEND == "tensorflow" else seed)
    net = net or build(kind)
    ours = ours or callbacks(folder, kind, **backup)
    x, y = data()
    history = net.fit(
        x, y, epochs=epochs, batch_size=batch_size, verbose=0, callbacks=[*ours, *also],
        validation_split=0.25, class_weight={0: 1.0, 1: 2.0},
    )  # fmt: skip
    return outcome(folder, net, history, ours)


def outcome(folder, net, history, ours):
    """All that must be the same, interrupted or not."""
    folder = pathlib.Path(folder)
    stopper = next(cb for cb in ours if isinstance(cb, pk.EarlyStopping))
    counter = next(cb for cb in ours if isinstance(cb, Counter))
    plateau = next(cb for cb in ours if isinstance(cb, pk.ReduceLROnPlateau))
    best = keras.models.load_model(folder / "best.keras")
    entries = entries_of(folder / "best.keras.peakhold.json")
    return {
        "epochs": history.epoch,
        "history": history.history,
        "is the model's": net.history is history,
        "weights": digest(net.get_weights()),
        "optimizer": digest(keras.ops.convert_to_numpy(v) for v in net.optimizer.variables),
        "rate": float(keras.ops.convert_to_numpy(net.optimizer.learning_rate)),
        "csv": (folder / "log.csv").read_text(),
        "best file": digest(best.get_weights()),
        "best epoch of the file": entries["best.keras"][0]["epoch"],
        "stopped": [stopper.stopped_epoch, stopper.best_epoch, stopper.best, stopper.wait],
        "plateau": [plateau.best, plateau.wait],
        "counted": counter.state_dict(),
        "backup": (folder / "backup").exists(),
        "leftovers": sorted(p.name for p in folder.iterdir() if p.name.startswith(".")),
        "first epoch": net._initial_epoch,
        "record": record_of(folder / "record"),
    }


def record_of(folder):
    """What the record of a run says to readers, as plain JSON, but for times and saves.

    A process that finds training over has been in no epoch when it tells of the end.
    """
    moments = [*moments_of(folder / "events.jsonl")]
    return [
        [{"event": at["event"]} if at["event"] == "on_train_end" else at, decided]
        for at, decided in json.loads(json.dumps(moments))
    ]


def start_production(folder, *, seed=1, also=()):
    """The line of `production_callbacks`, which starts a run and resumes it."""
    keras.utils.set_random_seed(1 if BACKEND == "tensorflow" else seed)
    net = build("scripted")
    x, y = data()
    ours = pk.production_callbacks(pathlib.Path(folder, "run"), patience=6, alert=False)
    history = net.fit(
        x, y, epochs=12, batch_size=16, verbose=0, callbacks=[Script(), *ours, *also],
        validation_split=0.25,
    )  # fmt: skip
    stopper = next(cb for cb in ours if isinstance(cb, pk.EarlyStopping))
    return {
        "history": history.history,
        "weights": digest(net.get_weights()),
        "stopped": [stopper.stopped_epoch, stopper.best_epoch, stopper.best, stopper.wait],
        "rate": float(keras.ops.convert_to_numpy(net.optimizer.learning_rate)),
    }


# One process of a run that is killed


@functools.cache
def _zygote():
    return Zygote("resume_runs", environment_of(BACKEND))


def process(folder, kind, seed, kill=None):
    """Run this module as a process of its own; returns its exit status."""
    status = _zygote().run(str(folder), kind, str(seed), kill or "")
    assert status in {0, -signal.SIGKILL, -signal.SIGTERM}, "its traceback is above"
    return status


def finished(folder):
    """What the last process of a run left, how long it took, and how many calls it made."""
    result = json.loads(pathlib.Path(folder, "outcome.json").read_text())
    return {k: v for k, v in result.items() if k not in {"calls", "seconds"}}, result


def main(folder, kind, seed, kill=""):
    how, _, when = kill.partition(":")
    made = armed(how, when)
    begun = time.monotonic()
    also = [Terminate(int(when))] if how == "term" else []
    also += [Kill(int(when))] if how == "batch" else []
    if kind == "production":
        result = start_production(folder, seed=int(seed), also=also)
    elif kind == WITHIN:
        result = start(folder, "real", seed=int(seed), also=also, batch_size=4, save_freq=5)
    else:
        result = start(folder, kind, seed=int(seed), also=also)
    result.update(calls=made[0], seconds=time.monotonic() - begun)
    pathlib.Path(folder, "outcome.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
