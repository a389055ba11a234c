"""Walking trees of dicts, lists and tuples whose leaves are arrays, tensors and plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = ["leaf_list", "leaves", "map_tree", "to_host", "with_leaves"]


def map_tree(tree: Any, visit: Callable[[Any], Any]) -> Any:
    """The same tree with `visit(leaf)` for each leaf, in order."""
    if isinstance(tree, Mapping):
        return {key: map_tree(value, visit) for key, value in tree.items()}
    if isinstance(tree, list):
        return [map_tree(value, visit) for value in tree]
    if isinstance(tree, tuple):
        items = [map_tree(value, visit) for value in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return visit(tree)


def leaf_list(tree: Any) -> list[Any]:
    """All leaves as they are, None included, in the order in which `map_tree` visits them."""
    found: list[Any] = []
    map_tree(tree, found.append)
    return found


def with_leaves(tree: Any, values: Iterable[Any]) -> Any:
    """The same tree with other leaves, given in the order of `leaf_list`."""
    given = iter(values)
    return map_tree(tree, lambda _: next(given))


def leaves(tree: Any, prefix: str = "", *, convert: bool = True) -> Iterable[tuple[str, Any]]:
    """Dotted name and value of each leaf, in order; as arrays of NumPy where `convert`."""
    if isinstance(tree, Mapping):
        pairs: Iterable[tuple[Any, Any]] = tree.items()
    elif isinstance(tree, (list, tuple)):
        pairs = enumerate(tree)
    else:
        if tree is not None:
            yield prefix or "0", to_host(tree) if convert else tree
        return
    for key, value in pairs:
        yield from leaves(value, f"{prefix}.{key}" if prefix else str(key), convert=convert)


def to_host(leaf: Any) -> Any:
    """A tensor of torch as an array of NumPy, without a copy where possible; else the leaf."""
    if hasattr(leaf, "detach"):
        leaf = leaf.detach().cpu()
        # NumPy has no bfloat16: widen, which keeps every value (and NaN, and infinity).
        narrow = leaf.is_floating_point() and leaf.element_size() < 4
        return (leaf.float() if narrow else leaf).numpy()
    return leaf
