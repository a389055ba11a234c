"""The state in the golden checkpoints of format 1. Never change it: users' checkpoints do not change.

`python tests/golden_state.py FOLDER [STEP ...]` wrote the checkpoints that are checked in: `format-1` before
NaN and infinity had one word each in all files, `format-1-words` since; `format-1-refers-to` is one that
needs others.
"""

import math
import sys

import ml_dtypes
import numpy as np


def golden():
    shared = np.arange(6, dtype=np.float32).reshape(2, 3)
    return {
        "model": {
            "kernel": shared,
            "tied": shared,
            "bias": np.array([1.5, -0.0, math.inf], ml_dtypes.bfloat16),
            "eighth": np.array([0.5, 448], ml_dtypes.float8_e4m3fn),
            "empty": np.zeros((0, 4), np.int16),
            "mask": np.array([[True], [False]]),
            "spectrum": np.array([1 + 2j, complex(0, -math.inf)]),
        },
        "optimizer": {"state": {0: {"step": np.array(7, np.int64)}}, "betas": (0.9, 0.999)},
        "train": {
            "step": 4200,
            "best": math.inf,
            "nothing": None,
            "names": ["ä", "\u2028", ""],
            "phase": 1 - 2j,
            "key": b"\x00\xff",
            "$odd": {"$tensor": "not one"},
            "big": 2**70,
        },
    }


if __name__ == "__main__":
    from peakhold.store import Store

    with Store(sys.argv[1]) as store:
        metrics = {"loss": 0.25, "accuracy": math.nan}
        refers_to = map(int, sys.argv[2:])
        store.save(
            4200, golden(), epoch=3, metrics=metrics, reason="golden", refers_to=refers_to
        ).result()
