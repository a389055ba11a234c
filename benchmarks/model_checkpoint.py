"""What a save of a 400 MB model adds to `fit`, beside a copy of the same bytes and Keras's class.

    KERAS_BACKEND=torch python benchmarks/model_checkpoint.py [--what .keras] [--rounds 6] [--quick]

`--what backup` is `BackupAndRestore`, the others are the suffixes of `ModelCheckpoint`.

One process for each backend; in it `fit` runs without a checkpoint, with Keras's and with ours, and
between them memory is copied into memory that was there before. Each epoch ends with a save under
the same name; it has enough batches for the writer to finish in. Keras and the framework compute on
one thread, so that a core is free for the writer; with `--saturated` there are rows for that beside
one busy process for each core, too.

`blocked` is the time from the end of an epoch's last batch to the next epoch's beginning, less that
of a `fit` without a checkpoint; `epoch` is what a whole epoch takes longer, which holds what the
writer thread takes from the training thread as well. `durable` is the time from the end of the epoch
to the file's commit.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
if os.environ.get("KERAS_BACKEND") == "torch":
    import torch  # before TensorFlow, or the process may crash

    torch.set_num_threads(1)

import numpy as np

import keras
import peakhold.keras
from peakhold import files
from peakhold.store import store

UNITS, BATCHES, BACKUP = 4096, 6, "backup"
QUICK = {"UNITS": 32, "BATCHES": 2}


class Clock(keras.callbacks.Callback):
    """First in the list: sees each event before the others do."""

    def __init__(self, saver):
        super().__init__()
        self.saver, self.begun, self.ended, self.buffers = saver, [], [], []

    def on_train_begin(self, logs=None):
        self.prepared = time.perf_counter()

    def on_epoch_begin(self, epoch, logs=None):
        self.begun.append(time.perf_counter())
        if type(self.saver).__module__.startswith("peakhold."):
            pool = self.saver._peakhold_link.participant.run.pool
            self.buffers.append((pool.nbytes, pool.n_allocations))

    def on_epoch_end(self, epoch, logs=None):
        self.ended.append(time.perf_counter())


def build():
    """Two square layers and Adam: three numbers for each weight, 403 MB."""
    net = keras.Sequential(
        [keras.Input((UNITS,)), keras.layers.Dense(UNITS), keras.layers.Dense(UNITS)]
    )
    net.compile(keras.optimizers.Adam(1e-6), keras.losses.MeanSquaredError())
    return net


def time_copy(shapes, rounds=7):
    """Seconds for one copy of arrays of these shapes, into memory that was written before."""
    sources = [np.ones(shape, "float32") for shape in shapes]
    targets = [np.zeros(shape, "float32") for shape in shapes]
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        for source, target in zip(sources, targets, strict=True):
            np.copyto(target, source)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def saver_of(library, what, folder):
    """The callback that saves, and what its saves are told by: a module, and a path's end."""
    if what == BACKUP:
        return library.BackupAndRestore(f"{folder}/backup")
    return library.ModelCheckpoint(f"{folder}/last{what}", save_weights_only=what == ".weights.h5")


@contextlib.contextmanager
def commits_noted(what):
    """Times at which a save became durable."""
    durable, module = [], store if what == BACKUP else files
    commit = module.commit

    def noting(*arguments, **more):
        done = commit(*arguments, **more)
        if what == BACKUP or str(arguments[0]).endswith(what):
            durable.append(time.perf_counter())
        return done

    module.commit = noting
    try:
        yield durable
    finally:
        module.commit = commit


def time_fit(net, library, what, epochs):
    """Seconds blocked at the end of each epoch, of each epoch, to durability, and to prepare."""
    x = np.zeros((BATCHES, UNITS), "float32")
    with (
        tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder,
        commits_noted(what) as durable,
    ):
        saver = None if library is None else saver_of(library, what, folder)
        clock = Clock(saver)
        net.fit(
            x, x, batch_size=1, epochs=epochs, verbose=0, shuffle=False,
            callbacks=[clock, *([saver] if saver else [])],
        )  # fmt: skip
    clock.begun.append(time.perf_counter())
    durable = durable[-len(clock.ended) :]  # a backup notes the beginning of the run, too
    blocked = [b - e for b, e in zip(clock.begun[1:-1], clock.ended, strict=False)]
    return {
        "blocked": blocked,
        "epoch": [b - a for a, b in zip(clock.begun, clock.begun[1:-1], strict=False)],
        "durable": [d - e for d, e in zip(durable, clock.ended, strict=False)],
        "prepare": clock.begun[0] - clock.prepared,
        "buffers": clock.buffers,
    }


@contextlib.contextmanager
def busy_cores(count):
    """As many processes as there are cores, which do nothing but count."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def rows(backend, what, epochs, *, saturated):
    """Lines of the table."""
    net = build()
    shapes = [w.shape for w in net.get_weights()] * 3
    n_bytes = sum(4 * int(np.prod(shape)) for shape in shapes)
    time_fit(net, None, what, 2)  # compiles
    copy = time_copy(shapes)
    plain = time_fit(net, None, what, epochs)
    idle, whole = statistics.median(plain["blocked"]), statistics.median(plain["epoch"])
    lines = []
    libraries = {"Keras": keras.callbacks, "Peakhold": peakhold.keras}
    for name, library in libraries.items():
        gc.collect()
        told = time_fit(net, library, what, epochs)
        copy = min(copy, time_copy(shapes))
        first, *steady = (seconds - idle for seconds in told["blocked"])
        longer = [seconds - whole for seconds in told["epoch"][1:]]
        durable = f"{statistics.median(told['durable']):.2f} s" if told["durable"] else "never"
        buffers = "; ".join(f"{n >> 20} MB in {k}" for n, k in dict.fromkeys(told["buffers"]))
        cells = [
            f"{backend}{', saturated' if saturated else ''}",
            f"{name} `{what}`",
            f"{n_bytes / 1e6:.0f} MB, {copy * 1e3:.0f} ms",
            f"{first * 1e3:.0f} ms = {first / copy:.1f}",
            f"{statistics.median(steady) * 1e3:.0f} ms = {statistics.median(steady) / copy:.1f}",
            f"{statistics.median(longer) / copy:.1f}",
            durable,
            f"{(told['prepare'] - plain['prepare']) * 1e3:.0f} ms",
            buffers or "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


HEADER = [
    "| backend | class | memcpy | blocked, first | blocked, steady | epoch | durable | prepare | buffers |",
    "|---|---|---|---|---|---|---|---|---|",
]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument(
        "--what", default=".keras", choices=[".keras", ".weights.h5", ".h5", BACKUP]
    )
    parser.add_argument("--rounds", type=int, default=6, help="saves in a fit")
    parser.add_argument("--saturated", action="store_true", help="on busy cores, too")
    parser.add_argument("--quick", action="store_true", help="two small saves: whether it runs")
    options = parser.parse_args(arguments)
    if options.quick:
        globals().update(QUICK)
        options.rounds = 2
    warnings.simplefilter("ignore")
    backend = keras.backend.backend()
    lines = rows(backend, options.what, options.rounds + 1, saturated=False)
    if options.saturated:
        with busy_cores(os.cpu_count() or 1):
            lines += rows(backend, options.what, options.rounds + 1, saturated=True)
    print("\n".join([*HEADER, *lines]))


if __name__ == "__main__":
    sys.exit(main())
