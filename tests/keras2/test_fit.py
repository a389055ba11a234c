"""The drop-ins in the `fit` of Keras 2, as strangers' programs call it."""

import csv
import inspect
import os
import pickle

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import keras
import peakhold
from peakhold import keras as for_keras_3
from peakhold import tf_keras as pk
from peakhold.errors import (
    HostError,
    InvalidArgumentError,
    LearningRateScheduleError,
    NeutralCallbackError,
)
from peakhold.host.contract import Host

X = np.random.default_rng(0).normal(size=(48, 3)).astype("float32")
Y = X[:, :1] - X[:, 1:2]
VALIDATION = (X[32:], Y[32:])


def built(optimizer="sgd", **compiled):
    tf_keras.utils.set_random_seed(1)
    model = tf_keras.Sequential([tf_keras.layers.Dense(1, input_shape=(3,))])
    model.compile(optimizer, "mse", **compiled)
    return model


def fit(model, *callbacks, epochs=3, **named):
    named = {"validation_data": VALIDATION, "batch_size": 16, "verbose": 0, **named}
    return model.fit(X[:32], Y[:32], epochs=epochs, callbacks=list(callbacks), **named)


class Scripted(tf_keras.callbacks.Callback):
    """A user's own, that logs what it likes."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["score"] = self.values[epoch]


# Early stopping, rates, files


def test_the_best_weights_come_back_and_are_in_the_file(tmp_path):
    seen = []
    model = built("adam")
    stops = pk.EarlyStopping("score", mode="max", patience=2, restore_best_weights=True)
    noting = tf_keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(model.get_weights())
    )
    history = fit(
        model, Scripted([1, 3, 2, 2, 9]), noting, stops,
        pk.ModelCheckpoint(str(tmp_path / "best.keras"), "score", mode="max", save_best_only=True),
        epochs=5,
    )  # fmt: skip

    assert history.epoch == [0, 1, 2, 3]
    assert (stops.best, stops.best_epoch, stops.stopped_epoch) == (3, 1, 3)
    for now, then in zip(model.get_weights(), seen[1], strict=True):
        np.testing.assert_array_equal(now, then)
    for saved, then in zip(
        tf_keras.models.load_model(tmp_path / "best.keras").get_weights(), seen[1], strict=True
    ):
        np.testing.assert_array_equal(saved, then)


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
@pytest.mark.parametrize("optimizer", ["adam", "legacy", "scaled"])
def test_each_kind_of_file_is_keras_own(tmp_path, suffix, optimizer):
    made = {
        "adam": lambda: "adam",
        "legacy": lambda: tf_keras.optimizers.legacy.Adam(),
        "scaled": lambda: tf_keras.mixed_precision.LossScaleOptimizer(tf_keras.optimizers.Adam()),
    }[optimizer]()
    model, path = built(made), str(tmp_path / f"model{suffix}")
    fit(model, pk.ModelCheckpoint(path, save_weights_only=suffix == ".weights.h5"), epochs=2)

    if suffix == ".weights.h5":
        other = built()
        other.load_weights(path)
    else:
        other, theirs = tf_keras.models.load_model(path), str(tmp_path / f"theirs{suffix}")
        model.save(theirs)  # some of these lose the optimizer's state, and Keras's own do, too
        of_keras = tf_keras.models.load_model(theirs)
        os.remove(theirs)
        assert int(other.optimizer.iterations) == int(of_keras.optimizer.iterations)
        assert optimizer != "adam" or int(other.optimizer.iterations) == 4
    for saved, own in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(saved, own)
    assert sorted(os.listdir(tmp_path)) == [f"model{suffix}", f"model{suffix}.peakhold.json"]


def test_saves_that_count_batches(tmp_path):
    fit(built(), pk.ModelCheckpoint(str(tmp_path / "{epoch}_{batch}.keras"), save_freq=3), epochs=3)

    assert sorted(p.name for p in tmp_path.glob("*.keras")) == ["2_1.keras", "3_2.keras"]


@pytest.mark.parametrize("legacy", [False, True])
def test_a_rate_is_lowered(tmp_path, legacy):
    optimizer = (tf_keras.optimizers.legacy if legacy else tf_keras.optimizers).SGD(0.5)
    model = built(optimizer)
    fit(
        model, Scripted([1, 2, 3, 4]),
        pk.ReduceLROnPlateau("score", mode="min", patience=1, factor=0.5),
        pk.CSVLogger(str(tmp_path / "log.csv")), epochs=4,
    )  # fmt: skip

    assert float(model.optimizer.learning_rate) == 0.0625
    rows = list(csv.DictReader(open(tmp_path / "log.csv")))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert {"loss", "val_loss", "score"} <= rows[0].keys()


def test_a_schedule_sets_the_rate():
    model = built()
    fit(model, pk.LearningRateScheduler(lambda epoch, rate: 0.5 / (epoch + 1)), epochs=2)

    assert float(model.optimizer.learning_rate) == 0.25


@pytest.mark.parametrize("legacy", [False, True])
def test_a_rate_that_a_schedule_owns_is_refused(legacy):
    optimizers = tf_keras.optimizers.legacy if legacy else tf_keras.optimizers
    model = built(optimizers.SGD(tf_keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)))

    with pytest.raises(LearningRateScheduleError, match="got learning_rate=ExponentialDecay"):
        fit(model, pk.ReduceLROnPlateau("val_loss"))


def test_a_loss_that_is_nan_ends_training():
    model = built("sgd")
    history = fit(
        model, pk.TerminateOnNaN(), tf_keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: epoch == 1 and model.layers[0].kernel.assign(
                np.full((3, 1), np.nan, "float32"))), epochs=5,
    )  # fmt: skip

    assert history.epoch == [0, 1]


def test_a_mistyped_monitor_is_told_by_its_neighbours():
    with pytest.raises(peakhold.errors.MonitorNotFoundError, match="val_los"):
        fit(built(metrics=["mae"]), pk.EarlyStopping("val_los", mode="min", patience=1), epochs=2)


def test_averages_of_the_optimizer_are_restored():
    model = built(tf_keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5))
    stops = pk.EarlyStopping("score", mode="max", patience=1, restore_best_weights=True)
    fit(model, Scripted([1, 3, 2, 2]), stops, epochs=4)

    average = model.optimizer._model_variables_moving_average[0].numpy()
    np.testing.assert_array_equal(model.layers[0].kernel.numpy(), average)


# Resume in one process


def test_a_run_that_raised_goes_on(tmp_path):
    def run(model, stop_at=None):
        def stop(epoch, logs):
            if epoch == stop_at:
                raise KeyboardInterrupt

        backup = pk.BackupAndRestore(str(tmp_path))
        return fit(model, backup, tf_keras.callbacks.LambdaCallback(on_epoch_begin=stop), epochs=4)

    whole, model = fit(built("adam"), epochs=4), built("adam")
    with pytest.raises(KeyboardInterrupt):
        run(built("adam"), stop_at=2)
    history = run(model)

    assert history.epoch == [0, 1, 2, 3]
    assert history.history == whole.history
    assert model._training_state is None


def test_what_cannot_be_repeated_is_said(tmp_path):
    tf_keras.utils.set_random_seed(1)
    model = tf_keras.Sequential(
        [tf_keras.layers.Dropout(0.5, input_shape=(3,)), tf_keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")

    said = pk.TFKerasHost(model).resumption().unrepeatable()

    assert "enable_tf_random_generator()" in said


# Strangers' programs


def test_a_model_of_ones_own_with_a_step_of_its_own(tmp_path):
    class Own(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = tf_keras.layers.Dense(1)
            self.tracker = tf_keras.metrics.Mean(name="own_loss")

        def call(self, x):
            return self.dense(x)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
            grads = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(grads, self.trainable_variables, strict=True))
            self.tracker.update_state(loss)
            return {"own_loss": self.tracker.result()}

        @property
        def metrics(self):
            return [self.tracker]

    model = Own()
    model.compile("adam")
    path = str(tmp_path / "w.weights.h5")
    stops = pk.EarlyStopping("own_loss", mode="min", patience=5, restore_best_weights=True)
    history = fit(
        model, stops, pk.ModelCheckpoint(path, "own_loss", save_best_only=True, mode="min",
                                         save_weights_only=True),
        pk.BackupAndRestore(str(tmp_path / "backup")), validation_data=None,
    )  # fmt: skip

    assert stops.best == min(history.history["own_loss"])
    assert os.path.exists(path)


def test_a_subclass_of_ours_and_keras_own_beside_it(tmp_path):
    class Talking(pk.EarlyStopping):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            heard.append((epoch, self.wait, type(self.model).__name__))

    heard = []
    stops = Talking("score", mode="max", patience=3)
    fit(
        built(), Scripted([3, 2, 1]), stops,
        tf_keras.callbacks.CSVLogger(str(tmp_path / "keras.csv")), epochs=3,
    )  # fmt: skip

    assert heard == [(0, 0, "Sequential"), (1, 1, "Sequential"), (2, 2, "Sequential")]
    assert isinstance(stops, tf_keras.callbacks.EarlyStopping)
    assert pickle.loads(pickle.dumps(pk.EarlyStopping("loss"))).patience == 0


def test_a_hook_of_ones_own_is_told_of_each_batch():
    class Counting(pk.Callback):
        batches = 0

        def on_train_batch_end(self, batch, logs=None):
            self.batches += 1
            self.loss = logs["loss"]

    counting = Counting()
    fit(built(), counting, epochs=2)

    assert counting.batches == 4
    assert isinstance(float(counting.loss), float)


def test_evaluate_and_predict_take_them():
    model = built()
    model.evaluate(X, Y, verbose=0, callbacks=[pk.TerminateOnNaN(), pk.EarlyStopping("loss")])
    model.predict(X, verbose=0, callbacks=[pk.EarlyStopping("loss")])


def test_names_that_keras_keeps_to_itself_are_errors_with_a_hint():
    with pytest.raises(AttributeError, match=r"a private part of tf_keras.callbacks.ModelCheckpoi"):
        _ = pk.ModelCheckpoint("m.keras")._save_handler


def test_a_neutral_callback_is_adapted_and_in_a_loop_of_ones_own_it_needs_nothing(tmp_path):
    neutral = peakhold.EarlyStopping("score", mode="max", patience=1)
    with pytest.raises(NeutralCallbackError, match="from peakhold.tf_keras import EarlyStopping"):
        fit(built(), neutral)
    stops = pk.adapt(peakhold.EarlyStopping("score", mode="max", patience=1))
    assert fit(built(), Scripted([2, 1, 1]), stops).epoch == [0, 1]
    with pytest.raises(InvalidArgumentError, match="a callback of Peakhold or Keras"):
        pk.adapt(3)

    model = built()
    loop = peakhold.CallbackList(
        [peakhold.EarlyStopping("loss", patience=1, restore_best_weights=True)],
        model=model, epochs=4, verbose=0,
    )  # fmt: skip
    loop.on_train_begin()
    for epoch in range(4):
        loop.on_epoch_begin(epoch)
        model.layers[0].bias.assign([float(epoch)])
        loop.on_epoch_end(epoch, {"loss": [1.0, 0.5, 0.7, 0.7][epoch]})
        if loop.stop_training:
            break
    loop.on_train_end()
    assert epoch == 2
    assert model.layers[0].bias.numpy() == [1.0]


# The one for the other


def test_callbacks_for_keras_3_in_the_fit_of_keras_2(tmp_path):
    with pytest.raises(HostError) as caught:
        fit(built(), for_keras_3.EarlyStopping("loss"))

    assert str(caught.value) == (
        "expected a model of Keras 3 for EarlyStopping, got Sequential of tf_keras.\n"
        "Hint: from peakhold.tf_keras import EarlyStopping"
    )
    with pytest.raises(HostError, match=r"peakhold\.tf_keras has no TensorBoard"):
        fit(built(), for_keras_3.TensorBoard(str(tmp_path)))


def test_callbacks_for_keras_2_in_the_fit_of_keras_3():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")

    with pytest.raises(HostError) as caught:
        model.fit(X, Y, verbose=0, callbacks=[pk.EarlyStopping("loss")])

    assert str(caught.value) == (
        "expected a model of Keras 2 for EarlyStopping, got Sequential of keras.\n"
        "Hint: from peakhold.keras import EarlyStopping"
    )


# What of TensorFlow and of Keras is private, and is there


def test_what_is_private_is_there():
    from tensorflow.python.distribute import values
    from tensorflow.python.eager import context

    assert callable(values.SyncOnReadVariable._get_cross_replica)
    assert callable(context.global_seed)
    model = built()
    assert model._training_state is None
    assert callable(model._flatten_layers)
    assert callable(tf_keras.callbacks.Callback._implements_train_batch_hooks)
    assert tf_keras.layers.Dropout(0.5)._random_generator._rng_type


def test_its_host_takes_what_the_contract_says():
    for name, method in inspect.getmembers(Host, inspect.isfunction):
        if name[0] != "_":
            theirs = inspect.signature(getattr(pk.TFKerasHost, name)).parameters
            assert list(theirs) == list(inspect.signature(method).parameters), name


def test_one_package_has_what_the_other_has():
    apart = {
        "Batches", "CallbackList", "KerasHost", "SwapEMAWeights", "TensorBoard",
        "production_callbacks", "watch_gradients",
    }  # fmt: skip
    assert {*for_keras_3.__all__} - {*pk.__all__} == apart
    assert {*pk.__all__} - {*for_keras_3.__all__} == {"TFKerasHost"}
