"""What counts as an array, and how its bytes are named and brought back.

An array is translated once, here, to an `ArraySource`: a NumPy view of the memory that holds it (no
copy where the library allows none), and the name that safetensors gives its dtype. No framework is
imported: whoever passes a tensor has imported its library already.

What safetensors has no dtype for, but NumPy or `ml_dtypes` have, is stored under a dtype it does
have, and the manifest says what it is (`"as": "complex128"`).
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias, cast, final

import numpy as np

from peakhold.snapshots.dlpack import raw_view

__all__ = [
    "DTYPES",
    "Array",
    "ArraySource",
    "NotStorableAtError",
    "NotStorableError",
    "RawTensor",
    "build",
    "copy_of",
    "is_of_numpy",
    "memory_of_array",
    "memory_of_tensor",
    "source_of",
    "sources_of",
]

Array: TypeAlias = np.ndarray[Any, Any]

# safetensors' dtype -> the NumPy dtype whose bits are copied; little-endian, as the format demands.
DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
    "BF16": np.dtype("<u2"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E4M3FNUZ": np.dtype("u1"),
    "F8_E5M2": np.dtype("u1"),
    "F8_E5M2FNUZ": np.dtype("u1"),
    "F8_E8M0": np.dtype("u1"),
}
_CODES: Final = {dtype: code for code, dtype in list(DTYPES.items())[:13]}
# safetensors' dtypes that NumPy lacks, by the name that torch and ml_dtypes share.
_ML_CODES: Final = {
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2": "F8_E5M2",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
}
_ML_NAMES: Final = {code: name for name, code in _ML_CODES.items()}
# Stored as something else: logical name -> (safetensors' dtype, further axis of the stored shape).
STORED_AS: Final[dict[str, tuple[str, tuple[int, ...]]]] = {
    "complex128": ("F64", (2,)),
    "float8_e3m4": ("U8", ()),
    "float8_e4m3": ("U8", ()),
    "float8_e4m3b11fnuz": ("U8", ()),
    "float4_e2m1fn": ("U8", ()),
    "float6_e2m3fn": ("U8", ()),
    "float6_e3m2fn": ("U8", ()),
    "int2": ("U8", ()),
    "int4": ("U8", ()),
    "uint2": ("U8", ()),
    "uint4": ("U8", ()),
}
_torch_names: Final[dict[tuple[type, Any], str]] = {}
"""By type and dtype of a tensor of PyTorch, the dtype's name: of those that were met, and that have
all their values here."""
_MAX_NDIM: Final = 64  # NumPy's own limit; a longer shape in a file is hostile


class NotStorableError(TypeError):
    """An object that looks like an array but whose bytes cannot be had; its text says why."""


class NotStorableAtError(Exception):
    """One array of many cannot be stored: which, and why."""

    def __init__(self, index: int, why: NotStorableError) -> None:
        super().__init__(index, why)
        self.index, self.why = index, why


@final
@dataclass(frozen=True, slots=True)
class RawTensor:
    """A tensor of a dtype that this Python has no array type for (`ml_dtypes` is not installed).

    It can be saved again as it is.
    """

    dtype: str
    """safetensors' name of the dtype (`"BF16"`), or the logical name (`"float8_e3m4"`)."""
    shape: tuple[int, ...]
    """Length of each axis."""
    buffer: memoryview
    """The bytes, little-endian, row-major."""

    @property
    def name(self) -> str:
        """What PyTorch, JAX and `ml_dtypes` call the dtype (`"bfloat16"`)."""
        return _ML_NAMES.get(self.dtype, self.dtype)

    def __reduce__(self) -> Any:
        return _raw_tensor, (self.dtype, self.shape, bytes(self.buffer))


def _raw_tensor(dtype: str, shape: tuple[int, ...], data: bytes) -> RawTensor:
    return RawTensor(dtype, shape, memoryview(data))


class ArraySource(NamedTuple):
    """Where the bytes of one array are."""

    array: Array
    """A view; its dtype's bits are what is stored (bfloat16 is seen as uint16)."""
    dtype: str
    """safetensors' dtype."""
    stored_as: str | None
    """Logical dtype if safetensors has none for it."""
    memory: object
    """Equal for two sources that are the same array, and for no others."""


def _numpy_source(array: Array, memory: object) -> ArraySource:
    if type(array) is not np.ndarray and isinstance(array, np.ma.MaskedArray):
        raise NotStorableError("a masked array would lose its mask")
    dtype = array.dtype
    code = _CODES.get(dtype)
    if code is not None:
        return ArraySource(array, code, None, memory)
    if dtype.kind in "iufc" and not dtype.isnative:
        code = _CODES.get(dtype.newbyteorder("<"))
        if code is not None:
            return ArraySource(array, code, None, memory)
    if dtype.kind == "c" and dtype.itemsize == 16:
        return ArraySource(array, "F64", "complex128", memory)
    name = dtype.name
    if name in _ML_CODES:
        code = _ML_CODES[name]
        return ArraySource(array.view(DTYPES[code]), code, None, memory)
    if name in STORED_AS:
        return ArraySource(array.view(np.uint8), "U8", name, memory)
    raise NotStorableError(f"dtype {dtype} has no storable form")


def memory_of_array(array: Array) -> object:
    """Identify the memory: address, extent and type."""
    if array.size == 0:
        return id(array)
    return array.__array_interface__["data"][0], array.dtype, array.shape, array.strides


def _torch_source(tensor: Any) -> ArraySource:
    kind = type(tensor), tensor.dtype
    name = _torch_names.get(kind)
    if name is None:
        if hasattr(tensor, "full_tensor"):
            raise NotStorableError("each worker holds a piece of it; save `full_tensor()`")
        name = _torch_names[kind] = str(tensor.dtype)[6:]  # "torch.float32"
    code = _ML_CODES.get(name)
    if code is not None:
        torch = sys.modules["torch"]
        bits = torch.uint8 if DTYPES[code].itemsize == 1 else torch.int16
        tensor = tensor.detach().view(bits)
        array = tensor.numpy(force=True).view(DTYPES[code])
    else:
        array = tensor.numpy(force=True)
        code = _CODES.get(array.dtype)
    memory = memory_of_tensor(tensor, array, name)
    if code is None:
        return _numpy_source(array, memory)
    return ArraySource(array, code, None, memory)


def memory_of_tensor(tensor: Any, array: Array, name: str | None = None) -> object:
    """Identify the memory of a tensor of PyTorch, which `array` shows; `name` is its dtype's."""
    if array.size == 0:
        return id(tensor)
    # A conjugate or negative view has the values of `array`; where it points to lies its twin.
    flags = tensor.is_neg(), tensor.is_complex() and tensor.is_conj()
    name = name or array.dtype.name
    return tensor.data_ptr(), tensor.device, name, array.shape, array.strides, flags


def is_of_numpy(source: ArraySource) -> bool:
    """Whether NumPy itself has the dtype of these bytes."""
    return source.stored_as == "complex128" or (
        source.stored_as is None and source.dtype not in _ML_NAMES
    )


def _raw_source(raw: RawTensor) -> ArraySource:
    if raw.dtype in STORED_AS:
        code, logical = STORED_AS[raw.dtype][0], raw.dtype
    elif raw.dtype in DTYPES:
        code, logical = raw.dtype, None
    else:
        raise NotStorableError(f"RawTensor has the unknown dtype {raw.dtype!r}")
    array: Array = np.frombuffer(raw.buffer, DTYPES[code]).reshape(raw.shape)
    return ArraySource(array, code, logical, id(raw))


def _foreign_source(value: Any) -> ArraySource | None:
    """The array protocols, in the order in which they lose least."""
    kind = type(value)
    if getattr(kind, "__array__", None) is not None:
        return _numpy_source(np.asarray(value), id(value))  # JAX, TensorFlow, Keras, pandas
    try:
        view = memoryview(value)
    except TypeError:
        pass
    else:
        return _numpy_source(np.asarray(view), id(value))
    if getattr(kind, "__dlpack__", None) is None:
        return None
    try:
        return _numpy_source(np.from_dlpack(value), id(value))
    except (TypeError, RuntimeError, BufferError):
        array, code = raw_view(value)
        return ArraySource(array, code, None, id(value))


def source_of(value: Any) -> ArraySource | None:
    """Return where the bytes of `value` are, or None if it is no array.

    Args:
        value: A NumPy array or scalar, a PyTorch, JAX or TensorFlow tensor, a `RawTensor`, or
            anything with the buffer protocol, `__array__` or DLPack. On another device than the CPU
            the bytes are copied here, and this waits for the device.

    Raises:
        NotStorableError: If it is an array whose bytes cannot be had, or whose dtype has no form on
        disk.
    """
    torch = sys.modules.get("torch")
    try:
        if isinstance(value, np.ndarray):
            return _numpy_source(value, memory_of_array(value))
        if torch is not None and isinstance(value, torch.Tensor):
            return _torch_source(value)
        if isinstance(value, np.generic):
            return _numpy_source(np.asarray(value), id(value))
        if isinstance(value, RawTensor):
            return _raw_source(value)
        return _foreign_source(value)
    except NotStorableError:
        raise
    except Exception as exc:  # frameworks raise their own types for sparse, deleted, typed keys …
        raise NotStorableError(f"{type(exc).__name__}: {exc}") from exc


def sources_of(values: Iterable[Any]) -> list[ArraySource]:
    """Where the bytes of many arrays are; what is a source already stays as it is.

    Raises:
        NotStorableAtError: If one of them cannot be stored.
    """
    found: list[ArraySource] = []
    for value in values:
        try:
            source = value if isinstance(value, ArraySource) else source_of(value)
        except NotStorableError as why:
            raise NotStorableAtError(len(found), why) from why
        if source is None:
            raise NotStorableAtError(len(found), NotStorableError("it is no array"))
        found.append(source)
    return found


def copy_of(source: ArraySource) -> Array | RawTensor:
    """An array with memory of its own that is stored as `source` is."""
    array = np.array(source.array, order="C")
    code = _CODES.get(array.dtype.newbyteorder("<"))
    if source.stored_as == "complex128" or (source.stored_as is None and code == source.dtype):
        return array
    bits = memoryview(array.reshape(-1).view(np.uint8).data)
    return RawTensor(source.stored_as or source.dtype, array.shape, bits)


def _ml_dtype(name: str) -> np.dtype[Any] | None:
    try:
        dtype: np.dtype[Any] = np.dtype(getattr(importlib.import_module("ml_dtypes"), name))
    except (ImportError, AttributeError):
        return None
    return dtype


def build(
    data: Array, dtype: str, stored_as: str | None, shape: tuple[int, ...]
) -> Array | RawTensor:
    """Give bytes that were read their shape and dtype.

    Args:
        data: Shape `(nbytes,)`, uint8, contiguous. The result shares its memory.
        dtype: safetensors' dtype.
        stored_as: Logical dtype, if it differs.
        shape: Shape as stored.
    """
    if stored_as == "complex128":
        return data.view("<c16").reshape(shape[:-1])
    name = stored_as or _ML_NAMES.get(dtype)
    if name is None:
        return data.view(DTYPES[dtype]).reshape(shape)
    ml_dtype = _ml_dtype(name)
    if ml_dtype is None:
        return RawTensor(stored_as or dtype, shape, memoryview(cast("bytes", data)))
    return data.view(ml_dtype).reshape(shape)


def byte_count(dtype: str, stored_as: str | None, shape: tuple[int, ...]) -> int:
    """Return how many bytes a tensor has, or raise `ValueError` if no such tensor can be.

    Checked before anything is allocated: a shape from a file may multiply to anything.
    """
    if dtype not in DTYPES:
        raise ValueError(f"the dtype {dtype!r:.50} is unknown")
    if stored_as is not None:
        stored, axes = STORED_AS.get(stored_as, ("", ()))
        if stored != dtype or shape[len(shape) - len(axes) :] != axes:
            raise ValueError(f"{dtype} with this shape cannot be {stored_as!r:.50}")
    if len(shape) > _MAX_NDIM:
        raise ValueError(f"a shape of {len(shape)} axes is not one an array can have")
    width = DTYPES[dtype].itemsize
    # NumPy multiplies the lengths that are not zero, also where there are no bytes.
    if math.prod(length or 1 for length in shape) * width >= 2**62:
        raise ValueError("its shape is larger than any memory")
    return math.prod(shape) * width
