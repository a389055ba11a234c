"""An HDF5 file without its data: small pieces of bytes, and places where arrays go.

Rules of this file:

1. The HDF5 library makes the structure only, in memory: each dataset is contiguous and allocated at
   once, so it has an offset, and nothing is ever written there. The library never sees the data,
   holds no lock over it, and cannot end the process when a disk is full.
2. The real file is then written in order by plain writes, which release the GIL and fail in plain
   words.
3. An image depends on the structure alone, so a few are kept: a training run saves the same
   structure again and again.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, final

import numpy as np

__all__ = ["Image", "Noted", "Structure", "image_of", "pieces_of", "structure_of"]

PIECE = 1 << 22
"""Bytes: large enough that a call costs nothing, small enough for a processor's cache."""

_PAGE = 1 << 12


class Attribute(NamedTuple):
    """One attribute, as values that can be compared."""

    name: str
    type: Any
    """The type of a plain value or the types in a list; dtype and shape of an array."""
    value: Any

    @classmethod
    def of(cls, name: str, value: Any) -> Attribute:
        """Note a value; `TypeError` if it cannot be compared."""
        if type(value) in _PLAIN:
            return cls(name, type(value), value)
        if type(value) is list and all(type(item) in _PLAIN for item in value):
            # Not an array: h5py writes a list of bytes as text of any length.
            return cls(name, tuple(map(type, value)), tuple(value))
        array = np.asarray(value)
        if array.dtype.kind not in "biufcS":
            raise TypeError(f"expected text, numbers or bytes, got {name}={value!r}")
        return cls(name, _ArrayType(array.dtype, array.shape), array.tobytes())

    def write(self, attributes: Any) -> None:
        """Give it to a group or dataset of h5py."""
        value: Any
        if isinstance(self.type, _ArrayType):
            value = np.frombuffer(self.value, self.type.dtype).reshape(self.type.shape)
        else:
            value = list(self.value) if isinstance(self.type, tuple) else self.value
        attributes[self.name] = value


_PLAIN: Final = {str, bytes, bool, int, float}


class _ArrayType(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Hdf5Object(NamedTuple):
    """A group (without a shape), or a dataset."""

    path: str
    attributes: tuple[Attribute, ...] = ()
    shape: tuple[int, ...] | None = None
    dtype: np.dtype[Any] | None = None


Structure = tuple[Hdf5Object, ...]
"""All groups and datasets of a file, parents first; the root's path is empty."""


class Noted(NamedTuple):
    """What was noted of a group or a dataset, its attributes as they were given."""

    path: str
    attributes: Mapping[str, Any]
    shape: tuple[int, ...] | None = None
    dtype: np.dtype[Any] | None = None


def structure_of(noted: Iterable[Noted]) -> Structure:
    """All that was noted, in a form that can be compared.

    Raises:
        TypeError: If an attribute cannot be compared.
    """
    return tuple(
        Hdf5Object(path, tuple(itertools.starmap(Attribute.of, attributes.items())), shape, dtype)
        for path, attributes, shape, dtype in noted
    )


@final
class Image:
    """The bytes of a file: pieces that are known, and numbers of datasets in between.

    Args:
        parts: In the order of the file.
        datasets: Shape and dtype of each dataset.
        size: Of the whole file in bytes.
    """

    def __init__(
        self, parts: list[bytes | int], datasets: list[tuple[tuple[int, ...], Any]], size: int
    ) -> None:
        self._parts, self._datasets, self.size = tuple(parts), tuple(datasets), size

    def pieces(
        self, sources: Sequence[int | np.ndarray], arrays: Sequence[np.ndarray]
    ) -> Iterator[bytes | memoryview]:
        """The file's bytes in order, in pieces of at most some MiB.

        Args:
            sources: For each dataset its array, or where it is in `arrays`.
            arrays: Each is asked for when it is due.

        Raises:
            ValueError: If an array is not what the structure says.
        """
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
                continue
            source = sources[part]
            values = arrays[source] if isinstance(source, int) else source
            expected = self._datasets[part]
            if (values.shape, values.dtype) != expected:
                raise ValueError(
                    f"expected an array of shape {expected[0]} and dtype {expected[1]}, "
                    f"got shape={values.shape}, dtype={values.dtype}."
                )
            yield from pieces_of(values)


def pieces_of(values: np.ndarray) -> Iterator[memoryview]:
    """An array's bytes in C order, without a copy where it lies in that order."""
    # As bytes: NumPy's extension dtypes (bfloat16) have no buffer protocol of their own.
    flat: Any = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    view = memoryview(flat)
    for start in range(0, len(view), PIECE):
        yield view[start : start + PIECE]


@functools.lru_cache(maxsize=4)
def image_of(structure: Structure) -> Image:
    """Lay a file out."""
    import h5py

    memory = _SparseFile()
    offsets: list[tuple[int, int, int]] = []
    datasets: list[tuple[tuple[int, ...], Any]] = []
    with h5py.File(memory, "w") as file:
        for entry in structure:
            if entry.shape is None:
                made = file.create_group(entry.path) if entry.path else file
            else:
                made = _allocate(file, entry)
                n_bytes = math.prod(entry.shape) * made.dtype.itemsize
                if n_bytes:
                    offsets.append((made.id.get_offset(), n_bytes, len(datasets)))
                datasets.append((entry.shape, entry.dtype))
            for attribute in entry.attributes:
                attribute.write(made.attrs)
    parts: list[bytes | int] = []
    position = 0
    for offset, n_bytes, number in sorted(offsets):
        if offset > position:
            parts.append(memory.between(position, offset))
        parts.append(number)
        position = offset + n_bytes
    parts.append(memory.between(position, memory.size))
    return Image(parts, datasets, memory.size)


def _allocate(file: Any, entry: Hdf5Object) -> Any:
    import h5py
    from h5py import h5d, h5p, h5s, h5t

    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_layout(h5d.CONTIGUOUS)
    properties.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    # The low level: `create_dataset` forgets the properties of a scalar.
    space = h5s.create_simple(entry.shape) if entry.shape else h5s.create(h5s.SCALAR)
    dtype = h5t.py_create(entry.dtype, logical=True)
    return h5py.Dataset(h5d.create(file.id, entry.path.encode(), dtype, space, dcpl=properties))


class _SparseFile(io.RawIOBase):
    """A file in memory of which only the pages that were written exist."""

    def __init__(self) -> None:
        super().__init__()
        self._pages: dict[int, bytearray] = {}
        self._position = 0
        self.size = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = base + offset
        return self._position

    def truncate(self, size: int | None = None, /) -> int:
        self.size = self._position if size is None else size
        return self.size

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            number, start = divmod(self._position + done, _PAGE)
            piece = view[done : done + _PAGE - start]
            page = self._pages.setdefault(number, bytearray(_PAGE))
            page[start : start + len(piece)] = piece
            done += len(piece)
        self._position += done
        self.size = max(self.size, self._position)
        return done

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        n_bytes = max(min(len(view), self.size - self._position), 0)
        view[:n_bytes] = self.between(self._position, self._position + n_bytes)
        self._position += n_bytes
        return n_bytes

    def between(self, start: int, end: int) -> bytes:
        """A part of the content; what was never written is zero."""
        first, last = start // _PAGE, -(-end // _PAGE)
        empty = bytes(_PAGE)
        joined = b"".join(self._pages.get(number, empty) for number in range(first, last))
        return joined[start - first * _PAGE : end - first * _PAGE]
