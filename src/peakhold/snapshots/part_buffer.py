"""Host memory for one part of a model, into which snapshots of it are copied again and again.

Rules for this file:

1. Memory is allocated and touched once, for all arrays of the part together; a snapshot is one copy
   for each array and allocates nothing while shapes and types stay what they were.
2. Arrays of NumPy and tensors of PyTorch on the CPU are copied into memory of `memory.py`, as those
   of the store are: a backup writes it from there in one piece. Tensors stay tensors, and those of
   other devices stay there. Everything else is small, and is copied by Python.
3. What is handed out is read-only, except where it is given away for good.
4. Training copies the same tree again and again, and taking one apart costs more than copying small
   arrays: what the last tree looked like is kept, and where the next one's containers, types,
   dtypes and shapes are the same, the snapshot is the very same tree, with other values in it. Who
   meets such a tree again knows all about it (`filled_tree`).
"""

from __future__ import annotations

import copy
import sys
import weakref
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from peakhold.snapshots.arrays import Array, ArraySource, NotStorableError, source_of
from peakhold.snapshots.copying import LARGE, copy_arrays
from peakhold.snapshots.memory import HostMemory, file_order
from peakhold.trees import Likeness, Outline, Walk, leaf_list, with_leaves

if TYPE_CHECKING:
    from peakhold.host.contract import HostState

__all__ = ["FilledTree", "PartBuffer", "fill", "filled_tree", "tree_bytes"]

_PLAIN = (int, float, complex, str, bytes, bool, type(None))
_dtype: Final = attrgetter("dtype")
_shape: Final = attrgetter("shape")


@final
class FilledTree:
    """A tree over memory of a buffer, in which nothing but the values of its arrays ever changes.

    It lives as long as the buffer shows it; to be referred to weakly.

    Args:
        outline: That of the state that was copied first.
        tree: Containers and arrays, which nobody changes.
    """

    def __init__(self, outline: Outline, tree: Any) -> None:
        self.outline, self.tree = outline, tree
        _filled[id(tree)] = self


_filled: Final[weakref.WeakValueDictionary[int, FilledTree]] = weakref.WeakValueDictionary()


def filled_tree(tree: Any) -> FilledTree | None:
    """What is known of a tree, if it is one of these: the very object."""
    known = _filled.get(id(tree))
    return known if known is not None and known.tree is tree else None


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
        return leaf.dtype, leaf.shape, leaf.device, leaf.layout, _is_flat(leaf)
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
        self._likeness = Likeness()
        self._dtypes: list[Any] | None = None
        """Those of the slots, where all are NumPy's and none needs more than a copy."""
        self._shapes: list[Any] = []
        self._filled: FilledTree | None = None
        """A tree of the last state's outline, with what the slots show for leaves."""
        self._kinds_of_slots: set[type | None] = {None}
        self._named: tuple[Any, Any, list[tuple[str, Any]]] | None = None

    def named(self, host: HostState) -> list[tuple[str, Any]]:
        """Name and value of each array of the snapshot, as its model calls it."""
        known = self._named
        if known is None or known[0] is not self.tree or known[1]() is not host:
            known = self.tree, weakref.ref(host), host.named(self.part, self.tree)
            self._named = known
        return known[2]

    def prepare(self, tree: Any) -> None:
        """Allocate and touch what a snapshot of such a tree needs."""
        self._fit(leaf_list(tree))

    def writable(self) -> Any:
        """The snapshot, with arrays that their new owner may change."""
        if not self.allocated:  # it came as it is
            return self.tree
        return with_leaves(
            self.tree,
            [
                slot if shown is leaf and slot is not None else leaf
                for leaf, slot, shown in zip(
                    leaf_list(self.tree), self._slots, self._shown, strict=True
                )
            ],
        )

    def _fit(self, leaves: list[Any]) -> None:
        keys = [_key(leaf) for leaf in leaves]
        if keys != self._keys or not self.allocated:
            self._allocate(leaves, keys)

    def _take(self, leaves: list[Any], arrays: list[tuple[Array, Array]]) -> list[Any]:
        """Copy leaves, but for the arrays that are added to `arrays`; what the snapshot shows."""
        if (
            self._dtypes is not None
            and {np.ndarray}.issuperset(map(type, leaves))
            and list(map(_dtype, leaves)) == self._dtypes
            and list(map(_shape, leaves)) == self._shapes
        ):
            arrays.extend(zip(self._slots, leaves, strict=True))
            return self._shown
        self._fit(leaves)
        shown = self._shown.copy()
        for i, (leaf, slot) in enumerate(zip(leaves, self._slots, strict=True)):
            if slot is None:
                shown[i] = leaf if isinstance(leaf, _PLAIN) else copy.deepcopy(leaf)
            elif isinstance(slot, np.ndarray):
                arrays.append(_as_bits(slot, leaf))
            elif leaf.nbytes >= LARGE and _is_flat(leaf):
                arrays.append((_source(slot).array, _source(leaf).array))  # by several threads
            else:
                slot.copy_(leaf.detach())
        return shown if None in self._kinds_of_slots else self._shown

    def _allocate(self, leaves: list[Any], keys: list[object]) -> None:
        # Let the old memory go before the new one comes.
        self._keys, self._slots, self._shown, self.tree = [], [], [], None
        self._dtypes = self._filled = self._named = None
        sources = {i: source for i, leaf in enumerate(leaves) if (source := _placeable(leaf))}
        indices = list(sources)
        order = [indices[i] for i in file_order(list(sources.values()))]
        places, end = [], 0
        for i in order:
            array = sources[i].array
            places.append((end, array.shape, array.dtype))
            end += array.nbytes
        memory = HostMemory()
        if places:
            memory.lay(end, places)
        slots = [
            _slot_elsewhere(leaf) if i not in sources else None for i, leaf in enumerate(leaves)
        ]
        for i, view in zip(order, memory.views, strict=True):
            slots[i] = _slot_in(view, leaves[i])
        self._slots, self._keys = slots, keys
        self._shown = [_read_only(slot) for slot in slots]
        self._kinds_of_slots = {None if slot is None else type(slot) for slot in slots}
        if {np.ndarray}.issuperset(map(type, leaves)) and all(map(_is_just_copied, slots)):
            self._dtypes, self._shapes = list(map(_dtype, leaves)), list(map(_shape, leaves))
        self.nbytes = sum(_n_bytes(leaf) for leaf in leaves)
        self.allocated += 1


def fill(
    buffers: Sequence[PartBuffer], trees: Sequence[Any], walks: Mapping[str, Walk] | None = None
) -> None:
    """Copy a tree of live arrays into each buffer; afterwards the arrays may change.

    Args:
        buffers: One for each part.
        trees: Their live trees.
        walks: By part, what a walk over its tree has just shown, where somebody made one.
    """
    arrays: list[tuple[Array, Array]] = []
    walks = walks or {}
    found = [
        walks.get(buffer.part) or buffer._likeness.leaves_of(tree)
        for buffer, tree in zip(buffers, trees, strict=True)
    ]
    taken = [
        buffer._take(leaves, arrays) for buffer, (leaves, _) in zip(buffers, found, strict=True)
    ]
    for buffer, tree, (_, outline), shown in zip(buffers, trees, found, taken, strict=True):
        if shown is not buffer._shown or outline is None:
            buffer.tree = with_leaves(tree, shown)
            continue
        if buffer._filled is None or buffer._filled.outline is not outline:
            buffer._filled = FilledTree(outline, with_leaves(tree, shown))
        buffer.tree = buffer._filled.tree
    copy_arrays(arrays)


def _is_flat(tensor: Any) -> bool:
    """Whether a tensor's bytes lie in host memory, row by row."""
    torch = sys.modules.get("torch")
    return (
        torch is not None
        and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and bool(tensor.is_contiguous())
    )


def _source(leaf: Any) -> ArraySource:
    source = source_of(leaf)
    assert source is not None  # noqa: S101 - it is an array or a tensor
    return source


def _placeable(leaf: Any) -> ArraySource | None:
    """Where the bytes of a leaf are that can be kept in memory of ours; None for other leaves."""
    kind = _kind(leaf)
    if kind == "plain" or (kind == "tensor" and not _is_flat(leaf)) or leaf.nbytes == 0:
        return None
    try:
        return source_of(leaf)
    except NotStorableError:
        return None


def _slot_in(view: Array, leaf: Any) -> Any:
    """A slot for a leaf in memory of ours."""
    if isinstance(leaf, np.ndarray):
        return view.view(leaf.dtype)
    torch = sys.modules["torch"]
    data = torch.from_numpy(view.reshape(-1).view(np.uint8))
    return data.view(leaf.dtype).reshape(leaf.shape)


def _slot_elsewhere(leaf: Any) -> Any:
    """A slot in memory of its own, or None for what Python copies."""
    kind = _kind(leaf)
    if kind == "array":
        return np.empty(leaf.shape, leaf.dtype)
    return leaf.detach().clone() if kind == "tensor" else None


def _is_just_copied(slot: Any) -> bool:
    """Whether an array of NumPy goes into its slot as it is (see `_as_bits`)."""
    return slot is not None and slot.dtype.kind != "V"


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
