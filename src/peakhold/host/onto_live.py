"""A loop's state as a plain tree, and a plain tree as a state of the loop's own types again.

Rules of this file:

1. What is copied or written is plain: dicts, lists and tuples, arrays of NumPy, tensors of PyTorch,
   numbers and text. `taken_apart` makes that of a state, and copies nothing.
2. What is put back has the types of the state that is live at that moment, whatever way it took and
   whatever it was when it was saved: leaf, container, dtype, device and sharding. `like_live` is
   the one place where that is seen to, and what it returns shares no memory with what it was given.
3. A value is never lost to that: what the live dtype cannot hold the like of (a fraction for an
   int) keeps its own, and an array without a counterpart becomes one of the same library.
4. No framework is imported. Whoever has a state of a framework's has imported it.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, Protocol, runtime_checkable

from peakhold.trees import map_tree, to_host

__all__ = ["like_live", "taken_apart"]

_PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None)})
_NUMBERS = (bool, int, float, complex)
_ARRAYS = {"numpy": ("ndarray", "generic"), "torch": ("Tensor",), "jax": ("Array",)}
_known: dict[type, str] = {}
"""Types of arrays that were met, for a state has thousands of one type, with their library."""
_NOTHING = object()
"""The counterpart of what the live state has not."""


@runtime_checkable
class _RawTensor(Protocol):
    """Bytes of a dtype that NumPy has no name for here, as the store gives them."""

    name: str
    shape: tuple[int, ...]
    buffer: memoryview


def taken_apart(state: Any) -> Any:
    """The state as a plain tree, as far as possible without a copy.

    Args:
        state: Dicts, lists and tuples, dataclasses and what else JAX has been told to be a node;
            arrays of any library.
    """
    return map_tree(state, _plain_leaf)


def like_live(tree: Any, live: Any, stray: Any = None) -> Any:
    """A copy of a plain tree in the types of a live state.

    Args:
        tree: What `taken_apart` made of a state, whatever has become of it since: arrays may be of
            NumPy now, and named tuples plain ones.
        live: The state that it is to take the place of. Its values are not looked at.
        stray: An array of the library that arrays without a counterpart are to be of; None: of the
            library of the first one in `live`.
    """
    if stray is None:
        stray = next((leaf for leaf in _leaves(live) if _library(leaf)), None)
    return _like(taken_apart(tree), live, stray)


def _leaves(state: Any) -> Iterable[Any]:
    children = _children(state)
    if children is None:
        yield state
        return
    for child in children.values() if isinstance(children, Mapping) else children:
        yield from _leaves(child)


# Containers


def _children(node: Any) -> Mapping[Any, Any] | list[Any] | tuple[Any, ...] | None:
    """What a container holds, by name or in order; None if it is none."""
    if type(node) in _PLAIN or _library(node):
        return None
    if isinstance(node, (Mapping, list, tuple)):
        return node
    flat = _flat_of_jax(node)
    if flat is not None:
        children: list[Any] = flat[0]
        return children
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    return None


def _flat_of_jax(node: Any) -> tuple[list[Any], Any] | None:
    """Children and structure of what JAX has been told to be a node; None for anything else."""
    jax = sys.modules.get("jax")
    if jax is None:
        return None
    children, structure = jax.tree_util.tree_flatten(node, is_leaf=lambda other: other is not node)
    return None if jax.tree_util.treedef_is_leaf(structure) else (children, structure)


def _like(tree: Any, live: Any, stray: Any) -> Any:
    theirs = _children(live)
    if isinstance(tree, Mapping):
        named: Mapping[Any, Any] = theirs if isinstance(theirs, Mapping) else {}
        # The live order first: of an OrderedDict it is part of the structure.
        keys = [*(key for key in named if key in tree), *(key for key in tree if key not in named)]
        members = {key: _like(tree[key], named.get(key, _NOTHING), stray) for key in keys}
        return _rebuilt(live, members) if isinstance(theirs, Mapping) else members
    if isinstance(tree, (list, tuple)):
        listed = theirs if isinstance(theirs, (list, tuple)) else ()
        rest = [_NOTHING] * (len(tree) - len(listed))
        pairs = zip(tree, [*listed, *rest], strict=False)
        items = [_like(one, other, stray) for one, other in pairs]
        whole = isinstance(theirs, (list, tuple)) and len(theirs) == len(items)
        return _rebuilt(live, items) if whole else type(tree)(items)
    return _leaf_like(tree, live, stray)


def _rebuilt(live: Any, children: Any) -> Any:
    """A container like the live one, with other children."""
    kind = type(live)
    if kind in (dict, list, tuple):
        return kind(children)
    if hasattr(live, "_fields"):
        return kind(*children)
    if isinstance(live, MutableMapping):
        filled = copy.copy(live)  # with the attributes it has, and the factory of a defaultdict
        filled.clear()
        filled.update(children)
        return filled
    if isinstance(live, (Mapping, list, tuple)):
        return kind(children)  # as those of the standard library do
    flat = _flat_of_jax(live)
    if flat is not None:
        return sys.modules["jax"].tree_util.tree_unflatten(flat[1], children)
    filled = copy.copy(live)
    for name, value in children.items():
        object.__setattr__(filled, name, value)  # it may be frozen
    return filled


# Leaves


def _library(leaf: Any) -> str | None:
    """Whose array it is, of the libraries that are known here; None if it is no array."""
    known = _known.get(type(leaf))
    if known is not None:
        return known
    for name, kinds in _ARRAYS.items():
        module = sys.modules.get(name)
        if module is not None and any(isinstance(leaf, getattr(module, kind)) for kind in kinds):
            _known[type(leaf)] = name
            return name
    return "store" if isinstance(leaf, _RawTensor) else None


def _plain_leaf(leaf: Any) -> Any:
    if type(leaf) in _PLAIN:
        return leaf
    library = _library(leaf)
    if library is None:
        children = _children(leaf)
        if children is not None:
            return map_tree(children, _plain_leaf)
    foreign = library is None and hasattr(leaf, "__array__") and not isinstance(leaf, type)
    return _of_numpy(leaf) if foreign or library in ("numpy", "jax") else leaf


def _of_numpy(leaf: Any) -> Any:
    """An array of another library as one of NumPy, without a copy where that library allows."""
    import numpy as np

    if isinstance(leaf, np.generic):
        return leaf
    try:
        return np.asarray(leaf)
    except TypeError:  # NumPy cannot see typed keys of JAX
        of_jax = _library(leaf) == "jax"
        return np.asarray(sys.modules["jax"].random.key_data(leaf)) if of_jax else leaf


def _leaf_like(value: Any, live: Any, stray: Any) -> Any:
    """A copy of a plain leaf in the type of the live one."""
    library, number = _library(value), isinstance(value, _NUMBERS)
    if library is not None or number:
        make = _MAKERS.get(_library(live))
        if make is not None:
            return make(value, live)
    if library is None:
        return copy.deepcopy(value)
    if isinstance(live, _NUMBERS):
        return _number_like(value, live)
    return _MAKERS[_library(stray) or library](value, None)


def _number_like(value: Any, live: Any) -> Any:
    array = to_host(value)
    if getattr(array, "size", 0) != 1:
        return copy.deepcopy(array)
    number = array.item()
    try:
        as_live = type(live)(number)
    except (TypeError, ValueError, OverflowError):  # a complex number, NaN for an int
        return number
    return as_live if as_live == number else number


def _array_like(value: Any, live: Any) -> Any:
    import numpy as np

    if isinstance(value, _RawTensor):
        return value
    array = np.array(to_host(value))
    if live is not None:
        array = _cast(array, live.dtype)
    return array[()] if isinstance(live, np.generic) and array.ndim == 0 else array


def _cast(array: Any, dtype: Any) -> Any:
    import numpy as np

    return array.astype(dtype) if np.can_cast(array.dtype, dtype, "same_kind") else array


def _array_of_jax_like(value: Any, live: Any) -> Any:
    import numpy as np

    jax = sys.modules["jax"]
    # JAX takes aligned memory as it is: it gets a copy that nobody else has.
    array = np.array(to_host(value))
    if live is None:
        return jax.numpy.asarray(array)
    if jax.dtypes.issubdtype(live.dtype, jax.dtypes.prng_key):
        array = jax.random.wrap_key_data(array, impl=jax.random.key_impl(live))
    else:
        array = _cast(array, live.dtype)
        if getattr(live, "weak_type", False) and array.dtype == live.dtype:
            # Weak is what JAX makes of Python's numbers, and what is set into that stays weak.
            array = jax.numpy.full(array.shape, array.dtype.type(0).item()).at[...].set(array)
    committed = getattr(live, "committed", True) and array.shape == live.shape
    return jax.device_put(array, live.sharding) if committed else jax.numpy.asarray(array)


def _tensor_like(value: Any, live: Any) -> Any:
    torch = sys.modules["torch"]
    tensor = _tensor(value).detach()
    if live is None:
        return tensor.clone()
    dtype = live.dtype if torch.can_cast(tensor.dtype, live.dtype) else tensor.dtype
    tensor = tensor.to(live.device, dtype, copy=True)
    if isinstance(live, torch.nn.Parameter):
        return torch.nn.Parameter(tensor, live.requires_grad)
    return tensor.requires_grad_(live.requires_grad and live.is_leaf)


def _tensor(value: Any) -> Any:
    """A tensor of PyTorch with these values; may share their memory."""
    import numpy as np

    torch = sys.modules["torch"]
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, _NUMBERS):
        return torch.tensor(value)
    if isinstance(value, _RawTensor):
        name, bits = value.name, np.frombuffer(value.buffer, np.uint8)
    else:
        array = np.array(value)
        if array.dtype.isbuiltin == 1:
            return torch.from_numpy(array)
        name, bits = array.dtype.name, array.reshape(-1).view(np.uint8)  # of `ml_dtypes`
    return torch.from_numpy(bits.copy()).view(getattr(torch, name)).reshape(value.shape)


def _raw_like(value: Any, live: Any) -> Any:  # noqa: ARG001 - as the others
    return value  # nobody can write to it


_MAKERS: dict[str | None, Callable[[Any, Any], Any]] = {
    "numpy": _array_like,
    "torch": _tensor_like,
    "jax": _array_of_jax_like,
    "store": _raw_like,
}
"""By library: a copy of a plain leaf like the live one, or as it is where that is None."""
