"""Keras's `CallbackList`, for `fit` and for loops by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from keras.callbacks import CallbackList as KerasOwn
from keras.src.utils.python_utils import pythonify_logs

from peakhold._core.aggregates import Max, Mean, Min, Sum
from peakhold.callbacks.callback_list import flatten
from peakhold.errors import InvalidArgumentError
from peakhold.host.contract import Host
from peakhold.host.extras import Extras
from peakhold.host.finding import host_for
from peakhold.keras.adapter import adapt
from peakhold.keras.callback import keep_in_thread
from peakhold.runtime.callback import Callback, link_of
from peakhold.runtime.loop_list import LoopList, check_first_epoch, check_params, frame_of_loop

if TYPE_CHECKING:
    from peakhold.distributed import Channel, Coordinator

__all__ = ["CallbackList"]


class CallbackList(LoopList, KerasOwn):  # type: ignore[misc]
    """Keras's list of callbacks, to pass to `fit` or to drive by hand.

    Takes callbacks of Keras and of Peakhold (neutral ones are adapted), one or many, nested or not.
    Driven by hand, it forgets an earlier loop's request to stop when a new one begins.

    Args:
        callbacks: The callbacks, in order.
        add_history: Whether to add a `History`.
        add_progbar: Whether to add Keras's progress bar.
        model: A Keras model; a `torch.nn.Module` or anything else with weights, in other loops, or
            a dict of several by name.
        optimizer: The optimizer whose rate callbacks may change, if the model does not hold it; or
            a dict of several by name.
        host: How to reach a model that has none of these methods; see `LoopHost`.
        extra: What else `BackupAndRestore` is to save and bring back, as in `peakhold`'s list.
        first_epoch: What the loop calls its first epoch, 0 or 1, as in `peakhold`'s list; `fit`
            counts from 0.
        workers: What the processes of this run agree by, as in `peakhold`'s list.
        params: `epochs`, `steps` and `verbose` for the callbacks, and what else they are to see.

    Raises:
        InvalidArgumentError: For a name that is nearly one of these, a value with a `state_dict`
            among `params`, an `extra` without a state, ….

    Example:
        >>> import keras
        >>> callbacks = CallbackList([[], []], epochs=2)
        >>> callbacks.append(keras.callbacks.History())
        >>> len(callbacks.callbacks)
        1
    """

    def __init__(
        self,
        callbacks: Any = None,
        add_history: bool = False,
        add_progbar: bool = False,
        model: Any = None,
        *,
        optimizer: Any = None,
        host: Host | None = None,
        extra: Mapping[str, Any] | None = None,
        first_epoch: int | None = None,
        workers: Coordinator | Channel | None = None,
        **params: Any,
    ) -> None:
        check_params(params, ("add_history", "add_progbar", "workers"))
        self.workers = workers
        self.first_epoch, self.extras = check_first_epoch(first_epoch), Extras(extra)
        self._peakhold_host = host or host_for(model, optimizer)
        self._model = cast("Any", None)
        flat = [_fit_for_keras(callback) for callback in flatten(callbacks)]
        super().__init__(flat, add_history, add_progbar, model, **params)

    def append(self, callback: Any) -> None:
        """Add a callback at the end, before training begins."""
        added = [_fit_for_keras(one) for one in flatten(callback)]
        self.callbacks.extend(added)
        keep_in_thread(self)
        if self._model is not None:
            self.set_model(self._model)
        if self.params:
            self.set_params(self.params)

    def set_model(self, model: Any) -> None:
        """Tell all callbacks."""
        super().set_model(model)
        for callback in self.callbacks:
            if isinstance(callback, Callback):
                callback._peakhold_host = self._peakhold_host
            link = link_of(callback)
            if link is not None:
                link.driver = self

    @property
    def stop_training(self) -> bool:
        """Whether a callback has asked for the end."""
        return bool(
            self._peakhold_host.stop_requested() or getattr(self._model, "stop_training", False)
        )

    def on_train_begin(self, logs: Any = None) -> None:
        """Call it before the first epoch. An earlier loop's request to stop is forgotten.

        Raises:
            InvalidArgumentError: For `first_epoch=1` in `fit`.
        """
        if self.first_epoch and self._peakhold_host.runs_fit():
            raise InvalidArgumentError.for_argument(
                "first_epoch",
                self.first_epoch,
                "0 in fit, which counts its epochs from 0",
                hint="leave first_epoch out; it says how a loop of your own counts.",
            )
        self._peakhold_host.remember_loop(frame_of_loop(1, self))
        self._peakhold_host.clear_stop()
        self.note_rates = None
        super().on_train_begin(logs)
        self._peakhold_has_begun = True

    def on_train_end(self, logs: Any = None) -> None:
        """Call it after the last epoch, however the loop ended."""
        self._peakhold_has_begun = False
        super().on_train_end(logs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Call it before an epoch."""
        super().on_epoch_begin(epoch, logs)
        if self.note_rates is not None:
            self.note_rates()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Call it after an epoch, with its metrics."""
        weighted = {k: v for k, v in (logs or {}).items() if isinstance(v, (Mean, Sum, Min, Max))}
        if not weighted:
            super().on_epoch_end(epoch, logs)
            return
        if self._async_train:
            self._flush_futures()
        logs = {**pythonify_logs(logs), **weighted}  # which Keras makes plain numbers of
        for callback in self.callbacks:
            callback.on_epoch_end(epoch, logs)


def _fit_for_keras(callback: Any) -> Any:
    """A neutral callback adapted; Keras's, and what only looks like one, as they are."""
    return adapt(callback) if isinstance(callback, Callback) else callback
