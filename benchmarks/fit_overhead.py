"""What a batch of `model.fit` costs with our four callbacks, beside Keras's own four.

    KERAS_BACKEND=torch python benchmarks/fit_overhead.py [--rounds 9] [--json] [--quick]

The four are EarlyStopping, ModelCheckpoint, ReduceLROnPlateau and CSVLogger, with the same
arguments. The monitored metric is constant: the first epoch saves, no later one does, the rate
stays and nothing stops. Each round runs `fit` without callbacks, with Keras's four and with ours,
in an order that turns, on the same compiled model. Of a `fit` the fastest epoch counts: what else
the machine does makes epochs slower, never faster.

Three things are measured: a batch of `fit`, from an epoch's beginning to its end; the batch hooks
of the callback list alone, without a training step, beside which they hardly show; and the end of
an epoch, which is the callbacks' work.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

if os.environ.get("KERAS_BACKEND") == "torch":
    import torch  # before TensorFlow, or the process may crash

    torch.set_num_threads(1)

import numpy as np

import keras
import peakhold.keras

LIBRARIES = {"none": None, "keras": keras.callbacks, "peakhold": peakhold.keras}
BATCHES, EPOCHS, HOOK_CALLS = 150, 11, 1500
QUICK = {"BATCHES": 3, "EPOCHS": 2, "HOOK_CALLS": 5}


class Constant(keras.metrics.Metric):
    """A metric that never improves."""

    def update_state(self, *args, **kwargs):
        pass

    def result(self):
        return keras.ops.convert_to_tensor(0.5)


class Clock(keras.callbacks.Callback):
    """First in the list: sees an epoch end before the others do. Without batch hooks."""

    def __init__(self):
        super().__init__()
        self.begun, self.ended = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.begun.append(time.perf_counter())

    def on_epoch_end(self, epoch, logs=None):
        self.ended.append(time.perf_counter())

    def on_train_end(self, logs=None):
        self.begun.append(time.perf_counter())


def build():
    net = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8), keras.layers.Dense(1)])
    net.compile("sgd", keras.losses.MeanSquaredError(), metrics=[Constant(name="constant")])
    return net


def four(library, folder):
    if library is None:
        return []
    watch = {"monitor": "constant", "mode": "min"}
    return [
        library.ReduceLROnPlateau(patience=10**6, **watch),
        library.EarlyStopping(patience=10**6, **watch),
        library.ModelCheckpoint(f"{folder}/best.weights.h5", save_best_only=True,
                                save_weights_only=True, **watch),
        library.CSVLogger(f"{folder}/log.csv"),
    ]  # fmt: skip


def time_fit(net, library, x, y):
    """Seconds for a batch, and for the end of an epoch."""
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        net.fit(
            x, y, batch_size=len(x) // BATCHES, epochs=EPOCHS, verbose=0,
            callbacks=[clock, *four(library, folder)],
        )  # fmt: skip
    batches = [end - begin for begin, end in zip(clock.begun, clock.ended, strict=False)]
    ends = [begin - end for begin, end in zip(clock.begun[1:], clock.ended, strict=True)]
    return min(batches[1:]) / BATCHES, min(ends[1:])


def time_hooks(net, library):
    """Seconds for the batch hooks of a list as `fit` builds it."""
    # As `fit` passes them: still on the device.
    logs = {name: keras.ops.convert_to_tensor(0.5) for name in ("loss", "constant")}
    with tempfile.TemporaryDirectory() as folder:
        callbacks = keras.callbacks.CallbackList(
            four(library, folder),
            add_history=True,
            model=net,
            epochs=1,
            steps=HOOK_CALLS,
            verbose=0,
        )
        callbacks.on_train_begin()
        callbacks.on_epoch_begin(0)
        began = time.perf_counter()
        for batch in range(HOOK_CALLS):
            callbacks.on_train_batch_begin(batch)
            callbacks.on_train_batch_end(batch, logs)
        took = (time.perf_counter() - began) / HOOK_CALLS
        callbacks.on_epoch_end(0, logs)
        callbacks.on_train_end()
    return took


def measure(rounds):
    """For each library and quantity, one number a round, in seconds."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCHES * 4, 8)).astype("float32")
    y = x @ rng.normal(size=(8, 1)).astype("float32")
    net = build()
    net.fit(x, y, batch_size=4, epochs=1, verbose=0)  # compiles
    seconds = {name: {"batch": [], "hooks": [], "end": []} for name in LIBRARIES}
    names = list(LIBRARIES)
    for _ in range(rounds):
        for name in names:
            gc.collect()
            batch, end = time_fit(net, LIBRARIES[name], x, y)
            seconds[name]["batch"].append(batch)
            seconds[name]["end"].append(end)
            seconds[name]["hooks"].append(time_hooks(net, LIBRARIES[name]))
        names = names[1:] + names[:1]
    return seconds


ROWS = {
    "batch": ("a batch of `fit`", "µs", 1e6),
    "hooks": ("its hooks alone", "µs", 1e6),
    "end": ("the end of an epoch", "ms", 1e3),
}


def rows(backend, seconds):
    """Lines of the table for one backend."""
    lines = []
    for quantity, (words, unit, scale) in ROWS.items():
        by_library = {name: values[quantity] for name, values in seconds.items()}
        cells = [f"{statistics.median(v) * scale:.4g} {unit}" for v in by_library.values()]
        ratios = [
            ours / theirs
            for ours, theirs in zip(by_library["peakhold"], by_library["keras"], strict=True)
        ]
        low, middle, high = statistics.quantiles(ratios, n=4)
        lines.append(
            f"| {backend} | {words} | {' | '.join(cells)} | {middle:.3f} | {low:.3f} … {high:.3f} |"
        )
    return lines


HEADER = [
    "| backend | | no callbacks | Keras's four | Peakhold's four | ratio | quartiles |",
    "|---|---|---|---|---|---|---|",
]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="a file for the seconds of every round")
    parser.add_argument("--quick", action="store_true", help="small rounds: whether it runs")
    options = parser.parse_args(arguments)
    globals().update(QUICK if options.quick else {})
    warnings.simplefilter("ignore")
    seconds = measure(2 if options.quick else options.rounds)
    if options.json:
        options.json.write_text(json.dumps(seconds), "utf-8")
    print("\n".join([*HEADER, *rows(keras.backend.backend(), seconds)]))


if __name__ == "__main__":
    sys.exit(main())
