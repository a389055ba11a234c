"""Stand-ins for what Keras reads and writes while it saves: they note what would be written.

There are those for h5py's file, group and dataset, for Keras's backend, which leaves variables
unread, and for the variables of an optimizer. Keras's own functions run on them. A value is an
array (already a copy), or a variable of which shape and dtype are enough now, and whose values come
later. What a stand-in does not know raises: whoever planned then lets Keras write the file itself.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any, Final, final

import numpy as np

import keras
from peakhold.keras.files.hdf5_image import Noted, Structure, structure_of

__all__ = ["Later", "NotedFile", "NotedGroup", "Unread", "noting"]

_WHOLE: Final = ((), slice(None), ...)


@final
class Later:
    """A variable in place of its values."""

    def __init__(self, variable: Any, dtype: np.dtype[Any]) -> None:
        self.variable, self.dtype = variable, dtype
        self.shape = tuple(map(int, variable.shape))


class _Attributes(dict[str, Any]):
    """`attrs` of a group or a dataset."""

    def create(self, name: str, data: Any) -> None:
        self[name] = data

    def named(self) -> dict[str, Any]:
        return {_text(name): value for name, value in self.items()}


@final
class NotedDataset:
    """A dataset, whole or yet without values."""

    def __init__(self, shape: Any, dtype: Any, values: Any = None) -> None:
        self.shape, self.dtype = tuple(int(n) for n in shape), np.dtype(dtype)
        if self.dtype.kind not in "biufcSV" or self.dtype.names or not self.dtype.itemsize:
            raise TypeError(f"expected numbers or bytes, got dtype={self.dtype}")
        self.values = values
        self.attrs = _Attributes()

    def __setitem__(self, where: Any, values: Any) -> None:
        values = _value(values)
        if not any(where is w or where == w for w in _WHOLE) or (values.shape, values.dtype) != (
            self.shape,
            self.dtype,
        ):
            raise TypeError(f"expected a whole dataset of {self.shape} {self.dtype}")
        self.values = values


class NotedGroup:
    """A group."""

    def __init__(self) -> None:
        self.attrs = _Attributes()
        self._children: dict[str, NotedGroup | NotedDataset] = {}

    def create_group(self, name: str | bytes) -> NotedGroup:
        """Add a group, and those above it."""
        group = NotedGroup()
        self._link(name, group)
        return group

    def require_group(self, name: str | bytes) -> NotedGroup:
        """The group of this name, added if need be."""
        if name not in self:
            return self.create_group(name)
        found = self[name]
        if not isinstance(found, NotedGroup):
            raise TypeError(f"expected a group, got the dataset {name!r}")
        return found

    def create_dataset(
        self, name: str | bytes, shape: Any = None, dtype: Any = None, data: Any = None
    ) -> NotedDataset:
        """Add a dataset; without data, its values are set later."""
        if data is None:
            dataset = NotedDataset(() if shape is None else shape, dtype or np.float32)
        else:
            values = _value(data)
            if (shape is not None and tuple(shape) != values.shape) or (
                dtype is not None and np.dtype(dtype) != values.dtype
            ):
                raise TypeError(f"expected data of {shape} {dtype}, got {values.dtype}")
            dataset = NotedDataset(values.shape, values.dtype, values)
        self._link(name, dataset)
        return dataset

    def __setitem__(self, name: str | bytes, value: Any) -> None:
        self.create_dataset(name, data=value)

    def __getitem__(self, name: str | bytes) -> NotedGroup | NotedDataset:
        found: NotedGroup | NotedDataset = self
        for part in _parts(name):
            if not isinstance(found, NotedGroup):
                raise KeyError(name)
            found = found._children[part]
        return found

    def __delitem__(self, name: str | bytes) -> None:
        *above, last = _parts(name)
        parent = self["/".join(above)] if above else self
        if not isinstance(parent, NotedGroup):
            raise KeyError(name)
        del parent._children[last]

    def __contains__(self, name: str | bytes) -> bool:
        try:
            self[name]
        except KeyError:
            return False
        return True

    def __len__(self) -> int:
        return len(self._children)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self._children)

    def keys(self) -> Any:
        """Names of what is in it."""
        return self._children.keys()

    def _link(self, name: str | bytes, child: NotedGroup | NotedDataset) -> None:
        *above, last = _parts(name)
        parent = self
        for part in above:
            parent = parent.require_group(part)
        if last in parent._children:
            raise ValueError(f"expected a name that is not there yet, got name={name!r}")
        parent._children[last] = child

    def _noted(self, path: str) -> Iterator[tuple[Noted, Any]]:
        yield Noted(path, self.attrs.named()), None
        for name, child in self._children.items():
            below = f"{path}/{name}" if path else name
            if isinstance(child, NotedGroup):
                yield from child._noted(below)
            elif child.values is None:
                raise TypeError(f"expected values for the dataset {below!r}, got none")
            else:
                yield Noted(below, child.attrs.named(), child.shape, child.dtype), child.values


@final
class NotedFile(NotedGroup):
    """A file."""

    def flush(self) -> None:
        """There is nothing to flush."""

    def close(self) -> None:
        """There is nothing to close."""

    def noted(self) -> tuple[Structure, list[Any]]:
        """The structure, and for each dataset in its order an array or a `Later`."""
        pairs = list(self._noted(""))
        values = [value for noted, value in pairs if noted.shape is not None]
        return structure_of([noted for noted, _ in pairs]), values


def _value(value: Any) -> Any:
    return value if isinstance(value, Later) else np.array(value)


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _parts(name: str | bytes) -> list[str]:
    parts = [part for part in _text(name).split("/") if part]
    if not parts or "." in parts:
        raise ValueError(f"expected the name of a group or a dataset, got name={name!r}")
    return parts


@final
class Unread:
    """A variable of an optimizer, which Keras asks for its values."""

    def __init__(self, variable: Any) -> None:
        self._variable = variable

    def numpy(self) -> Any:
        """The variable, for the backend to note."""
        return self._variable


def noting(backend: ModuleType) -> SimpleNamespace:
    """Keras's backend module, whose `convert_to_numpy` leaves variables unread."""

    def convert_to_numpy(value: Any) -> Any:
        if isinstance(value, keras.Variable):
            dtype = _numpy_dtype(_standardize_dtype(value.dtype))
            if dtype is not None:
                return Later(value, dtype)
        return backend.convert_to_numpy(value)

    names = {
        **vars(backend),
        "convert_to_numpy": convert_to_numpy,
        "standardize_dtype": _standardize_dtype,
    }
    return SimpleNamespace(**names)


@functools.lru_cache(maxsize=64)
def _standardize_dtype(dtype: Any) -> str:
    name: str = keras.backend.standardize_dtype(dtype)
    return name


@functools.cache
def _numpy_dtype(name: str) -> np.dtype[Any] | None:
    import ml_dtypes

    try:
        return np.dtype(getattr(ml_dtypes, name, name))
    except TypeError:
        return None
