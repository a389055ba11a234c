"""The driver of callbacks in a loop that a user wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from peakhold.errors import InvalidArgumentError
from peakhold.host.contract import Host, to_number
from peakhold.host.extras import Extras
from peakhold.host.finding import host_for
from peakhold.runtime.callback import Callback, link_of
from peakhold.runtime.loop_list import LoopList, check_first_epoch, check_params, frame_of_loop

if TYPE_CHECKING:
    from peakhold.distributed import Channel, Coordinator

__all__ = ["CallbackList"]


def flatten(callbacks: Any) -> list[Any]:
    """One callback, a list of them, lists in lists: all in one row, in order.

    Not a walk of `trees.py`: people pass sets, and a callback of theirs may be a dataclass.
    """
    if callbacks is None:
        return []
    if isinstance(callbacks, Mapping):
        callbacks = callbacks.values()
    elif not isinstance(callbacks, (list, tuple, set)):
        return [callbacks]
    return [callback for item in callbacks for callback in flatten(item)]


class CallbackList(LoopList, Callback):
    """Calls callbacks from a loop of your own, in any framework.

    Takes Peakhold's callbacks and those of Keras, one or many, nested or not. The loop calls the
    hooks and looks at `stop_training` (also set on `model`, where that takes attributes).

    Args:
        callbacks: The callbacks, in order.
        model: What is trained: a Keras model, a `torch.nn.Module`, anything with weights to get
            and set; a dict of several by name (`{"g": generator, "d": discriminator}`); or None.
        optimizer: The optimizer whose rate callbacks may change, if the model does not hold it; a
            dict of several by name. `ReduceLROnPlateau` lowers the rates of all.
        host: How to reach a model that has none of these methods; see `LoopHost`.
        extra: What else `BackupAndRestore` is to save and bring back, by name: anything with
            `state_dict()` and `load_state_dict()` (a scheduler, a `GradScaler`, an average of the
            weights), or a pair of functions that get and set a state. The best weights are restored
            without it.
        first_epoch: What the loop calls its first epoch, 0 or 1. None: a run that begins with epoch
            1, and has nothing to go on from, counts from 1. Numbers are shown as the loop counts.
        workers: What the processes of this run agree by: a `peakhold.distributed.Coordinator`, or a
            `Channel`. None: the group that the framework has set up, if there is one.
        params: `epochs`, `steps` and `verbose` for the callbacks, and what else they are to see.

    Raises:
        InvalidArgumentError: For a name that is nearly one of these, a value with a `state_dict`
            among `params`, an `extra` without a state, ….

    Example:
        >>> callbacks = CallbackList([])
        >>> callbacks.on_train_begin()
        >>> for epoch in range(2):
        ...     callbacks.on_epoch_begin(epoch)
        ...     callbacks.on_epoch_end(epoch, {"loss": 0.5})
        ...     if callbacks.stop_training:
        ...         break
        >>> callbacks.on_train_end()
    """

    def __init__(
        self,
        callbacks: Any = None,
        model: Any = None,
        *,
        optimizer: Any = None,
        host: Host | None = None,
        extra: Mapping[str, Any] | None = None,
        first_epoch: int | None = None,
        workers: Coordinator | Channel | None = None,
        **params: Any,
    ) -> None:
        super().__init__()
        check_params(params, ("workers",))
        self.workers = workers
        self.first_epoch, self.extras = check_first_epoch(first_epoch), Extras(extra)
        self.n_batches_done = 0
        """Batches of training that this list was told of."""
        self.callbacks = flatten(callbacks)
        for callback in self.callbacks:
            _check_callback(callback)
        self._peakhold_host: Host = host or host_for(model, optimizer)
        self._model = model
        self.set_params(params)
        for callback in self.callbacks:
            self._attach(callback)

    def append(self, callback: Any) -> None:
        """Add a callback at the end, before training begins."""
        for one in flatten(callback):
            _check_callback(one)
            self.callbacks.append(one)
            self._attach(one)

    def _attach(self, callback: Any) -> None:
        if self._model is not None:
            callback.set_model(self._model)
        if isinstance(callback, Callback):
            callback._peakhold_host = self._peakhold_host
        link = link_of(callback)
        if link is not None:
            link.driver = self
        if self.params:
            callback.set_params(self.params)

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Tell all callbacks."""
        self.params = dict(params)
        for callback in getattr(self, "callbacks", ()):
            callback.set_params(self.params)

    @property
    def stop_training(self) -> bool:
        """Whether a callback has asked for the end."""
        return bool(
            self._peakhold_host.stop_requested() or getattr(self._model, "stop_training", False)
        )

    # The hooks. Values are made numbers once for all, and per batch only if somebody looks.

    def _call(self, hook: str, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(*args)

    def _call_batch(self, hook: str, batch: int, logs: Any) -> None:
        listening = _listening(self.callbacks, hook)
        if listening:
            numbers = _numbers(logs)
            for callback in listening:
                getattr(callback, hook)(batch, logs=numbers)

    def on_train_begin(self, logs: Any = None) -> None:
        """Call it before the first epoch. An earlier loop's request to stop is forgotten."""
        self._peakhold_host.clear_stop()
        if self.place is None:  # else the run has said which it is
            self._peakhold_host.remember_loop(frame_of_loop(1, self))
        self.note_rates, self._peakhold_is_shared = None, False
        self._call("on_train_begin", _numbers(logs))
        self._peakhold_has_begun = True

    def on_train_end(self, logs: Any = None) -> None:
        """Call it after the last epoch, however the loop ended."""
        self._peakhold_has_begun = False
        self._call("on_train_end", _numbers(logs))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Call it before an epoch."""
        self._call("on_epoch_begin", epoch, _numbers(logs))
        if self.note_rates is not None:
            self.note_rates()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Call it after an epoch, with its metrics; what callbacks add to them stays in `logs`.

        With several workers `logs` then holds the metrics of all.
        """
        numbers = _numbers(logs)
        self._call("on_epoch_end", epoch, numbers)
        if isinstance(logs, dict):
            new = numbers.keys() - logs.keys()
            shown = numbers.keys() if self._peakhold_is_shared else new
            if shown:
                logs.update({key: numbers[key] for key in shown})

    def on_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Another name of `on_train_batch_begin`."""
        self._call_batch("on_batch_begin", batch, logs)

    def on_batch_end(self, batch: int, logs: Any = None) -> None:
        """Another name of `on_train_batch_end`."""
        self._call_batch("on_batch_end", batch, logs)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Call it before a batch."""
        self._call_batch("on_train_batch_begin", batch, logs)

    def count_batch(self) -> None:
        """A batch is done, and nobody looks at batches."""
        self.n_batches_done += 1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Call it after a batch."""
        self.count_batch()
        self._call_batch("on_train_batch_end", batch, logs)

    def on_test_begin(self, logs: Any = None) -> None:
        """Call it before evaluation."""
        self._call("on_test_begin", _numbers(logs))

    def on_test_end(self, logs: Any = None) -> None:
        """Call it after evaluation."""
        self._call("on_test_end", _numbers(logs))

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Call it before a batch of evaluation."""
        self._call_batch("on_test_batch_begin", batch, logs)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Call it after a batch of evaluation."""
        self._call_batch("on_test_batch_end", batch, logs)

    def on_predict_begin(self, logs: Any = None) -> None:
        """Call it before prediction."""
        self._call("on_predict_begin", _numbers(logs))

    def on_predict_end(self, logs: Any = None) -> None:
        """Call it after prediction."""
        self._call("on_predict_end", _numbers(logs))

    def on_predict_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Call it before a batch of prediction."""
        self._call_batch("on_predict_batch_begin", batch, logs)

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        """Call it after a batch of prediction."""
        self._call_batch("on_predict_batch_end", batch, logs)


def _check_callback(callback: Any) -> None:
    if isinstance(callback, type) or not callable(getattr(callback, "on_epoch_end", None)):
        raise InvalidArgumentError.for_argument(
            "callbacks",
            callback,
            "callbacks of Peakhold or Keras",
            hint="pass instances, such as EarlyStopping('val_loss', patience=3).",
        )


_OTHER_NAMES: Final = {
    "on_train_batch_begin": "on_batch_begin",
    "on_train_batch_end": "on_batch_end",
}


def _listening(callbacks: list[Any], hook: str) -> list[Any]:
    """Those of which a batch hook does anything, itself or under its other name.

    As `is_no_op` says, of all in one go: each batch asks, and mostly nobody listens.
    """
    other = _OTHER_NAMES.get(hook, hook)
    return [
        callback
        for callback in callbacks
        if not getattr(getattr(callback, hook), "_is_default", False)
        or not getattr(getattr(callback, other), "_is_default", False)
    ]


def _numbers(logs: Any) -> dict[str, Any]:
    """A copy of the logs with 0-d tensors as numbers; what is no number stays as it is."""
    numbers = {}
    for key, value in (logs or {}).items():
        if isinstance(value, (bool, int, float)):
            numbers[key] = value
            continue
        number = to_number(value)
        numbers[key] = value if number is None else number
    return numbers
