"""Two states compared to the last bit: containers, types, dtypes, places, values.

Nothing of this is shared with what copies states: a host cannot vouch for itself. No framework is
imported; whoever has a state of a framework's has imported it.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator
from typing import Any

from peakhold.trees import fold, is_container, kind_of, library_of, members

__all__ = ["assert_alike", "kept", "overwrite"]


def kept(state: Any) -> Any:
    """A copy of a live state, to be compared with."""
    torch = sys.modules.get("torch")
    memo: dict[int, Any] = {}
    if torch is not None:

        def note(leaf: Any, _: str) -> None:
            # What a graph has made is no leaf, and PyTorch copies only leaves.
            if isinstance(leaf, torch.Tensor) and not leaf.is_leaf:
                memo[id(leaf)] = leaf.detach().clone()

        fold(state, note, lambda *_: None)
    return copy.deepcopy(state, memo)


def assert_alike(
    one: Any, other: Any, path: str = "state", *, types: bool = True, values: bool = True
) -> None:
    """Fail at the first place where two states differ.

    Args:
        one: What there is.
        other: What there should be.
        path: What they are called.
        types: Whether types, places and the order of names count; else a number is as good as an
            array of it.
        values: Whether values count.
    """
    if types:
        assert type(one) is type(other), f"{path}: {type(one)}, not {type(other)}"
    if is_container(other):
        assert is_container(one), f"{path}: {type(one)}, not {type(other)}"
        mine, theirs = (
            dict(zip(*members(tree, kind_of(tree)), strict=True)) for tree in (one, other)
        )
        assert mine.keys() == theirs.keys(), f"{path}: {list(mine)}, not {list(theirs)}"
        if types and isinstance(other, dict):
            assert list(mine) == list(theirs), f"{path}: {list(mine)}, not {list(theirs)}"
        for key, should_be in theirs.items():
            assert_alike(mine[key], should_be, f"{path}.{key}", types=types, values=values)
        return
    about, expected = _about(one), _about(other)
    assert not types or about == expected, f"{path}: {about}, not {expected}"
    if values:
        same = _bits(one) == _bits(other) or (not types and _are_one_number(one, other))
        assert same, f"{path}: {one}, not {other}"


def _are_one_number(one: Any, other: Any) -> bool:
    try:
        return type(one) is not type(other) and bool(one == other)
    except (TypeError, ValueError):
        return False


def _about(leaf: Any) -> list[Any]:
    """All of an array but its values."""
    library = library_of(leaf)
    if library == "torch":
        torch = sys.modules["torch"]
        own = [leaf.device, leaf.layout, isinstance(leaf, torch.nn.Parameter)]
        return [leaf.dtype, tuple(leaf.shape), leaf.requires_grad, *own]
    if library == "jax":
        weak, committed = getattr(leaf, "weak_type", None), getattr(leaf, "committed", None)
        return [leaf.dtype, leaf.shape, weak, committed, leaf.sharding]
    return [leaf.dtype, leaf.shape] if library == "numpy" else []


def _bits(leaf: Any) -> Any:
    library = library_of(leaf)
    if library == "torch":
        torch = sys.modules["torch"]
        dense = leaf.detach().cpu()
        dense = dense if leaf.layout is torch.strided else dense.to_dense()
        flat = dense.resolve_conj().resolve_neg().contiguous().reshape(-1)
        return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""
    if library in {"jax", "numpy"}:
        import numpy as np

        jax = sys.modules.get("jax")
        if jax is not None and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        return array.tolist() if array.dtype.hasobject else array.tobytes()
    if isinstance(leaf, float) and math.isnan(leaf):
        return "NaN"
    return leaf


def overwrite(state: Any) -> int:
    """Write into the memory of all arrays of a live state that can be written into.

    Returns:
        How many that were.
    """
    return sum(_overwritten(leaf) for leaf in _leaves(state))


def _overwritten(leaf: Any) -> bool:
    library = library_of(leaf)
    if library == "torch":
        torch = sys.modules["torch"]
        if leaf.layout is not torch.strided or leaf.is_meta or not leaf.numel():
            return False
        other = torch.zeros_like(leaf) if any(_bits(leaf)) else torch.ones_like(leaf)
        leaf.detach().copy_(other)
        return True
    if library == "numpy" and getattr(getattr(leaf, "flags", None), "writeable", False):
        import numpy as np

        if leaf.dtype.hasobject or not hasattr(leaf, "__setitem__"):
            return False
        leaf[...] = np.frombuffer(bytes(byte ^ 1 for byte in leaf.tobytes()), leaf.dtype).reshape(
            leaf.shape
        )
        return True
    return False


def _leaves(state: Any) -> Iterator[Any]:
    found: list[Any] = []
    fold(state, lambda leaf, _: found.append(leaf), lambda *_: None)
    return iter(found)
