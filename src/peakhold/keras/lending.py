"""Keras's classes as bases of ours: they lend their name to `isinstance`, and nothing else.

People and libraries ask `isinstance(callback, keras.callbacks.EarlyStopping)`: AutoKeras adds a
second early stopping where it hears no. So Keras's class is a base of each drop-in, the last one.

Rules of this file:

1. No `__init__` of a class that lends is run; that of a user's mixin behind it is (`init_past`).
2. What such a class defines is never reached from ours. A name that ours have not, `_save_model`
   or `_train_writer`, is an error that says what to do, not Keras's code on an object that it does
   not know. An attribute that a user sets under such a name is the user's.
3. Which names those are is read off Keras's class: a later Keras may have others.
"""

from __future__ import annotations

import inspect
from typing import Any, Final, TypeVar, final

from keras.callbacks import Callback as KerasOwn

import keras
from peakhold.runtime.callback import Callback

__all__ = ["init_past", "lenders_of", "lends", "not_lent"]

C = TypeVar("C", bound=type)

_KERAS: Final = [
    cls for cls in vars(keras.callbacks).values()
    if isinstance(cls, type) and issubclass(cls, KerasOwn) and cls is not KerasOwn
]  # fmt: skip
_lenders: Final[set[type]] = set()
_OF_EVERY_CLASS: Final = {"__module__", "__doc__", "__dict__", "__weakref__", "__qualname__"}
_HINTS: Final = {
    "_save_model": "pass save_freq, or save_best_only=True, to say when; to save at will, call "
    "model.save.",
    "_should_save_model": "pass save_best_only, initial_value_threshold or save_freq to say when.",
    "_should_save_on_batch": "pass save_freq=Every(batches=…) to say when.",
    "_get_file_path": "say it in filepath, which takes placeholders of epoch and metrics.",
    "_is_improvement": "pass mode and min_delta, which take part in every decision.",
    "_set_monitor_op": "pass mode='min' or mode='max'.",
    "_reset": "begin a new fit, which resets it; or make a new one.",
}
_HINT: Final = "see 'Differences from Keras' for what takes its place, or use Keras's class."


def lends(cls: C) -> C:
    """A drop-in whose last base is Keras's class: see that the base lends nothing but its name.

    Args:
        cls: The class; names of Keras's that it has not itself are made errors.
    """
    for lender in lenders_of(cls):
        _lenders.add(lender)
        for name in vars(lender):
            if name not in _OF_EVERY_CLASS and _owner(cls, name) in _lenders:
                setattr(cls, name, _NotLent(lender.__name__, name))
    return cls


def not_lent(cls: type) -> set[str]:
    """Names that a class has from Keras's class, and that are errors."""
    return {
        name
        for lender in lenders_of(cls)
        for name in vars(lender)
        if isinstance(inspect.getattr_static(cls, name), _NotLent)
    }


def lenders_of(cls: type) -> list[type]:
    """Keras's own classes among the bases of a class, but the one of every callback."""
    return [
        base for base in cls.__mro__
        if issubclass(base, KerasOwn) and base is not KerasOwn and _is_keras_own(base)
    ]  # fmt: skip


def _is_keras_own(cls: type) -> bool:
    return any(cls in one.__mro__ for one in _KERAS)  # their common base, too


def _owner(cls: type, name: str) -> type | None:
    return next((base for base in cls.__mro__ if name in vars(base)), None)


def init_past(callback: Any) -> None:
    """Run the `__init__` that comes after ours, past those of classes that lend their name."""
    mro: tuple[Any, ...] = type(callback).__mro__
    at = mro.index(Callback)  # whose own only goes on to the next
    while mro[at + 1] in _lenders:
        at += 1
    super(mro[at], callback).__init__()


@final
class _NotLent:
    """A name of Keras's class that means nothing here. No `__set__`: a user may take it."""

    def __init__(self, lender: str, name: str) -> None:
        self._lender, self._name = lender, name

    def __get__(self, callback: Any, cls: type | None = None) -> Any:
        own = "the class" if cls is None else cls.__name__
        raise AttributeError(
            f"{own} of Peakhold has no {self._name!r}, which is a private part of "
            f"keras.callbacks.{self._lender}.\nHint: {_HINTS.get(self._name, _HINT)}"
        )
