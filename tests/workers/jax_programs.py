"""Programs of several workers on JAX, each a function of its rank: `forked.py` runs them."""

import functools
import glob
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
from exchange_cost import medians
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from peakhold import (
    BackupAndRestore,
    CallbackList,
    CSVLogger,
    EarlyStopping,
    Every,
    LoopHost,
    ModelCheckpoint,
    ReduceLROnPlateau,
    Run,
)
from peakhold.distributed import Mean

HEARTBEAT_S = 10


def join(rank, ports, n_devices=None):
    """This process is one of as many as there are ports."""
    if n_devices is not None:
        jax.config.update("jax_num_cpu_devices", n_devices)
    jax.distributed.initialize(
        f"127.0.0.1:{ports[0]}", len(ports), rank,
        heartbeat_timeout_seconds=HEARTBEAT_S, shutdown_timeout_seconds=HEARTBEAT_S,
    )  # fmt: skip


def leaves_as_programs_do(function):
    """With the shutdown that JAX has Python do at exit, at which all wait for all."""

    @functools.wraps(function)
    def called(*args):
        try:
            return function(*args)
        finally:
            jax.distributed.shutdown()

    return called


def data_of(rank, rows=64):
    x = np.random.default_rng(rank).normal(size=(rows, 8)).astype("float32")
    noise = np.random.default_rng(100 + rank).normal(size=rows).astype("float32")
    return x, x[:, 0] - x[:, 1] + 0.5 * noise


class Training:
    """Linear regression on the data of all processes; its weights are arrays of all of them."""

    def __init__(self, rank):
        self.mesh = Mesh(np.array(jax.devices()), ("workers",))
        self.whole = NamedSharding(self.mesh, PartitionSpec())
        self.parts = NamedSharding(self.mesh, PartitionSpec("workers"))
        self.x, self.y = (self._shared(part) for part in data_of(rank))
        self.val_x, self.val_y = data_of(rank + 10, 16 + 8 * rank)
        start = {"w": np.zeros(8, "float32"), "b": np.zeros((), "float32")}
        self.params = jax.device_put(start, self.whole)
        self.rate = 0.9
        self.step = jax.jit(self._step, out_shardings=(self.whole, self.whole))

    def _shared(self, own):
        return jax.make_array_from_process_local_data(self.parts, own)

    def _step(self, params, rate, x, y):
        def loss_of(params):
            return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)

        loss, gradients = jax.value_and_grad(loss_of)(params)
        return jax.tree.map(lambda p, g: p - rate * g, params, gradients), loss

    def set_params(self, params):
        self.params = params

    def set_rate(self, rate):
        self.rate = rate

    def host(self):
        return LoopHost(
            get_state=lambda: self.params, set_state=self.set_params,
            get_learning_rate=lambda: self.rate, set_learning_rate=self.set_rate,
        )  # fmt: skip

    def train_epoch(self):
        self.params, loss = self.step(self.params, self.rate, self.x, self.y)
        return float(loss)

    def validate(self):
        """On this process's own data: another number on each."""
        w, b = (np.asarray(self.params[name]) for name in "wb")
        return float(np.mean((self.val_x @ w + b - self.val_y) ** 2))


@leaves_as_programs_do
def loop(rank, ports, folder, epochs, kill_in_epoch=None, spread=False):
    """A loop of one's own; in an epoch all are killed."""
    join(rank, ports)
    training = Training(rank)
    if spread:
        training.params["w"] = jax.device_put(np.zeros(8, "float32"), training.parts)
    stops = EarlyStopping("val_loss", patience=4, restore_best_weights=True)
    saves = ModelCheckpoint(f"{folder}/best.safetensors", monitor="val_loss", save_best_only=True)
    callbacks = CallbackList(
        [
            ReduceLROnPlateau("val_loss", patience=1, factor=0.5),
            stops,
            saves,
            CSVLogger(f"{folder}/log.csv", append=True),
            BackupAndRestore(f"{folder}/backup", delete_checkpoint=False),
        ],
        host=training.host(), epochs=epochs, verbose=0,
    )  # fmt: skip
    callbacks.on_train_begin()
    ran, local = [], []
    for epoch in range(callbacks.initial_epoch, epochs):
        callbacks.on_epoch_begin(epoch)
        if epoch == 0:
            training.rate = 1.1  # which diverges until it is lowered
        loss = training.train_epoch()
        local.append(training.validate())
        if epoch == kill_in_epoch:
            os.kill(os.getpid(), signal.SIGKILL)
        logs = {"loss": loss, "val_loss": Mean(local[-1], weight=len(training.val_y))}
        callbacks.on_epoch_end(epoch, logs)
        ran.append(epoch)
        if callbacks.stop_training:
            break
    callbacks.on_train_end()
    report = {
        "ran": ran, "local": local, "best": stops.best, "best_epoch": stops.best_epoch,
        "stopped": stops.stopped_epoch, "rate": training.rate, "path": saves.latest_path,
        "weights": np.asarray(training.params["w"]).tolist(),
        "sharding": str(training.params["w"].sharding),
        "own_random": np.random.default_rng(rank).random(),
    }  # fmt: skip
    jax.distributed.shutdown()  # where all wait for the last file
    report["files"] = sorted(os.path.basename(path) for path in glob.glob(f"{folder}/*"))
    return report


class PowerCut(Exception):
    """Ends the process's part in a run, on all processes at one place."""


@leaves_as_programs_do
def in_runs(rank, ports, folder):
    """A `Run` that is unbroken, and one that is broken off inside an epoch and goes on."""
    join(rank, ports)
    unbroken = _in_run(rank, f"{folder}/unbroken")
    try:
        _in_run(rank, f"{folder}/broken", cut=(2, 5))
    except PowerCut:
        resumed = _in_run(rank, f"{folder}/broken")
    return unbroken, resumed


def _in_run(rank, folder, cut=None):
    training, n_batches = Training(rank), 0
    np.random.seed(rank)  # noqa: NPY002 - as many programs draw
    with Run(folder, state=training.params, monitor="val_loss", patience=5, verbose=0,
             save_every=Every(batches=2)) as run:  # fmt: skip
        for epoch in run.epochs(4):
            for batch, _ in enumerate(run.batches(range(7))):
                n_batches += 1
                if (epoch, batch) == cut:
                    raise PowerCut
                run.state, loss = training.step(run.state, 0.1, training.x, training.y)
                run.log(loss=loss.addressable_data(0), own=np.random.random() + rank)  # noqa: NPY002
            training.params = run.state
            run.log(val_loss=training.validate())
    best = str(run.best).replace(folder, "")
    state = {name: np.asarray(one.addressable_data(0)).tolist() for name, one in run.state.items()}
    return [best, run.history.history, state], n_batches


# keras.distribution: `fit` in one process of several devices, and in several processes


@leaves_as_programs_do
def fit(rank, ports, folder, epochs, layout="data", kill_in_epoch=None):
    """`fit` under `keras.distribution`; with several ports each is a process of one device."""
    if len(ports) > 1:
        join(rank, ports)
    else:
        jax.config.update("jax_num_cpu_devices", 4)
    import tensorflow as tf

    import keras
    from peakhold import keras as peakhold_keras

    devices = keras.distribution.list_devices()
    if layout == "data":
        distribution = keras.distribution.DataParallel(devices=devices)
    else:
        mesh = keras.distribution.DeviceMesh((1, len(devices)), ("batch", "model"), devices)
        layouts = keras.distribution.LayoutMap(mesh)
        layouts[".*kernel"] = (None, "model")
        distribution = keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
    keras.distribution.set_distribution(distribution)
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.25),
            keras.layers.Dense(4),
        ]
    )
    model.compile(keras.optimizers.Adam(0.3), "mse", metrics=["mae"])

    def dataset(seed, rows):
        x, y = data_of(seed, rows)
        y = np.repeat(y[:, None], 4, axis=1)
        return tf.data.Dataset.from_tensor_slices((x, y)).batch(16)

    stops = peakhold_keras.EarlyStopping("val_loss", patience=3, restore_best_weights=True)
    saves = peakhold_keras.ModelCheckpoint(
        f"{folder}/best.keras", monitor="val_loss", save_best_only=True
    )
    callbacks = [
        peakhold_keras.ReduceLROnPlateau("val_loss", patience=1, factor=0.5),
        stops,
        saves,
        peakhold_keras.CSVLogger(f"{folder}/log.csv", append=True),
        peakhold_keras.BackupAndRestore(f"{folder}/backup", delete_checkpoint=False),
        KilledInEpoch(kill_in_epoch),
    ]
    history = model.fit(
        dataset(1, 128), validation_data=dataset(2, 64), epochs=epochs, callbacks=callbacks,
        verbose=0, shuffle=False,
    )  # fmt: skip
    report = {
        "val_loss": history.history["val_loss"], "epochs": history.epoch,
        "best": stops.best, "best_epoch": stops.best_epoch,
        "rate": float(model.optimizer.learning_rate), "size": len(ports),
        "weights": [np.asarray(w).tolist() for w in model.get_weights()],
        "shared": not model.weights[0].value.is_fully_addressable,
        "in_parts": not model.weights[0].value.is_fully_replicated,
        "file": [np.asarray(w).tolist() for w in _plain_weights(f"{folder}/best.keras")],
    }  # fmt: skip
    if len(ports) > 1:
        jax.distributed.shutdown()  # where all wait for the last file
    report["files"] = sorted(os.path.basename(path) for path in glob.glob(f"{folder}/*"))
    return report


def _plain_weights(path):
    """The weights in a file, as HDF5 has them: nothing of Keras's or ours reads it."""
    import io
    import zipfile

    import h5py

    with zipfile.ZipFile(path) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    found = []
    with h5py.File(content) as file:
        file["layers"].visititems(
            lambda name, node: found.append(node[()]) if hasattr(node, "shape") else None
        )
    return found


def KilledInEpoch(epoch):
    import keras

    class Killed(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if self.epoch == epoch and batch == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

    return Killed()


def left_alone(rank, ports, folder):
    """Process 1 is killed; process 0 waits for it in a round."""
    join(rank, ports)
    callbacks = CallbackList([EarlyStopping("val_loss")], epochs=9, verbose=0)
    callbacks.on_train_begin()
    for epoch in range(9):
        callbacks.on_epoch_begin(epoch)
        if rank == 1 and epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        callbacks.on_epoch_end(epoch, {"loss": 1.0, "val_loss": 1.0 / (epoch + 1)})
    raise AssertionError("nobody has missed process 1")


@leaves_as_programs_do
def page(rank, ports, path, folder):
    """The program of a page of the docs, as one of several."""
    from house.run_pages import blocks

    os.environ |= {
        "PROCESSES": str(len(ports)),
        "PROCESS": str(rank),
        "COORDINATOR": f"127.0.0.1:{ports[0]}",
    }
    os.chdir(folder)
    with open(path) as file:
        ((_, _, _, source, _),) = blocks(file.read())
    names = {}
    exec(source, names)
    stopping = names["stopping"]
    return [stopping.best, stopping.best_epoch, stopping.stopped_epoch]


@leaves_as_programs_do
def rounds(rank, ports, count):
    """Seconds of a round, and of JAX's own smallest collective."""
    from jax.experimental import multihost_utils

    from peakhold.distributed.finding import coordinator_for

    join(rank, ports)
    workers = coordinator_for(None, {"jax": ""}, str)
    workers.meet({})
    taken = medians(workers, lambda: multihost_utils.process_allgather(jnp.ones(2)), count)
    workers.close()
    return taken
