"""Tensors of PyTorch that are not simply numbers in a row: what is copied in their place, and back.

A conjugate or negative view has its sign in a flag; its values are computed. A sparse tensor is
taken apart into dense ones (`layout`, `size`, `indices`, `values`); one that lies on several
workers is its piece (`pieces.py`). What has no values, or values that only PyTorch's own functions
can read, is refused, with what to do. A tensor of a lazy module is there, but has no shape yet:
whoever asks waits (`is_lazy`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

from peakhold.host.pieces import is_in_pieces, piece_of

__all__ = ["UnreadableError", "is_lazy", "is_sparse_parts", "readable", "sparse_like"]

_READABLE: Final = frozenset(
    {
        "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
        "float16", "bfloat16", "float32", "float64", "complex64", "complex128",
        "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
    }
)  # fmt: skip
_COMPRESSED: Final = {
    "sparse_csr": ("crow_indices", "col_indices"),
    "sparse_csc": ("ccol_indices", "row_indices"),
    "sparse_bsr": ("crow_indices", "col_indices"),
    "sparse_bsc": ("ccol_indices", "row_indices"),
}
"""By layout: the methods that give a sparse tensor's indices."""
_PARTS: Final = frozenset({"layout", "size", "values"})
_fine: Final[set[tuple[Any, ...]]] = set()
"""Type, dtype, layout and whether on the meta device, of tensors that are copied as they are."""


class UnreadableError(TypeError):
    """A leaf whose values cannot be copied; `hint` says what to do."""

    def __init__(self, why: str, hint: str) -> None:
        self.hint = hint
        super().__init__(why)


def is_lazy(tensor: Any) -> bool:
    """Whether this is a parameter or a buffer of a lazy module before its first batch."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.nn.parameter.is_lazy(tensor))


def readable(tensor: Any) -> Any:
    """The same values in tensors whose bytes say all.

    Returns:
        The tensor as it is where that is so, its values where a flag changes them, or the parts of
        a sparse one.

    Raises:
        UnreadableError: If there is no such tensor.
    """
    key = type(tensor), tensor.dtype, tensor.layout, tensor.is_meta
    if key not in _fine:
        other = _other_form(tensor)
        if other is not None:
            return other
        _fine.add(key)
    if tensor.is_conj() or tensor.is_neg():
        return tensor.detach().resolve_conj().resolve_neg()
    return tensor


def _other_form(tensor: Any) -> Any:
    """What is copied in the place of a tensor of this type and dtype; None: the tensor itself."""
    if is_lazy(tensor):
        return tensor
    if is_in_pieces(tensor):
        return piece_of(tensor)
    if tensor.is_meta:
        raise UnreadableError(
            "it is on the meta device and has no values",
            "give it values before training (`model.to_empty(device=...)`, and initialise them).",
        )
    if str(tensor.dtype)[6:] not in _READABLE:
        raise UnreadableError(
            f"the bytes of {tensor.dtype} cannot be read",
            "dequantize it, keep its integers in a tensor of int8 or uint8, or leave it out of the "
            "state (`register_buffer(..., persistent=False)`, `LoopHost(get_state=...)`).",
        )
    return None if tensor.layout is sys.modules["torch"].strided else _sparse_parts(tensor)


def _sparse_parts(tensor: Any) -> dict[str, Any]:
    tensor, layout = tensor.detach(), str(tensor.layout)[6:]
    if layout == "sparse_coo":
        tensor = tensor.coalesce()
        indices = {"indices": tensor.indices()}
    elif layout in _COMPRESSED:
        indices = {name: getattr(tensor, name)() for name in _COMPRESSED[layout]}
    else:
        raise UnreadableError(
            f"nothing is known of its layout, {layout}", "make it dense (`.to_dense()`)."
        )
    values = readable(tensor.values())
    return {"layout": layout, "size": list(tensor.shape), **indices, "values": values}


def is_sparse_parts(parts: Any) -> bool:
    """Whether this is what `readable` makes of a sparse tensor."""
    return isinstance(parts, Mapping) and _PARTS.issubset(parts)


def sparse_like(parts: Mapping[str, Any], live: Any) -> Any:
    """A sparse tensor of parts that are tensors, with the dtype and on the device of a live one."""
    torch = sys.modules["torch"]
    size, layout = [int(length) for length in parts["size"]], parts["layout"]
    values = parts["values"].to(live.device, live.dtype)
    if layout == "sparse_coo":
        indices = parts["indices"].to(live.device)
        made = torch.sparse_coo_tensor(
            indices, values, size, is_coalesced=True, check_invariants=True
        )
    else:
        compressed, plain = (parts[name].to(live.device) for name in _COMPRESSED[layout])
        made = torch.sparse_compressed_tensor(
            compressed,
            plain,
            values,
            size,
            layout=getattr(torch, layout),
            check_invariants=True,
        )
    return made.requires_grad_(live.requires_grad and live.is_leaf)
