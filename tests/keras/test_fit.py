"""Every behaviour in Keras's own `fit`."""

import io
import json
import zipfile

import h5py
import numpy as np
import pytest

import keras
import peakhold.keras
from behaviours import Behaviours
from keras_helpers import data


class Script(keras.callbacks.Callback):
    """First in the list: what the rig scripts, and what it watches."""

    def __init__(self, rig, curves, explode_at, raise_at):
        super().__init__()
        self.rig, self.curves = rig, curves
        self.explode_at, self.raise_at = explode_at, raise_at

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.raise_at:
            raise ZeroDivisionError
        self.rig.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.explode_at:
            weights = self.model.get_weights()
            weights[0][0, 0] = np.inf
            self.model.set_weights(weights)
        for name, values in self.curves.items():
            if epoch < len(values) and values[epoch] is not None:
                logs[name] = values[epoch]
        self.rig.epochs_run.append(epoch)
        self.rig.at[epoch] = self.rig.weights()
        self.rig.batches_run += 4


class Watch(keras.callbacks.Callback):
    """Last in the list: the logs as all callbacks left them."""

    def __init__(self, rig):
        super().__init__()
        self.rig = rig

    def on_epoch_end(self, epoch, logs=None):
        self.rig.logs.append(dict(logs))


class SetsRate(keras.callbacks.Callback):
    def __init__(self, rates):
        super().__init__()
        self.rates = rates

    def on_epoch_begin(self, epoch, logs=None):
        if epoch in self.rates:
            self.model.optimizer.learning_rate = self.rates[epoch]


class FitRig:
    """Real training of a small model."""

    lib, suffix, first_rate = peakhold.keras, ".weights.h5", 0.03125
    # Each callback once in each place; a compilation for each run makes all 24 orders slow here.
    orders = ((0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0))

    def __init__(self, models):
        self._models, self._n_built = models, 0
        self.rebuild()

    def rebuild(self):
        """Another model, as good as new."""
        keras.utils.set_random_seed(3)
        self._n_built += 1
        while len(self._models) < self._n_built:
            self._models.append(self._build())
        self.model, start = self._models[self._n_built - 1]
        self.model.set_weights(start)
        optimizer = self.model.optimizer
        for variable in optimizer.variables:
            variable.assign(np.zeros(variable.shape, variable.dtype))
        optimizer.learning_rate = self.first_rate

    def _build(self):
        net = keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Dense(4),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(1),
            ]
        )
        net.compile(keras.optimizers.SGD(self.first_rate, momentum=0.5), loss="mse")
        return net, net.get_weights()

    def saver(self, path, **arguments):
        return peakhold.keras.ModelCheckpoint(path, save_weights_only=True, **arguments)

    def rate_setter(self, rates):
        return SetsRate(rates)

    def run(
        self,
        callbacks,
        curves,
        epochs,
        *,
        start=0,
        verbose=0,
        explode_at=None,
        raise_at=None,
        loss_nan_at=None,
    ):
        self.at, self.epochs_run, self.logs, self.batches_run, self.epoch = {}, [], [], 0, -1
        x, y = data()
        script = Script(self, curves, explode_at, raise_at)
        if loss_nan_at is not None:
            x, y = NaNFrom(self, x, y, loss_nan_at), None
        try:
            self.model.fit(
                x, y, batch_size=None if y is None else 8, epochs=epochs, initial_epoch=start,
                callbacks=[script, *callbacks, Watch(self)], verbose=verbose, shuffle=False,
            )  # fmt: skip
        except BaseException:
            self._models.clear()  # what a broken fit has left in one is no other test's matter
            raise

    def weights(self):
        return self.model.get_weights()

    def rate(self):
        return float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def load(self, path):
        fresh = keras.models.clone_model(self.model)
        fresh.load_weights(path)
        return fresh.get_weights()

    @staticmethod
    def fingerprint(weights):
        return tuple(w.tobytes() for w in weights)

    def file_fingerprint(self, path):
        """All arrays of the file, the optimizer's too; HDF5 holds dates and addresses besides."""
        found = []
        with h5py.File(path) as file:
            file.visititems(
                lambda name, node: (
                    found.append((name, np.array(node).tobytes()))
                    if isinstance(node, h5py.Dataset)
                    else None
                )
            )
        return tuple(sorted(found))


class NaNFrom(keras.utils.PyDataset):
    """Batches whose targets are NaN from an epoch on."""

    def __init__(self, rig, x, y, epoch):
        super().__init__()
        self.rig, self.x, self.y, self.epoch = rig, x, y, epoch

    def __len__(self):
        return 4

    def __getitem__(self, index):
        rows = slice(8 * index, 8 * index + 8)
        y = self.y[rows]
        return self.x[rows], np.full_like(y, np.nan) if self.rig.epoch >= self.epoch else y


class TestFit(Behaviours):
    @pytest.fixture(scope="class")
    def models(self):
        """Compiled once: each test finds them with the weights of their beginning."""
        return []

    @pytest.fixture
    def rig(self, models):
        return FitRig(models)


def members(path):
    """What a `.keras` file holds, but for its date."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    metadata = json.loads(content.pop("metadata.json"))
    metadata.pop("date_saved")
    arrays = {}
    with h5py.File(io.BytesIO(content.pop("model.weights.h5"))) as file:
        file.visititems(
            lambda name, node: (
                arrays.setdefault(name, np.array(node).tobytes())
                if isinstance(node, h5py.Dataset)
                else None
            )
        )
    return metadata, content, arrays


def test_a_keras_file_is_what_keras_writes(tmp_path):
    net = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, activation="relu"),
            keras.layers.Dropout(0.5, seed=1),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(1),
        ]
    )
    net.compile("adam", "mse", metrics=["mae"])
    x, y = data()
    stock = keras.callbacks.ModelCheckpoint(tmp_path / "stock.keras")
    ours = peakhold.keras.ModelCheckpoint(tmp_path / "ours.keras")
    net.fit(x, y, epochs=2, batch_size=8, callbacks=[stock, ours], verbose=0)

    assert members(tmp_path / "ours.keras") == members(tmp_path / "stock.keras")


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5"])
def test_an_hdf5_file_is_what_keras_writes(suffix, tmp_path):
    net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    net.compile("adam", "mse")
    x, y = data()
    weights = suffix == ".weights.h5"
    callbacks = [
        lib.ModelCheckpoint(tmp_path / f"{name}{suffix}", save_weights_only=weights)
        for name, lib in (("stock", keras.callbacks), ("ours", peakhold.keras))
    ]
    net.fit(x, y, epochs=2, batch_size=8, callbacks=callbacks, verbose=0)

    def content(name):
        with h5py.File(tmp_path / f"{name}{suffix}") as file:
            nodes = {}
            file.visititems(
                lambda path, node: nodes.setdefault(
                    path,
                    (np.array(node).tobytes() if isinstance(node, h5py.Dataset) else None,
                     {key: str(value) for key, value in node.attrs.items()}),
                )
            )  # fmt: skip
            return nodes, {key: str(value) for key, value in file.attrs.items()}

    assert content("ours") == content("stock")
