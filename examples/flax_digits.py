"""Digits with Flax NNX and Optax: the module holds its arrays, and the run holds the module.

pip install peakhold flax optax scikit-learn, then python flax_digits.py. Kill it and start it
again: it goes on. When it has ended, remove the folder digits/flax to train anew.
"""

import numpy as np
import optax
from flax import nnx
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from peakhold import Run, give_back

EPOCHS, BATCH = 60, 64


class Network(nnx.Module):
    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.hidden = nnx.Linear(64, 64, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)  # its random numbers are in the module, too
        self.scores = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.scores(self.dropout(nnx.relu(self.hidden(x))))


@nnx.jit
def step(module, optimizer, x, y):
    def loss_of(module):
        return optax.softmax_cross_entropy_with_integer_labels(module(x), y).mean()

    loss, gradients = nnx.value_and_grad(loss_of)(module)
    optimizer.update(module, gradients)
    return loss


@nnx.jit
def accuracy_of(module, x, y):
    return (module(x).argmax(1) == y).mean()


def main():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].astype("float32") / 16, y[order]
    batches = [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, 1152, BATCH)]
    module = Network(seed=0)
    schedule = optax.cosine_decay_schedule(5e-3, EPOCHS * len(batches))
    optimizer = nnx.Optimizer(module, optax.adamw(schedule), wrt=nnx.Param)
    # Shares its arrays with the module, and drops nothing.
    evaluated = nnx.view(module, deterministic=True)

    with Run(
        "digits/flax", model=module, optimizer=optimizer, monitor="val_accuracy", patience=10
    ) as run:
        for _ in run.epochs(EPOCHS):
            for xs, ys in run.batches(batches):
                run.log(loss=step(module, optimizer, xs, ys))
            run.log(val_accuracy=accuracy_of(evaluated, x[1152:1440], y[1152:1440]))

    restored = accuracy_of(evaluated, x[1440:], y[1440:])
    give_back(load_file(run.best.path), module)
    loaded = accuracy_of(evaluated, x[1440:], y[1440:])
    print(f"test accuracy of the restored model {restored:.4f}, of the loaded file {loaded:.4f}")
    if restored != loaded:
        raise SystemExit("they should be equal")


if __name__ == "__main__":
    main()
