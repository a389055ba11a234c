"""Variables of TensorFlow, as Keras 2 has them: read by this worker alone, never by a collective.

Rules of this file:

1. Under a strategy a variable has a part on each replica. What is read is the first part of this
   worker. Where the parts differ (`BatchNormalization` keeps statistics by replica: "on read"),
   TensorFlow would read their mean, and for that all workers would have to read at once.
2. What is assigned goes to all replicas of this worker, and to no other worker.
3. While Keras 2 writes a file, in functions of its own that read metrics, too, one method of
   TensorFlow's is another one for the thread that writes. A test sees that it is still there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import tensorflow as tf
from tensorflow.python.distribute.values import SyncOnReadVariable

from peakhold.keras.host.joint import spans_workers

__all__ = ["array_of", "is_by_replica", "kind_of", "number", "path_of", "reading_alone"]

_READ_OF_ALL: Final = "_get_cross_replica"
_changing: Final = threading.Lock()


def _own(variable: Any) -> Any:
    return variable.values[0] if isinstance(variable, tf.distribute.DistributedValues) else variable


def array_of(variable: Any) -> Any:
    """The values as an array, without a copy where TensorFlow lets us look.

    To be let go before training goes on: TensorFlow copies a buffer that somebody else looks at.
    """
    value = _own(variable)
    value = value.read_value() if hasattr(value, "read_value") else value
    try:
        return np.asarray(memoryview(value))
    except (TypeError, ValueError, BufferError):  # bfloat16, strings, another device
        return np.asarray(value.numpy())


def number(variable: Any) -> Any:
    """One number, as NumPy's."""
    return variable if isinstance(variable, (int, float)) else array_of(variable).reshape(())[()]


def path_of(variable: Any) -> str:
    """What people call it."""
    name: str = variable.name
    return name.partition(":")[0]


def kind_of(value: Any) -> str:
    """Type and shape, of a variable or an array."""
    dtype = value.dtype
    return f"{getattr(dtype, 'name', dtype)}{tuple(value.shape)}"


def is_by_replica(variable: Any) -> bool:
    """Whether each replica has values of its own, of workers as well."""
    return isinstance(variable, SyncOnReadVariable)


def reading_alone(strategy: Any, call: Callable[..., Any], *args: Any) -> Any:
    """What a call returns that reads variables; nothing in it waits for another worker.

    Args:
        strategy: The model's.
        call: What to call; in this thread.
        args: For it.
    """
    if not spans_workers(strategy):
        return call(*args)
    with _changing:
        of_all, here = getattr(SyncOnReadVariable, _READ_OF_ALL), threading.get_ident()

        def read(variable: Any) -> Any:
            if threading.get_ident() == here:
                return variable.values[0].read_value()
            return of_all(variable)

        setattr(SyncOnReadVariable, _READ_OF_ALL, read)
        try:
            return call(*args)
        finally:
            setattr(SyncOnReadVariable, _READ_OF_ALL, of_all)
