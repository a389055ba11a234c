"""What a batch of a loop pays for what it logs, and for the bar.

    KERAS_BACKEND=jax python benchmarks/logged_values.py [--rounds 9] [--quick]

A value is logged again and again, beside the least that its framework can do with it (one addition;
on JAX, compiled), taking turns; of each the fastest of many short rounds counts, for what else the
machine does makes them slower, never faster. What a bar costs is the average over a second, the
fastest of the rounds. Memory is that of the process, after 100,000 different values more than after
5,000.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import sys
import time

import numpy as np

from peakhold.run.batch_size import batch_size
from peakhold.run.display.choosing import display_for
from peakhold.run.means import Means

BACKEND = os.environ.get("KERAS_BACKEND", "torch")
REACH, BAR = 5.0, 2.0
"""Microseconds that are asked for."""


def of_backend():
    """A device's value, what makes another one of it, and how people write that."""
    if BACKEND == "torch":
        import torch

        torch.set_num_threads(1)
        return torch.tensor(0.5), lambda value: value + 1
    if BACKEND == "jax":
        import jax

        return jax.numpy.float32(0.5), jax.jit(lambda value: value + 1)
    import tensorflow as tf

    return tf.constant(0.5), lambda value: value + 1


def fastest(calls, rounds, count):
    """By name: microseconds of a call."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds * 20):
        for name, call in calls.items():
            began = time.perf_counter()
            for _ in range(count):
                call()
            best[name] = min(best[name], (time.perf_counter() - began) / count * 1e6)
    return best


def logging(value):
    """What logs a value."""
    means, values = Means(), {"loss": value}
    return functools.partial(means.add, values, 32)


def elsewhere(value):
    """The same, as where a GPU is: what lies there cannot be read, it is copied."""
    log = logging(value)
    log()  # has a roll now
    (metric,) = log.func.__self__._metrics.values()
    for roll in metric._tape._by_key.values():
        roll._in_memory = False
    return log


class Terminal(io.StringIO):
    def isatty(self):
        return True


def drawing():
    """What a batch tells a bar."""
    stdout = sys.stdout
    sys.stdout = Terminal()
    try:
        display = display_for(1)
    finally:
        sys.stdout = stdout
    display._canvas._line.take = lambda: None
    display.begin("runs/bench", 1)
    display.epoch_begins(0, 10**9)
    return display.batch_done


def average(call, seconds):
    """Microseconds of a call, over all of them: some draw, most do not."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for i in range(1000):
            call(i)
        count += 1000
    return (time.perf_counter() - began) / count * 1e6


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def grown(value, make, count):
    """MiB that many logs leave behind."""
    means = Means()
    for _ in range(min(5000, count)):
        means.add({"loss": make(value)}, 32)
    before = resident()
    for _ in range(count):
        means.add({"loss": make(value)}, 32)
    return resident() - before


def measure(rounds, count, many):
    value, make = of_backend()
    batch = np.zeros((32, 8), "float32"), np.zeros(32, "float32")
    calls = {
        "its least operation": lambda: make(value),
        "a value of the device": logging(value),
        "a float": logging(0.5),
        "the size of a batch": lambda: batch_size(batch),
    }
    if BACKEND == "jax":
        calls["the same, not there yet"] = elsewhere(value)
    best = fastest(calls, rounds, count)
    bar = drawing()
    best["a batch of the bar"] = min(average(bar, many / 100_000) for _ in range(rounds))
    return best, grown(value, make, many)


def main(arguments=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="whether it runs; no figures")
    given = parser.parse_args(arguments)
    rounds, count, many = (1, 20, 300) if given.quick else (given.rounds, 600, 100_000)
    best, memory = measure(rounds, count, many)
    least = best.pop("its least operation")
    print("| backend | | µs | its least operation | ratio | asked for |")
    print("|---|---|---|---|---|---|")
    for name, took in best.items():
        of_device = name in {"a value of the device", "the same, not there yet"}
        beside = f"{least:.2f} µs | {took / least:.2f}" if of_device else "- | -"
        reach = REACH if "value" in name or "same" in name else BAR
        print(f"| {BACKEND} | {name} | {took:.2f} | {beside} | ≤ {reach:.0f} µs |")
    print(f"| {BACKEND} | memory after {many:,} more | {memory:.1f} MiB | - | - | none |")


if __name__ == "__main__":
    main()
