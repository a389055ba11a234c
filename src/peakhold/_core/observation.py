"""The events of a training loop, in their places.

::

    TRAIN_BEGIN
    for epoch in epochs:
        EPOCH_BEGIN
        for batch in batches:
            TRAIN_BATCH_BEGIN
            ...                       # the loss is computed, then the weights change
            TRAIN_BATCH_END           # so a finite loss says nothing about the weights now
        TEST_BEGIN                    # only in epochs that validate
        for batch in validation: ...
        TEST_END
        EPOCH_END                     # metrics are complete: most decisions are made here
    TRAIN_END                         # however training ended, except by an exception
"""

from __future__ import annotations

import enum
import math
from typing import final

__all__ = ["Event", "is_finite"]


@final
class Event(enum.StrEnum):
    """What a session tells of; the value is the name of the hook that it comes from.

    Prediction is no part of a run, and that a batch of validation has ended tells nobody anything.
    """

    TRAIN_BEGIN = "on_train_begin"
    TRAIN_END = "on_train_end"
    EPOCH_BEGIN = "on_epoch_begin"
    EPOCH_END = "on_epoch_end"
    TRAIN_BATCH_BEGIN = "on_train_batch_begin"
    TRAIN_BATCH_END = "on_train_batch_end"
    TEST_BEGIN = "on_test_begin"
    TEST_END = "on_test_end"
    TEST_BATCH_BEGIN = "on_test_batch_begin"


def is_finite(value: float | None) -> bool:
    """Whether `value` is a number that can be ranked: not missing, NaN or infinite."""
    return value is not None and math.isfinite(value)
