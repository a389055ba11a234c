"""What makes a neutral callback one of Keras 2: the seam, filled in."""

from __future__ import annotations

import operator
from collections.abc import Callable as Function
from collections.abc import Sequence
from typing import Any

import tf_keras
from tf_keras.callbacks import Callback as KerasOwn
from tf_keras.callbacks import CallbackList as KerasList

from peakhold._core.monitor import Direction
from peakhold.errors import HostError
from peakhold.host.contract import Host
from peakhold.host.finding import framework_of, how_to_import
from peakhold.host.loop import LoopHost
from peakhold.keras.fit.frame import calling_list
from peakhold.keras.lending import ignored_in, init_past, know, not_lent
from peakhold.runtime import callback as neutral
from peakhold.tf_keras.host.tf_keras_host import SUFFIXES, host_for

__all__ = ["TFKerasCallback"]

know(tf_keras.callbacks)


class TFKerasSeam(neutral.Seam):
    """What differs between a loop and `fit`, for Keras 2's `fit`."""

    file_suffixes = SUFFIXES

    def comparison(self, direction: Direction) -> Function[[Any, Any], Any]:
        """Python's: what Keras 2 logs are numbers."""
        return operator.lt if direction is Direction.MIN else operator.gt

    def host_for(self, model: Any) -> Host:
        """A model of Keras 2, or anything else that is trained in a loop."""
        return host_for(model) or LoopHost(model)

    def ignored_in(self, cls: type) -> Sequence[str]:
        """What a user's class defines for Keras to call, and we do not."""
        return ignored_in(cls)


class TFKerasCallback(neutral.Callback, KerasOwn):  # type: ignore[misc]
    """Base class of callbacks for `fit`, `evaluate` and `predict` of `tf_keras`.

    The same hooks and attributes as `tf_keras.callbacks.Callback`. It adds `state_dict()` and
    `load_state_dict()`, and is pickled without its model.

    Example:
        >>> class Print(TFKerasCallback):
        ...     def on_epoch_end(self, epoch, logs=None):
        ...         print(epoch, logs["loss"])
        >>> Print().on_epoch_end(0, {"loss": 0.5})
        0 0.5
    """

    _peakhold_seam = TFKerasSeam()

    def __init__(self) -> None:
        init_past(self)
        # Ours take numbers out of tensors themselves: else Keras would wait for the device at each
        # batch of which one of them is told.
        self._supports_tf_logs = neutral.is_ours(type(self))

    def __dir__(self) -> list[str]:
        hidden = not_lent(type(self))
        return [name for name in super().__dir__() if name not in hidden or name in vars(self)]

    @property
    def model(self) -> Any:
        """The model."""
        return self._model

    @model.setter
    def model(self, model: Any) -> None:
        self._model = model

    def set_model(self, model: Any) -> None:
        """Called by Keras when `fit` begins.

        Raises:
            HostError: For a model of Keras 3.
        """
        if framework_of(model) == "keras":
            name = neutral.plain_class(type(self)).__name__
            hint = how_to_import(name, "keras")
            raise HostError.other_keras(type(self).__name__, "Keras 2", model, hint)
        self._model, self._peakhold_host = model, None
        driver, link = calling_list(self, KerasList), neutral.link_of(self)
        if driver is not None and link is not None:
            link.driver = driver
            link.participant.attached(driver, self)

    # Keras's classes below the drop-ins answer these for their own hooks.

    def _implements_train_batch_hooks(self) -> bool:
        return bool(KerasOwn._implements_train_batch_hooks(self))

    def _implements_test_batch_hooks(self) -> bool:
        return bool(KerasOwn._implements_test_batch_hooks(self))

    def _implements_predict_batch_hooks(self) -> bool:
        return bool(KerasOwn._implements_predict_batch_hooks(self))
