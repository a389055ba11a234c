"""What copies of a tree of 10,000 small arrays cost the thread that trains.

    python benchmarks/many_small_arrays.py [numpy] [torch] [jax] [--arrays 10000]

CPU time of that thread at an epoch's end at which everything improves, the median of ten after two;
beside it a copy of each array by its own library. A loop's state of 20 numbers an array, two arrays
a layer. Whatever is written is written between the epochs.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import tempfile
import time

import numpy as np

from peakhold import BackupAndRestore, CallbackList, EarlyStopping, LoopHost
from peakhold.store import Store, drain

EPOCHS = 12
LIBRARIES = ("numpy", "torch", "jax")


def made(library):
    """How an array is made, and how it is copied."""
    if library == "torch":
        torch = importlib.import_module("torch")
        torch.set_num_threads(1)
        return lambda: torch.ones(20), torch.clone
    if library == "jax":
        return lambda: importlib.import_module("jax.numpy").ones(20), np.array
    return lambda: np.ones(20, np.float32), np.copy


def timed(work):
    began = time.thread_time()
    work()
    return (time.thread_time() - began) * 1e3


def epochs(tree, callback):
    """Milliseconds of each epoch's end."""
    host = LoopHost(get_state=lambda: tree, set_state=lambda state: None)
    run = CallbackList(callback, host=host, verbose=0)
    took = []
    run.on_train_begin()
    for epoch in range(EPOCHS):
        run.on_epoch_begin(epoch)
        took.append(timed(lambda epoch=epoch: run.on_epoch_end(epoch, {"loss": -epoch})))
        drain()
    run.on_train_end()
    return took


def saves(tree):
    """Milliseconds of each `Store.save`."""
    took = []
    with Store(tempfile.mkdtemp()) as store:
        for step in range(EPOCHS):
            took.append(timed(lambda step=step: store.save(step, {"weights": tree})))
            drain()
    return took


def measured(library, n_arrays):
    """Milliseconds of each column."""
    make, copy = made(library)
    tree = {f"layer{n}": {"a": make(), "b": make()} for n in range(n_arrays // 2)}
    arrays = [array for layer in tree.values() for array in layer.values()]
    best = EarlyStopping("loss", patience=9, restore_best_weights=True)
    columns = [
        [timed(lambda: list(map(copy, arrays))) for _ in range(EPOCHS)],
        epochs(tree, best),
        epochs(tree, BackupAndRestore(tempfile.mkdtemp())),
        saves(tree),
    ]
    return [statistics.median(took[2:]) for took in columns]


def main(arguments=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("libraries", nargs="*", help=f"of {LIBRARIES}; default: all")
    parser.add_argument("--arrays", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="whether it runs; no figures")
    given = parser.parse_args(arguments)
    lines = [
        "| | a copy of each | EarlyStopping's best | BackupAndRestore | `Store.save` |",
        "|---|---|---|---|---|",
    ]
    for library in given.libraries or LIBRARIES:
        found = measured(library, 100 if given.quick else given.arrays)
        lines.append(f"| arrays of {library} | {' | '.join(f'{ms:.1f} ms' for ms in found)} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
