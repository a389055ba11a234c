"""Look at the moving average instead of the raw weights, and train on with the raw ones.

Rules of this file:

1. The optimizer's average is never written to. Keras swaps the two in place: whatever then ends
   training (an early stop, Ctrl-C) makes `fit` take the raw weights for the average. Here the raw
   weights are laid aside, so that the average stays what its name says, in every file and copy.
2. Values travel through arrays of the host. Two variables of JAX must not share a buffer: the next
   step donates one of them, and the other is gone.
3. No average before the first update: Keras's is all zeros then, and is not put into the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import keras
from peakhold.errors import InvalidArgumentError
from peakhold.keras.callback import KerasCallback
from peakhold.keras.host.keras_host import unshare
from peakhold.runtime.callback import Participant

__all__ = ["SwapEMAWeights"]


class SwapEMAWeights(Participant, KerasCallback):
    """Evaluate and predict with the moving average of the weights.

    For an optimizer with `use_ema=True`. Validation in `fit`, and `evaluate` and `predict` if it is
    passed to them, run on the average; then the raw weights come back. After `fit` the model holds
    the average, however training ended: by the last epoch, an early stop or Ctrl-C. With
    `EarlyStopping(restore_best_weights=True)` it is the average of the best epoch.

    It acts before Peakhold's other callbacks wherever it stands beside them; a callback of yours
    stands after it to see the average.

    While the average is in the model, the raw weights lie in host memory: one more copy of the
    trainable weights than with Keras's, whose optimizer holds the raw weights meanwhile.

    Args:
        swap_on_epoch: Whether the average is in the model from the end of each epoch to the
            beginning of the next, too: for what `ModelCheckpoint` saves and a callback of yours
            sees. Defaults to `False`.

    Raises:
        InvalidArgumentError: On train begin, evaluation or prediction, if no optimizer of the model
            has `use_ema=True`.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile(keras.optimizers.SGD(use_ema=True), "mse")
        >>> x, y = np.ones((8, 2)), np.ones((8, 1))
        >>> swap = SwapEMAWeights()
        >>> fitted = model.fit(x, y, validation_data=(x, y), verbose=0, callbacks=[swap])
        >>> fitted.history["val_loss"][-1] == model.evaluate(x, y, verbose=0)
        True

    Source:
        `keras.callbacks.SwapEMAWeights` of Keras 3.15; K-E18.
    """

    def __init__(self, swap_on_epoch: bool = False) -> None:
        super().__init__()
        self.swap_on_epoch = bool(swap_on_epoch)
        self._aside: list[tuple[Any, Any, np.ndarray]] | None = None
        """`(variable, its average, raw value)` while the average is in the model."""
        self._borrowed = False
        """Whether evaluation or prediction put it there, and will take it out."""
        self._withdrawn = False
        """Whether it is out for the moment of a commit only."""

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_aside": None, "_borrowed": False}

    # Handlers

    def _reset(self) -> None:
        self._recover()

    def _check(self) -> None:
        self._optimizers()

    def _epoch_begin(self, epoch: int) -> None:
        self._take_out()

    def _test_begin(self) -> None:
        self._borrow()

    def _test_end(self) -> None:
        self._give_back()

    def _measure(self, epoch: int, logs: dict[str, Any]) -> None:
        # The first of the handlers: all others of this event see the average.
        if self.swap_on_epoch:
            self._put_in()

    def _before_commit(self) -> None:
        # What goes on after an interruption goes on from the raw weights.
        self._withdrawn = self._take_out()

    def _after_commit(self) -> None:
        if self._withdrawn:
            self._withdrawn = False
            self._put_in()

    def _end(self, logs: Any) -> None:
        self._aside, self._borrowed = None, False  # `fit` has put the average in for good

    def _settle(self) -> None:
        # Whoever put it in (`fit`, or a restore) may have done so by the very buffers: rule 2.
        self.host._synced()
        unshare(self._pairs())

    def on_predict_begin(self, logs: Any = None) -> None:
        """Put the average in."""
        self._borrow()

    def on_predict_end(self, logs: Any = None) -> None:
        """Put the raw weights back."""
        self._give_back()

    # The two states

    def _borrow(self) -> None:
        if self._aside is None:
            self._borrowed = self._put_in()

    def _give_back(self) -> None:
        if self._borrowed:
            self._take_out()

    def _put_in(self) -> bool:
        """Lay the raw weights aside and put the average in; False if there is nothing to do."""
        if self._aside is not None:
            return False
        self.host._synced()
        pairs = list(self._pairs())
        aside = [(variable, average, _array(variable)) for variable, average in pairs]
        for variable, average, _ in aside:
            variable.assign(_array(average))
        self._aside = aside or None
        self.session.pool.new_moment()
        return bool(aside)

    def _take_out(self) -> bool:
        """Put the raw weights back; False if they are there."""
        aside, self._aside, self._borrowed = self._aside, None, False
        if aside is None:
            return False
        self.host._synced()
        for variable, _, raw in aside:
            variable.assign(raw)
        self.session.pool.new_moment()
        return True

    def _recover(self) -> None:
        """After an exception: the raw weights again, unless the model has changed since."""
        if self._aside is not None:
            self.host._synced()
            if all(np.array_equal(_array(v), _array(average)) for v, average, _ in self._aside):
                self._take_out()
        self._aside, self._borrowed = None, False

    # The optimizers

    def _optimizers(self) -> list[Any]:
        """Those that average; an error if none does."""
        optimizer = getattr(self.host, "_optimizer", None)
        inner = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
        several = getattr(inner, "optimizers", None)
        averaging = [o for o in several or [inner] if getattr(o, "use_ema", False)]
        if averaging:
            return averaging
        name = None if inner is None else type(inner).__name__
        one = "at least one inner optimizer has `use_ema=True` set"
        raise InvalidArgumentError.for_argument(
            "optimizer" if several or inner is None else "use_ema",
            name if several or inner is None else inner.use_ema,
            "an optimizer with use_ema=True (SwapEMAWeights must be used when "
            f"{one if several else '`use_ema=True` is set on the optimizer'})",
            hint="compile the model with such as keras.optimizers.Adam(use_ema=True), or leave "
            "SwapEMAWeights out.",
        )

    def _pairs(self) -> Iterator[tuple[Any, Any]]:
        """Each averaged variable with its average, of optimizers that have made an update."""
        for optimizer in self._optimizers():
            if not optimizer.built or not int(keras.ops.convert_to_numpy(optimizer._iterations)):
                continue
            averages = optimizer._model_variables_moving_average
            for variable, average in zip(optimizer._trainable_variables, averages, strict=True):
                if average is not None:
                    yield variable, average


def _array(variable: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(variable))
