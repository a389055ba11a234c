"""Data whose batch size may change between epochs of one `fit`.

Problem. Keras asks a `PyDataset` for its length once for each `fit`. Made shorter, it warns in each
epoch that the data ran out; made longer, the rest of the data is never trained on, in silence.

Solution. At the beginning of an epoch Keras's `EpochIterator` is on the call stack: it is told the
length anew, and so are the progress bar and `params["steps"]`. If the stack looks otherwise (a
later Keras), a changed length is an error, never a shorter epoch. What is trained depends on a
frame here, an exception (ADR 0006): the iterator is Keras's, made before anything of ours is
called, and it hands itself to nobody.

Rules of this file:

1. What a batch holds depends on the pass (order) and the size in force. Both change only between
   passes: in `on_epoch_end`, which Keras calls when no worker runs. Its workers begin *before*
   `on_epoch_begin`.
2. The order is a function of seed and pass: a run that goes on needs two integers.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any, cast

import numpy as np
from keras.callbacks import CallbackList as KerasList
from keras.callbacks import ProgbarLogger

import keras
from peakhold._core.arguments import check_count
from peakhold.errors import HostError, InvalidArgumentError

__all__ = ["Batches"]

_NEAR = 8  # frames between our hook and Keras's `fit`: the adapter, the iterator, its generator


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Arrays in batches, whose size a callback may change while training runs.

    Pass it to `fit` instead of `x` and `y`, and set `batch_size` from a callback: the new size
    counts from the next epoch on. Each epoch goes once over all of the data; the last batch holds
    what is left.

    To go on after an interruption, let a callback of yours return `state_dict()` as its own state.

    Args:
        x: An array, or a dict, tuple or list of arrays with the same number of rows.
        y: The targets, likewise. Defaults to `None`.
        sample_weight: A weight for each row. Defaults to `None`.
        batch_size: Rows in a batch. Defaults to `32`.
        shuffle: Whether each epoch has an order of its own. With `predict`, pass False: its output
            is in the order of the batches. Defaults to `True`.
        seed: What the order is drawn from; None draws it from NumPy, which
            `keras.utils.set_random_seed` sets. Defaults to `None`.
        workers: Threads or processes that make batches, as in `keras.utils.PyDataset`. Defaults to
            `1`: the training thread.
        use_multiprocessing: Whether they are processes. Defaults to `False`.
        max_queue_size: Batches that they make ahead. Defaults to `10`.

    Attributes:
        batch_size: Rows in a batch, from the next epoch on.

    Raises:
        InvalidArgumentError: For a `batch_size` below 1, for arrays of different lengths, or in
            `fit`, for `steps_per_epoch`: an epoch is a whole pass.

    Example:
        >>> import numpy as np
        >>> batches = Batches(np.zeros((100, 3)), np.zeros(100), batch_size=32)
        >>> len(batches), [len(y) for _, y in batches]
        (4, [32, 32, 32, 4])
        >>> batches.batch_size *= 2
        >>> len(batches)
        2
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        batch_size: int = 32,
        *,
        shuffle: bool = True,
        seed: int | None = None,
        workers: int = 1,
        use_multiprocessing: bool = False,
        max_queue_size: int = 10,
    ) -> None:
        super().__init__(
            workers=workers, use_multiprocessing=use_multiprocessing, max_queue_size=max_queue_size
        )
        if y is None and sample_weight is not None:
            raise InvalidArgumentError.for_argument(
                "y", y, "targets where there are weights", hint="pass y, too."
            )
        parts = [part for part in (x, y, sample_weight) if part is not None]
        self._data = tuple(keras.tree.map_structure(_as_array, _as_tuple(part)) for part in parts)
        self._n_rows = self._count_rows()
        self._size = self._next_size = _check_size(batch_size)
        self._shuffle = bool(shuffle)
        if seed is None:  # the generator that `keras.utils.set_random_seed` sets
            seed = int(np.random.randint(2**31))  # noqa: NPY002
        self._seed = check_count("seed", seed)
        self._pass = 0
        self._running, self._counts = False, True
        self._told: int | None = None
        self._order = self._draw()

    def _count_rows(self) -> int:
        lengths = [len(array) for array in keras.tree.flatten(self._data)]
        if len(set(lengths)) != 1 or 0 in lengths:
            raise InvalidArgumentError.for_argument(
                "x", lengths, "arrays of one length above 0", hint="compare their shapes."
            )
        return lengths[0]

    @property
    def batch_size(self) -> int:
        """Rows in a batch, from the next epoch on."""
        return self._next_size

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self._next_size = _check_size(size)
        if not self._running:
            self._size = self._next_size

    # What Keras asks

    def __len__(self) -> int:
        return math.ceil(self._n_rows / self._size)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        first = index * self._size
        if self._order is None:
            return self._rows(slice(first, first + self._size))
        return self._rows(self._order[first : first + self._size])

    def _rows(self, rows: Any) -> tuple[Any, ...]:
        taken: tuple[Any, ...] = keras.tree.map_structure(lambda array: array[rows], self._data)
        return taken

    def on_epoch_begin(self) -> None:
        """Called by Keras before an epoch's first batch."""
        self._running = self._counts = True
        self._tell_keras(sys._getframe(1))

    def on_epoch_end(self) -> None:
        """Called by Keras after an epoch's last batch, and before the first epoch."""
        if self._running and self._counts:
            self._pass += 1
        self._running, self._size = False, self._next_size
        self._order = self._draw()

    def _draw(self) -> Any:
        if not self._shuffle:
            return None
        return np.random.default_rng([self._seed, self._pass]).permutation(self._n_rows)

    # State

    def state_dict(self) -> dict[str, Any]:
        """Seed, pass and sizes, as plain JSON; not the data."""
        return {
            "class": "Batches",
            "seed": self._seed,
            "pass": self._pass,
            "batch_size": self._size,
            "next_batch_size": self._next_size,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: the next epoch is the one that would have been next.

        Args:
            state: A dict from `state_dict()`. Taken in the middle of an epoch, it repeats that one.

        Raises:
            InvalidArgumentError: If it is the state of something else.
        """
        if not isinstance(cast("Any", state), Mapping) or state.get("class") != "Batches":
            raise InvalidArgumentError.for_argument(
                "state", state, "the state of Batches", hint="pass what state_dict() returned."
            )
        self._seed, self._pass = int(state["seed"]), int(state["pass"])
        self._size = _check_size(state["batch_size"])
        self._next_size = _check_size(state["next_batch_size"])
        self._running = False
        self._order = self._draw()

    # What Keras does not ask

    def _tell_keras(self, frame: FrameType | None) -> None:
        """Tell the loops above us how many batches there are now."""
        frames: list[FrameType] = []
        while frame is not None and len(frames) != _NEAR:
            frames.append(frame)
            frame = frame.f_back
        owners = [frame.f_locals.get("self") for frame in frames]
        adapter = next((o for o in owners if getattr(o, "py_dataset", None) is self), None)
        if adapter is None:  # not Keras
            return
        _forget_stale(adapter)
        # A model without shapes is built from one batch first: that is no pass.
        self._counts = not any(f.f_code.co_name.endswith("_symbolic_build") for f in frames)
        iterator = next((o for o in owners if getattr(o, "data_adapter", None) is adapter), None)
        n_batches, told, self._told = len(self), self._told, len(self)
        if iterator is None or not hasattr(iterator, "_num_batches"):
            if told not in {None, n_batches}:
                raise HostError.lacks(
                    "Batches",
                    "a version of Keras whose epochs may change their length",
                    f"keras {keras.__version__}",
                    hint="call fit anew after the batch size has changed, with initial_epoch.",
                )
            return
        if iterator.steps_per_epoch:
            raise InvalidArgumentError.for_argument(
                "steps_per_epoch",
                iterator.steps_per_epoch,
                "a whole pass over the data in each epoch",
                hint="leave steps_per_epoch (or steps) out.",
            )
        iterator._num_batches = n_batches
        for above in frames:  # but not an `evaluate`: it shares the callbacks of its `fit`
            if above.f_code.co_name == "fit" and above.f_locals.get("epoch_iterator") is iterator:
                _tell_callbacks(above.f_locals.get("callbacks"), n_batches)


def _forget_stale(adapter: Any) -> None:
    """Drop batches of an earlier pass, which Keras's workers keep for the next one."""
    enqueuer = getattr(adapter, "enqueuer", None)
    if enqueuer is not None:
        while not enqueuer.ready_queue.empty():
            enqueuer.ready_queue.get_nowait()


def _tell_callbacks(callbacks: Any, n_batches: int) -> None:
    if not isinstance(callbacks, KerasList) or callbacks.params.get("steps") == n_batches:
        return
    callbacks.set_params({**callbacks.params, "steps": n_batches})
    for callback in callbacks.callbacks:
        if isinstance(callback, ProgbarLogger) and callback.progbar is not None:
            callback.progbar.target = n_batches


def _check_size(size: Any) -> int:
    return check_count("batch_size", size, at_least=1, hint="pass batch_size=32.")


def _as_tuple(part: Any) -> Any:
    return tuple(part) if isinstance(part, list) else part


def _as_array(values: Any) -> Any:
    """An array of NumPy; floats as `fit` would make them."""
    array = np.asarray(keras.ops.convert_to_numpy(values))
    if array.ndim == 0:
        raise InvalidArgumentError.for_argument(
            "x", values, "arrays with rows", hint="pass arrays, or a dict or tuple of them."
        )
    return array.astype(keras.config.floatx(), copy=False) if array.dtype.kind == "f" else array
