"""What TensorBoard costs, ours beside Keras's, in one run.

    KERAS_BACKEND=torch python benchmarks/tensorboard_cost.py [--rounds 7] [--quick]

Four things: one scalar into an event file; the batch hooks of a callback list with
`TensorBoard(update_freq="epoch")`, as `fit` builds it, over those of a list without; an epoch's
histograms of a model with 1,000 weights of 10,000 numbers each; and a batch of `fit` whose
optimizer is watched (`watch_gradients`), beside one that is not. Both sides take turns; of a round
the fastest counts, of the rounds the median.

(Not `tensorboard.py`: beside the other benchmarks it would be imported in TensorBoard's place.)
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if os.environ.get("KERAS_BACKEND") == "torch":
    import torch  # before TensorFlow, or the process may crash

    torch.set_num_threads(1)

import numpy as np
import tensorflow as tf

import keras
import peakhold.keras
from peakhold.tensorboard import EventWriter

N_SCALARS, N_BATCHES, N_WEIGHTS, N_TURNS = 5000, 1500, 1000, 10
QUICK = {"N_SCALARS": 20, "N_BATCHES": 5, "N_WEIGHTS": 2, "N_TURNS": 1}
LIBRARIES = {"none": None, "keras": keras.callbacks, "peakhold": peakhold.keras}


def per_call(function, n, times=3):
    """Seconds for one of `n` calls, the fastest of a few goes."""
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        for i in range(n):
            function(i)
        best = min(best, (time.perf_counter() - began) / n)
    return best


def scalars():
    with tempfile.TemporaryDirectory() as folder:
        with EventWriter(f"{folder}/ours") as ours:
            mine = per_call(lambda i: ours.scalar("epoch_loss", 0.5, i), N_SCALARS)
        theirs = tf.summary.create_file_writer(f"{folder}/tf")
        with theirs.as_default():
            stock = per_call(
                lambda i: tf.summary.scalar("epoch_loss", 0.5, step=i), N_SCALARS // 10
            )
        theirs.close()
    return {"peakhold": mine, "keras": stock}


def hooks(net):
    logs = {name: keras.ops.convert_to_tensor(0.5) for name in ("loss", "accuracy")}
    seconds = {}
    for name, library in LIBRARIES.items():
        with tempfile.TemporaryDirectory() as folder:
            board = [] if library is None else [library.TensorBoard(folder, write_graph=False)]
            callbacks = keras.callbacks.CallbackList(
                board, add_history=True, model=net, epochs=1, steps=N_BATCHES, verbose=0
            )
            callbacks.on_train_begin()
            callbacks.on_epoch_begin(0)

            def batch(i, callbacks=callbacks):
                callbacks.on_train_batch_begin(i)
                callbacks.on_train_batch_end(i, logs)

            seconds[name] = per_call(batch, N_BATCHES)
            callbacks.on_epoch_end(0, {"loss": 0.5})
            callbacks.on_train_end()
    return seconds


class Many(keras.layers.Layer):
    """A layer with 1,000 weights of 10,000 numbers."""

    def build(self, shape):
        for i in range(N_WEIGHTS):
            self.add_weight(shape=(100, 100), initializer="random_normal", name=f"w{i}")

    def call(self, x):
        return x


def histograms(net):
    seconds = {}
    for name in ("keras", "peakhold"):
        with tempfile.TemporaryDirectory() as folder:
            board = LIBRARIES[name].TensorBoard(folder, histogram_freq=1, write_graph=False)
            callbacks = keras.callbacks.CallbackList([board], model=net, epochs=1, verbose=0)
            callbacks.on_train_begin()
            callbacks.on_epoch_begin(0)
            began = time.perf_counter()
            callbacks.on_epoch_end(0, {"loss": 0.5})
            seconds[name] = time.perf_counter() - began
            callbacks.on_train_end()
    return seconds


def watched_batches(watch, *, rows=256, n_batches=20):
    """Seconds for a batch of `fit` of a model with a million weights."""
    keras.utils.set_random_seed(0)
    net = keras.Sequential(
        [keras.Input((256,)), *(keras.layers.Dense(512) for _ in range(4)), keras.layers.Dense(1)]
    )
    net.compile(watch(keras.optimizers.Adam()), "mse")
    x, y = np.ones((rows * n_batches, 256), "float32"), np.ones((rows * n_batches, 1), "float32")
    net.fit(x[:rows], y[:rows], batch_size=rows, verbose=0)

    def epoch():
        began = time.perf_counter()
        net.fit(x, y, batch_size=rows, shuffle=False, verbose=0)
        return (time.perf_counter() - began) / n_batches

    return epoch


def gradient_watch(rounds):
    """Seconds for a batch by watch: the fastest of ten fits, which take turns."""
    epochs = {
        name: watched_batches(watch)
        for name, watch in {
            "none": lambda optimizer: optimizer,
            "watched": peakhold.keras.watch_gradients,
            "kept": lambda optimizer: peakhold.keras.watch_gradients(optimizer, keep=True),
        }.items()
    }
    found = []
    for _ in range(rounds):
        turns = [{name: epoch() for name, epoch in epochs.items()} for _ in range(N_TURNS)]
        found.append({name: min(turn[name] for turn in turns) for name in epochs})
    return found


def main(arguments=None):
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="one small round: whether it runs")
    options = parser.parse_args(arguments)
    globals().update(QUICK if options.quick else {})
    rounds = 1 if options.quick else options.rounds
    small = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    small.compile("sgd", "mse")
    small.fit(np.zeros((4, 8)), np.zeros((4, 1)), verbose=0)
    large = keras.Sequential([keras.Input((1,)), Many()])
    large.compile("sgd", "mse")
    found = {"scalar": [], "hooks": [], "histograms": []}
    for _ in range(rounds):
        found["scalar"].append(scalars())
        found["hooks"].append(hooks(small))
        found["histograms"].append(histograms(large))

    found["watch"] = gradient_watch(rounds)

    def median(what, name):
        return statistics.median(one[name] for one in found[what])

    def over(name):
        return statistics.median(one[name] - one["none"] for one in found["hooks"])

    backend = keras.backend.backend()
    print("| backend | what | Keras | Peakhold | ratio |\n|---|---|---|---|---|")
    for what, unit, scale, stock, mine in [
        ("one scalar", "µs", 1e6, median("scalar", "keras"), median("scalar", "peakhold")),
        ("a batch, over no callback", "µs", 1e6, over("keras"), over("peakhold")),
        ("1,000 histograms of 10,000", "s", 1, median("histograms", "keras"),
         median("histograms", "peakhold")),
    ]:  # fmt: skip
        ratio = f"{stock / mine:.0f}" if mine > 0 else "–"
        print(
            f"| {backend} | {what} | {stock * scale:.3g} {unit} | {mine * scale:.3g} {unit} | {ratio} |"
        )
    bare = median("watch", "none")
    for name, words in {"watched": "watched", "kept": "watched, keep=True"}.items():
        over_bare = statistics.median(one[name] / one["none"] for one in found["watch"])
        print(
            f"| {backend} | a batch of fit, 1 M weights, {words} | {bare * 1e3:.3g} ms bare "
            f"| {median('watch', name) * 1e3:.3g} ms | {over_bare:.3f} × |"
        )


if __name__ == "__main__":
    main()
