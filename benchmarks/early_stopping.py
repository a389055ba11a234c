"""What an improvement costs with `EarlyStopping(restore_best_weights=True)`, beside Keras's own.

    KERAS_BACKEND=torch python benchmarks/early_stopping.py [--rounds 5] [--mb 420] [--json FILE] [--quick]

A real `fit` of a stack of dense layers, one batch an epoch; a metric improves in every epoch. What
is measured is the time that the loop waits: the end of an epoch with the callback, against a copy
of the same bytes between arrays that are there already (memcpy, of one thread), taken in the same
epoch. The look for NaN goes on in another thread, so the time of the whole epoch is a row of its
own. Each round runs Keras's class and ours, in an order that turns, in one process.

- first: the first improvement of a `fit`; steady: the median of the others.
- prepare: what ours takes on train begin, to allocate and touch its buffers.
- allocated: bytes of buffers allocated after train begin.
- peak: the most memory of the process during a `fit`, above what it held before, in multiples of
  the weights; each in a process of its own, for an allocator keeps what another left.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

if os.environ.get("KERAS_BACKEND") == "torch":
    import torch  # before TensorFlow, or the process may crash

    torch.set_num_threads(1)

import numpy as np

import keras
import peakhold.keras
from peakhold.snapshots import memory

LIBRARIES = {"none": None, "keras": keras.callbacks, "peakhold": peakhold.keras}
WIDTH, EPOCHS = 2048, 7
QUICK = {"WIDTH": 64, "EPOCHS": 3}


class First(keras.callbacks.Callback):
    """First in the list: the metric falls, and memcpy is timed; then the clock runs."""

    def __init__(self, memcpy):
        super().__init__()
        self.memcpy, self.copies, self.began, self.epochs, self.prepare = memcpy, [], [], [], []

    def on_train_begin(self, logs=None):
        self.prepare.append(time.perf_counter())

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(time.perf_counter())

    def on_epoch_end(self, epoch, logs=None):
        self.epochs[-1] = time.perf_counter() - self.epochs[-1]
        self.model  # noqa: B018 - JAX: the sync is the loop's, whoever asks for it
        logs["falling"] = 1.0 - epoch / 100
        self.copies.append(min(self.memcpy() for _ in range(3)))
        self.began.append(time.perf_counter())


class Last(keras.callbacks.Callback):
    def __init__(self, first):
        super().__init__()
        self.first, self.took = first, []

    def on_train_begin(self, logs=None):
        self.first.prepare.append(time.perf_counter())

    def on_epoch_end(self, epoch, logs=None):
        self.took.append(time.perf_counter() - self.first.began[-1])


class Peak(threading.Thread):
    """The most resident memory of the process, looked at every few milliseconds."""

    def __init__(self):
        super().__init__(daemon=True)
        self.base = self.most = self.now()
        self.over = threading.Event()

    @staticmethod
    def now():
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def run(self):
        while not self.over.wait(0.002):
            self.most = max(self.most, self.now())


def build(mb):
    layers = max(round(mb * 1e6 / (WIDTH * WIDTH * 4)), 1)
    net = keras.Sequential(
        [keras.Input((WIDTH,)), *(keras.layers.Dense(WIDTH) for _ in range(layers))]
    )
    net.compile("sgd", "mse")
    return net


def memcpy_of(n_bytes):
    source, target = np.ones(n_bytes, np.uint8), np.zeros(n_bytes, np.uint8)

    def memcpy():
        began = time.perf_counter()
        np.copyto(target, source)
        return time.perf_counter() - began

    return memcpy


def run(net, x, library, memcpy, n_bytes):
    """One `fit`: the numbers of its improvements."""
    first = First(memcpy)
    last = Last(first)
    mine = []
    if library is not None:
        mine = [library.EarlyStopping("falling", mode="min", patience=9, restore_best_weights=True)]
    allocated = []
    allocate = memory.allocate
    memory.allocate = lambda n: (allocated.append((n, len(first.epochs))), allocate(n))[1]
    gc.collect()
    try:
        net.fit(x, x, batch_size=len(x), epochs=EPOCHS, verbose=0, callbacks=[first, *mine, last])
    finally:
        memory.allocate = allocate
    ratios = [took / copy for took, copy in zip(last.took, first.copies, strict=True)]
    return {
        "first": ratios[0],
        "steady": statistics.median(ratios[1:]),
        "epoch": statistics.median(first.epochs[1:]) * 1e3,
        "prepare": (first.prepare[1] - first.prepare[0]) / statistics.median(first.copies),
        "allocated": sum(n for n, epochs in allocated if epochs) / n_bytes,
        "memcpy": statistics.median(first.copies) * 1e3,
    }


def trained(mb):
    """A model that has been trained, its data, and its size."""
    net = build(mb)
    x = np.full((2, WIDTH), 1e-3, "float32")
    net.fit(x, x, batch_size=2, epochs=2, verbose=0)  # compiles
    return net, x, sum(int(np.prod(w.shape)) * 4 for w in net.weights)


def peak_of(name, mb):
    """The most memory of a `fit`; this process does nothing else."""
    net, x, n_bytes = trained(mb)
    gc.collect()
    peak = Peak()
    peak.start()
    run(net, x, LIBRARIES[name], lambda: 1.0, n_bytes)
    peak.over.set()
    peak.join()
    return (peak.most - peak.base) / n_bytes


def peak_in_a_process(name, mb):
    """The same, in a process of its own: an allocator keeps what another left."""
    done = subprocess.run(
        [sys.executable, __file__, "--peak-of", name, "--mb", str(mb)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return float(done.stdout.split()[-1])


def measure(rounds, mb, peak=peak_in_a_process):
    """For each library and quantity, one number a round."""
    net, x, n_bytes = trained(mb)
    memcpy = memcpy_of(n_bytes)
    memcpy()
    peaks = {name: peak(name, mb) for name in LIBRARIES}
    results = {name: [] for name in LIBRARIES}
    names = list(LIBRARIES)
    for _ in range(rounds):
        for name in names:
            numbers = run(net, x, LIBRARIES[name], memcpy, n_bytes)
            results[name].append({**numbers, "peak": peaks[name]})
        names = names[1:] + names[:1]
    return n_bytes, results


ROWS = {
    "first": "first improvement, × memcpy",
    "steady": "each further one, × memcpy",
    "prepare": "on train begin, × memcpy",
    "allocated": "allocated after train begin, × weights",
    "peak": "peak memory above the start, × weights",
    "epoch": "an epoch's batches, ms",
}

HEADER = [
    "| backend | | no callback | Keras | Peakhold | quartiles |",
    "|---|---|---|---|---|---|",
]


def rows(backend, results):
    """Lines of the table for one backend: medians of the rounds."""
    lines = []
    for quantity, words in ROWS.items():
        columns = {name: [r[quantity] for r in rounds] for name, rounds in results.items()}
        cells = [f"{statistics.median(values):.3g}" for values in columns.values()]
        if quantity in {"first", "steady", "prepare", "allocated"}:
            cells[0] = ""
        if quantity in {"prepare", "allocated"}:
            cells[1] = ""
        mine = columns["peakhold"]
        low, _, high = statistics.quantiles(mine, n=4) if len(mine) > 1 else mine * 3
        lines.append(f"| {backend} | {words} | {' | '.join(cells)} | {low:.3g} … {high:.3g} |")
    return lines


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mb", type=int, default=420, help="size of the weights in MB")
    parser.add_argument("--json", type=Path, help="a file for the numbers of every round")
    parser.add_argument("--peak-of", choices=LIBRARIES, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="small rounds: whether it runs")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    if options.peak_of:
        print(peak_of(options.peak_of, options.mb))
        return
    if options.quick:
        globals().update(QUICK)
        n_bytes, results = measure(1, 0, peak_of)
    else:
        n_bytes, results = measure(options.rounds, options.mb)
    if options.json:
        options.json.write_text(json.dumps(results), "utf-8")
    memcpy = statistics.median(r["memcpy"] for r in results["peakhold"])
    print(f"{n_bytes / 1e6:.0f} MB, memcpy {memcpy:.1f} ms")
    print("\n".join([*HEADER, *rows(keras.backend.backend(), results)]))


if __name__ == "__main__":
    sys.exit(main())
