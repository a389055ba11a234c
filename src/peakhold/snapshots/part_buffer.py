"""Host memory for one part of a model, into which snapshots of it are copied again and again.

Rules for this file:

1. Memory is allocated and touched once, for all arrays of the part together; a snapshot is one copy
   for each array and allocates nothing while shapes and types stay what they were.
2. Arrays of NumPy are copied into memory that a forked child does not get (`store/snapshot.py` says
   why). Tensors of PyTorch stay tensors, on their device. Everything else is small, and is copied
   by Python.
3. What is handed out is read-only, except where it is given away for good.
"""

from __future__ import annotations

import copy
from typing import Any, TypeAlias, final

import numpy as np

from peakhold.snapshots.copying import copy_arrays
from peakhold.snapshots.host_buffers import allocate
from peakhold.trees import leaf_list, map_tree

__all__ = ["PartBuffer", "tree_bytes"]

Array: TypeAlias = np.ndarray[Any, Any]
_ALIGNMENT = 64
_PLAIN = (int, float, complex, str, bytes, bool, type(None))


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays and tensors of a tree."""
    return sum(_n_bytes(leaf) for leaf in leaf_list(tree))


def _n_bytes(leaf: Any) -> int:
    return int(leaf.nbytes) if _kind(leaf) != "plain" else 0


def _kind(leaf: Any) -> str:
    if isinstance(leaf, np.ndarray):
        return "plain" if leaf.dtype.hasobject else "array"
    return "tensor" if hasattr(leaf, "detach") and hasattr(leaf, "copy_") else "plain"


def _key(leaf: Any) -> object:
    """Equal for leaves that fit into the same memory."""
    kind = _kind(leaf)
    if kind == "array":
        return leaf.dtype, leaf.shape
    if kind == "tensor":
        return leaf.dtype, leaf.shape, leaf.device, leaf.layout
    return kind


@final
class PartBuffer:
    """Memory for one snapshot of one part.

    Args:
        part: Its name.
    """

    def __init__(self, part: str) -> None:
        self.part = part
        self._keys: list[object] = []
        self._slots: list[Any] = []
        self._shown: list[Any] = []
        self.nbytes = 0
        """Bytes held."""
        self.allocated = 0
        """How often memory was allocated."""
        self.tree: Any = None
        """The snapshot, with read-only arrays."""

    def prepare(self, tree: Any) -> None:
        """Allocate and touch what a snapshot of such a tree needs."""
        leaves = leaf_list(tree)
        keys = [_key(leaf) for leaf in leaves]
        if keys != self._keys or not self.allocated:
            self._allocate(leaves, keys)

    def fill(self, tree: Any) -> None:
        """Copy a tree of live arrays; afterwards they may change."""
        self.prepare(tree)
        slots = iter(zip(self._slots, self._shown, strict=True))
        arrays: list[tuple[Array, Array]] = []

        def put(leaf: Any) -> Any:
            slot, shown = next(slots)
            if slot is None:
                return leaf if isinstance(leaf, _PLAIN) else copy.deepcopy(leaf)
            if isinstance(slot, np.ndarray):
                arrays.append(_as_bits(slot, leaf))
            else:
                slot.copy_(leaf.detach())
            return shown

        self.tree = map_tree(tree, put)
        copy_arrays(arrays)

    def writable(self) -> Any:
        """The snapshot, with arrays that their new owner may change."""
        if not self.allocated:  # it came as it is
            return self.tree
        slots = iter(zip(self._slots, self._shown, strict=True))

        def own(leaf: Any) -> Any:
            slot, shown = next(slots)
            return slot if shown is leaf and slot is not None else leaf

        return map_tree(self.tree, own)

    def _allocate(self, leaves: list[Any], keys: list[object]) -> None:
        # Let the old memory go before the new one comes.
        self._keys, self._slots, self._shown, self.tree = [], [], [], None
        places, end = [], 0
        for leaf in leaves:
            places.append(end)
            if _kind(leaf) == "array":
                end += -(-leaf.nbytes // _ALIGNMENT) * _ALIGNMENT
        memory = allocate(end) if end else np.empty(0, np.uint8)
        slots: list[Any] = []
        for leaf, place in zip(leaves, places, strict=True):
            kind = _kind(leaf)
            if kind == "array":
                slots.append(np.ndarray(leaf.shape, leaf.dtype, memory[place:]) if leaf.size
                             else np.empty(leaf.shape, leaf.dtype))  # fmt: skip
            else:
                slots.append(leaf.detach().clone() if kind == "tensor" else None)
        self._slots, self._keys = slots, keys
        self._shown = [_read_only(slot) for slot in slots]
        self.nbytes = sum(_n_bytes(leaf) for leaf in leaves)
        self.allocated += 1


def _read_only(slot: Any) -> Any:
    if not isinstance(slot, np.ndarray):
        return slot
    view = slot.view()
    view.flags.writeable = False
    return view


def _as_bits(slot: Array, leaf: Array) -> tuple[Array, Array]:
    if leaf.dtype.kind == "V" and leaf.dtype.itemsize in (1, 2) and leaf.flags.c_contiguous:
        # bfloat16 and its like: as bits, which NumPy copies without the interpreter's lock.
        bits = np.uint8 if leaf.dtype.itemsize == 1 else np.uint16
        return slot.view(bits), leaf.view(bits)
    return slot, leaf
