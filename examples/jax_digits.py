"""Digits in a JAX loop: the run holds the state that the loop passes on.

pip install peakhold jax scikit-learn, then python jax_digits.py. Kill it and start it again: it
goes on. When it has ended, remove the folder digits/jax to train anew.
"""

import jax
import jax.numpy as jnp
from sklearn.datasets import load_digits

from peakhold import Run

EPOCHS = 200


def initial(key):
    """What changes while training: parameters, and the momentum of each."""
    first, second = jax.random.split(key)
    params = {
        "hidden": {"w": 0.2 * jax.random.normal(first, (64, 32)), "b": jnp.zeros(32)},
        "scores": {"w": 0.2 * jax.random.normal(second, (32, 10)), "b": jnp.zeros(10)},
    }
    return {"params": params, "momentum": jax.tree.map(jnp.zeros_like, params)}


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
def step(state, x, y):
    loss, gradients = jax.value_and_grad(loss_of)(state["params"], x, y)
    momentum = jax.tree.map(lambda m, g: 0.9 * m + g, state["momentum"], gradients)
    params = jax.tree.map(lambda p, m: p - 0.05 * m, state["params"], momentum)
    return {"params": params, "momentum": momentum}, loss


def main():
    x, y = load_digits(return_X_y=True)
    order = jax.random.permutation(jax.random.key(0), len(x))
    x, y = jnp.asarray(x, "float32")[order] / 16, jnp.asarray(y)[order]
    batches = [(x[start : start + 64], y[start : start + 64]) for start in range(0, 1152, 64)]

    with Run(
        "digits/jax", state=initial(jax.random.key(1)), monitor="val_accuracy", patience=15
    ) as run:
        for _ in run.epochs(EPOCHS):
            for xs, ys in run.batches(batches):
                run.state, loss = step(run.state, xs, ys)
                run.log(loss=loss)
            run.log(val_accuracy=accuracy_of(run.state["params"], x[1152:1440], y[1152:1440]))

    params = run.state["params"]
    restored = float(accuracy_of(params, x[1152:1440], y[1152:1440]))
    tested = float(accuracy_of(params, x[1440:], y[1440:]))
    print(f"restored: val_accuracy {restored:.5f}, test accuracy {tested:.5f}")
    if restored != run.best.value:
        raise SystemExit(f"the best epoch had val_accuracy {run.best.value:.5f}")


if __name__ == "__main__":
    main()
