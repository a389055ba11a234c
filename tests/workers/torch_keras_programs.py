"""Keras's `fit` on PyTorch with several workers, each a function of its rank."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import numpy as np
import torch.distributed as dist
from torch_programs import Group, seen

import keras
import peakhold.keras


class Synced(keras.optimizers.Adam):
    """Applies the mean of all workers' gradients."""

    def apply(self, grads, trainable_variables=None):
        for grad in grads:
            dist.all_reduce(grad)
            grad /= dist.get_world_size()
        return super().apply(grads, trainable_variables)


def data(seed, rows):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 8)).astype("float32")
    noise = generator.normal(size=rows).astype("float32")
    return x, (x[:, 0] - x[:, 1] + noise)[:, None]


def build(rank, *, batchnorm=False):
    keras.utils.set_random_seed(7)
    layers = [keras.layers.Dense(16, activation="relu"), keras.layers.Dropout(0.2, seed=rank)]
    layers += [keras.layers.BatchNormalization()] * batchnorm
    model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(1)])
    model.compile(Synced(0.05), "mse")
    keras.utils.set_random_seed(100 + rank)
    return model


def callbacks_of(lib, folder, patience=3):
    return [
        lib.ReduceLROnPlateau("val_loss", factor=0.5, patience=1),
        lib.EarlyStopping("val_loss", patience=patience, restore_best_weights=True),
        lib.ModelCheckpoint(f"{folder}/best.weights.h5", monitor="val_loss", save_best_only=True,
                            save_weights_only=True),
        lib.CSVLogger(f"{folder}/log.csv"),
        lib.BackupAndRestore(f"{folder}/backup"),
    ]  # fmt: skip


class Dies(keras.callbacks.Callback):
    """Ends the process at a batch, as `kill -9` does."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.at, self.epoch = (epoch, batch), 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            os.kill(os.getpid(), 9)


def fit(rank, ports, folder, epochs=12, victim=None):
    with Group(rank, ports):
        model = build(rank)
        callbacks = callbacks_of(peakhold.keras, folder)
        more = [Dies(*victim[1:])] if victim and victim[0] == rank else []
        history = model.fit(
            *data(rank, 48), batch_size=16, epochs=epochs, verbose=2,
            validation_data=data(rank + 10, 32), callbacks=callbacks + more,
        )  # fmt: skip
        return {
            "history": {name: [*map(float, one)] for name, one in history.history.items()},
            "epochs": history.epoch,
            "weights": [one.tolist() for one in model.get_weights()],
            "seen": seen(callbacks),
        }


def stock_file(rank, ports, folder, tries):
    """Keras's own `ModelCheckpoint` on every worker, and one path; how often it has raised."""
    failed = 0
    with Group(rank, ports):
        model = keras.Sequential([keras.Input((1000,)), keras.layers.Dense(2000)])
        saving = keras.callbacks.ModelCheckpoint(f"{folder}/m.weights.h5", save_weights_only=True)
        saving.set_model(model)
        for epoch in range(tries):
            dist.barrier()
            try:
                saving.on_epoch_end(epoch, {})
            except OSError:
                failed += 1
        dist.barrier()
    return failed


def stock_fit(rank, ports, seed, patience):
    """Keras's own `EarlyStopping`, by each worker's own metric; the epochs that it has trained."""
    with Group(rank, ports):
        model = build(rank)
        stopping = keras.callbacks.EarlyStopping("val_loss", patience=patience)
        history = model.fit(
            *data(seed + rank, 48), batch_size=16, epochs=30, verbose=0,
            validation_data=data(seed + rank + 10, 32), callbacks=[stopping],
        )  # fmt: skip
    return history.epoch


def our_fit(rank, ports, seed, patience):
    """Ours, on the same."""
    with Group(rank, ports):
        model = build(rank)
        stopping = peakhold.keras.EarlyStopping(
            "val_loss", patience=patience, restore_best_weights=True
        )
        history = model.fit(
            *data(seed + rank, 48), batch_size=16, epochs=30, verbose=0,
            validation_data=data(seed + rank + 10, 32), callbacks=[stopping],
        )  # fmt: skip
    weights = [one.tolist() for one in model.get_weights()]
    return [history.epoch, history.history["val_loss"], stopping.best, stopping.best_epoch, weights]


def stock_histories(rank, ports, histories, patience):
    """Where Keras's own `EarlyStopping` stops, and what it holds for best, on each history."""
    found = []
    for history in histories:
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        stopping = keras.callbacks.EarlyStopping("val_loss", patience=patience)
        stopping.set_model(model)
        model.stop_training = False
        stopping.on_train_begin()
        for epoch, value in enumerate(history):
            stopping.on_epoch_end(epoch, {"val_loss": value})
            if model.stop_training:
                break
        found.append([epoch, stopping.best_epoch])
    return found
