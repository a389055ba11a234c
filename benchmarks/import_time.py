"""Importing Peakhold beside the bare interpreter, in one run: the time, and what it loads.

    python benchmarks/import_time.py [--rounds 21] [--quick]

They take turns, each in a fresh process, so that a disturbance hits all. Bytecode is compiled
beforehand, as an installation does it, into a folder of this run's own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

FRAMEWORKS = ("keras", "tensorflow", "jax", "torch", "h5py", "sklearn", "numpy", "safetensors")
CODES = {
    "pass": "bare interpreter",
    "import peakhold": "`import peakhold`, beyond it",
    "from peakhold import EarlyStopping": "`from peakhold import EarlyStopping`, beyond it",
}
REACH = 60
"""Milliseconds beyond the interpreter."""


def run(code, environment):
    """Run code in a fresh interpreter; returns milliseconds and what it printed."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    return (time.perf_counter() - began) * 1e3, done.stdout


def measure(rounds):
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        listing = "import json, sys; from peakhold import *; print(json.dumps(sorted(sys.modules)))"
        loaded = json.loads(run(listing, environment)[1])
        times = {code: [] for code in CODES}
        for _ in range(rounds):
            for code, taken in times.items():
                taken.append(run(code, environment)[0])
    return times, [name for name in FRAMEWORKS if name in loaded]


def table(rounds=21):
    """The table, and whether what was asked for is reached."""
    times, frameworks = measure(rounds)
    bare = times["pass"]
    lines = ["| | median | quartiles |", "|---|---|---|"]
    middles = []
    for code, name in CODES.items():
        values = times[code]
        if code != "pass":
            values = [one - other for one, other in zip(values, bare, strict=True)]
        low, middle, high = statistics.quantiles(values, n=4)
        lines.append(f"| {name} | {middle:.1f} ms | {low:.1f} … {high:.1f} |")
        middles.append(middle)
    lines.append("")
    lines.append(
        f"Asked for: at most {REACH} ms. Frameworks loaded: {', '.join(frameworks) or 'none'}."
    )
    return "\n".join(lines), max(middles[1:]) <= REACH and not frameworks


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--quick", action="store_true", help="two rounds: whether it runs")
    options = parser.parse_args(arguments)
    text, reached = table(2 if options.quick else options.rounds)
    print(text)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
