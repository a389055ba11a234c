"""Programs of Keras 2's `fit`, each a function of its rank: `forked.py` runs them."""

import glob
import json
import os
import pathlib
import signal
import time

import numpy as np
import tf_keras
from tf_programs import ended_together, join

from peakhold import tf_keras as ours


class Kill(tf_keras.callbacks.Callback):
    """`kill -9`, in the second batch of an epoch; of several workers all at once, or the last one
    ends by an error: its peer is gone."""

    def __init__(self, epoch, rank=0, size=1, folder=None):
        super().__init__()
        self.at, self.epoch = epoch, None
        self.own, self.all = f"{folder}-{rank}", [f"{folder}-{one}" for one in range(size)]

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == self.at and batch >= 1:
            if len(self.all) > 1:
                pathlib.Path(self.own).touch()
                until = time.monotonic() + 60
                while not all(map(os.path.exists, self.all)):
                    assert time.monotonic() < until, "the others do not come here"
            os.kill(os.getpid(), signal.SIGKILL)


def data():
    x = np.random.default_rng(1).normal(size=(80, 8)).astype("float32")
    noise = np.random.default_rng(2).normal(size=(80, 1)).astype("float32")
    y = x[:, :1] - x[:, 1:2] + 0.5 * noise
    return x[:64], y[:64], (x[64:], y[64:])


def built(legacy=False):
    tf_keras.utils.set_random_seed(7)
    tf_keras.backend.experimental.enable_tf_random_generator()
    model = tf_keras.Sequential(
        [
            tf_keras.layers.Dense(8, input_shape=(8,)),
            tf_keras.layers.BatchNormalization(),  # each replica has statistics of its own
            tf_keras.layers.Dropout(0.2),
            tf_keras.layers.Dense(1),
        ]
    )
    optimizers = tf_keras.optimizers.legacy if legacy else tf_keras.optimizers
    model.compile(optimizers.Adam(0.1), "mse", metrics=["mae"])
    return model


def callbacks_in(folder, stops_after=3):
    stops = ours.EarlyStopping("val_loss", patience=stops_after, restore_best_weights=True)
    return stops, [
        ours.ReduceLROnPlateau("val_loss", patience=1, factor=0.5),
        stops,
        ours.ModelCheckpoint(f"{folder}/best.keras", monitor="val_loss", save_best_only=True),
        ours.ModelCheckpoint(
            f"{folder}/best.weights.h5",
            monitor="val_loss", save_best_only=True, save_weights_only=True,
        ),
        ours.TerminateOnNaN(),
        ours.CSVLogger(f"{folder}/log.csv", append=True),
        ours.BackupAndRestore(f"{folder}/backup", delete_checkpoint=False),
    ]  # fmt: skip


def report_of(model, stops, history, folder):
    return {
        "ran": history.epoch,
        "history": history.history,
        "best": stops.best, "best_epoch": stops.best_epoch,
        "rate": float(model.optimizer.learning_rate.numpy()),
        "weights": [w.numpy().tolist() for w in model.trainable_weights],
        "files": sorted(os.path.basename(path) for path in glob.glob(f"{folder}/*")),
    }  # fmt: skip


def alone(rank, ports, folder, epochs, kill_in_epoch=None, legacy=False):
    """`fit` in one process, its data shuffled."""
    model, (x, y, validation) = built(legacy), data()
    stops, callbacks = callbacks_in(folder)
    history = model.fit(
        x, y, validation_data=validation, batch_size=16, epochs=epochs, verbose=0,
        callbacks=[*callbacks, Kill(kill_in_epoch)],
    )  # fmt: skip
    report = report_of(model, stops, history, folder)
    report["optimizer"] = [w.tolist() for w in map(np.asarray, _arrays(model.optimizer))]
    report["statistics"] = [w.numpy().tolist() for w in model.non_trainable_weights]
    saved = tf_keras.models.load_model(f"{folder}/best.keras")
    report["of_file"] = saved.evaluate(*validation, verbose=0)[0]
    return report


def _arrays(optimizer):
    return optimizer.get_weights() if hasattr(optimizer, "get_weights") else [
        v.numpy() for v in optimizer.variables
    ]  # fmt: skip


def workers(rank, ports, folder, epochs, kill_in_epoch=None):
    """`fit` under MultiWorkerMirroredStrategy; in an epoch all are killed."""
    strategy = join(rank, ports)
    with strategy.scope():
        model = built()
    x, y, validation = data()
    stops, callbacks = callbacks_in(folder)
    history = model.fit(
        x, y, validation_data=validation, batch_size=16, epochs=epochs, verbose=0,
        callbacks=[*callbacks, Kill(kill_in_epoch, rank, len(ports), folder)],
    )  # fmt: skip
    report = report_of(model, stops, history, folder)
    report["statistics"] = [
        one.values[0].numpy().tolist() for one in model.non_trainable_weights
    ]  # fmt: skip
    report["stopped_epoch"] = stops.stopped_epoch
    ended_together(rank, len(ports))
    if not rank:
        saved = tf_keras.models.load_model(f"{folder}/best.keras", compile=False)
        report["of_file"] = [w.tolist() for w in saved.get_weights()]
    report["files"] = sorted(os.path.basename(path) for path in glob.glob(f"{folder}/*"))
    return json.loads(json.dumps(report, default=float))
