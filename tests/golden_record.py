"""The record of epochs in golden backups. Never change it: users' backups do not change.

`python tests/golden_record.py FOLDER` wrote what is in `tests/golden/record-2`; `record-1` is of the
first form, in which a metric's values were an array of floats, or a list.
"""

import math
import pathlib
import sys

import numpy as np

from peakhold.host.resume import EpochRecord

FOLDERS = pathlib.Path(__file__).parent / "golden"


def record():
    """Metrics of each kind, over five epochs, or over those in which they were logged."""
    return EpochRecord(
        [0, 1, 2, 3, 7],
        {
            "loss": [0.5, math.nan, -math.inf, -0.0, 1e-300],
            "val_loss": [0.25, 0.125],
            "count": [3, -1, 2**62, 0, 1],
            "flag": [True, False, True, True, False],
            "mixed": [1, 0.5, None, "a\nword", True],
            "large": [10**30, 1, math.nan, 2.0, -math.inf],
            "narrow": [np.float32(0.1), np.float32(2), np.float32(math.nan), np.float32(0), np.float32(1)],
            "per_class": [np.arange(3) + i for i in range(5)],
            "odd": [np.arange(2), 0.5, "a", np.arange(3), None],
        },
    )  # fmt: skip


if __name__ == "__main__":
    from peakhold.backup.record import Packer
    from peakhold.store import Store

    with Store(sys.argv[1]) as store:
        store.save(1, {"train_state": {"passed": Packer().pack(record())}}).result()
