"""What the epochs before have logged, in a form that is small and quick to write.

Every backup holds the whole record, for each must be whole in itself: what would be referred to
could be damaged, or would have to stay. So what is written grows by a few bytes with each epoch.
What must not grow is the work: of a record that goes on, only what is new is packed.

Rules of this file:

1. The values of a metric that are of one kind lie in one array, in memory with room for more. A
   backup is given a view of what is there: what comes later is written behind its end.
2. Values of several kinds are lines of JSON, in such an array too. Only where there are arrays
   among them are they a list, which costs its length each time.
3. A record that was changed before its end (a user may, in Keras's `History`) is packed anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, final

from peakhold.errors import InvalidArgumentError
from peakhold.host.contract import to_number
from peakhold.host.resume import EpochRecord

if TYPE_CHECKING:
    from peakhold.snapshots.arrays import Array

__all__ = ["Packer", "unpack"]

_LINES: Final = "lines"
_PLAIN: Final = {float: "float64", int: "int64", bool: "bool"}
"""Python's own numbers, by the dtype of their array; others' stay scalars or arrays of NumPy."""
_BITS: Final = 63  # of an int that an array has room for, without its sign
_NUMBERS: Final = "biufc"  # kinds of dtype that the store takes


@final
class Packer:
    """Packs the record of one run, again and again."""

    def __init__(self) -> None:
        self._epochs = _Column()
        self._metrics: dict[str, _Column] = {}

    def pack(self, passed: EpochRecord | None) -> dict[str, Any] | None:
        """A record as a tree, which stays as it is while the record goes on."""
        if passed is None:
            return None
        columns = self._metrics
        self._metrics = {key: columns.get(key) or _Column() for key in passed.metrics}
        return {
            "epochs": self._epochs.packed(passed.epochs),
            "metrics": {
                key: column.packed(passed.metrics[key]) for key, column in self._metrics.items()
            },
        }


@final
class _Column:
    """The values of one metric."""

    def __init__(self) -> None:
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._seen: list[Any] | None = None
        self._n_added = 0
        self._rows: _Rows | None = None
        self._lines: _Rows | None = None
        self._list: list[Any] | None = None

    def packed(self, values: list[Any]) -> Any:
        """The values as an array, as lines, or as a list."""
        seen, self._seen = self._seen, None  # where Ctrl-C comes in between, all begins anew
        n_seen = 0 if seen is None else len(seen)
        if seen is None or not _goes_on(seen, values):
            self._begin_anew()
            seen, n_seen = list(values), 0
        for value in values[n_seen:]:
            self._add(_plain(value))
            self._n_added += 1
        self._seen = seen
        if self._list is not None:
            return list(self._list)
        if self._lines is not None:
            return {_LINES: self._lines.array()}
        return _Rows("int64", ()).array() if self._rows is None else self._rows.array()

    def _add(self, value: Any) -> None:
        if self._list is not None:
            self._list.append(value)
            return
        if self._lines is None:
            kind = _kind_of(value)
            if not self._n_added and kind is not None:
                self._rows = _Rows(*kind)
            if self._rows is not None and kind == self._rows.kind:
                self._rows.append([value])
                return
        before = [] if self._lines is not None else self._values()
        lines = b""
        for one in (*before, value):
            line = _line(one)
            if line is None:
                self._list = [*self._values(), value]
                return
            lines += line
        self._lines = self._lines or _Rows("uint8", ())
        self._lines.append(list(lines))

    def _values(self) -> list[Any]:
        """What has been added, plain."""
        if self._lines is not None:
            return _unpacked({_LINES: self._lines.array()})
        return [] if self._rows is None else _unpacked(self._rows.array())


def _goes_on(seen: list[Any], values: list[Any]) -> bool:
    """Whether the values begin with those that were seen; afterwards all have been."""
    seen += values[len(seen) :]
    try:
        return seen == values  # at once, for most are the same objects
    except Exception:  # arrays that are not, whatever their library says
        return False


@final
class _Rows:
    """An array with room for more rows."""

    def __init__(self, dtype: str, shape: tuple[int, ...]) -> None:
        import numpy as np

        self.kind = dtype, shape
        self._memory: Array = np.empty((16, *shape), dtype)
        self._n = 0

    def append(self, rows: list[Any]) -> None:
        """Add rows; what `array` gave before stays as it is."""
        import numpy as np

        end = self._n + len(rows)
        if end > len(self._memory):
            larger: Array = np.empty((2 * end, *self._memory.shape[1:]), self._memory.dtype)
            larger[: self._n] = self._memory[: self._n]
            self._memory = larger
        self._memory[self._n : end] = rows
        self._n = end

    def array(self) -> Array:
        """All rows, in memory that is not written to any more."""
        return self._memory[: self._n]


def _kind_of(value: Any) -> tuple[str, tuple[int, ...]] | None:
    """Dtype and shape of the array that such values lie in; None if they lie in none."""
    if type(value) is int and value >> _BITS not in {0, -1}:
        return None
    dtype = _PLAIN.get(type(value))
    if dtype is not None:
        return dtype, ()
    dtype = getattr(value, "dtype", None)
    if dtype is None or dtype.kind not in _NUMBERS or not dtype.isnative:
        return None
    widest = 16 if dtype.kind == "c" else 8  # the store takes no `longdouble`
    return (dtype.name, value.shape) if dtype.itemsize <= widest else None


def _line(value: Any) -> bytes | None:
    """A value as a line of JSON; None for an array, which has no JSON."""
    from peakhold.snapshots.tree import flatten, to_json

    try:
        json, arrays = flatten("passed", value)
    except InvalidArgumentError:  # the store refuses it by its path
        return None
    return None if arrays else to_json(json) + b"\n"


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    number = to_number(value)
    if number is not None and not hasattr(value, "dtype"):
        return number
    try:
        import numpy as np

        array = np.array(value)  # a copy: whoever logged it may go on changing it
    except (TypeError, ValueError, RuntimeError):
        return repr(value)
    return repr(value) if array.dtype.kind == "O" else array


def unpack(packed: Mapping[str, Any] | None) -> EpochRecord | None:
    """The record that `Packer` made this of, or an earlier version."""
    if packed is None:
        return None
    metrics = {key: _unpacked(values) for key, values in packed["metrics"].items()}
    return EpochRecord(packed["epochs"].tolist(), metrics)


def _unpacked(values: Any) -> list[Any]:
    if isinstance(values, Mapping):
        from peakhold.snapshots.tree import parse_json, unflatten

        lines = values[_LINES].tobytes().splitlines()
        return [unflatten(parse_json(line), _no_array) for line in lines]
    if hasattr(values, "tolist") and values.ndim == 1 and values.dtype.name in _PLAIN.values():
        return list(values.tolist())
    # What was a scalar of NumPy is one again.
    return [one[()] if getattr(one, "ndim", None) == 0 else one for one in values]


def _no_array(name: str) -> Any:
    raise ValueError(f"a line has the array {name!r:.100}")
