"""Tensors that lie in pieces on several workers: PyTorch's `DTensor`, as FSDP2 makes them.

Problem. Each worker holds a piece of a tensor. A copy of the piece is no copy of the tensor, and a
file of it would load as if it were the whole. To see the whole all workers must take part.

Solution. What is copied is the piece, with where it lies (`layout`, `size`, `offset`, `values`), as
the parts of a sparse tensor are. Put back it becomes what the live tensor is: of one piece, where
that has the same place; of several (`offsets`, lists of `values`), where the workers were others.

Rules of this file:

1. Nothing here is collective but what says so: `whole_tensors`, which all workers go through alike.
2. A tensor of which a part is missing is an error, never zeros.
3. Private of PyTorch: `__create_chunk_list__` (DCP asks it, too) and
   `compute_local_shape_and_global_offset`. They stand here alone, and a test says that they are
   there.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from peakhold.errors import InvalidArgumentError

__all__ = [
    "are_known",
    "is_in_pieces",
    "is_piece",
    "joined",
    "piece_of",
    "tensor_of_pieces",
    "whole_tensors",
]

_LAYOUTS: Final = frozenset({"piece", "pieces"})


def are_known() -> bool:
    """Whether such tensors can be there at all: whoever makes them has imported their module."""
    return "torch.distributed.tensor" in sys.modules


def is_in_pieces(tensor: Any) -> bool:
    """Whether a live tensor lies on several workers."""
    return hasattr(tensor, "full_tensor")


def is_piece(parts: Any) -> bool:
    """Whether this is what stands for such a tensor in a copy."""
    return isinstance(parts, Mapping) and parts.get("layout") in _LAYOUTS and "values" in parts


def piece_of(tensor: Any) -> dict[str, Any]:
    """This worker's piece, and where it lies; a view of the live memory."""
    values = tensor.to_local().detach()
    chunks = tensor.__create_chunk_list__()
    offset = list(chunks[0].offsets) if chunks else [0] * tensor.ndim
    return {
        "layout": "piece",
        "size": list(tensor.shape),
        "offset": [int(one) for one in offset],
        "shards": [getattr(one, "dim", None) for one in tensor.placements],
        "values": values,
    }


def joined(pieces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The pieces of all workers as one leaf."""
    first = pieces[0]
    return {
        "layout": "pieces",
        "size": list(first["size"]),
        "shards": list(first["shards"]),
        "offsets": [list(one["offset"]) for one in pieces],
        "values": [one["values"] for one in pieces],
    }


def tensor_of_pieces(parts: Mapping[str, Any], live: Any, stray: Any) -> Any:
    """A tensor like the live one, from pieces whose values are tensors.

    Args:
        parts: What `piece_of` or `joined` returned.
        live: The tensor that it takes the place of; anything else if there is none.
        stray: A tensor of the same model: moments are laid out on its workers.

    Raises:
        InvalidArgumentError: If a part that this worker needs is in none of the pieces.
    """
    torch = importlib.import_module("torch")
    model = live if isinstance(live, torch.Tensor) else stray
    size = torch.Size(int(length) for length in parts["size"])
    several = parts["layout"] == "pieces"
    values = list(parts["values"]) if several else [parts["values"]]
    offsets = list(parts["offsets"]) if several else [parts["offset"]]
    dtype = values[0].dtype
    if isinstance(live, torch.Tensor) and torch.can_cast(dtype, live.dtype):
        dtype = live.dtype
    if not is_in_pieces(model):
        whole = torch.empty(size, dtype=dtype, device=getattr(model, "device", "cpu"))
        _fill(whole, [0] * len(size), values, offsets, size)
        return _as(live, whole, torch)
    placed = importlib.import_module("torch.distributed.tensor")
    place = importlib.import_module("torch.distributed.tensor._utils")
    mesh = model.device_mesh
    placements = model.placements
    if model is not live:
        shards = [None if dim is None else int(dim) for dim in parts["shards"]]
        shards = (shards + [None] * mesh.ndim)[: mesh.ndim]
        placements = tuple(
            placed.Replicate() if dim is None else placed.Shard(dim) for dim in shards
        )
    shape, offset = place.compute_local_shape_and_global_offset(size, mesh, placements)
    local = torch.empty(tuple(shape), dtype=dtype, device=model.to_local().device)
    _fill(local, list(offset), values, offsets, size)
    stride = torch.empty(size, device="meta").stride()
    made = placed.DTensor.from_local(
        local, mesh, placements, run_check=False, shape=size, stride=stride
    )
    return _as(live, made, torch)


def _as(live: Any, made: Any, torch: Any) -> Any:
    if isinstance(live, torch.nn.Parameter):
        return torch.nn.Parameter(made, live.requires_grad)
    return made


def _fill(
    local: Any, offset: Sequence[int], values: Sequence[Any], offsets: Sequence[Any], size: Any
) -> None:
    """Copy into a box of the tensor what of it lies in the pieces."""
    if not local.numel():
        return
    covered = 0
    seen: set[tuple[tuple[int, int], ...]] = set()
    for value, at in zip(values, offsets, strict=True):
        box = []
        for axis, length in enumerate(local.shape):
            begin = max(int(at[axis]), int(offset[axis]))
            end = min(int(at[axis]) + value.shape[axis], int(offset[axis]) + length)
            box.append((begin, end))
        if any(begin >= end for begin, end in box):
            continue
        key = tuple(box)
        if key in seen:  # a copy of it on another worker
            continue
        seen.add(key)
        here = tuple(slice(b - int(o), e - int(o)) for (b, e), o in zip(box, offset, strict=True))
        there = tuple(slice(b - int(o), e - int(o)) for (b, e), o in zip(box, at, strict=True))
        local[here].copy_(value[there])
        covered += math.prod(end - begin for begin, end in box)
    if covered < local.numel():
        raise InvalidArgumentError.for_argument(
            "state",
            f"{covered} of {local.numel()} values",
            f"all that this worker holds of a tensor of shape {tuple(size)}",
            hint="the state was saved by another number of workers: load the pieces of all.",
        )


def whole_tensors(tensors: Iterable[Any]) -> Iterator[Any]:
    """Each tensor whole, one at a time; collective: all workers go through all of them.

    Only one whole tensor is in memory at a time, if whoever is given it lets it go.
    """
    for tensor in tensors:
        yield tensor.full_tensor().detach() if is_in_pieces(tensor) else tensor
