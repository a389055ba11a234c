"""Numbers in arrays of JAX.

Nobody writes to such an array, but a step may be given its memory (`donate_argnums`), and then it
is gone: so it is copied, by a compiled function, the cheapest call that JAX has. What lies in a
CPU's memory and is there is read: that is cheaper still, and waits for nothing.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np

from peakhold.run.device_values.refusing import NotOneNumberError
from peakhold.run.device_values.rolls import BLOCK

__all__ = ["JaxRoll", "is_one", "key_of", "plain"]

_compiled: Final[dict[str, Any]] = {}


def is_one(value: Any) -> bool:
    """Whether it is an array of JAX; a value of a function that is being compiled, too."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, getattr(jax, "Array", ()))


def plain(array: Any) -> Any:
    """An array of one device. Of one on several, each has the number."""
    jax = sys.modules["jax"]
    if isinstance(array, jax.core.Tracer):
        raise NotOneNumberError.symbolic()
    is_key = jax.numpy.issubdtype(array.dtype, jax.dtypes.extended)
    if is_key or array.dtype.kind == "c" or array.size != 1:
        raise NotOneNumberError
    if len(array.sharding.device_set) == 1:
        return array
    return array.addressable_data(0)


def key_of(array: Any) -> Any:
    """What the arrays of one roll have in common."""
    return array.dtype, array.sharding


class JaxRoll:
    """An array of which each number taken makes a new one, without its first number.

    Args:
        array: One such as will be taken.
    """

    __slots__ = ("_block", "_count", "_dtype", "_in_memory", "_sharding")

    def __init__(self, array: Any) -> None:
        self._dtype, self._sharding = array.dtype, array.sharding
        (device,) = array.sharding.device_set
        self._in_memory = device.platform == "cpu"
        self._block: Any = None
        self._count = 0

    def take(self, array: Any) -> JaxRoll | float | None:
        """See `Roll`."""
        sharding = array.sharding
        if sharding is not self._sharding:
            if sharding != self._sharding:
                return None
            self._sharding = sharding  # the same, another object: that of the next batch, too
        if array.dtype != self._dtype:
            return None
        # JAX 0.10 ends the process if it is asked whether a deleted array is ready.
        if self._in_memory and not array.is_deleted() and array.is_ready():
            return _number(np.asarray(array))
        if self._block is None:
            self._block = _function("begun", _begun)(array)
        else:
            self._block = _function("rolled", _rolled)(self._block, array)
        self._count += 1
        return self

    def seal(self) -> _SealedArray:
        """See `Roll`."""
        sealed = _SealedArray(self._block, self._count)
        self._count = 0
        return sealed


class _SealedArray:
    __slots__ = ("_block", "_count")

    def __init__(self, block: Any, count: int) -> None:
        self._block, self._count = block, count

    def is_ready(self) -> bool:
        """See `Sealed`."""
        return self._block.is_ready()  # type: ignore[no-any-return]

    def numbers(self) -> list[float]:
        """See `Sealed`."""
        numbers = np.asarray(self._block)[-self._count :]
        return numbers.astype(np.float64).tolist()  # type: ignore[no-any-return]


def _number(array: np.ndarray[Any, Any]) -> float:
    if array.size != 1:
        raise NotOneNumberError
    return float(array.item())


def _function(name: str, function: Any) -> Any:
    found = _compiled.get(name)
    return found or _compiled.setdefault(name, sys.modules["jax"].jit(function))


def _begun(array: Any) -> Any:
    """Runs when it is compiled, once for each shape and dtype: then a look costs nothing."""
    if array.size != 1:
        raise NotOneNumberError
    return sys.modules["jax"].numpy.full(BLOCK, array.reshape(()))


def _rolled(block: Any, array: Any) -> Any:
    if array.size != 1:
        raise NotOneNumberError
    return sys.modules["jax"].numpy.concatenate([block[1:], array.reshape(1)])
