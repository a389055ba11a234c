"""A Keras model in a loop that somebody wrote, under the kit that we ship for hosts."""

import numpy as np

import keras
from peakhold.keras import KerasHost
from peakhold.testing import HostTests

ROWS = np.linspace(-1, 1, 24, dtype="float32").reshape(6, 4)


class Loop:
    """A model, its optimizer, and a step as this backend makes it: on TensorFlow, with a tape."""

    def __init__(self):
        self.model = keras.Sequential(
            [
                keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.3), keras.layers.Dense(1),
            ]
        )  # fmt: skip
        self.optimizer = keras.optimizers.Adam(0.05)
        self.step = getattr(self, f"_step_of_{keras.backend.backend()}")

    def _step_of_tensorflow(self):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.model(ROWS, training=True) ** 2)
        weights = self.model.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

    def _step_of_torch(self):
        import torch

        self.model.zero_grad()
        self.model(ROWS, training=True).square().mean().backward()
        weights = self.model.trainable_variables
        with torch.no_grad():
            self.optimizer.apply([one.value.grad for one in weights], weights)

    def _step_of_jax(self):
        import jax

        weights, others = self.model.trainable_variables, self.model.non_trainable_variables

        def loss_of(values):
            scores, changed = self.model.stateless_call(
                values, [one.value for one in others], ROWS, training=True
            )
            return (scores**2).mean(), changed

        gradients, changed = jax.grad(loss_of, has_aux=True)([one.value for one in weights])
        self.optimizer.apply(gradients, weights)
        for variable, value in zip(others, changed, strict=True):
            variable.assign(value)


class TestKerasHost(HostTests):
    def start(self):
        return Loop()

    def host(self, loop):
        return KerasHost(loop.model, loop.optimizer)

    def step(self, loop):
        loop.step()

    def live(self, loop):
        optimizer = [keras.ops.convert_to_numpy(one) for one in loop.optimizer.variables]
        return {"weights": loop.model.get_weights(), "optimizer": optimizer}

    def rates(self, loop):
        return {"": float(loop.optimizer.learning_rate)}

    def load(self, loop, path):
        if path.endswith(".weights.h5"):
            loop.model.load_weights(path)
        else:
            loop.model.set_weights(keras.saving.load_model(path).get_weights())
