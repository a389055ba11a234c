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

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import keras
from peakhold._core.decisions import Decision
from peakhold._core.moments import Moment
from peakhold._core.observation import Event
from peakhold.errors import InvalidArgumentError
from peakhold.keras.callback import KerasCallback
from peakhold.keras.host.keras_host import KerasHost, unshare
from peakhold.keras.lending import lends
from peakhold.runtime.participant import NOTHING, Lender, Measured, Needs
from peakhold.runtime.participating import Participating, Setting
from peakhold.runtime.run_view import RunView
from peakhold.runtime.session import session_of

__all__ = ["SwapEMAWeights"]


class Swapping(Lender):
    """What the session asks: keeps raw weights and their average apart.

    Args:
        swap_on_epoch: As `SwapEMAWeights` has it.
    """

    reads_steps = False

    def __init__(self, swap_on_epoch: bool) -> None:
        self.swap_on_epoch = swap_on_epoch
        self._aside: list[tuple[Any, Any, np.ndarray]] | None = None
        """`(variable, its average, raw value)` while the average is in the model."""
        self._borrowed = False
        """Whether evaluation or prediction put it there, and will take it out."""
        self._withdrawn = False
        """Whether it is out for the moment of a commit only."""

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_aside": None, "_borrowed": False, "_withdrawn": False}

    def needs(self, run: RunView) -> Needs:
        """Put right what an exception left; some optimizer must average."""
        self._recover()
        self._optimizers()
        return Needs()

    def measure(self, moment: Moment, logs: dict[str, Any]) -> Measured:
        """Before anybody decides or acts: all of them find what the model is to hold."""
        if moment.event is Event.EPOCH_BEGIN:
            self._take_out()
        elif moment.event is Event.TEST_BEGIN:
            self.borrow()
        elif moment.event is Event.EPOCH_END and self.swap_on_epoch:
            self._put_in()
        return NOTHING

    def record(self, moment: Moment, logs: dict[str, Any], decided: Sequence[Decision]) -> None:
        """After all others have acted."""
        if moment.event is Event.TEST_END:
            self.give_back()
        elif moment.event is Event.TRAIN_END:
            self._aside, self._borrowed = None, False  # `fit` has put the average in for good

    def withdraw(self) -> None:
        """Take it out for a commit: an interrupted run goes on from the raw weights."""
        self._withdrawn = self._take_out()

    def lend_again(self) -> None:
        """Put it in again."""
        if self._withdrawn:
            self._withdrawn = False
            self._put_in()

    def settle(self) -> None:
        """Whoever put it in (`fit`, or a restore) may have done so by the very buffers: rule 2."""
        self._host.synced()
        unshare(self._pairs())

    # The two states

    def borrow(self) -> None:
        """Put the average in for an evaluation or a prediction, unless it is there."""
        if self._aside is None:
            self._borrowed = self._put_in()

    def give_back(self) -> None:
        """Put the raw weights back, if the average was only borrowed."""
        if self._borrowed:
            self._take_out()

    def _put_in(self) -> bool:
        """Lay the raw weights aside and put the average in; False if there is nothing to do."""
        if self._aside is not None:
            return False
        self._host.synced()
        pairs = list(self._pairs())
        aside = [(variable, average, _array(variable)) for variable, average in pairs]
        for variable, average, _ in aside:
            variable.assign(_array(average))
        self._aside = aside or None
        self.run.new_moment()
        return bool(aside)

    def _take_out(self) -> bool:
        """Put the raw weights back; False if they are there."""
        aside, self._aside, self._borrowed = self._aside, None, False
        if aside is None:
            return False
        self._host.synced()
        for variable, _, raw in aside:
            variable.assign(raw)
        self.run.new_moment()
        return True

    def _recover(self) -> None:
        """After an exception: the raw weights again, unless the model has changed since."""
        if self._aside is not None:
            self._host.synced()
            if all(np.array_equal(_array(v), _array(average)) for v, average, _ in self._aside):
                self._take_out()
        self._aside, self._borrowed = None, False

    @property
    def _host(self) -> Any:
        """A Keras model's, which can do more than the contract says; some other, to be refused."""
        return self.run.host

    # The optimizers

    def _optimizers(self) -> list[Any]:
        """Those that average; an error if none does."""
        optimizer = self._host.optimizer if isinstance(self._host, KerasHost) else None
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
            hint=f"{'compile the model' if self.run.trained.runs_fit() else 'train'} with such as "
            "keras.optimizers.Adam(use_ema=True), or leave SwapEMAWeights out.",
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


@lends
class SwapEMAWeights(Participating, KerasCallback, keras.callbacks.SwapEMAWeights):  # type: ignore[misc]
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

    swap_on_epoch = Setting[bool]()

    def __init__(self, swap_on_epoch: bool = False) -> None:
        super().__init__(Swapping(bool(swap_on_epoch)))

    def on_predict_begin(self, logs: Any = None) -> None:
        """Put the average in."""
        _swapping(self).borrow()

    def on_predict_end(self, logs: Any = None) -> None:
        """Put the raw weights back."""
        _swapping(self).give_back()


def _swapping(callback: SwapEMAWeights) -> Any:
    """Who swaps for a callback, in a run: a prediction may be the first thing of all."""
    session_of(callback)
    return callback._peakhold_link.participant


def _array(variable: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(variable))
