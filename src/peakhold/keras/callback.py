"""What makes a neutral callback a Keras one: the seam, filled in."""

from __future__ import annotations

import weakref
from collections.abc import Callable as Function
from collections.abc import Sequence
from typing import Any

from keras.callbacks import Callback as KerasOwn
from keras.callbacks import CallbackList as KerasList
from keras.callbacks import ProgbarLogger

import keras
from peakhold._core.monitor import Direction
from peakhold.errors import HostError
from peakhold.host.contract import Host
from peakhold.host.finding import framework_of, how_to_import
from peakhold.host.loop import LoopHost
from peakhold.keras.files import saving
from peakhold.keras.fit.frame import calling_list
from peakhold.keras.host.keras_host import host_for
from peakhold.keras.lending import ignored_in, init_past, not_lent
from peakhold.runtime import callback as neutral
from peakhold.runtime.participant import Sparse

__all__ = ["KerasCallback"]


class KerasSeam(neutral.Seam):
    """What differs between a loop and `fit`, for `fit`."""

    file_suffixes = saving.SUFFIXES

    def comparison(self, direction: Direction) -> Function[[Any, Any], Any]:
        """Keras's own, which compares tensors, too."""
        comparison: Function[[Any, Any], Any] = (
            keras.ops.less if direction is Direction.MIN else keras.ops.greater
        )
        return comparison

    def host_for(self, model: Any) -> Host:
        """A Keras model, or anything else that is trained in a loop."""
        return host_for(model) or LoopHost(model)

    def ignored_in(self, cls: type) -> Sequence[str]:
        """What a user's class defines for Keras to call, and we do not."""
        return ignored_in(cls)


class KerasCallback(neutral.Callback, KerasOwn):  # type: ignore[misc]
    """Base class of callbacks for `fit`, `evaluate` and `predict`, and for loops, too.

    The same hooks and attributes as `keras.callbacks.Callback`. It adds `state_dict()` and
    `load_state_dict()`, is pickled without its model, and its batch hooks run in the training
    thread even if it was passed to `fit` outside a list (K-D2).

    Example:
        >>> class Print(KerasCallback):
        ...     def on_epoch_end(self, epoch, logs=None):
        ...         print(epoch, logs["loss"])
        >>> Print().on_epoch_end(0, {"loss": 0.5})
        0 0.5
    """

    _peakhold_seam = KerasSeam()

    def __init__(self) -> None:
        init_past(self)

    def __dir__(self) -> list[str]:
        hidden = not_lent(type(self))
        return [name for name in super().__dir__() if name not in hidden or name in vars(self)]

    def set_model(self, model: Any) -> None:
        """Called by Keras when `fit` begins.

        Raises:
            HostError: For a model of Keras 2.
        """
        if framework_of(model) == "tf_keras":
            name = neutral.plain_class(type(self)).__name__
            hint = how_to_import(name, "tf_keras")
            raise HostError.other_keras(type(self).__name__, "Keras 3", model, hint)
        KerasOwn.set_model(self, model)
        self._peakhold_host = None
        driver = calling_list(self, KerasList)
        if driver is not None:
            keep_in_thread(driver)
            pass_over_no_ops(driver)
            link = neutral.link_of(self)
            if link is not None:
                link.driver = driver
                link.participant.attached(driver, self)

    @property
    def model(self) -> Any:
        """The model: unwrapped if it is distributed, in sync on JAX."""
        return KerasOwn.model.fget(self)


def keep_in_thread(driver: Any) -> None:
    """Take batch hooks out of Keras's thread pool where one of them is not a no-op.

    Keras decides this itself for a list or tuple, and forgets to for a single callback or a dict:
    their hooks then run in a pool, concurrently and out of order (K-D2).
    """
    for phase in ("train", "test", "predict"):
        flag = f"_async_{phase}"
        if getattr(driver, flag, False) and any(
            _acts(callback, phase) for callback in driver.callbacks
        ):
            setattr(driver, flag, False)


def pass_over_no_ops(driver: Any) -> None:
    """Let a batch end at once where all hooks for it are no-ops.

    Keras hands each batch to its thread pool even then, which costs more than the hooks would: 20
    of a batch's 100 µs on JAX (`benchmarks/fit_overhead.py`). Who acts is asked at each batch: a
    callback may get its hook later than here. One that looks at some batches only is asked at each
    whether it does; then the hooks run in the training thread, and else as if it had none.
    """
    for phase in ("train", "test", "predict"):
        name = f"on_{phase}_batch_end"
        if not getattr(driver, f"_async_{phase}", False) or name in vars(driver):
            continue
        if getattr(type(driver), name) is getattr(KerasList, name):
            setattr(
                driver, name, _unless_idle(weakref.ref(driver), phase, getattr(KerasList, name))
            )
        elif phase == "train" and any(map(_sparse, driver.callbacks)):
            driver._async_train = False


def _unless_idle(
    reference: weakref.ref[Any], phase: str, dispatch: Function[..., None]
) -> Function[..., None]:
    def batch_end(batch: int, logs: Any = None) -> None:
        driver = reference()
        if driver is None:
            return
        looks = due = False
        for one in driver.callbacks:
            sparse = _sparse(one) if phase == "train" else None
            if sparse is not None:
                sparse.count(batch)
                due = due or sparse.is_due()
            else:
                looks = looks or _has_hook(one, phase)
        if due:
            driver._flush_futures()  # of earlier batches: the progress bar's
            driver._on_train_batch_end(batch, logs)
        elif looks:
            dispatch(driver, batch, logs)

    return batch_end


def _acts(callback: Any, phase: str) -> bool:
    # Keras adds its progress bar after it has decided, and runs it in the pool: so do we.
    if getattr(callback, "async_safe", False) or isinstance(callback, ProgbarLogger):
        return False
    return _has_hook(callback, phase)


def _sparse(callback: Any) -> Sparse | None:
    """The participant of a callback that looks at some batches only, and knows at which."""
    if not getattr(callback, "async_safe", False):
        return None
    link = neutral.link_of(callback)
    participant = None if link is None else link.participant
    return participant if isinstance(participant, Sparse) else None


_BATCH_ENDS = {
    "train": ("on_train_batch_end", "on_batch_end"),
    "test": ("on_test_batch_end",),
    "predict": ("on_predict_batch_end",),
}


def _has_hook(callback: Any, phase: str) -> bool:
    """Whether a callback does something at the end of a batch. Asked at each, so without a call."""
    for name in _BATCH_ENDS[phase]:
        if not getattr(getattr(callback, name), "_is_default", False):
            return True
    return False
