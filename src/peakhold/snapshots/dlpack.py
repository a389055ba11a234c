"""Reading a DLPack capsule whose dtype NumPy refuses (bfloat16, float8), as raw bytes.

`numpy.from_dlpack` knows the dtypes NumPy has. A library that is neither PyTorch nor JAX and hands
out bfloat16 would have no way in, so the few fields that matter are read here. Layout: dlpack.h.
"""

from __future__ import annotations

import ctypes
from typing import Any, ClassVar, Final

import numpy as np

__all__ = ["raw_view"]

_CPU_DEVICES: Final = (1, 3, 11)  # kDLCPU, kDLCUDAHost, kDLROCMHost: all readable by the CPU
# DLDataTypeCode, bits -> safetensors' name, and how wide one element is.
_RAW: Final[dict[tuple[int, int], tuple[str, np.dtype[Any]]]] = {
    (4, 16): ("BF16", np.dtype(np.uint16)),
    (10, 8): ("F8_E4M3", np.dtype(np.uint8)),
    (11, 8): ("F8_E4M3FNUZ", np.dtype(np.uint8)),
    (12, 8): ("F8_E5M2", np.dtype(np.uint8)),
    (13, 8): ("F8_E5M2FNUZ", np.dtype(np.uint8)),
    (14, 8): ("F8_E8M0", np.dtype(np.uint8)),
}


class _Tensor(ctypes.Structure):
    _fields_: ClassVar = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def raw_view(array: Any) -> tuple[np.ndarray[Any, Any], str]:
    """Return a view of the same memory as unsigned ints, and safetensors' name of the dtype.

    Args:
        array: Anything with `__dlpack__`, on the CPU. The view keeps it alive.

    Raises:
        TypeError: If the dtype or the device is not one that can be read here.
    """
    capsule = array.__dlpack__()
    tensor = _Tensor.from_address(_pointer(capsule, b"dltensor"))
    if tensor.device_type not in _CPU_DEVICES:
        raise TypeError(f"DLPack device type {tensor.device_type} is not the CPU")
    if (tensor.code, tensor.bits) not in _RAW or tensor.lanes != 1:
        raise TypeError(f"DLPack dtype code {tensor.code} with {tensor.bits} bits is unknown")
    name, dtype = _RAW[tensor.code, tensor.bits]
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = (
        tuple(tensor.strides[i] * dtype.itemsize for i in range(tensor.ndim))
        if tensor.strides
        else None
    )
    if 0 in shape:
        return np.empty(shape, dtype), name
    address = tensor.data + tensor.byte_offset

    class Memory:
        # NumPy keeps this object, and with it the capsule, as long as the view lives.
        keep = (capsule, array)
        __array_interface__: ClassVar = {
            "version": 3,
            "data": (address, True),
            "shape": shape,
            "strides": strides,
            "typestr": dtype.str,
        }

    return np.asarray(Memory()), name
