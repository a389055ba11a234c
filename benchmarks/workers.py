"""What an exchange between workers costs: one round of aggregate and decide, on local processes.

    python benchmarks/workers.py [--rounds 9] [--quick]

The processes are real and joined by gloo; each counts the seconds of its own part, and the slowest
counts. Beside it the same two halves by torch's own exchange of pickled objects, taking turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
SIZES, COUNT = (2, 4), 200
QUICK = {"SIZES": (2,), "COUNT": 3}


def table(rounds):
    sys.path.insert(0, str(TESTS / "workers"))
    from forked import Ground

    ground, rows = Ground(["torch", "torch_programs"], {}), []
    try:
        for size in SIZES:
            taken = [
                [max(each) for each in zip(*ran, strict=True)]
                for ran in (
                    ground.results("torch_programs", "rounds", size, [COUNT]) for _ in range(rounds)
                )
            ]
            ours, gloos = (1000 * statistics.median(each) for each in zip(*taken, strict=True))
            rows.append(
                f"| a round, {size} workers | {ours:.2f} | {gloos:.2f} | {ours / gloos:.2f} |"
            )
    finally:
        ground.close()
    head = "| torch | ms | by gloo's objects, ms | ratio |\n|---|---|---|---|"
    return "\n".join([head, *rows])


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
