"""A neutral callback for the `fit` of Keras 2."""

from __future__ import annotations

from typing import Any

from tf_keras.callbacks import Callback as KerasOwn

from peakhold.keras.adapter import adapted_by
from peakhold.tf_keras.callback import TFKerasCallback

__all__ = ["adapt"]


def adapt(callback: Any) -> Any:
    """Make a callback that was written for loops fit for Keras 2.

    The result is an instance of the callback's own class and of Keras's, and shares its state: what
    one sees, the other sees. A callback that Keras 2 can take already is returned as it is.

    Args:
        callback: A `peakhold.Callback`, or a callback of `tf_keras`.

    Returns:
        A `tf_keras.callbacks.Callback`.

    Raises:
        InvalidArgumentError: If it is neither.

    Example:
        >>> import tf_keras, peakhold
        >>> stopper = adapt(peakhold.EarlyStopping("loss"))
        >>> isinstance(stopper, tf_keras.callbacks.Callback)
        True
    """
    return adapted_by(adapt, callback, KerasOwn, TFKerasCallback)
