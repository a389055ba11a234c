"""What an exchange between workers costs: one round of aggregate and decide, on local processes.

    python benchmarks/workers.py [--rounds 9] [--quick]

The processes are real, on loopback; each counts the seconds of its own part, and the slowest
counts. Beside it an exchange of the engine's own, taking turns: the same two halves by torch's
exchange of pickled objects, and the smallest collective that JAX and TensorFlow have.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
SIZES, COUNT = (2, 4), 200
PROGRAMS = {"torch": "torch_programs", "jax": "jax_programs", "tensorflow": "tf_programs"}
QUICK = {"SIZES": (2,), "COUNT": 3}


def table(rounds):
    sys.path.insert(0, str(TESTS / "workers"))
    from forked import Ground

    rows = ["| | a round, ms | the engine's own, ms | ratio |", "|---|---|---|---|"]
    for engine, programs in PROGRAMS.items():
        ground = Ground([programs], {"KERAS_BACKEND": engine})
        try:
            rows += [row(engine, ground, programs, size, rounds) for size in SIZES]
        finally:
            ground.close()
    return "\n".join(rows)


def row(engine, ground, programs, size, rounds):
    taken = [
        [max(each) for each in zip(*ran, strict=True)]
        for ran in (ground.results(programs, "rounds", size, [COUNT]) for _ in range(rounds))
    ]
    ours, own = (1000 * statistics.median(each) for each in zip(*taken, strict=True))
    return f"| {engine}, {size} workers | {ours:.2f} | {own:.2f} | {ours / own:.2f} |"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    if options.quick:
        globals().update(QUICK)
    print(table(1 if options.quick else options.rounds))


if __name__ == "__main__":
    main()
