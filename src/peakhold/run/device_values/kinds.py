"""Which library a value is of, and blocks of copies of any of them. The rules: `__init__.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias

import numpy as np

from peakhold.host.contract import to_number
from peakhold.run.device_values import jax_values, tf_values, torch_values
from peakhold.run.device_values.jax_values import BLOCK
from peakhold.run.device_values.refusing import NotOneNumberError

__all__ = ["BLOCK", "Block", "Taken", "taken"]

Taken: TypeAlias = Any
"""A float, or a copy on a device that nobody else writes."""

_Take: TypeAlias = Callable[[Any], Taken]


class _Library(Protocol):
    """What a module such as `torch_values` does with the copies that its `take` makes."""

    def alike(self, copies: Sequence[Any]) -> list[Any]:
        """By copy: what those have in common that may be in one array (a dtype, a device)."""

    def pack(self, copies: list[Any]) -> Any:
        """One array of at most `BLOCK` copies that are alike; does not wait."""

    def is_ready(self, block: Any) -> bool:
        """Whether its numbers can be had now, without waiting."""

    def numbers(self, block: Any) -> list[float]:
        """The numbers, in order; there may be more behind them. Waits."""


_LIBRARIES: Final = (torch_values, jax_values, tf_values)
_MANY: Final = 1000
"""Of so many classes it is remembered what they are; a program may make them without end."""
_takes: Final[dict[type, _Take]] = {float: lambda value: value}
"""By type of what is logged: what copies it."""
_homes: Final[dict[type, _Library]] = {}
"""By type of a copy: the module that packs and reads it."""


def taken(value: Any) -> Taken:
    """One number of a metric, in memory that nobody else writes; never waits for a device.

    Args:
        value: A Python number, NumPy's scalar, a tensor, array or variable with one element of
            PyTorch, JAX, TensorFlow or Keras, or anything else that `float` takes.

    Raises:
        NotOneNumberError: For an array, a text, a complex number, a value that is not there yet.

    Example:
        >>> taken(3), taken(True)
        (3.0, 1.0)
    """
    take = _takes.get(type(value))
    return take(value) if take is not None else _learned(value)(value)


def _learned(value: Any) -> _Take:
    keras = getattr(sys.modules.get("keras"), "Variable", None)
    take: _Take = _at_once
    if keras is not None and isinstance(value, keras):
        take = _of_keras
    else:
        for library in _LIBRARIES:
            if library.is_one(value):
                take = library.take
    if len(_takes) < _MANY:
        _takes[type(value)] = take
    return take


def _of_keras(variable: Any) -> Taken:
    return taken(variable.value)


def _at_once(value: Any) -> float:
    """A number that no device holds."""
    of_numpy = isinstance(value, (np.ndarray, np.generic))
    number = None if of_numpy and value.dtype.kind in "cmMOSU" else to_number(value)
    if number is None:
        raise NotOneNumberError
    return float(number)


def _home(copy: Any) -> _Library:
    home = _homes.get(type(copy))
    if home is None:
        home = next(library for library in _LIBRARIES if library.is_one(copy))
        _homes[type(copy)] = home
    return home


class Block:
    """Numbers in the order in which they were taken, in as few arrays as there are kinds of them.

    Args:
        copies: What `taken` has returned, at most `BLOCK` of them.
    """

    __slots__ = ("_arrays", "_numbers")

    def __init__(self, copies: Sequence[Taken]) -> None:
        self._numbers: list[float] = [0.0] * len(copies)
        """By place; what is in an array comes when it is read."""
        self._arrays: list[tuple[_Library, Any, Sequence[int]]] = []
        by_type: dict[type, list[int]] = {}
        for place, copy in enumerate(copies):
            if type(copy) is float:
                self._numbers[place] = copy
            else:
                by_type.setdefault(type(copy), []).append(place)
        for places in by_type.values():
            home = _home(copies[places[0]])
            alike: dict[Any, list[int]] = {}
            marks = home.alike([copies[place] for place in places])
            for place, mark in zip(places, marks, strict=True):
                alike.setdefault(mark, []).append(place)
            for some in alike.values():
                array = home.pack([copies[place] for place in some])
                self._arrays.append((home, array, some))

    def is_ready(self) -> bool:
        """Whether `read` would not wait."""
        return all(home.is_ready(array) for home, array, _ in self._arrays)

    def read(self) -> list[float]:
        """The numbers, in order; waits for the device."""
        numbers = list(self._numbers)
        for home, array, places in self._arrays:
            for place, number in zip(places, home.numbers(array), strict=False):
                numbers[place] = number
        return numbers
