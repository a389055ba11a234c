"""Variables of TensorFlow that several workers read together, or none of them can.

A `SyncOnRead` variable under a strategy of several workers has a part on each, and reading it sums
them up: a collective, in which one worker waits for all. Keras makes its metrics so. A worker that
saves alone must not read one; nor does a look for NaN.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peakhold.errors import HostError

__all__ = ["own_part", "refuse_joint", "spans_workers"]


def spans_workers(strategy: Any) -> bool:
    """Whether it is a strategy of several workers."""
    asked = getattr(getattr(strategy, "extended", None), "_in_multi_worker_mode", None)
    return asked is not None and bool(asked())


def own_part(value: Any) -> Any:
    """What of a variable's value this worker can read by itself; mostly all of it."""
    return value.values[0] if _is_joint(value) else value


def refuse_joint(variables: Iterable[Any]) -> None:
    """Raise if a copy of these cannot be taken by one worker.

    Args:
        variables: Of Keras.

    Raises:
        HostError: If one must be read by all workers together.
    """
    for variable in variables:
        if getattr(variable, "synchronization", "auto") == "on_read" and _is_joint(variable.value):
            raise HostError.joint(variable.path)


def _is_joint(value: Any) -> bool:
    # Asked of the class: other attributes of such a variable may read it.
    if not any(cls.__name__ == "SyncOnReadVariable" for cls in type(value).__mro__):
        return False
    return spans_workers(value.distribute_strategy)
