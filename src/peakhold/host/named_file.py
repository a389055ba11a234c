"""A loop's weights as a file of safetensors: arrays by dotted name, which any tool can read.

The format has arrays and nothing else, of dtypes that it knows. What it does not take is refused
before training, or as soon as it is there: a file without it would load as if it were whole.
"""

from __future__ import annotations

import importlib
import itertools
from typing import Any, Final

from peakhold.errors import HostError
from peakhold.host.onto_live import tensor_of
from peakhold.trees import leaves, library_of

__all__ = ["check_named", "safetensors_of"]

_DTYPES: Final = frozenset(
    {
        "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
        "float16", "bfloat16", "float32", "float64", "complex64",
        "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
    }
)  # fmt: skip


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
                f"arrays of {', '.join(sorted(_DTYPES)[:3])}, … alone",
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
    return None if dtype in _DTYPES else dtype


def safetensors_of(tree: Any) -> bytes:
    """A tree's arrays and numbers under dotted names, in the format of safetensors.

    Raises:
        HostError: As `check_named`.
    """
    check_named(tree)
    named: dict[str, Any] = {}
    for name, leaf in leaves(tree, convert=False):
        # {"a.b": …} beside {"a": {"b": …}}: numbered as in a store's files, none is dropped.
        numbers = itertools.count(2)
        free = name
        while free in named:
            free = f"{name}#{next(numbers)}"
        named[free] = leaf
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


def _row_by_row() -> Any:
    return importlib.import_module("torch").contiguous_format
