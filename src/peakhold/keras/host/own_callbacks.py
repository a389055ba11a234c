"""What Keras's own callbacks are known for, by their classes.

A user's subclass of one of them is the user's.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final, final

import keras
from peakhold.host.contract import CallbackTraits

__all__ = ["OwnCallbacks", "is_list", "stateless_base", "traits_of"]

_SILENT: Final = ("History", "ProgbarLogger")
_LOG_RATES: Final = ("LearningRateScheduler", "ReduceLROnPlateau")
_STATELESS: Final = (
    "BaseLogger",
    "Callback",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ProgbarLogger",
    "RemoteMonitor",
    "SwapEMAWeights",
    "TensorBoard",
    "TerminateOnNaN",
)


@final
class OwnCallbacks:
    """The callbacks of Keras 3, or of Keras 2.

    Args:
        module: Its `callbacks`.
    """

    def __init__(self, module: ModuleType) -> None:
        named = vars(module)
        self._own = {cls for cls in named.values() if isinstance(cls, type)}
        self._list: Any = named["CallbackList"]
        self._silent, self._log_rates, self._stateless = (
            {named[name] for name in names if name in named}
            for names in (_SILENT, _LOG_RATES, _STATELESS)
        )

    def traits_of(self, callback: Any) -> CallbackTraits | None:
        """What a callback of Keras's own is known for; None for anybody else's."""
        cls = type(callback)
        if cls not in self._own:
            return None
        return CallbackTraits(silent=cls in self._silent, logs_rate=cls in self._log_rates)

    def stateless_base(self, callback: Any) -> type | None:
        """Keras's class that a callback is of or derived from; None if that has a state to keep.

        Of what is derived from none of Keras's: `object`.
        """
        base = next((cls for cls in type(callback).__mro__ if cls in self._own), object)
        return base if base is object or base in self._stateless else None

    def is_list(self, owner: Any) -> bool:
        """Whether this is the list with which `fit` calls its callbacks."""
        return isinstance(owner, self._list)


_keras = OwnCallbacks(keras.callbacks)
traits_of, stateless_base, is_list = _keras.traits_of, _keras.stateless_base, _keras.is_list
