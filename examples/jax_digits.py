"""Digits in a JAX loop: the callbacks reach the state through four functions.

pip install peakhold jax scikit-learn, then python jax_digits.py
"""

import jax
import jax.numpy as jnp
from sklearn.datasets import load_digits

from peakhold import CallbackList, EarlyStopping, LoopHost, ModelCheckpoint, ReduceLROnPlateau

EPOCHS = 200


class Training:
    """What changes while training: parameters and the learning rate."""

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.rate = 0.5
        self.params = {
            "hidden": {"w": 0.2 * jax.random.normal(first, (64, 32)), "b": jnp.zeros(32)},
            "scores": {"w": 0.2 * jax.random.normal(second, (32, 10)), "b": jnp.zeros(10)},
        }

    def set_params(self, params):
        self.params = params

    def set_rate(self, rate):
        self.rate = rate

    def host(self):
        """How callbacks reach this."""
        return LoopHost(
            get_state=lambda: self.params,
            set_state=self.set_params,
            get_learning_rate=lambda: self.rate,
            set_learning_rate=self.set_rate,
        )


def scores(params, x):
    hidden = jax.nn.relu(x @ params["hidden"]["w"] + params["hidden"]["b"])
    return hidden @ params["scores"]["w"] + params["scores"]["b"]


@jax.jit
def loss_of(params, x, y):
    log_probabilities = jax.nn.log_softmax(scores(params, x))
    return -jnp.take_along_axis(log_probabilities, y[:, None], axis=1).mean()


@jax.jit
def accuracy_of(params, x, y):
    return (scores(params, x).argmax(1) == y).mean()


@jax.jit
def step(params, rate, x, y):
    loss, gradients = jax.value_and_grad(loss_of)(params, x, y)
    return jax.tree.map(lambda p, g: p - rate * g, params, gradients), loss


def main():
    x, y = load_digits(return_X_y=True)
    order = jax.random.permutation(jax.random.key(0), len(x))
    x, y = jnp.asarray(x, "float32")[order] / 16, jnp.asarray(y)[order]
    training = Training(jax.random.key(1))
    stopping = EarlyStopping("val_accuracy", patience=15, restore_best_weights=True)
    callbacks = CallbackList(
        [
            ReduceLROnPlateau("val_accuracy", factor=0.3, patience=6),
            stopping,
            ModelCheckpoint("digits/best.safetensors", monitor="val_accuracy", save_best_only=True),
        ],
        host=training.host(),
        epochs=EPOCHS,
    )

    callbacks.on_train_begin()
    for epoch in range(EPOCHS):
        callbacks.on_epoch_begin(epoch)
        for start in range(0, 1152, 64):
            rows = slice(start, start + 64)
            training.params, loss = step(training.params, training.rate, x[rows], y[rows])
        validated = accuracy_of(training.params, x[1152:1440], y[1152:1440])
        callbacks.on_epoch_end(epoch, {"loss": loss, "val_accuracy": validated})
        if callbacks.stop_training:
            break
    callbacks.on_train_end()

    restored = float(accuracy_of(training.params, x[1152:1440], y[1152:1440]))
    tested = float(accuracy_of(training.params, x[1440:], y[1440:]))
    print(f"restored: val_accuracy {restored:.5f}, test accuracy {tested:.5f}")
    if restored != stopping.best:
        raise SystemExit(f"the best epoch had val_accuracy {stopping.best:.5f}")


if __name__ == "__main__":
    main()
