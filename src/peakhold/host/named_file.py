"""A loop's weights as a file of safetensors: arrays by dotted name, which any tool can read.

The format has arrays and nothing else, of dtypes that it knows. What it does not take is refused
before training, or as soon as it is there: a file without it would load as if it were whole.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
from collections.abc import Callable
from typing import Any, BinaryIO, Final

from peakhold.errors import HostError
from peakhold.host.onto_live import tensor_of
from peakhold.host.pieces import is_in_pieces, whole_tensors
from peakhold.trees import leaves, library_of

__all__ = ["check_named", "safetensors_of", "write_whole"]

_CODES: Final = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32",
    "int32": "I32", "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16",
    "float32": "F32", "float64": "F64", "complex64": "C64", "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2": "F8_E5M2",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip
"""The format's names of the dtypes that it knows."""


def check_named(tree: Any) -> None:
    """Raise if a tree has leaves that a file cannot hold.

    Raises:
        HostError: For the first such leaf; its name is in it.
    """
    for name, leaf in leaves(tree, convert=False):
        why = _why_not(name, leaf)
        if why is not None:
            raise HostError.lacks(
                "a .safetensors file",
                f"arrays of {', '.join(sorted(_CODES)[:3])}, … alone",
                f"{name}: {why}",
                hint="write a file of your own with LoopHost(save=...), keep the whole state with "
                "BackupAndRestore, or leave this out of the state with LoopHost(get_state=...).",
            )


def _why_not(name: str, leaf: Any) -> str | None:
    if isinstance(leaf, bool | int | float) and library_of(leaf) is None:
        too_large = isinstance(leaf, int) and not -(2**63) <= leaf < 2**63
        return "a whole number of more than 64 bits" if too_large else None
    if library_of(leaf) is None:
        return type(leaf).__name__
    if name.endswith(".layout"):
        return "a sparse tensor"
    named = leaf if library_of(leaf) == "store" else leaf.dtype
    dtype = getattr(named, "name", None) or str(named).removeprefix("torch.")
    return None if dtype in _CODES else dtype


def safetensors_of(tree: Any) -> bytes:
    """A tree's arrays and numbers under dotted names, in the format of safetensors.

    Raises:
        HostError: As `check_named`.
    """
    named = _named(tree)
    if any(library_of(leaf) in {"torch", "store"} for leaf in named.values()):
        of_torch = importlib.import_module("safetensors.torch")
        # The format knows neither shared memory, so tied weights are written once for each name,
        # nor strides.
        tensors = {
            name: tensor_of(leaf).detach().cpu().clone(memory_format=_row_by_row())
            for name, leaf in named.items()
        }
        return bytes(of_torch.save(tensors))
    import numpy as np
    from safetensors.numpy import save

    return bytes(save({name: np.array(leaf, order="C") for name, leaf in named.items()}))


def _named(tree: Any) -> dict[str, Any]:
    """Leaves by dotted name, each under one of its own."""
    check_named(tree)
    named: dict[str, Any] = {}
    for name, leaf in leaves(tree, convert=False):
        # {"a.b": …} beside {"a": {"b": …}}: numbered as in a store's files, none is dropped.
        numbers = itertools.count(2)
        free = name
        while free in named:
            free = f"{name}#{next(numbers)}"
        named[free] = leaf
    return named


def write_whole(file: BinaryIO, tree: Any, begin: Callable[[], object] | None = None) -> None:
    """Write tensors, some of which lie on several workers, one whole one after the other.

    Collective: all workers go through the same tensors (`whole_tensors`). An error of the disk does
    not end it, for the others wait in the same collectives: it is raised when all are through.

    Args:
        file: Open for writing.
        tree: The live state, under plain names.
        begin: Called when nothing is left that could go wrong before the collectives.

    Raises:
        HostError: As `check_named`.
        OSError: If the file cannot be written.
    """
    named = {
        name: leaf if is_in_pieces(leaf) else tensor_of(leaf) for name, leaf in _named(tree).items()
    }
    header, at = {}, 0
    for name, tensor in named.items():
        end = at + math.prod(tensor.shape) * tensor.element_size()
        code = _CODES[str(tensor.dtype)[6:]]
        header[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    plain = json.dumps(header, separators=(",", ":")).encode()
    plain += b" " * (-len(plain) % 8)
    if begin is not None:
        begin()
    error = _written(file, len(plain).to_bytes(8, "little") + plain)
    for tensor in whole_tensors(named.values()):
        if error is None:
            error = _written(file, _bytes_of(tensor))
    if error is not None:
        raise error


def _written(file: BinaryIO, data: Any) -> OSError | None:
    """Write; what came of it."""
    try:
        file.write(data)
    except OSError as error:
        return error
    return None


def _bytes_of(tensor: Any) -> Any:
    torch = importlib.import_module("torch")
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else b""


def _row_by_row() -> Any:
    return importlib.import_module("torch").contiguous_format
