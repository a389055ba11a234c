"""What Keras's own callbacks are known for, by their classes.

A user's subclass of one of them is the user's.
"""

from __future__ import annotations

from typing import Any

import keras
from peakhold.host.contract import CallbackTraits

__all__ = ["is_list", "stateless_base", "traits_of"]

_List = keras.callbacks.CallbackList
_OWN = {cls for cls in vars(keras.callbacks).values() if isinstance(cls, type)}
_SILENT = {keras.callbacks.History, keras.callbacks.ProgbarLogger}
_LOG_RATES = {keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau}
_STATELESS = {
    keras.callbacks.Callback,
    keras.callbacks.History,
    keras.callbacks.LambdaCallback,
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.SwapEMAWeights,
    keras.callbacks.TensorBoard,
    keras.callbacks.TerminateOnNaN,
}


def traits_of(callback: Any) -> CallbackTraits | None:
    """What a callback of Keras's own is known for; None for anybody else's."""
    cls = type(callback)
    if cls not in _OWN:
        return None
    return CallbackTraits(silent=cls in _SILENT, logs_rate=cls in _LOG_RATES)


def stateless_base(callback: Any) -> type | None:
    """Keras's class that a callback is of or derived from; None if that has a state to bring back.

    Of what is derived from none of Keras's: `object`.
    """
    base = next((cls for cls in type(callback).__mro__ if cls in _OWN), object)
    return base if base is object or base in _STATELESS else None


def is_list(owner: Any) -> bool:
    """Whether this is the list with which `fit` calls its callbacks."""
    return isinstance(owner, _List)
