"""A loader's own state as a tree that a store can save, and back: nothing is pickled.

What the store has no form for is marked: tensors of PyTorch (`$tensor`), bytes (`$bytes`), tuples
(`$tuple`), integers of more than 64 bits (`$int`), dicts with other keys than text (`$items`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from peakhold.errors import InvalidArgumentError
from peakhold.trees import fold, is_named, library_of, to_host

__all__ = ["from_plain_state", "to_plain_state"]


def to_plain_state(state: Any, owner: Any) -> Any:
    """A state in plain values and arrays.

    Args:
        state: What a loader's `state_dict` returned.
        owner: Whose it is, for the message.

    Raises:
        InvalidArgumentError: If something in it has no such form.
    """
    return fold(state, lambda leaf, path: _plain(leaf, path, owner), _plain_container)


def _plain(leaf: Any, path: str, owner: Any) -> Any:
    import numpy as np

    if leaf is None or isinstance(leaf, (bool, float, str)):
        return leaf
    if isinstance(leaf, int):
        return leaf if leaf.bit_length() < 64 else {"$int": str(leaf)}
    if isinstance(leaf, bytes):
        return {"$bytes": np.frombuffer(leaf, np.uint8).copy()}
    library = library_of(leaf)
    if library == "torch":
        return {"$tensor": to_host(leaf).copy(), "dtype": str(leaf.dtype)}
    if library in {"numpy", "jax"}:
        return np.array(leaf)
    raise InvalidArgumentError.for_argument(
        "loader",
        owner,
        f"a state of numbers, text, arrays and containers, and not {type(leaf).__name__} "
        f"at {path!r}",
        hint="what its state_dict returns is kept in the run's checkpoints, without pickle.",
    )


def _plain_container(container: Any, keys: Sequence[Any], children: list[Any], _: str) -> Any:
    if is_named(container):
        if all(isinstance(key, str) for key in keys):
            return dict(zip(keys, children, strict=True))
        return {"$items": [[key, child] for key, child in zip(keys, children, strict=True)]}
    return {"$tuple": children} if isinstance(container, tuple) else children


def from_plain_state(plain: Any) -> Any:
    """What `to_plain_state` was given."""
    return fold(plain, lambda leaf, _: _value(leaf), _container, is_leaf=_is_marked_leaf)


def _is_marked_leaf(node: Any) -> bool:
    return isinstance(node, Mapping) and not {"$int", "$bytes", "$tensor"}.isdisjoint(node)


def _value(leaf: Any) -> Any:
    if not isinstance(leaf, Mapping):
        return leaf
    if "$int" in leaf:
        return int(leaf["$int"])
    if "$bytes" in leaf:
        return leaf["$bytes"].tobytes()
    torch: Any = sys.modules["torch"]
    tensor = torch.from_numpy(leaf["$tensor"].copy())
    return tensor.to(getattr(torch, leaf["dtype"].removeprefix("torch.")))


def _container(container: Any, keys: Sequence[Any], children: list[Any], _: str) -> Any:
    if not is_named(container):
        return children
    if "$items" in keys:
        return dict(children[0])
    if "$tuple" in keys:
        return tuple(children[0])
    return dict(zip(keys, children, strict=True))
