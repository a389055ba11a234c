"""The curve of K-R1 in every loop: one stop, one best, one cut, however often it was cut off."""

import os

import numpy as np
import pytest

from peakhold import EarlyStopping, Every, LoopHost, ModelCheckpoint, ReduceLROnPlateau, Run
from peakhold.ledger import RunFolder, decisions_of, read_events
from scripted import CURVE

BACKEND = os.environ.get("KERAS_BACKEND", "torch")
LOOPS = {"jax": ["jax"], "tensorflow": ["tape"]}.get(BACKEND, ["torch", "steps"])
ROWS = np.arange(24, dtype="float32").reshape(6, 4) / 24
N_BATCHES = 3


class PowerCut(Exception):
    pass


class Model:
    """A linear model that learns to say nothing, and the rate that it learns with."""

    def given(self):
        """What a run is given."""
        return {"model": self.model, "optimizer": self.optimizer}

    def step(self, batch):
        raise NotImplementedError

    def weights(self):
        raise NotImplementedError


class OfTorch(Model):
    def __init__(self):
        import torch

        torch.manual_seed(0)
        self.model = torch.nn.Linear(4, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def step(self, batch):
        import torch

        self.optimizer.zero_grad()
        loss = self.model(torch.as_tensor(batch)).square().mean()
        loss.backward()
        self.optimizer.step()
        return loss

    def weights(self):
        return self.model.weight.detach().numpy().copy()


class OfJax(Model):
    def __init__(self):
        import jax

        self.state = {"w": jax.random.normal(jax.random.key(0), (4,))}
        self.rate = 0.1
        self.gradient = jax.jit(jax.value_and_grad(lambda w, x: ((x @ w) ** 2).mean()))

    def given(self):
        def set_to(name):
            return lambda value: setattr(self, name, value)

        host = LoopHost(
            get_state=lambda: self.state, set_state=set_to("state"),
            get_learning_rate=lambda: self.rate, set_learning_rate=set_to("rate"),
        )  # fmt: skip
        return {"host": host}

    def step(self, batch):
        loss, gradient = self.gradient(self.state["w"], batch)
        self.state = {"w": self.state["w"] - self.rate * gradient}
        return loss

    def weights(self):
        return np.asarray(self.state["w"])


class OfKeras(Model):
    def __init__(self):
        import keras

        keras.utils.set_random_seed(0)
        self.model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.1)

    def step(self, batch):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.model(batch) ** 2)
        weights = self.model.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    def weights(self):
        return self.model.get_weights()[0]


KINDS = {"torch": OfTorch, "steps": OfTorch, "jax": OfJax, "tape": OfKeras}


def train(folder, kind, cut_at=None):
    """A run along the curve; the power fails in the batch of this number, counted from 0."""
    model = KINDS[kind]()
    suffix = ".keras" if kind == "tape" else ".safetensors"
    stopping = EarlyStopping("val_loss", patience=6, restore_best_weights=True)
    callbacks = [
        ReduceLROnPlateau("val_loss", patience=5, factor=0.5),
        stopping,
        ModelCheckpoint(os.path.join(folder, f"best{suffix}"), "val_loss", save_best_only=True),
    ]
    run = Run(folder, **model.given(), callbacks=callbacks, save_every=Every(batches=1), verbose=0)
    seen = {}

    def batch(number, rows):
        loss = model.step(rows)
        if number == cut_at:
            raise PowerCut
        run.log(loss=loss)

    with run:
        if kind == "steps":
            for rows in run.steps(ROWS.reshape(3, 2, 4), 12 * N_BATCHES):
                number = begun(run)
                batch(number, rows)
                if run.every(steps=N_BATCHES):
                    seen[number // N_BATCHES] = model.weights()
                    run.check(val_loss=CURVE[number // N_BATCHES])
        else:
            for epoch in run.epochs(12):
                for rows in run.batches(ROWS.reshape(3, 2, 4)):
                    batch(begun(run), rows)
                seen[epoch] = model.weights()
                run.log(val_loss=CURVE[epoch])
    return run, stopping, seen, model


def begun(run):
    """Batches that are done, over all starts."""
    return run._loop.place.step


def outcome(folder, run, stopping, model):
    """All that must be the same."""
    cuts = [
        (event["epoch"], one.value)
        for event in read_events(RunFolder(folder).events)
        if event["kind"] == "moment"
        for each in decisions_of(event).values()
        for one in each
        if type(one).__name__ == "SetLearningRate"
    ]
    return {
        "stopped": (stopping.stopped_epoch, stopping.wait, run.stopped_because),
        "best": (stopping.best_epoch, stopping.best, run.best.epoch, run.best.value),
        "cuts": cuts,
        "history": run.history,
        "rows": (folder / "metrics.csv").read_text(),
        "weights": model.weights().tolist(),
    }


@pytest.fixture(scope="module", params=LOOPS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def unbroken(kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    run, stopping, seen, model = train(folder, kind)
    np.testing.assert_array_equal(model.weights(), seen[2])
    return outcome(folder, run, stopping, model)


def test_what_is_decided_is_known(unbroken):
    assert unbroken["stopped"][:2] == (8, 6)
    assert unbroken["best"] == (2, 0.20, 2, 0.20)
    assert [epoch for epoch, _ in unbroken["cuts"]] == [7]
    assert unbroken["history"].history["val_loss"] == list(CURVE[:9])


@pytest.mark.parametrize("cuts", [[4], [8, 9, 21], [20, 22, 24, 26]], ids=str)
def test_cut_off_at_these_batches_it_decides_the_same(kind, unbroken, tmp_path, cuts):
    folder = tmp_path / "run"
    for cut in cuts:
        with pytest.raises(PowerCut):
            train(folder, kind, cut)
    run, stopping, _, model = train(folder, kind)
    assert outcome(folder, run, stopping, model) == unbroken
