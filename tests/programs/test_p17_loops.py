"""P17: the hooks called by hand, in loops as people write them: a gradient tape, torch, JAX."""

import csv
import math

import numpy as np
import pytest

import keras
import peakhold
import peakhold.keras
from conftest import BACKEND
from keras_helpers import same, saved_weights
from peakhold.errors import HostError
from peakhold.keras import (
    Callback,
    CallbackList,
    CSVLogger,
    EarlyStopping,
    History,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TerminateOnNaN,
)

if BACKEND == "torch":
    import torch
elif BACKEND == "jax":
    import jax
    import jax.numpy as jnp
else:
    import tensorflow as tf

of_no_framework = pytest.mark.torch_is_enough("which loop a list is in is Python's")


def batches(xy, size=32):
    x, y = xy
    for start in range(0, len(x), size):
        yield x[start : start + size], y[start : start + size]


def train_epoch(model, optimizer, loss_fn, xy):
    """One epoch of the loop that the backend's own guide shows; yields each batch's loss."""
    if BACKEND == "tensorflow":
        for x, y in batches(xy):
            with tf.GradientTape() as tape:
                loss = loss_fn(y, model(x, training=True))
            gradients = tape.gradient(loss, model.trainable_weights)
            optimizer.apply_gradients(zip(gradients, model.trainable_weights, strict=True))
            yield loss
    elif BACKEND == "torch":
        for x, y in batches(xy):
            loss = loss_fn(torch.tensor(y), model(torch.tensor(x), training=True))
            model.zero_grad()
            loss.backward()
            gradients = [weight.value.grad for weight in model.trainable_weights]
            with torch.no_grad():
                optimizer.apply(gradients, model.trainable_weights)
            yield loss
    else:

        def compute_loss(trainable, fixed, x, y):
            predicted, fixed = model.stateless_call(trainable, fixed, x, training=True)
            return loss_fn(y, predicted), fixed

        gradient_of = jax.value_and_grad(compute_loss, has_aux=True)
        trainable = [v.value for v in model.trainable_variables]
        fixed = [v.value for v in model.non_trainable_variables]
        state = [v.value for v in optimizer.variables]
        for x, y in batches(xy):
            (loss, fixed), gradients = gradient_of(trainable, fixed, x, y)
            trainable, state = optimizer.stateless_apply(state, gradients, trainable)
            yield loss
        for variable, value in zip(model.trainable_variables, trainable, strict=True):
            variable.assign(value)
        for variable, value in zip(optimizer.variables, state, strict=True):
            variable.assign(value)


def build():
    """A model that nobody compiles, and its optimizer."""
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def tensor(value):
    return keras.ops.convert_to_tensor(value)


def loop(model, optimizer, callbacks, xy, val_losses, epochs=20):
    """The program; only `val_loss` is scripted, as a 0-d tensor."""
    loss_fn = keras.losses.BinaryCrossentropy()
    seen = {}
    callbacks.on_train_begin()
    for epoch in range(epochs):
        callbacks.on_epoch_begin(epoch)
        for batch, loss in enumerate(train_epoch(model, optimizer, loss_fn, xy)):
            callbacks.on_train_batch_begin(batch)
            callbacks.on_train_batch_end(batch, {"loss": loss})
        callbacks.on_test_begin()
        callbacks.on_test_end()
        seen[epoch] = model.get_weights()
        callbacks.on_epoch_end(epoch, {"loss": loss, "val_loss": tensor(val_losses[epoch])})
        if model.stop_training:
            break
    callbacks.on_train_end()
    return seen


LOSSES = [0.9, 0.5, 0.3, *[0.4] * 20]


class Mine(Callback):
    """A user's own."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def on_train_batch_end(self, batch, logs=None):
        self.calls.append(("batch", batch, float(logs["loss"])))

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(("epoch", epoch, float(logs["val_loss"])))


@pytest.mark.parametrize("kind", [CallbackList, peakhold.CallbackList], ids=["keras", "neutral"])
def test_every_drop_in_works_in_a_loop_by_hand(xy, kind, tmp_path, capsys):
    model, optimizer = build()
    model.compile(optimizer=optimizer)
    mine, history, epochs = Mine(), History(), []
    stopper = EarlyStopping("val_loss", patience=4, restore_best_weights=True, verbose=1)
    saver = ModelCheckpoint(tmp_path / "best_{epoch}.keras", save_best_only=True, verbose=1)
    weights = ModelCheckpoint(tmp_path / "last.weights.h5", save_weights_only=True, save_freq=2)
    plateau = ReduceLROnPlateau("val_loss", factor=0.5, patience=2, verbose=1)
    logger = CSVLogger(tmp_path / "logs" / "log.csv")
    callbacks = kind(
        [
            plateau, stopper, saver, weights, logger, TerminateOnNaN(), mine, history,
            LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append(epoch)),
        ],
        model=model,
    )  # fmt: skip
    seen = loop(model, optimizer, callbacks, xy, LOSSES)
    text = capsys.readouterr().out
    with open(tmp_path / "logs" / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))

    assert list(seen) == epochs == list(range(7))
    assert stopper.stopped_epoch == 6
    assert stopper.best == saver.best == pytest.approx(0.3)
    assert same(model.get_weights(), seen[2])
    assert same(saved_weights(saver.best_path), seen[2])
    assert sorted(p.name for p in tmp_path.glob("*.keras")) == [
        f"best_{n}.keras" for n in (1, 2, 3)
    ]
    fresh, _ = build()
    assert same(saved_weights(tmp_path / "last.weights.h5", fresh), seen[6])
    assert float(optimizer.learning_rate) == pytest.approx(0.1 * 0.5**2)
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([0.1] * 5 + [0.05] * 2)
    assert [float(row["val_loss"]) for row in rows] == pytest.approx(LOSSES[:7])
    assert [int(row["epoch"]) for row in rows] == list(range(7))
    assert history.epoch == list(range(7))
    assert mine.calls[:4] == [("batch", b, pytest.approx(mine.calls[b][2])) for b in range(3)] + [
        ("epoch", 0, pytest.approx(0.9))
    ]
    assert len(mine.calls) == 7 * 4
    assert "\nEpoch 5: ReduceLROnPlateau reducing learning rate to 0.05" in text
    assert "\nEpoch 3: val_loss improved from 0.50000 to 0.30000, saving model to " in text
    assert "\nEpoch 7: early stopping\nRestoring model weights" in text


@of_no_framework
@pytest.mark.parametrize("kind", [CallbackList, peakhold.CallbackList], ids=["keras", "neutral"])
def test_a_second_loop_is_not_stopped_by_the_flag_of_the_first(xy, kind):
    model, optimizer = build()
    for _ in range(2):
        stopper = EarlyStopping("val_loss", patience=1)
        callbacks = kind([stopper], model=model, verbose=0)
        assert len(loop(model, optimizer, callbacks, xy, LOSSES)) == 4
        assert model.stop_training


@of_no_framework
def test_the_same_list_goes_through_a_second_loop(xy):
    """Its callbacks start afresh: what the first loop knew is not in the second one's way."""
    model, optimizer = build()
    stopper = EarlyStopping("val_loss", patience=1, restore_best_weights=True)
    callbacks = CallbackList([stopper], model=model, verbose=0)
    loop(model, optimizer, callbacks, xy, LOSSES)
    seen = loop(model, optimizer, callbacks, xy, [0.95, 0.8, 0.85, 0.9])

    assert len(seen) == 3
    assert stopper.best == pytest.approx(0.8)
    assert same(model.get_weights(), seen[1])


@pytest.mark.parametrize("kind", [CallbackList, peakhold.CallbackList], ids=["keras", "neutral"])
def test_an_optimizer_that_the_model_does_not_hold(xy, kind, tmp_path):
    model, optimizer = build()
    plateau = ReduceLROnPlateau("val_loss", factor=0.5, patience=2)
    logger = CSVLogger(tmp_path / "log.csv")
    callbacks = kind([plateau, logger], model=model, optimizer=optimizer, verbose=0)
    loop(model, optimizer, callbacks, xy, LOSSES, epochs=5)

    assert float(optimizer.learning_rate) == pytest.approx(0.05)
    assert "learning_rate" in (tmp_path / "log.csv").read_text()


@of_no_framework
@pytest.mark.parametrize("kind", [CallbackList, peakhold.CallbackList], ids=["keras", "neutral"])
def test_without_an_optimizer_the_rate_cannot_be_set_and_that_is_said_at_once(xy, kind):
    model, optimizer = build()
    callbacks = kind([ReduceLROnPlateau("loss")], model=model, verbose=0)
    with pytest.raises(HostError, match="ReduceLROnPlateau") as caught:
        callbacks.on_train_begin()

    assert "Hint: " in str(caught.value)


def test_a_schedule_by_epoch_in_a_loop(xy):
    model, optimizer = build()
    model.compile(optimizer=optimizer)
    callbacks = CallbackList(
        [LearningRateScheduler(lambda epoch, lr: lr / 2)], model=model, verbose=0
    )
    loop(model, optimizer, callbacks, xy, LOSSES, epochs=2)

    assert float(optimizer.learning_rate) == pytest.approx(0.025)


def test_a_loss_that_is_no_number_ends_the_loop(xy, capsys):
    x, y = xy
    x = np.where(np.arange(len(x))[:, None] == 50, np.nan, x).astype("float32")
    model, optimizer = build()
    callbacks = CallbackList([TerminateOnNaN()], model=model, verbose=0)
    loss_fn = keras.losses.MeanSquaredError()
    callbacks.on_train_begin()
    done = []
    for batch, loss in enumerate(train_epoch(model, optimizer, loss_fn, (x, y))):
        callbacks.on_train_batch_end(batch, {"loss": loss})
        done.append(batch)
        if model.stop_training:
            break

    assert done == [0, 1]
    assert "Batch 1: Invalid loss, terminating training" in capsys.readouterr().out


def test_hooks_of_one_callback_called_by_hand(xy, tmp_path):
    """No list at all: `set_model`, then the hooks."""
    model, optimizer = build()
    stopper = EarlyStopping("val_loss", patience=1, restore_best_weights=True)
    saver = ModelCheckpoint(tmp_path / "best.keras", save_best_only=True)
    model.stop_training = False
    for callback in (stopper, saver):
        callback.set_model(model)
        callback.on_train_begin()
    loss_fn, seen = keras.losses.BinaryCrossentropy(), {}
    for epoch, value in enumerate(LOSSES):
        for _ in train_epoch(model, optimizer, loss_fn, xy):
            pass
        seen[epoch] = model.get_weights()
        for callback in (stopper, saver):
            callback.on_epoch_end(epoch, {"val_loss": tensor(value)})
        if model.stop_training:
            break
    for callback in (stopper, saver):
        callback.on_train_end()

    assert len(seen) == 4
    assert same(model.get_weights(), seen[2])
    assert same(saved_weights(tmp_path / "best.keras"), seen[2])


# torch, without Keras's model


def torch_program(xy, kind, callbacks, *, epochs=20, model=None, losses=LOSSES):
    """A loop of PyTorch; returns the model, the optimizer and the weights of each epoch."""
    x, y = map(torch.tensor, xy)
    if model is None:
        model = torch.nn.Sequential(
            torch.nn.Linear(2, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 1)
        )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    cbs, seen = kind(callbacks, model=model, optimizer=optimizer), {}
    cbs.on_train_begin()
    for epoch in range(epochs):
        cbs.on_epoch_begin(epoch)
        model.train()
        for batch, (one, label) in enumerate(zip(x.split(32), y.split(32), strict=True)):
            optimizer.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(one), label)
            loss.backward()
            optimizer.step()
            cbs.on_train_batch_end(batch, {"loss": loss})
        seen[epoch] = {key: value.clone() for key, value in model.state_dict().items()}
        cbs.on_epoch_end(epoch, {"loss": loss, "val_loss": torch.tensor(losses[epoch])})
        if cbs.stop_training:
            break
    cbs.on_train_end()
    return model, optimizer, seen


def equal_states(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


torch_only = pytest.mark.skipif(BACKEND != "torch", reason="a program of PyTorch")
both_lists = pytest.mark.parametrize(
    "kind", [CallbackList, peakhold.CallbackList], ids=["keras", "neutral"]
)
both_modules = pytest.mark.parametrize("lib", [peakhold, peakhold.keras], ids=["neutral", "keras"])


@torch_only
@both_lists
@both_modules
def test_a_torch_module_and_its_optimizer(xy, kind, lib, tmp_path):
    from safetensors.torch import load_file

    mine = Mine()
    stopper = lib.EarlyStopping("val_loss", patience=4, restore_best_weights=True)
    plateau = lib.ReduceLROnPlateau("val_loss", factor=0.5, patience=2)
    logger = lib.CSVLogger(tmp_path / "log.csv")
    saver = peakhold.ModelCheckpoint(tmp_path / "best.safetensors", save_best_only=True)
    model, optimizer, seen = torch_program(
        xy, kind, [plateau, stopper, saver, logger, lib.TerminateOnNaN(), mine]
    )
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))

    assert list(seen) == list(range(7))
    assert equal_states(model.state_dict(), seen[2])
    assert equal_states(load_file(tmp_path / "best.safetensors"), seen[2])
    assert saver.best_epoch == 2
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.025)
    assert [float(row["val_loss"]) for row in rows] == pytest.approx(LOSSES[:7])
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([0.1] * 5 + [0.05] * 2)
    assert len(mine.calls) == 7 * 4
    assert all(math.isfinite(value) for _, _, value in mine.calls)


@torch_only
@both_lists
@both_modules
def test_a_second_torch_loop_is_not_stopped_by_the_flag_of_the_first(xy, kind, lib):
    model = torch.nn.Linear(2, 1)
    lengths = [
        len(torch_program(xy, kind, [lib.EarlyStopping("val_loss", patience=1)], model=model)[2])
        for _ in range(2)
    ]

    assert lengths == [4, 4]


@torch_only
@both_lists
def test_the_optimizer_of_torch_goes_back_with_the_weights(xy, kind):
    stopper = peakhold.EarlyStopping(
        "val_loss", patience=2, restore_best_weights=True, restore_optimizer=True
    )
    _, optimizer, seen = torch_program(xy, kind, [stopper])

    assert len(seen) == 5
    assert {int(s["step"]) for s in optimizer.state_dict()["state"].values()} == {3 * 3}


@torch_only
@both_lists
@pytest.mark.parametrize("name", ["best.keras", "best.weights.h5"])
def test_a_file_of_keras_for_a_torch_module_is_refused_before_the_first_epoch(
    xy, kind, name, tmp_path
):
    saver = ModelCheckpoint(tmp_path / name, save_weights_only=name.endswith("weights.h5"))
    with pytest.raises(HostError) as caught:
        torch_program(xy, kind, [saver])

    assert "Sequential" in str(caught.value)
    assert "peakhold.ModelCheckpoint" in str(caught.value)
    assert ".safetensors" in str(caught.value)


# JAX, without Keras's model


def jax_program(xy, kind, callbacks, *, epochs=20, losses=LOSSES, host=None):
    """A functional loop: parameters are a tree that is replaced at each step."""
    x, y = xy
    key = jax.random.key(0)
    holder = {
        "params": {
            "hidden": {"w": jax.random.normal(key, (2, 8)), "b": jnp.zeros(8)},
            "out": (jax.random.normal(key, (8, 1)), jnp.zeros(1)),
        }
    }
    rate = {"lr": 0.1}

    def loss_of(params, x, y):
        hidden = jax.nn.relu(x @ params["hidden"]["w"] + params["hidden"]["b"])
        logits = hidden @ params["out"][0] + params["out"][1]
        return jnp.mean(jnp.logaddexp(0, logits) - y * logits)

    @jax.jit
    def step(params, lr, x, y):
        loss, gradients = jax.value_and_grad(loss_of)(params, x, y)
        return jax.tree.map(lambda p, g: p - lr * g, params, gradients), loss

    host = host or peakhold.LoopHost(
        get_state=lambda: holder["params"],
        set_state=lambda params: holder.update(params=params),
        get_learning_rate=lambda: rate["lr"],
        set_learning_rate=lambda lr: rate.update(lr=lr),
    )
    cbs, seen = kind(callbacks, host=host), {}
    cbs.on_train_begin()
    for epoch in range(epochs):
        cbs.on_epoch_begin(epoch)
        for batch, (one, label) in enumerate(batches((x, y))):
            holder["params"], loss = step(holder["params"], rate["lr"], one, label)
            cbs.on_train_batch_end(batch, {"loss": loss})
        seen[epoch] = jax.tree.map(np.array, holder["params"])
        cbs.on_epoch_end(epoch, {"loss": loss, "val_loss": jnp.asarray(losses[epoch])})
        if cbs.stop_training:
            break
    cbs.on_train_end()
    return holder["params"], rate["lr"], seen, host


def equal_trees(one, other):
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), one, other))
    )


jax_only = pytest.mark.skipif(BACKEND != "jax", reason="a program of JAX")


@jax_only
@both_modules
def test_a_functional_loop_of_jax(xy, lib, tmp_path):
    from safetensors.numpy import load_file

    mine = Mine()
    stopper = lib.EarlyStopping("val_loss", patience=4, restore_best_weights=True)
    plateau = lib.ReduceLROnPlateau("val_loss", factor=0.5, patience=2)
    logger = lib.CSVLogger(tmp_path / "log.csv")
    saver = peakhold.ModelCheckpoint(tmp_path / "best.safetensors", save_best_only=True)
    params, rate, seen, _ = jax_program(
        xy,
        peakhold.CallbackList,
        [plateau, stopper, saver, logger, lib.TerminateOnNaN(), mine],
    )
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    file = load_file(tmp_path / "best.safetensors")

    assert list(seen) == list(range(7))
    assert equal_trees(params, seen[2])
    assert np.array_equal(file["hidden.w"], seen[2]["hidden"]["w"])
    assert np.array_equal(file["out.1"], seen[2]["out"][1])
    assert sorted(file) == ["hidden.b", "hidden.w", "out.0", "out.1"]
    assert rate == pytest.approx(0.025)
    assert [float(row["val_loss"]) for row in rows] == pytest.approx(LOSSES[:7])
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([0.1] * 5 + [0.05] * 2)
    assert len(mine.calls) == 7 * 4


@jax_only
@both_modules
def test_a_second_functional_loop_is_not_stopped_by_the_flag_of_the_first(xy, lib):
    lengths, host = [], None
    for _ in range(2):
        _, _, seen, host = jax_program(
            xy, peakhold.CallbackList, [lib.EarlyStopping("val_loss", patience=1)], host=host
        )
        lengths.append(len(seen))

    assert lengths == [4, 4]
