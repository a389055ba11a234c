"""A neutral callback for `fit`."""

from __future__ import annotations

import importlib
from collections.abc import Callable as Function
from functools import cache
from typing import Any

from keras.callbacks import Callback as KerasOwn

from peakhold.errors import InvalidArgumentError
from peakhold.keras.callback import KerasCallback
from peakhold.runtime.callback import Callback, is_ours, link_of

__all__ = ["adapt", "adapted_by"]


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
    return adapted_by(adapt, callback, KerasOwn, KerasCallback)


def adapted_by(adapt: Function[[Any], Any], callback: Any, own_base: type, base: type) -> Any:
    """What `adapt` returns, for Keras 3 or Keras 2.

    Args:
        adapt: The function that users call, and that a pickled callback does.
        callback: What it was given.
        own_base: Keras's class of every callback.
        base: Ours.
    """
    if isinstance(callback, own_base):
        return callback
    if not isinstance(callback, Callback):
        raise InvalidArgumentError.for_argument(
            "callback",
            callback,
            "a callback of Peakhold or Keras",
            hint="pass an instance, such as EarlyStopping('val_loss', patience=3).",
        )
    own: Any = type(callback)
    cls = _adapted_class(own, base, adapt)
    adapted = cls.__new__(cls)
    adapted.__dict__ = callback.__dict__
    _take_over(adapted)
    return adapted


def _take_over(adapted: Any) -> None:
    """Have Keras's own kind of participant asked, where there is one; it shares its state, too."""
    link, kind = link_of(adapted), getattr(adapted, "_peakhold_kind", None)
    if link is not None and kind is not None and not isinstance(link.participant, kind):
        participant = kind.__new__(kind)
        participant.__dict__ = link.participant.__dict__
        link.participant = participant


@cache
def _adapted_class(cls: Any, base: type, adapt: Function[[Any], Any]) -> Any:
    """The class itself and Keras's, in one; ours exist already."""
    known = _drop_in_of(cls, base)
    if is_ours(cls) and issubclass(known, cls):
        return known

    def reduce(self: Any) -> tuple[Any, ...]:
        # The class is made at run time: what is pickled is the original.
        original = cls.__new__(cls)
        original.__setstate__(self.__getstate__())
        return adapt, (original,)

    return type(cls.__name__, (cls, known), {"__reduce__": reduce, "__module__": cls.__module__})


def _drop_in_of(cls: type, every: type) -> Any:
    """The drop-in that stands for a neutral class, or for what it derives from."""
    drop_ins = vars(importlib.import_module(every.__module__.rpartition(".")[0]))
    for base in filter(is_ours, cls.__mro__):
        known = drop_ins.get(base.__name__)
        if isinstance(known, type) and issubclass(known, base) and issubclass(known, every):
            return known
    return every
