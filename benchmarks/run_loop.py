"""What `Run` costs a loop: a batch with nothing due, and the time that a `Budget` holds training.

    python benchmarks/run_loop.py [--rounds 9] [--quick]

A batch beside the same loop without a run, taking turns; microseconds of CPU, medians. The budget: a
loop of NumPy whose batch takes a given time, with states of three sizes; the share of the wall clock
for which its thread was held by saves, as the run measures it, and what the whole run took more.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from peakhold import Budget, Every, Run

N_BATCHES = 20_000
SHARE = 0.035


class Batches:
    """Numbers, again and again."""

    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return iter(range(self.n))

    def __len__(self):
        return self.n


def bare(n):
    """CPU seconds of a batch of a loop without a run."""
    begun = time.process_time()
    for _ in Batches(n):
        pass
    return (time.process_time() - begun) / n


def with_run(n, value=None):
    """The same with one: all attached, nothing due; with `value`, it is logged."""
    with tempfile.TemporaryDirectory() as folder:
        state = {"w": np.zeros(4)}
        run = Run(
            Path(folder, "run"), state=state, monitor="loss", patience=9, verbose=0,
            save_every=Every(epochs=1),
        )  # fmt: skip
        with run:
            for _ in run.epochs(1):
                begun = time.process_time()
                if value is None:
                    for _ in run.batches(Batches(n)):
                        pass
                else:
                    for _ in run.batches(Batches(n)):
                        run.log(loss=value)
                spent = time.process_time() - begun
                run.log(loss=1.0)
    return spent / n


def held(megabytes, batch_s, seconds):
    """The share of the time that saves have held training, how many there were, and what one took."""
    with tempfile.TemporaryDirectory() as folder:
        state = {"w": np.zeros(int(megabytes * 2**20 / 8))}
        run = Run(Path(folder, "run"), state=state, verbose=0, save_every=Budget(SHARE))
        with run:
            begun = time.monotonic()
            for _ in run.steps(Batches(10**6), 10**9):
                until = time.perf_counter() + batch_s
                while time.perf_counter() < until:
                    pass
                if time.monotonic() - begun > seconds:
                    break
            pace = run._loop.border.pace
            share, n, cost = pace.share(time.monotonic()), pace.n_saves, pace.held_s
    return share, n, cost / max(n, 1)


def table(rounds, *, quick=False):
    n, seconds = (500, 0.3) if quick else (N_BATCHES, 12.0)
    rows = ["| what | µs, or share | |", "|---|---|---|"]
    times = [(bare(n), with_run(n), with_run(n, 0.5)) for _ in range(rounds)]
    empty, run, logged = (statistics.median(one) * 1e6 for one in zip(*times, strict=True))
    rows += [
        f"| a batch, nothing due | {run - empty:.2f} µs | ≤ 2 µs over the bare loop ({empty:.2f}) |",
        f"| `run.log` of a float | {logged - run:.2f} µs | ≤ 5 µs of a device value |",
    ]
    for megabytes in (0.1, 4, 40) if not quick else (0.1,):
        share, saves, cost = held(megabytes, 0.002, seconds)
        rows.append(
            f"| `Budget({SHARE})`, {megabytes} MiB | {share:.1%} | {saves} saves of "
            f"{cost * 1e3:.1f} ms in {seconds:.0f} s; 2 to 4 % |"
        )
    return "\n".join(rows)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    print(table(1 if options.quick else options.rounds, quick=options.quick))


if __name__ == "__main__":
    main()
