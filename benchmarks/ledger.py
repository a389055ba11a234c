"""The record of a run: what an event costs whoever trains, and what a long record costs whoever looks.

    python benchmarks/ledger.py [--rounds 5] [--quick]

A record of 200,000 events is written as a run writes it: four metrics at the end of each epoch, two
callbacks that decide. Asked for is: opening 50 ms, an event 50 µs, the history 3 s.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time

from peakhold._core.decisions import Continue, SetLearningRate
from peakhold._core.moments import Moment, Position, Spent
from peakhold._core.observation import Event
from peakhold._core.policies.early_stopping import EarlyStoppingState
from peakhold.ledger import Ledger, RunFolder, history, read_events
from peakhold.runtime.listening import Told, Trace

EVENTS = 200_000
REACH = {"opening": 50.0, "append": 50.0, "moment": 50.0, "history": 3.0}


def told(n):
    """The end of an epoch, at which two callbacks have decided."""
    moment = Moment(
        Event.EPOCH_END,
        Position(n, None, 100 * n),
        {"loss": 1 / (n + 1), "accuracy": 0.5, "val_loss": 1 / (n + 2), "val_accuracy": 0.5},
        {"": 0.001},
        Spent(1.5 * n, 100 * n),
        validated=True,
        validates=True,
    )
    waits = (Continue("no better than 0.25"),)
    lowers = (SetLearningRate("no improvement for 3 epochs", "", 0.001 / (n + 1)),)
    state = EarlyStoppingState()
    return Told(
        "run",
        moment,
        {"EarlyStopping(val_loss)": waits, "ReduceLROnPlateau(val_loss)": lowers},
        {},
        {
            "EarlyStopping(val_loss)": (Trace(None, state, (), moment, waits, False),),
            "ReduceLROnPlateau(val_loss)": (Trace(None, state, (), moment, lowers, False),),
        },
    )


def clocked(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def cost_of_each(add, things, flush):
    """Microseconds of each; the flushes that a run asks for at its commits are not counted."""
    taken = []
    for n, thing in enumerate(things):
        began = time.perf_counter()
        add(thing)
        taken.append(time.perf_counter() - began)
        if n % 100 == 99:
            flush()
    return statistics.median(taken) * 1e6, sorted(taken)[int(len(taken) * 0.99)] * 1e6


def measure(n_events, rounds):
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(os.path.join(place, "run"))
        with folder.own():
            ledger = Ledger(folder.events, None)
            notes = [{"kind": "note", "text": f"saved epoch {n}", "n": n} for n in range(2_000)]
            append = cost_of_each(ledger.append, notes, ledger.flush)
            moments = [told(n) for n in range(min(n_events, 5_000))]
            moment = cost_of_each(ledger.told, moments, ledger.flush)
            for n in range(len(moments), n_events - len(notes)):
                ledger.told(told(n))
            ledger.close()

            def opened():
                Ledger(folder.events, offset).close()

            offset = ledger.offset // 2
            opening = [clocked(opened) * 1e3 for _ in range(rounds)]
            size = os.path.getsize(folder.events)
        reading = [
            clocked(lambda: sum(1 for _ in read_events(folder.events))) for _ in range(rounds)
        ]
        columns = [clocked(lambda: history(folder.events)) for _ in range(rounds)]
        status = [clocked(folder.status) * 1e3 for _ in range(rounds)]
    return size, opening, append, moment, columns, reading, status


def table(n_events=EVENTS, rounds=5):
    """The table, and whether what was asked for is reached."""
    size, opening, append, moment, columns, reading, status = measure(n_events, rounds)

    def times(values, unit):
        return f"{statistics.median(values):.2f} {unit}, {max(values):.2f} at most"

    lines = [
        "| | takes | asked for |",
        "|---|---|---|",
        f"| opening, from an offset | {times(opening, 'ms')} | 50 ms |",
        f"| an event | {append[0]:.1f} µs, 99 of 100 within {append[1]:.1f} | 50 µs |",
        f"| a moment, written at once | {moment[0]:.1f} µs, 99 of 100 within {moment[1]:.1f} | 50 µs |",
        f"| the history | {times(columns, 's')} | 3 s |",
        f"| all events | {times(reading, 's')} | |",
        f"| how the run stands | {times(status, 'ms')} | |",
        "",
        f"{n_events:,} events, {size / 1e6:.0f} MB; medians of {rounds} rounds.",
    ]
    reached = (
        statistics.median(opening) <= REACH["opening"]
        and append[0] <= REACH["append"]
        and moment[0] <= REACH["moment"]
        and statistics.median(columns) <= REACH["history"]
    )
    return "\n".join(lines), reached


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a short record: whether it runs")
    options = parser.parse_args(arguments)
    text, reached = table(3_000, 1) if options.quick else table(rounds=options.rounds)
    print(text)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
