"""Programs of several workers on TensorFlow, each a function of its rank: `forked.py` runs them."""

import contextlib
import glob
import json
import os
import signal

import numpy as np
import tensorflow as tf
from exchange_cost import medians

import keras
from peakhold import Every, Run
from peakhold import keras as ours
from peakhold.distributed import Mean


def join(rank, ports):
    """This process is one of as many as there are ports."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": cluster, "task": {"type": "worker", "index": rank}}
    )
    return tf.distribute.MultiWorkerMirroredStrategy()


def data_of(rank, rows=64):
    x = np.random.default_rng(rank).normal(size=(rows, 8)).astype("float32")
    noise = np.random.default_rng(100 + rank).normal(size=(rows, 1)).astype("float32")
    return x, x[:, :1] - x[:, 1:2] + 0.5 * noise


def built(metrics=None):
    """A model with an optimizer, in the scope of a strategy."""
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(),  # each worker has statistics of its own
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(0.3), "mse", metrics=metrics, jit_compile=False)
    return model


def callbacks_in(folder):
    stops = ours.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    saves = ours.ModelCheckpoint(f"{folder}/best.keras", monitor="val_loss", save_best_only=True)
    return stops, [
        ours.ReduceLROnPlateau("val_loss", patience=1, factor=0.5),
        stops,
        saves,
        ours.CSVLogger(f"{folder}/log.csv", append=True),
        ours.BackupAndRestore(f"{folder}/backup", delete_checkpoint=False),
    ]


def loop(rank, ports, folder, epochs, kill_in_epoch=None, in_scope=False):
    """A loop of one's own under MultiWorkerMirroredStrategy; in an epoch all are killed."""
    strategy = join(rank, ports)
    with strategy.scope():
        model = built(metrics=["mae"])
        model.optimizer.build(model.trainable_variables)
        passed = keras.metrics.Mean()  # SyncOnRead: reading it is for all workers
    x, y = data_of(rank)
    x, y = tf.constant(x + rank), tf.constant(y)
    val_x, val_y = data_of(rank + 10, 16 + 8 * rank)

    @tf.function
    def step():
        def replica():
            with tf.GradientTape() as tape:
                errors = tf.square(model(x, training=True) - y)
                loss = tf.reduce_sum(errors) / (64 * strategy.num_replicas_in_sync)
            gradients = tape.gradient(loss, model.trainable_variables)
            model.optimizer.apply_gradients(zip(gradients, model.trainable_variables))
            passed.update_state(errors)

        strategy.run(replica)

    stops, callbacks = callbacks_in(folder)
    with strategy.scope() if in_scope else open(os.devnull):
        callbacks = ours.CallbackList(callbacks, model=model, epochs=epochs, verbose=0)
        callbacks.on_train_begin()
        ran, local = [], []
        for epoch in range(callbacks.initial_epoch, epochs):
            callbacks.on_epoch_begin(epoch)
            passed.reset_state()
            for _ in range(4):
                step()
            local.append(float(np.mean((model(val_x).numpy() - val_y) ** 2)))
            if epoch == kill_in_epoch:
                os.kill(os.getpid(), signal.SIGKILL)
            logs = {"loss": float(passed.result()), "val_loss": Mean(local[-1], len(val_y))}
            callbacks.on_epoch_end(epoch, logs)
            ran.append(epoch)
            if callbacks.stop_training:
                break
        callbacks.on_train_end()
    report = {
        "ran": ran, "local": local, "best": stops.best, "best_epoch": stops.best_epoch,
        "rate": float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)),
        "weights": [w.numpy().tolist() for w in model.trainable_weights],
        "statistics": [w.numpy().tolist() for w in model.non_trainable_weights],
    }  # fmt: skip
    ended_together(rank, len(ports))
    report["files"] = sorted(os.path.basename(path) for path in glob.glob(f"{folder}/*"))
    return report


class PowerCut(Exception):
    """Ends the process's part in a run, on all processes at one place."""


def in_runs(rank, ports, folder):
    """A `Run` that is unbroken, and one that is broken off inside an epoch and goes on."""
    strategy = join(rank, ports)
    unbroken = _in_run(strategy, rank, f"{folder}/unbroken")
    try:
        _in_run(strategy, rank, f"{folder}/broken", cut=(1, 5))
    except PowerCut:
        resumed = _in_run(strategy, rank, f"{folder}/broken")
    ended_together(rank, len(ports))
    return unbroken, resumed


def _in_run(strategy, rank, folder, cut=None):
    with strategy.scope():
        model = built(metrics=["mae"])
        model.optimizer.build(model.trainable_variables)
    x, y = data_of(rank)
    x, y = tf.constant(x + rank), tf.constant(y)
    val_x, val_y = data_of(rank + 10, 16 + 8 * rank)

    @tf.function
    def step():
        def replica():
            with tf.GradientTape() as tape:
                errors = tf.square(model(x, training=True) - y)
                loss = tf.reduce_sum(errors) / (64 * strategy.num_replicas_in_sync)
            gradients = tape.gradient(loss, model.trainable_variables)
            model.optimizer.apply_gradients(zip(gradients, model.trainable_variables))
            return loss

        return strategy.run(replica)

    n_batches = 0
    with Run(folder, model=model, optimizer=model.optimizer, monitor="val_loss", patience=5,
             verbose=0, save_every=Every(batches=2)) as run:  # fmt: skip
        for epoch in run.epochs(3):
            for batch in run.batches(range(7)):
                n_batches += 1
                if (epoch, batch) == cut:
                    raise PowerCut
                run.log(loss=strategy.reduce("SUM", step(), axis=None))
            run.log(val_loss=tf.reduce_mean(tf.square(model(val_x) - val_y)))
    best = str(run.best).replace(folder, "")
    return [best, run.history.history, [w.tolist() for w in model.get_weights()]], n_batches


def ended_together(rank, size):
    """A worker that ends takes the cluster with it, most of all the first: it is the last to end."""
    from tensorflow.python.eager import context

    if rank:
        with contextlib.suppress(tf.errors.UnavailableError):  # the first one has heard, and gone
            context.context().set_config_key_value(f"ended/{rank}", "")
        return
    for other in range(1, size):
        context.context().get_config_key_value(f"ended/{other}", 60_000)


def fit(rank, ports, folder, epochs):
    """`fit` under MirroredStrategy: one process, two replicas."""
    tf.config.threading.set_inter_op_parallelism_threads(2)  # the replicas wait for one another
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    stops, callbacks = callbacks_in(folder)
    val_loss, evaluated = _fitted(strategy, callbacks, epochs)
    keras_own = [
        keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, factor=0.5),
        keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True),
    ]
    return {
        "replicas": strategy.num_replicas_in_sync,
        "val_loss": val_loss, "best": stops.best, "best_epoch": stops.best_epoch,
        "evaluated": evaluated, "by_keras": _fitted(strategy, keras_own, epochs),
        "files": sorted(os.path.basename(path) for path in glob.glob(f"{folder}/*")),
    }  # fmt: skip


def _fitted(strategy, callbacks, epochs):
    """The validation's losses, and that of the model when `fit` has ended."""
    with strategy.scope():
        model = built(metrics=["mae"])
    x, y = data_of(1, 66)
    history = model.fit(
        x, y, validation_data=data_of(2, 33), batch_size=16, epochs=epochs, callbacks=callbacks,
        verbose=0, shuffle=False,
    )  # fmt: skip
    return history.history["val_loss"], model.evaluate(*data_of(2, 33), batch_size=16, verbose=0)[0]


def refused(rank, ports, folder):
    """What cannot work: the errors of Keras 3's `fit`, and of a state that all must read at once."""
    strategy = join(rank, ports)
    with strategy.scope():
        model = built()
    errors = []
    for builds in (True, False):  # mostly Keras's own error comes before any of our code can run
        if not builds:
            model._maybe_symbolic_build = lambda **_: None
        try:
            model.fit(*data_of(rank), callbacks=[ours.CSVLogger(f"{folder}/log.csv")], verbose=0)
        except Exception as error:
            errors.append([type(error).__name__, str(error)])
    with strategy.scope():
        model = Summing()
        model.build((None, 8))
    try:
        backup = ours.BackupAndRestore(f"{folder}/backup")
        ours.CallbackList([backup], model=model, epochs=2, verbose=0).on_train_begin()
    except Exception as error:
        errors.append([type(error).__name__, str(error)])
    ended_together(rank, len(ports))
    return errors


class Summing(keras.Model):
    """With a weight that is the sum of what the workers have."""

    def build(self, shape):
        self.total = keras.Variable(
            1.0, name="total", synchronization="on_read", aggregation="sum", trainable=False
        )
        super().build(shape)

    def call(self, x):
        return x


def left_alone(rank, ports):
    """Worker 1 is killed; worker 0 waits for it in a round."""
    strategy = join(rank, ports)
    with strategy.scope():
        model = built()
    callbacks = [ours.EarlyStopping("val_loss")]
    callbacks = ours.CallbackList(callbacks, model=model, epochs=9, verbose=0)
    callbacks.on_train_begin()
    for epoch in range(9):
        callbacks.on_epoch_begin(epoch)
        if rank == 1 and epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        callbacks.on_epoch_end(epoch, {"loss": 1.0, "val_loss": 1.0 / (epoch + 1)})
    raise AssertionError("nobody has missed worker 1")


def page(rank, ports, path, folder):
    """The program of a page of the docs, as one of several."""
    from house.run_pages import blocks

    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    task = {"type": "worker", "index": rank}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
    os.chdir(folder)
    with open(path) as file:
        (source,) = [block[3] for block in blocks(file.read()) if block[0] == "python"]
    names = {}
    exec(source, names)
    ended_together(rank, len(ports))
    stopping = names["stopping"]
    return [stopping.best, stopping.best_epoch, stopping.stopped_epoch]


def rounds(rank, ports, count):
    """Seconds of a round, and of TensorFlow's own smallest collective."""
    from peakhold.distributed.finding import coordinator_for

    strategy, one = join(rank, ports), tf.constant([1.0, 1.0])

    def sum_of_all():
        replica = tf.distribute.get_replica_context
        strategy.run(lambda: replica().all_reduce(tf.distribute.ReduceOp.SUM, one))

    workers = coordinator_for(None, {"tensorflow": ""}, str)
    workers.meet({})
    taken = medians(workers, sum_of_all, count)
    ended_together(rank, len(ports))
    return taken
