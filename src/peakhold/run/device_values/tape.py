"""Numbers in the order of their batches, each with its weight. The rules: `__init__.py`."""

from __future__ import annotations

import sys
from array import array
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeAlias

import numpy as np

from peakhold.host.contract import to_number
from peakhold.run.device_values import jax_values, tf_values, torch_values
from peakhold.run.device_values.refusing import NotOneNumberError
from peakhold.run.device_values.rolls import BLOCK, Roll, Sealed, TapeEntry

__all__ = ["Given", "Tape"]

_KEPT: Final = 4
"""So many full blocks are left to the device before the oldest of them is looked at."""
_MANY: Final = 100
"""Types of values are remembered, for each metric; a program may make them without end."""


Given: TypeAlias = tuple[Sequence[float], Sequence[float]]
"""Numbers, and as many weights."""


class _Library(Protocol):
    """What a module such as `torch_values` has."""

    def is_one(self, value: Any) -> bool:
        """Whether a value is of this framework."""

    def plain(self, value: Any) -> Any:
        """The array of one device that has the number."""

    def key_of(self, value: Any) -> Any:
        """What the arrays of one roll have in common."""


_LIBRARIES: Final[tuple[tuple[_Library, Any], ...]] = (
    (torch_values, torch_values.TorchRoll),
    (jax_values, jax_values.JaxRoll),
    (tf_values, tf_values.TfRoll),
)


class _ReadAtOnce:
    """A roll of what no device holds: it is read at once."""

    def take(self, value: Any) -> float:
        of_numpy = isinstance(value, (np.ndarray, np.generic))
        number = None if of_numpy and value.dtype.kind in "cmMOSU" else to_number(value)
        if number is None:
            raise NotOneNumberError
        return float(number)

    def seal(self) -> Sealed:
        raise AssertionError  # nothing is ever in it


_READ_AT_ONCE: Final = _ReadAtOnce()


class _Block:
    """A full roll of each kind, and which number of the block is in which."""

    __slots__ = ("_entries", "_sealed", "_weights")

    def __init__(self, entries: list[TapeEntry], weights: Sequence[float]) -> None:
        self._entries, self._weights = entries, weights
        rolls = {id(one): one for one in entries if not isinstance(one, float)}
        self._sealed = {key: roll.seal() for key, roll in rolls.items()}

    def is_ready(self) -> bool:
        return all(sealed.is_ready() for sealed in self._sealed.values())

    def read(self) -> Given:
        read = {key: sealed.numbers() for key, sealed in self._sealed.items()}
        if len(read) == 1 and not any(isinstance(entry, float) for entry in self._entries):
            return read.popitem()[1], self._weights
        rest = {key: iter(numbers) for key, numbers in read.items()}
        numbers = [
            entry if isinstance(entry, float) else next(rest[id(entry)]) for entry in self._entries
        ]
        return numbers, self._weights


class Tape:
    """The numbers of one metric; those that it gives out it has no more.

    Example:
        >>> tape = Tape()
        >>> tape.add(1, 32.0), tape.rest()
        (1.0, [])
    """

    __slots__ = ("_blocks", "_by_key", "_by_type", "_entries", "_weights")

    def __init__(self) -> None:
        self._by_type: dict[type, Roll] = {}
        """By type of a value: the roll that took the last one."""
        self._by_key: dict[Any, Roll] = {}
        self._entries: list[TapeEntry] = []
        self._weights = array("d")
        self._blocks: deque[_Block] = deque()

    def add(self, value: Any, weight: float) -> float | list[Given] | None:
        """Take a number; does not wait.

        Args:
            value: A Python number, NumPy's scalar, a tensor, array or variable with one element of
                PyTorch, JAX, TensorFlow or Keras, or anything else that `float` takes.
            weight: What it counts.

        Returns:
            The number, if nothing is before it; or earlier numbers that can be had now, with their
            weights; or None: there are none.

        Raises:
            NotOneNumberError: For an array, a text, a complex number, a value that is not there
                yet.
        """
        entry: TapeEntry | None
        if type(value) is float:
            entry = value
        else:
            roll = self._by_type.get(type(value))
            entry = None if roll is None else roll.take(value)
            if entry is None:
                entry = self._elsewhere(value)
        if type(entry) is float and not self._entries and not self._blocks:
            return entry
        self._entries.append(entry)
        self._weights.append(weight)
        if len(self._entries) < BLOCK:
            return None
        self._seal()
        given = []
        while len(self._blocks) > _KEPT and self._blocks[0].is_ready():
            given.append(self._blocks.popleft().read())
        return given

    def _elsewhere(self, value: Any) -> TapeEntry:
        """Take a number of a type that is new here, of another dtype, or on another device."""
        keras = getattr(sys.modules.get("keras"), "Variable", None)
        if keras is not None and isinstance(value, keras):
            value = value.value
        for library, make in _LIBRARIES:
            if library.is_one(value):
                value = library.plain(value)
                key = library, library.key_of(value)
                roll = self._by_key.get(key)
                if roll is None:
                    roll = self._by_key[key] = make(value)
                break
        else:
            roll = _READ_AT_ONCE
        entry = roll.take(value)
        if entry is None:
            raise NotOneNumberError
        if len(self._by_type) < _MANY:
            self._by_type[type(value)] = roll
        return entry

    def _seal(self) -> None:
        self._blocks.append(_Block(self._entries, self._weights))
        self._entries, self._weights = [], array("d")

    def rest(self) -> list[Given]:
        """All numbers that have not been given yet, with their weights; waits for the device."""
        if self._entries:
            self._seal()
        given = [block.read() for block in self._blocks]
        self._blocks.clear()
        return given
