"""Numbers in arrays of JAX.

Nobody writes to such an array, but a step may be given its memory (`donate_argnums`), and then it
is gone: so it is copied, by a compiled function, the cheapest call that JAX has. What lies in a
CPU's memory and is there is read: that is cheaper still, and waits for nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from peakhold.run.device_values.refusing import NotOneNumberError

__all__ = ["BLOCK", "alike", "is_one", "is_ready", "numbers", "pack", "take"]

BLOCK: Final = 256
"""How many copies become one array; for each number of them JAX would compile a function."""
_places: Final[dict[Any, str]] = {}
"""By sharding: `cpu`, `one` (another device), or `several`."""
_compiled: Final[dict[str, Any]] = {}
_FEW: Final = 8
"""As many copies are as soon read one by one."""


def is_one(value: Any) -> bool:
    """Whether it is an array of JAX; a value of a function that is being compiled, too."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(value, getattr(jax, "Array", ()))


def take(array: Any) -> Any:
    """A float if the number is in this process's memory, and there; else a copy on its device."""
    try:
        sharding = array.sharding
        place = _places.get(sharding) or _learned(sharding)
        if place == "several":  # each has the number; a function of one device is nobody else's
            array = _on_one_device(array)
        # JAX 0.10 ends the process if it is asked whether a deleted array is ready.
        if place == "cpu" and not array.is_deleted() and array.is_ready():
            return _number(np.asarray(array))
        return (_compiled.get("copy") or _compile("copy", _copy))(array)
    except Exception:
        jax = sys.modules["jax"]
        if isinstance(array, jax.core.Tracer):
            raise NotOneNumberError.symbolic() from None
        if jax.numpy.issubdtype(array.dtype, jax.dtypes.extended):  # a random key
            raise NotOneNumberError from None
        raise


def _learned(sharding: Any) -> str:
    devices = sharding.device_set
    on_cpu = next(iter(devices)).platform == "cpu"
    place = "several" if len(devices) > 1 else "cpu" if on_cpu else "one"
    if len(_places) < 1000:
        _places[sharding] = place
    return place


def _on_one_device(array: Any) -> Any:
    if array.size != 1 or not array.is_fully_replicated:
        raise NotOneNumberError
    return array.addressable_data(0)


def _number(array: np.ndarray[Any, Any]) -> float:
    if array.size != 1 or array.dtype.kind in "cO":
        raise NotOneNumberError
    return float(array.item())


def _compile(name: str, function: Any) -> Any:
    return _compiled.setdefault(name, sys.modules["jax"].jit(function))


def _copy(array: Any) -> Any:
    """Runs once for each shape and dtype, when it is compiled: then a look costs nothing."""
    numpy = sys.modules["jax"].numpy
    is_number = numpy.issubdtype(array.dtype, numpy.number) or array.dtype == bool
    if array.size != 1 or not is_number or numpy.issubdtype(array.dtype, numpy.complexfloating):
        raise NotOneNumberError
    return numpy.copy(array).reshape(())


def alike(copies: Sequence[Any]) -> list[Any]:
    """By copy: its dtype and its device."""
    return [(copy.dtype, copy.sharding) for copy in copies]


def pack(copies: list[Any]) -> Any:
    """One array of them, of always the same size; a few stay as they are."""
    if len(copies) <= _FEW:
        return copies
    filled = copies + copies[-1:] * (BLOCK - len(copies))
    return (_compiled.get("stack") or _compile("stack", _stack))(filled)


def _stack(copies: list[Any]) -> Any:
    return sys.modules["jax"].numpy.stack(copies)


def is_ready(block: Any) -> bool:
    """Whether the device has come as far; does not wait for it."""
    return all(one.is_ready() for one in (block if isinstance(block, list) else [block]))


def numbers(block: Any) -> list[float]:
    """Its numbers, and the last one again where it was filled up; waits for the device."""
    if not isinstance(block, list):
        return np.asarray(block).astype(np.float64).tolist()  # type: ignore[no-any-return]
    for one in block:
        one.copy_to_host_async()
    return [float(np.asarray(one).item()) for one in block]
