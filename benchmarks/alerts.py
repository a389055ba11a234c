"""What an alert costs training, whatever its webhook does.

    python benchmarks/alerts.py [--rounds 9] [--write] [--quick]

The worst case: a message at every epoch, with no limit, and epochs of a few milliseconds. A round
trains once for each behaviour of the webhook and once without an alert, in an order that turns;
ratios are those to the run without one in the same round. The webhook is a process of its own.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import peakhold

TESTS = Path(__file__).parents[1] / "tests"
EPOCHS = 40
QUICK = {"EPOCHS": 4}
BEHAVIOURS = {
    "answers": "[]",
    "answers 429, `Retry-After: 1`": "[(429, {'Retry-After': '1'})] * 9999",
    "answers 500": "[500] * 9999",
    "hangs": "['hang'] * 9999",
    "cuts the connection": "['cut'] * 9999",
    "refuses": None,
}
SERVER = """
import sys
sys.path.insert(0, sys.argv[1])
from fake_slack import FakeSlack, unused_port
script = eval(sys.argv[2])
if script is None:
    print(unused_port(), flush=True)
    sys.stdin.read()
else:
    with FakeSlack(*script) as slack:
        print(slack.port, flush=True)
        sys.stdin.read()
"""


def train(url):
    """Seconds of a run, and of the ends of its epochs."""
    weights, x = np.zeros((192, 192)), np.ones((192, 192))
    alerts = []
    if url is not None:
        alerts = [
            peakhold.SlackAlert(
                url, when="flips > 0.5", monitor="flips", mode="max", min_interval_s=0.0,
                timeout_s=1.0, exit_timeout_s=0.0,
            )
        ]  # fmt: skip
    callbacks = peakhold.CallbackList([*alerts, peakhold.EarlyStopping("loss", patience=EPOCHS)])
    callbacks.set_params({"epochs": EPOCHS, "verbose": 0})
    callbacks.on_train_begin()
    ends, began = [], time.perf_counter()
    for epoch in range(EPOCHS):
        callbacks.on_epoch_begin(epoch)
        for batch in range(10):
            weights = weights * 0.9 + x @ weights * 1e-6 + 1e-3
            callbacks.on_train_batch_end(batch, {"loss": 0.5})
        ending = time.perf_counter()
        callbacks.on_epoch_end(epoch, {"loss": 0.5, "flips": epoch % 2})
        ends.append(time.perf_counter() - ending)
    took = time.perf_counter() - began
    callbacks.on_train_end()
    for alert in alerts:
        # What was not delivered is what this measures: it is not to be said.
        alert._peakhold_link.participant.outbox.attended = True
    return took, statistics.median(ends)


def measure(rounds):
    servers, urls = [], {"no alert": None}
    for name, script in BEHAVIOURS.items():
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(TESTS), str(script)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        servers.append(server)
        urls[name] = f"http://127.0.0.1:{int(server.stdout.readline())}/x"
    results = {name: [] for name in urls}
    try:
        for turn in range(rounds + 1):
            names = list(urls)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                results[name].append(train(urls[name]))
    finally:
        for server in servers:
            server.stdin.close()
            server.terminate()
            server.wait()
    return {name: values[1:] for name, values in results.items()}


def table(rounds):
    results = measure(rounds)
    base = [took for took, _ in results["no alert"]]
    lines = [
        "| the webhook | an epoch | its end | ratio to no alert | quartiles |",
        "|---|---|---|---|---|",
    ]
    for name, values in results.items():
        epoch = statistics.median(took for took, _ in values) / EPOCHS
        end = statistics.median(end for _, end in values)
        ratios = [took / other for (took, _), other in zip(values, base, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        lines.append(
            f"| {name} | {epoch * 1e3:.2f} ms | {end * 1e6:.0f} µs | {middle:.3f} | {low:.3f} … {high:.3f} |"
        )
    return "\n".join(lines)


TEXT = """\
## Alerts

A message at every other epoch, by a condition that flips, without a limit; `SlackAlert` and an
`EarlyStopping`, beside the latter alone, in turns. Asked for is a run that takes no longer, whatever
the webhook does: a ratio of 1 within the noise. What remains is the background thread's share of a
small machine; the end of an epoch is evaluation, text and queue push."""


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--quick", action="store_true", help="small rounds: whether it runs")
    given = parser.parse_args(arguments)
    globals().update(QUICK if given.quick else {})
    text = table(2 if given.quick else given.rounds)
    print(text)
    if given.write:
        from run import machine, write_section

        write_section("alerts", f"{TEXT}\n\n{machine()}\n\n{text}")


if __name__ == "__main__":
    main()
