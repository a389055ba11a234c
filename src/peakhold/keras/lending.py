"""Keras's classes as bases of ours: they lend their name to `isinstance`, and nothing else.

People and libraries ask `isinstance(callback, keras.callbacks.EarlyStopping)`: AutoKeras adds a
second early stopping where it hears no. So Keras's class is a base of each drop-in, the last one.

Rules of this file:

1. No `__init__` of a class that lends is run; that of a user's mixin behind it is (`init_past`).
2. What such a class defines is never reached from ours. A name that ours have not, `_log_weights`
   or `_load_model`, is an error that says what to do, not Keras's code on an object that it does
   not know. An attribute that a user sets under such a name is the user's.
3. Which names those are is read off Keras's class: a later Keras may have others.
4. Keras 2's classes (`tf_keras`) lend like Keras 3's; whoever imports them says so (`know`).
5. What a user's subclass defines under such a name, for Keras to call, is not called by ours: that
   is said before the first batch, once for each class and run (`ignored_in`).
"""

from __future__ import annotations

import inspect
from functools import cache
from types import ModuleType
from typing import Any, Final, TypeVar, final

import keras
from peakhold.runtime.callback import Callback, is_ours

__all__ = ["ignored_in", "init_past", "know", "lenders_of", "lends", "not_lent"]

C = TypeVar("C", bound=type)

_keras_own: Final[set[type]] = set()
"""Classes of Keras's callbacks and what they derive from, up to the one of every callback."""
_lenders: Final[set[type]] = set()
_OF_EVERY_CLASS: Final = {"__module__", "__doc__", "__dict__", "__weakref__", "__qualname__"}
_BOOKKEEPING: Final = {"_api_export_path", "_api_export_symbol_id"}
"""What Keras notes on each of its classes."""
_HINTS: Final = {
    "_should_save_on_batch": "pass save_freq=Every(batches=…) to say when; override "
    "_should_save_model to say whether.",
    "_checkpoint_exists": "call os.path.exists.",
    "_get_most_recently_modified_file_matching_pattern": "read latest_path, or best_path.",
    "_reduce_optimizer_lr": "pass factor and min_lr, or set model.optimizer.learning_rate.",
    "_update_optimizer_lr": "set model.optimizer.learning_rate.",
    "_save_model": "pass save_freq to say when a backup is made.",
    "_load_model": "what a backup holds comes back when fit begins.",
    "_log_epoch_metrics": "add to logs in on_epoch_end, before super().on_epoch_end(...).",
    "_collect_learning_rate": "add to logs in on_epoch_end, before super().on_epoch_end(...).",
    "_log_weights": "write what you want with self._train_writer, in on_epoch_end.",
    "_log_weight_as_image": "write what you want with self._train_writer, in on_epoch_end.",
    "_log_embeddings": "write what you want with self._train_writer, in on_epoch_end.",
    "_push_writer": "use `with self._train_writer.as_default(step):`.",
    "_pop_writer": "use `with self._train_writer.as_default(step):`.",
    "_close_writers": "self._train_writer and self._val_writer are closed when training ends.",
    "_start_profiler": "pass profile_batch.",
    "_stop_profiler": "pass profile_batch.",
    "_start_trace": "pass profile_batch.",
    "_stop_trace": "pass profile_batch.",
    "_init_profile_batch": "pass profile_batch.",
}
_HIDDEN: Final = {"TensorBoard": ("_train_writer", "_val_writer", "summary")}
_NOT_CALLED: Final = {
    "ReduceLROnPlateau": ("_reset", "in_cooldown"),
    **_HIDDEN,
}
"""What ours have, for users' code to call, and do not call themselves."""
_HINT: Final = "see 'Differences from Keras' for what takes its place, or use Keras's class."


def know(callbacks: ModuleType) -> None:
    """The classes of a Keras may lend their names from now on.

    Args:
        callbacks: Its `callbacks`.
    """
    every: type = callbacks.Callback
    for cls in vars(callbacks).values():
        if isinstance(cls, type) and issubclass(cls, every):
            _keras_own.update(cls.__mro__[: cls.__mro__.index(every)])


know(keras.callbacks)


def lends(cls: C) -> C:
    """A drop-in whose last base is Keras's class: see that the base lends nothing but its name.

    Args:
        cls: The class; names of Keras's that it has not itself are made errors.
    """
    for lender in lenders_of(cls):
        _lenders.add(lender)
        for name in vars(lender):
            if name not in _OF_EVERY_CLASS and _owner(cls, name) in _lenders:
                setattr(cls, name, _NotLent(lender, name))
    return cls


def not_lent(cls: type) -> set[str]:
    """Names that a class has from Keras's class, and that nobody should read to see them all.

    Those that are errors, and those whose reading loads a framework.
    """
    return {
        name
        for lender in lenders_of(cls)
        for name in vars(lender)
        if isinstance(inspect.getattr_static(cls, name), _NotLent)
        or name in _HIDDEN.get(lender.__name__, ())
    }


@cache
def ignored_in(cls: type) -> tuple[str, ...]:
    """What a user's class defines for Keras to call and ours do not call, one sentence for each."""
    said = []
    for lender in lenders_of(cls):
        for name in vars(lender):
            owner = _owner(cls, name)
            if owner is None or owner is lender or is_ours(owner) or name in _BOOKKEEPING:
                continue
            ours = next(base for base in cls.__mro__ if is_ours(base))
            own = inspect.getattr_static(ours, name, None)
            if isinstance(own, _NotLent) or name in _NOT_CALLED.get(lender.__name__, ()):
                hint = _HINTS.get(name, _HINT)
                said.append(
                    f"{owner.__module__}.{owner.__qualname__} overrides {name!r} of Keras's "
                    f"{lender.__name__}, which Peakhold's {ours.__name__} does not call: it is "
                    f"ignored.\nHint: {hint}"
                )
    return tuple(said)


def lenders_of(cls: type) -> list[type]:
    """Keras's own classes among the bases of a class, but the one of every callback."""
    return [base for base in cls.__mro__ if base in _keras_own]


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

    def __init__(self, lender: type, name: str) -> None:
        framework = lender.__module__.partition(".")[0]
        self._lender, self._name = f"{framework}.callbacks.{lender.__name__}", name

    def __get__(self, callback: Any, cls: type | None = None) -> Any:
        own = "the class" if cls is None else cls.__name__
        raise AttributeError(
            f"{own} of Peakhold has no {self._name!r}, which is a private part of "
            f"{self._lender}.\nHint: {_HINTS.get(self._name, _HINT)}"
        )
