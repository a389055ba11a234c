"""A neutral callback for `fit`."""

from __future__ import annotations

from functools import cache
from typing import Any

from keras.callbacks import Callback as KerasOwn

from peakhold.errors import InvalidArgumentError
from peakhold.keras.callback import KerasCallback
from peakhold.runtime.callback import Callback, is_ours

__all__ = ["adapt"]


def adapt(callback: Any) -> Any:
    """Make a callback that was written for loops fit for Keras.

    The result is an instance of the callback's own class and of Keras's, and shares its state: what
    one sees, the other sees. A callback that Keras can take already is returned as it is.

    Args:
        callback: A `peakhold.Callback`, or a callback of Keras.

    Returns:
        A `keras.callbacks.Callback`.

    Raises:
        InvalidArgumentError: If it is neither.

    Example:
        >>> import keras, peakhold
        >>> stopper = adapt(peakhold.EarlyStopping("loss"))
        >>> isinstance(stopper, keras.callbacks.Callback)
        True
    """
    if isinstance(callback, KerasOwn):
        return callback
    if not isinstance(callback, Callback):
        raise InvalidArgumentError.for_argument(
            "callback",
            callback,
            "a callback of Peakhold or Keras",
            hint="pass an instance, such as EarlyStopping('val_loss', patience=3).",
        )
    own: Any = type(callback)
    cls = _adapted_class(own)
    adapted = cls.__new__(cls)
    adapted.__dict__ = callback.__dict__
    return adapted


@cache
def _adapted_class(cls: Any) -> Any:
    """The class itself and Keras's, in one; ours exist already."""
    drop_ins = vars(__import__("peakhold.keras", fromlist=["keras"]))
    known = drop_ins.get(cls.__name__)
    if is_ours(cls) and isinstance(known, type) and issubclass(known, cls):
        return known

    def reduce(self: Any) -> tuple[Any, ...]:
        # The class is made at run time: what is pickled is the original.
        original = cls.__new__(cls)
        original.__dict__ = Callback.__getstate__(self)
        return adapt, (original,)

    return type(
        cls.__name__, (cls, KerasCallback), {"__reduce__": reduce, "__module__": cls.__module__}
    )
