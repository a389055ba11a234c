"""Walking trees: the one place that knows what a container is, and goes down into it.

Rules of this file:

1. A container is a mapping, a list, a tuple, a dataclass, or what JAX has been told to be a node.
   An array of any library is a leaf, and so are numbers, text, None and everything else.
2. What a type is, is remembered where it cannot change: a state has thousands of leaves of one
   type. It may change for a stranger, which JAX may be told of at any time.
3. Deeper than `DEEPEST` is a circle, or an attack, and has a name: `TooDeepError`.
4. No framework is imported. Whoever has a state of a framework's has imported it.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

__all__ = [
    "DEEPEST",
    "NOTHING",
    "NUMBERS",
    "PLAIN",
    "Likeness",
    "Outline",
    "RawTensorLike",
    "TooDeepError",
    "Walk",
    "Walked",
    "fold",
    "is_container",
    "is_named",
    "kind_of",
    "leaf_list",
    "leaves",
    "library_of",
    "map_tree",
    "members",
    "merge",
    "to_host",
    "with_leaves",
]

DEEPEST: Final = 200
"""Containers in one another; Python's own JSON parser allows about 1000."""
NUMBERS: Final = (bool, int, float, complex)
NOTHING: Final = object()
"""The counterpart of what another tree has not."""
_PATIENCE: Final = 3
"""How many trees in a row may be unlike the last before nothing is expected any more."""

_ARRAYS: Final = {"numpy": ("ndarray", "generic"), "torch": ("Tensor",), "jax": ("Array",)}
_LEAF, _NAMED, _LISTED, _FIELDS, _RECORD, _NODE = range(6)
"""Leaf, mapping, list or tuple, named tuple, dataclass, node of JAX."""
PLAIN: Final[frozenset[type]] = frozenset({*NUMBERS, str, bytes, type(None)})
"""Leaves that are nobody's arrays."""
_kinds: Final[dict[type, int]] = {
    **dict.fromkeys(PLAIN, _LEAF),
    dict: _NAMED,
    list: _LISTED,
    tuple: _LISTED,
}
_libraries: Final[dict[type, str | None]] = dict.fromkeys(PLAIN)

Members: TypeAlias = tuple[Sequence[Any], Sequence[Any]]
"""Keys of a container and its children, in order."""
_Visited: TypeAlias = tuple[Any, str, Sequence[Any] | None]
"""A node of a tree, its path, and its keys, which a leaf has not."""


class TooDeepError(ValueError):
    """A tree that is nested without end, or as good as that; `path` is where."""

    def __init__(self, path: str, kind: str) -> None:
        self.path, self.kind = path, kind
        super().__init__(f"{path:.200}: nested deeper than {DEEPEST}, or in a circle")


@runtime_checkable
class RawTensorLike(Protocol):
    """Bytes of a dtype that NumPy has no name for here, as the store gives them."""

    name: str
    shape: tuple[int, ...]
    buffer: memoryview


# What is what


def library_of(leaf: Any) -> str | None:
    """Whose array it is: `numpy`, `torch`, `jax`, or our `store`'s; None if it is none of these."""
    kind = type(leaf)
    if kind in _libraries:
        return _libraries[kind]
    for name, kinds in _ARRAYS.items():
        module = sys.modules.get(name)
        if module is not None and any(
            isinstance(leaf, getattr(module, kind, ())) for kind in kinds
        ):
            _libraries[kind] = name
            return name
    return "store" if isinstance(leaf, RawTensorLike) else None


def kind_of(node: Any) -> int:
    """What the walks take it for; equal numbers are walked alike."""
    kind = _kinds.get(type(node))
    return _learned(node) if kind is None else kind


def _learned(node: Any) -> int:
    if library_of(node) is not None:
        kind = _LEAF
    elif isinstance(node, Mapping):
        kind = _NAMED
    elif isinstance(node, tuple) and hasattr(node, "_fields"):
        kind = _FIELDS
    elif isinstance(node, (list, tuple)):
        kind = _LISTED
    elif _flat_of_jax(node) is not None:
        return _NODE
    else:
        record = dataclasses.is_dataclass(node) and not isinstance(node, type)
        return _RECORD if record else _LEAF
    _kinds[type(node)] = kind
    return kind


def is_container(node: Any) -> bool:
    """Whether the walks go down into it."""
    return kind_of(node) != _LEAF


def is_named(container: Any) -> bool:
    """Whether a container's children have names, and not just an order."""
    return kind_of(container) in {_NAMED, _RECORD}


def _flat_of_jax(node: Any) -> tuple[list[Any], Any] | None:
    """Children and structure of what JAX has been told to be a node; None for anything else."""
    util = getattr(sys.modules.get("jax"), "tree_util", None)  # None while it is being imported
    if util is None:
        return None
    children, structure = util.tree_flatten(node, is_leaf=lambda other: other is not node)
    return None if util.treedef_is_leaf(structure) else (children, structure)


def members(node: Any, kind: int) -> Members:
    """Keys and children of a container of this kind."""
    if kind == _NAMED:
        pairs = list(node.items())
        return [key for key, _ in pairs], [child for _, child in pairs]
    if kind == _RECORD:
        names = [field.name for field in dataclasses.fields(node)]
        return names, [getattr(node, name) for name in names]
    flat = _flat_of_jax(node) if kind == _NODE else None
    children = node if flat is None else flat[0]
    return range(len(children)), children


class _UnlikeError(Exception):
    """A tree whose containers are not as they were."""


class Outline:
    """A container as it was: the next tree's leaves are found by passes that C makes.

    Args:
        container: What it is of; it is not kept.
        keys: Its keys.
        children: The outlines of those of its children that are containers; anything for others.
    """

    def __init__(self, container: Any, keys: Sequence[Any], children: Sequence[Any]) -> None:
        self.type, self.kind = type(container), kind_of(container)
        self.keys, self._key_types = list(keys), list(map(type, keys))
        self.inner = [
            (number, child) for number, child in enumerate(children) if isinstance(child, Outline)
        ]
        """Outlines of the containers in it, with their places."""
        self.is_plain: bool = self.type in {dict, list, tuple} and all(
            outline.is_plain for _, outline in self.inner
        )
        """Whether these containers are of Python's own types, all the way down."""

    def leaves_of(self, tree: Any) -> list[Any] | None:
        """All leaves, in the order of `leaf_list`; None if the containers are not as they were."""
        found: list[Any] = []
        try:
            self._collect(tree, found)
        except Exception:  # whoever walks the tree meets it again
            return None
        return found

    def _collect(self, container: Any, leaves: list[Any]) -> None:
        if type(container) is not self.type:
            raise _UnlikeError
        keys: Sequence[Any]
        if self.type is dict:
            keys, children = list(container), container.values()
        elif self.type is list or self.type is tuple:
            keys, children = self.keys, container
        else:
            keys, children = self._members(container)
        if len(children) != len(self.keys) or keys != self.keys:
            raise _UnlikeError
        if keys is not self.keys and list(map(type, keys)) != self._key_types:
            raise _UnlikeError
        if not self.inner:
            leaves.extend(children)
            return
        children, at = list(children), 0
        for number, outline in self.inner:
            leaves.extend(children[at:number])
            outline._collect(children[number], leaves)
            at = number + 1
        leaves.extend(children[at:])

    def _members(self, container: Any) -> tuple[Sequence[Any], Any]:
        kind = kind_of(container)
        if kind != self.kind:  # JAX has been told of it meanwhile
            raise _UnlikeError
        keys, children = members(container, kind)
        return list(keys), children


Walk: TypeAlias = tuple[list[Any], Outline | None]
"""What a walk over a tree has shown: its leaves, and its outline (see `Likeness`)."""


class Walked(dict[str, Any]):
    """Trees by name, and what a walk over some of them has just shown: to be used at once.

    Attributes:
        walks: By the name of the tree.
    """

    def __init__(self) -> None:
        super().__init__()
        self.walks: dict[str, Walk] = {}


class Likeness:
    """The leaves of trees that come one after the other, most of which are alike."""

    def __init__(self) -> None:
        self._outline: Outline | None = None
        self._n_unlike = 0
        """How many trees in a row were unlike the one before."""

    def leaves_of(self, tree: Any) -> Walk:
        """All leaves of a tree, as `leaf_list` gives them, and its outline.

        The outline is the one that came with the tree before, the same object, where the two are
        alike; None for a leaf, and where so many were unlike that nothing is expected any more.
        """
        if self._outline is not None:
            leaves = self._outline.leaves_of(tree)
            if leaves is not None:
                self._n_unlike = 0
                return leaves, self._outline
            self._n_unlike += 1
        self._outline = _outline_of(tree) if self._n_unlike <= _PATIENCE else None
        return leaf_list(tree), self._outline


def _outline_of(tree: Any) -> Outline | None:
    """The outline of a tree; None for a leaf."""
    found: Outline | None = fold(
        tree,
        lambda *_: None,
        lambda container, keys, children, _: Outline(container, keys, children),
    )
    return found


# Walks


def map_tree(tree: Any, visit: Callable[[Any], Any]) -> Any:
    """The same tree with `visit(leaf)` for each leaf, in order, in plain containers.

    Named tuples stay what they are; dataclasses become dicts, and nodes of JAX lists.
    """
    return _mapped(tree, visit, DEEPEST)


def _mapped(tree: Any, visit: Callable[[Any], Any], deepest: int) -> Any:
    kind = kind_of(tree)
    if kind == _LEAF:
        return visit(tree)
    if not deepest:
        raise TooDeepError("", type(tree).__name__)
    keys, children = members(tree, kind)
    items = [
        visit(child) if _kinds.get(type(child)) == _LEAF else _mapped(child, visit, deepest - 1)
        for child in children
    ]
    if kind in {_NAMED, _RECORD}:
        return dict(zip(keys, items, strict=True))
    if kind == _FIELDS:
        return type(tree)(*items)
    return tuple(items) if isinstance(tree, tuple) else items


def fold(
    tree: Any,
    leaf: Callable[[Any, str], Any],
    join: Callable[[Any, Sequence[Any], list[Any], str], Any],
    *,
    path: str = "",
    separator: str = "/",
    is_leaf: Callable[[Any], bool] | None = None,
    deepest: int = DEEPEST,
) -> Any:
    """Make something of a tree from its leaves upwards.

    Args:
        tree: The tree.
        leaf: Called with each leaf and its path.
        join: Called with a container, its keys (names, or numbers from 0), what became of its
            children, and its path.
        path: Of the tree itself.
        separator: Between the keys of a path.
        is_leaf: Whether not to go down into a container.
        deepest: How many containers may be in one another.

    Returns:
        What became of the tree.

    Raises:
        TooDeepError: If there are more.
    """
    nodes: list[_Visited] = []
    # First down, then up: `leaf` and `join` are called one after the other.
    _bottom_up(tree, path, separator, is_leaf, deepest, nodes)
    found: list[Any] = []
    for node, at, keys in nodes:
        if keys is None:
            found.append(leaf(node, at))
        else:
            first = len(found) - len(keys)
            children = found[first:]
            del found[first:]
            found.append(join(node, keys, children, at))
    return found[0]


def _bottom_up(
    node: Any,
    path: str,
    separator: str,
    is_leaf: Callable[[Any], bool] | None,
    deepest: int,
    nodes: list[_Visited],
) -> None:
    """Add all nodes of a tree, each container behind what is in it.

    No closure: it would hold the arrays of a state until the garbage is collected.
    """
    kind = kind_of(node)
    if kind == _LEAF or (is_leaf is not None and is_leaf(node)):
        nodes.append((node, path, None))
        return
    if not deepest:
        raise TooDeepError(path, type(node).__name__)
    keys, children = members(node, kind)
    prefix = f"{path}{separator}" if path else ""
    for key, child in zip(keys, children, strict=True):
        try:
            at = f"{prefix}{key}"
        except ValueError:  # an int of more than 4,300 digits
            at = f"{prefix}…"
        if _kinds.get(type(child)) == _LEAF:
            nodes.append((child, at, None))
        else:
            _bottom_up(child, at, separator, is_leaf, deepest - 1, nodes)
    nodes.append((node, path, keys))


def leaf_list(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[Any]:
    """All leaves as they are, None included, in the order in which `map_tree` visits them.

    Args:
        tree: The tree.
        is_leaf: Whether not to go down into a container.
    """
    found: list[Any] = []
    if is_leaf is None:
        map_tree(tree, found.append)
    else:
        fold(tree, lambda leaf, _: found.append(leaf), lambda *_: None, is_leaf=is_leaf)
    return found


def with_leaves(tree: Any, values: Iterable[Any]) -> Any:
    """The same tree with other leaves, given in the order of `leaf_list`."""
    given = iter(values)
    return map_tree(tree, lambda _: next(given))


def leaves(tree: Any, prefix: str = "", *, convert: bool = True) -> Iterable[tuple[str, Any]]:
    """Dotted name and value of each leaf, in order; as arrays of NumPy where `convert`."""
    found: list[tuple[str, Any]] = []
    fold(
        tree,
        lambda leaf, path: None if leaf is None else found.append((path or "0", leaf)),
        lambda *_: None,
        path=prefix,
        separator=".",
    )
    return ((name, to_host(leaf)) for name, leaf in found) if convert else found


def merge(
    tree: Any,
    live: Any,
    leaf: Callable[[Any, Any], Any],
    is_leaf: Callable[[Any], bool] = lambda _: False,
) -> Any:
    """The values of a plain tree in the containers of a live one.

    Args:
        tree: Dicts, lists and tuples.
        live: The tree whose containers count; what it lacks keeps its own.
        leaf: Called with each leaf and its counterpart, or `NOTHING`; also with a container whose
            counterpart is a leaf.
        is_leaf: Which containers of the tree stand for one leaf, whatever their counterpart is.
    """
    if is_leaf(tree):
        return leaf(tree, live)
    theirs: Mapping[Any, Any] = {}
    kind = kind_of(live)
    if kind != _LEAF:
        theirs = dict(zip(*members(live, kind), strict=True))
    elif live is not NOTHING:
        return leaf(tree, live)
    if isinstance(tree, Mapping):
        named = kind in {_NAMED, _RECORD}
        # The live order first: of an OrderedDict it is part of the structure.
        there = [key for key in theirs if key in tree] if named else []
        keys = [*there, *(key for key in tree if not (named and key in theirs))]
        merged = {
            key: merge(tree[key], theirs.get(key, NOTHING) if named else NOTHING, leaf, is_leaf)
            for key in keys
        }
        return _rebuilt(live, kind, merged) if named else merged
    if isinstance(tree, (list, tuple)):
        listed = kind in {_LISTED, _FIELDS, _NODE}
        items = [
            merge(child, theirs.get(number, NOTHING) if listed else NOTHING, leaf, is_leaf)
            for number, child in enumerate(tree)
        ]
        if listed and len(theirs) == len(items):
            return _rebuilt(live, kind, items)
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return leaf(tree, live)


def _rebuilt(live: Any, kind: int, children: Any) -> Any:
    """A container like the live one, with other children."""
    own = type(live)
    if own in {dict, list, tuple}:
        return own(children)
    if kind == _FIELDS:
        return own(*children)
    if isinstance(live, MutableMapping):
        filled = copy.copy(live)  # with the attributes it has, and the factory of a defaultdict
        filled.clear()
        filled.update(children)
        return filled
    if kind in {_NAMED, _LISTED}:
        return own(children)  # as those of the standard library do
    flat = _flat_of_jax(live)
    if flat is not None:
        return sys.modules["jax"].tree_util.tree_unflatten(flat[1], children)
    filled = copy.copy(live)
    for name, value in children.items():
        object.__setattr__(filled, name, value)  # it may be frozen
    return filled


def to_host(leaf: Any) -> Any:
    """A tensor of torch as an array of NumPy, without a copy where possible; else the leaf."""
    if library_of(leaf) == "torch":
        leaf = leaf.detach().cpu()
        # NumPy has no bfloat16: widen, which keeps every value (and NaN, and infinity).
        narrow = leaf.is_floating_point() and leaf.element_size() < 4
        return (leaf.float() if narrow else leaf).numpy()
    return leaf
