"""What a round of the coordinator costs, beside an exchange of the engine's own."""

import time

import numpy as np

REPORT = {"metrics": {"loss": 0.25, "val_loss": ["mean", 0.5, 640.0]}, "stops": []}


def medians(workers, own, count):
    """Seconds of a round (aggregate and decide), and of `own`: medians of as many, taking turns."""

    def ours():
        reports = workers.aggregate("a round", REPORT)
        workers.decide("a round", None if reports is None else REPORT)

    taken = {ours: [], own: []}
    for number in range(count):
        for exchange, seconds in taken.items():
            workers.agree("ready", number)  # all begin at once
            began = time.perf_counter()
            exchange()
            seconds.append(time.perf_counter() - began)
    workers.gather("the end", None)
    return [float(np.median(seconds)) for seconds in taken.values()]
