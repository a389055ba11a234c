"""`make bench`: every benchmark, printed as ratios and written to `RESULTS.md`.

    python benchmarks/run.py [--rounds 9] [--only store alerts]
    python benchmarks/run.py --quick

The second only shows that each still runs and has its rows: small, in one process on one backend,
and nothing is written.

Ratios, because machines differ; both sides of each were measured in one run, taking turns.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import io
import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
BACKENDS = ("torch", "jax", "tensorflow")
QUICK: list[str] = []
"""`--quick`, where that was asked for."""
PACKAGES = ("peakhold", "keras", "torch", "jax", "tensorflow-cpu", "numpy")


def machine():
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    load = f"; load at the start {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{os.cpu_count()} cores, {model}, {platform.system()} {platform.machine()}{load}.\n"
        f"Python {platform.python_version()}, {versions}."
    )


def on_this_backend(script, *options):
    """The table of this process's backend."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        importlib.import_module(Path(script).stem).main([*options, *QUICK])
    table = "\n".join(line for line in printed.getvalue().splitlines() if line.startswith("|"))
    print(table, flush=True)
    return table


def on_each_backend(script, rounds, *options):
    """The table over all backends; each has a process of its own."""
    if QUICK:
        return on_this_backend(script, *options)
    # What the script prints is one backend's table: the header once, then everybody's rows.
    header, rows = [], []
    for backend in BACKENDS:
        environment = {
            **os.environ,
            "KERAS_BACKEND": backend,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "GLOG_minloglevel": "3",
        }
        done = subprocess.run(
            [sys.executable, str(HERE / script), "--rounds", str(rounds), *options],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        table = [line for line in done.stdout.splitlines() if line.startswith("|")]
        header, mine = table[:2], table[2:]
        rows += mine
        print("\n".join(mine if len(rows) > len(mine) else table), flush=True)
    return "\n".join([*header, *rows])


def write_section(name, text):
    """Replace one section of `RESULTS.md`, leave the others."""
    if QUICK:
        return
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    old = RESULTS.read_text("utf-8") if RESULTS.exists() else "# Results\n"
    if begin not in old:
        old += f"\n{begin}{end}"
    before, _, rest = old.partition(begin)
    _, _, after = rest.partition(end)
    RESULTS.write_text(f"{before}{begin}{text}\n{end}{after}", "utf-8")


FIT = """\
## The callbacks in `fit`

EarlyStopping, ModelCheckpoint, ReduceLROnPlateau and CSVLogger, beside Keras's own four with the
same arguments, on the same tiny model, taking turns in one process for each backend. Asked for is a
batch that costs no more: a ratio of 1. Times are medians of the rounds' fastest epochs; ratio and
quartiles are those of the rounds' ratios. Each row of the CSV file is written at the end of
its epoch; a flush to the disk, which Keras's has not, is asked for once a second."""

BOARD = """\
## TensorBoard

`TensorBoard(update_freq="epoch")` and the event writer below it, beside Keras's and `tf.summary`. A
batch is the list's batch hooks over those of a list without it; below zero, the list saves more by
not asking Keras's thread pool than the callback costs. The last rows are a batch of `fit` with a
watched optimizer, over one without (`watch_gradients`): there a ratio of 1 is what is asked for."""

STOPPING = """\
## An improvement of `EarlyStopping`

`restore_best_weights=True`, a metric that improves in every epoch, 420 MB of weights, one batch an
epoch. Time that the loop waits, against a memcpy of the same bytes in one piece by one thread, taken
in the same epoch (Peakhold copies with as many threads as there are cores, four at most); medians of
the rounds, quartiles of Peakhold's. Peak memory is that of a process of its own.
The look for NaN runs beside the next epoch's batches: the last row shows what that costs them."""

SAVING = """\
## A save of `ModelCheckpoint` and of `BackupAndRestore`

403 MB, weights and Adam, after each epoch of `fit`. Blocked: from an epoch's end to the next one's beginning, less that
of a `fit` without a checkpoint, as a multiple of a memcpy of the same bytes by one thread; epoch: what a whole epoch
takes longer, as such a multiple, with what the writer takes from the training thread. The framework computes on one
thread, so that a core is free for the writer; the saturated rows run beside one busy process for each core. Prepare is
what train begin takes longer; buffers are the host memory of snapshots, and how often it was allocated."""

SMALL = """\
## Ten thousand small arrays

CPU of the thread that trains at each save, medians of ten; a loop's state of 20 numbers an array, two arrays a layer.
What is left above `Store.save` is the loop's state made plain, anew each time."""

IMPORT = """\
## Importing

Each line in a fresh process, in turns with the bare interpreter. `import peakhold` brings a name's module
along when it is first used."""


WORKERS = """\
## An exchange between workers

One round at the end of an epoch, aggregate and decide, on local processes; 2 ms are asked for on
torch, 5 ms on JAX and TensorFlow. Beside it an exchange of the engine's own, taking turns: torch's of
objects, both ways; of JAX and TensorFlow the smallest collective. Medians, of the slowest worker."""


RECORD = """\
## The record of a run

`peakhold.ledger`, 200,000 moments of four metrics and two decisions each. Whoever trains pays for an event; the flush to
the disk is the writer thread's. Opening goes on from an offset in the middle."""


LOGGED = """\
## What a loop logs

`Means.add` of one value in a batch, the batch's size, and what a bar costs a batch: the average over a second,
drawings included. The least operation is an addition of the same framework, on JAX a compiled one, on the value that
is logged; the fastest of many rounds that take turns. A value of JAX's that is not there yet, or lies on a GPU, costs
a compiled call of its own. Memory: what 100,000 more logged values leave in the process.

Where the time of that call goes (the fastest of 600 rounds of 150 calls, measured once): a compiled call that is given
two arrays and gives one of them back takes 4.42 µs, the one that moves the array of 256 numbers on by one 4.72, with the
looks at dtype and place before it 5.36, with the value's weight noted 5.73, and by its name 6.31. So what is asked for
leaves 0.3 µs beside JAX itself. To keep the value and move on once in 256 would be cheaper; but a step may be given its
memory (`donate_argnums`), and then the number is gone."""


RUN = """\
## A loop with `Run`

A batch with all attached and nothing due, over the bare loop, in CPU time; and for which share of the time saves have held
training, with `Budget(0.035)` and batches of 2 ms. The files are written beside training."""


def callbacks(rounds):
    import import_time

    importing, _ = import_time.table(2 if QUICK else 21)
    print(importing)
    fitting = on_each_backend("fit_overhead.py", rounds)
    write_section("callbacks", f"{machine()}\n\n{FIT}\n\n{fitting}\n\n{IMPORT}\n\n{importing}")


def board(rounds):
    table = on_each_backend("tensorboard_cost.py", min(rounds, 5))
    write_section("tensorboard", f"{machine()}\n\n{BOARD}\n\n{table}")


def stopping(rounds):
    table = on_each_backend("early_stopping.py", max(rounds // 2, 1))
    write_section("early stopping", f"{machine()}\n\n{STOPPING}\n\n{table}")


def saving(rounds):
    table = []
    for what, more in {".keras": ("--saturated",), ".weights.h5": (), "backup": ()}.items():
        lines = on_each_backend("model_checkpoint.py", max(rounds // 2, 2), "--what", what, *more)
        table += lines.splitlines()[2 if table else 0 :]
    write_section("model checkpoint", f"{machine()}\n\n{SAVING}\n\n" + "\n".join(table))


def alerting(rounds):
    import alerts

    alerts.main(QUICK or ["--rounds", str(rounds), "--write"])


def working(rounds):
    import workers

    if QUICK:
        workers.main(QUICK)
        return
    table = workers.table(min(rounds, 5))
    print(table)
    write_section("workers", f"{machine()}\n\n{WORKERS}\n\n{table}")


def storing(rounds):
    import store

    store.main(QUICK or ["--write"])


def small_arrays(_rounds):
    table = on_this_backend("many_small_arrays.py")
    write_section("many small arrays", f"{machine()}\n\n{SMALL}\n\n{table}")


def recording(rounds):
    import ledger

    if QUICK:
        ledger.main(QUICK)
        return
    table, _ = ledger.table(rounds=min(rounds, 5))
    print(table)
    write_section("record", f"{machine()}\n\n{RECORD}\n\n{table}")


def running(rounds):
    table = on_this_backend("run_loop.py", "--rounds", str(rounds))
    write_section("run", f"{machine()}\n\n{RUN}\n\n{table}")


def logged(rounds):
    table = on_each_backend("logged_values.py", rounds)
    write_section("logged values", f"{machine()}\n\n{LOGGED}\n\n{table}")


SECTIONS = {
    "callbacks": callbacks,
    "tensorboard": board,
    "early-stopping": stopping,
    "saving": saving,
    "alerts": alerting,
    "store": storing,
    "workers": working,
    "many-small-arrays": small_arrays,
    "record": recording,
    "logged-values": logged,
    "run": running,
}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="whether each runs; no figures")
    options = parser.parse_args(arguments)
    QUICK[:] = ["--quick"] if options.quick else []
    print(machine())
    for name in options.only:
        print(f"\n{name}", flush=True)
        SECTIONS[name](options.rounds)
    if not options.quick:
        print(f"\nwritten to {RESULTS}")


if __name__ == "__main__":
    main()
