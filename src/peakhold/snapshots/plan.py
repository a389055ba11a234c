"""Drafts of a state that is as it was at the last save, but for its values.

Taking a tree apart costs 5 µs for each array, copying a small one a fifth of that. Training saves
the same tree again and again: what the last save found is kept, and the next tree is compared with
it, by a few passes over all leaves that C makes.

Rules of this file:

1. Only values may differ: containers, keys, kinds of leaves, dtypes, shapes, and which arrays are
   one are as they were. Anything else, and whatever raises, goes the whole way (`tree.flatten`),
   which alone knows what is refused, and why, and what things are called.
2. What cannot be compared by types of Python's own, or of a library's own, has no plan.
3. No array is kept: a plan would hold the memory of a state that is gone. What callbacks fill again
   and again is known by the very object, and its draft kept as long as they keep that.
4. Plans change while they are used. They are taken out before, and put back when all is well: none
   is used that Ctrl-C has left half changed.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import compress, count
from operator import attrgetter, call, is_, is_not, methodcaller
from typing import Any, Final, Protocol, final

import numpy as np

from peakhold.snapshots.arrays import (
    Array,
    ArraySource,
    is_of_numpy,
    memory_of_array,
    memory_of_tensor,
    source_of,
)
from peakhold.snapshots.host_buffers import PartDraft
from peakhold.snapshots.memory import extent_of
from peakhold.snapshots.part_buffer import FilledTree, filled_tree
from peakhold.snapshots.tree import Flattener, flatten
from peakhold.trees import Outline, fold, is_container, library_of

__all__ = ["Planner"]

_PLAIN: Final = frozenset({bool, int, float, complex, str, bytes, type(None)})
_PATIENCE: Final = 3
_N_KNOWN: Final = 2  # a callback copies in turn into what is kept and what is free
_KEYS: Final = frozenset({str, int})  # of which those that are equal are written alike
_dtype: Final = attrgetter("dtype")
_shape: Final = attrgetter("shape")
_owns_data: Final = attrgetter("flags.owndata")
_address: Final = methodcaller("data_ptr")
_as_numpy: Final = methodcaller("numpy", force=True)


class _OtherwiseError(Exception):
    """The tree is not as it was, or has no plan."""


@final
class Planner:
    """Drafts states, with plans of what it drafted last."""

    def __init__(self) -> None:
        self._plans: dict[str, _Plan] = {}
        self._misses: dict[str, int] = {}
        """How many times running a part was not as it was."""
        self._filled: weakref.WeakKeyDictionary[FilledTree, PartDraft] = weakref.WeakKeyDictionary()
        """Drafts of what the callbacks fill again and again: they hold no longer than its owner."""

    def draft(self, parts: Mapping[str, Any]) -> list[PartDraft]:
        """What `host_buffers.draft` gives; quick for parts that are as they were.

        Raises:
            InvalidArgumentError: If a leaf cannot be saved.
        """
        plans, self._plans = self._plans, {}  # rule 4
        kept: dict[str, _Plan] = {}
        misses: dict[str, int] = {}
        filled = {name: filled_tree(tree) for name, tree in parts.items()}
        known = {name: self._known(name, tree) for name, tree in filled.items()}
        leaves = {
            name: plans[name].root.leaves_of(tree)
            for name, tree in parts.items()
            if name in plans and known[name] is None
        }
        drafts = []
        for name, tree in parts.items():
            if (found := known[name]) is not None:
                if name in plans:
                    kept[name] = plans[name]
                drafts.append(found)
                continue
            its = leaves.get(name)
            found = None if its is None else plans[name].draft(its)
            misses[name] = 0 if found is not None else self._misses.get(name, 0) + 1
            if found is not None:
                kept[name] = plans[name]
            else:
                found, plan = _whole_way(name, tree, is_planned=_is_worth_it(misses[name]))
                if plan is not None:
                    kept[name] = plan
            drafts.append(found)
            its_tree = filled[name]
            if its_tree is not None:
                extent = found.extent or extent_of(found.arrays)
                self._filled[its_tree] = replace(found, extent=extent)
        self._plans, self._misses = kept, misses
        return drafts

    def _known(self, name: str, tree: FilledTree | None) -> PartDraft | None:
        """The draft of a tree in which nothing but values has changed since it was made."""
        found = None if tree is None else self._filled.get(tree)
        return found if found is not None and found.name == name else None


def _is_worth_it(n_misses: int) -> bool:
    """Whether to make a plan: of what always changes, only now and then."""
    return n_misses <= _PATIENCE or n_misses % (8 * _PATIENCE) == 0


def _whole_way(name: str, tree: Any, *, is_planned: bool) -> tuple[PartDraft, _Plan | None]:
    if not is_planned or not is_container(tree):
        return PartDraft.of(name, *flatten(name, tree)), None
    walk = _Noting(name)
    found = PartDraft.of(name, *walk.flatten(tree))
    try:
        return found, _Plan(name, walk, found)
    except _OtherwiseError:
        return found, None


# What a tree looks like


class _Value:
    """A leaf that is no array, as JSON, and its number among all leaves."""

    __slots__ = ("json", "number")

    def __init__(self, json: Any, number: int) -> None:
        self.json, self.number = json, number


@final
class _Container(Outline):
    """A container: what it must look like, and its JSON."""

    def __init__(
        self, container: Any, keys: Sequence[Any], names: Sequence[Any] | None, children: list[Any]
    ) -> None:
        super().__init__(container, keys, children)
        self.is_tuple = isinstance(container, tuple)
        self.names = names
        """The keys as they are loaded, or None for a list or tuple."""
        self.members = [
            child.json if type(child) in {_Container, _Value} else child for child in children
        ]
        """The JSON of each child."""
        self.above: _Container | None = None
        self.nodes = [(n, child) for n, child in enumerate(children) if type(child) is _Container]
        for _, node in self.nodes:
            node.above = self
        self.is_changed = False
        self.json: Any = None

    def put(self, index: int, json: Any) -> None:
        """Have another JSON for a child."""
        self.members[index] = json
        node: _Container | None = self
        while node is not None and not node.is_changed:
            node.is_changed, node = True, node.above

    def write(self, walk: Flattener) -> Any:
        """The JSON, anew where something below has changed: the old one may be being written."""
        if self.is_changed or self.json is None:
            for number, node in self.nodes:
                if node.is_changed:
                    self.members[number] = node.write(walk)
            children = list(self.members)
            self.json = walk.put_together(self.names, children, is_tuple=self.is_tuple)
            self.is_changed = False
        return self.json


@final
class _Noting(Flattener):
    """The whole way, once, with notes of what the tree looks like."""

    def __init__(self, part: str) -> None:
        super().__init__(part)
        self.leaves: list[Any] = []
        self.is_array: list[bool] = []
        """Of each leaf."""
        self.places: dict[int, tuple[_Container, int]] = {}
        """Where each leaf is that is no array."""
        self.root: _Container | None = None
        self.has_plan = True

    def walk(self, tree: Any) -> Any:
        """Walk, and note."""
        self.root = fold(tree, self._note_leaf, self._note_container)
        return self.root.json

    def _note_leaf(self, value: Any, path: str) -> Any:
        n_met, number = self.n_met, len(self.leaves)
        json = self.leaf(value, path)
        is_array = self.n_met > n_met
        self.leaves.append(value)
        self.is_array.append(is_array)
        return json if is_array else _Value(json, number)

    def _note_container(
        self, container: Any, keys: Sequence[Any], children: list[Any], path: str
    ) -> _Container:
        names = self.names(container, keys, path)
        if names is not None and not _KEYS.issuperset(map(type, keys)):
            self.has_plan = False
        node = _Container(container, keys, names, children)
        for index, child in enumerate(children):
            if type(child) is _Value:
                self.places[child.number] = node, index
        node.write(self)
        return node


# What the arrays are


@final
class _Sharing:
    """Which of some arrays are one."""

    def __init__(self, memories: Iterable[object]) -> None:
        first: dict[object, int] = {}
        self._pairs = []
        for number, memory in enumerate(memories):
            if first.setdefault(memory, number) != number:
                self._pairs.append((number, first[memory]))
        self._n_distinct = len(first)
        self.has_any = bool(self._pairs)

    def check(self, memories: list[Any]) -> None:
        """Raise if not the same are one."""
        if len(set(memories)) != self._n_distinct or any(
            memories[number] != memories[first] for number, first in self._pairs
        ):
            raise _OtherwiseError


@final
class _Met:
    """Views of different memory each: when the very same objects come again, they still are.

    A backup's come again and again, for what the callbacks keep lies in memory of one piece.
    """

    def __init__(self, views: list[Any]) -> None:
        self._views = list(map(weakref.ref, views))  # rule 3
        self.extent: tuple[int, int] | None = None
        """Where they lie, if one right after the other in the order of the file."""
        self.is_measured = False

    def are(self, arrays: list[Any]) -> bool:
        """Whether these are they."""
        return all(map(is_, arrays, map(call, self._views)))

    def measure(self, arrays: list[Any]) -> tuple[int, int] | None:
        """Where they lie, of these very arrays in the order of the file."""
        if not self.is_measured:
            self.extent, self.is_measured = extent_of(arrays), True
        return self.extent


class _Group(Protocol):
    """Leaves whose bytes are found in the same way."""

    met: _Met | None
    """What is known of the arrays that were asked for last, all of which are views."""

    def arrays(self, leaves: list[Any]) -> list[Array]:
        """Where the bytes of the leaves are, if these are as they were."""


class _Arrays:
    """Arrays of NumPy, of dtypes whose bits are stored as they are."""

    def __init__(self, leaves: list[Any], sources: list[ArraySource]) -> None:
        self._dtypes, self._shapes = list(map(_dtype, leaves)), list(map(_shape, leaves))
        self._sharing = _Sharing(source.memory for source in sources)
        self.met: _Met | None = None
        self._known: list[_Met] = []

    def arrays(self, leaves: list[Any]) -> list[Array]:
        if list(map(_dtype, leaves)) != self._dtypes or list(map(_shape, leaves)) != self._shapes:
            raise _OtherwiseError
        # Addresses take longer than the copy. Who has memory of its own has it alone, and of views
        # there is none then.
        self.met = None
        if all(map(_owns_data, leaves)):
            self._sharing.check(list(map(id, leaves)))
            return leaves
        self.met = next((met for met in self._known if met.are(leaves)), None)
        if self.met is None:
            self._sharing.check(list(map(memory_of_array, leaves)))
            if not self._sharing.has_any:
                self.met = _Met(leaves)
                self._known = [self.met, *self._known[: _N_KNOWN - 1]]
        return leaves


class _Tensors:
    """Tensors of PyTorch that NumPy has a dtype for, on any device."""

    met: _Met | None = None

    def __init__(self, leaves: list[Any], sources: list[ArraySource]) -> None:
        self._dtypes = list(map(_dtype, leaves))
        self._shapes = [source.array.shape for source in sources]
        self._sharing = _Sharing(source.memory for source in sources)

    def arrays(self, leaves: list[Any]) -> list[Array]:
        if list(map(_dtype, leaves)) != self._dtypes:
            raise _OtherwiseError
        arrays = list(map(_as_numpy, leaves))
        if list(map(_shape, arrays)) != self._shapes:
            raise _OtherwiseError
        memories = list(map(_address, leaves))
        n_there = Counter(memories)
        if len(n_there) < len(memories):  # views, tied weights, and empty ones
            memories = [
                memory_of_tensor(leaf, array) if n_there[address] > 1 else address
                for leaf, array, address in zip(leaves, arrays, memories, strict=True)
            ]
        self._sharing.check(memories)
        return arrays


class _Converted:
    """What NumPy makes an array of: arrays of JAX, and its own scalars."""

    met: _Met | None = None

    def __init__(self, leaves: list[Any], sources: list[ArraySource]) -> None:
        self._dtypes = [source.array.dtype for source in sources]
        self._shapes = [source.array.shape for source in sources]
        self._sharing = _Sharing(map(id, leaves))

    def arrays(self, leaves: list[Any]) -> list[Array]:
        arrays = list(map(np.asarray, leaves))
        if list(map(_dtype, arrays)) != self._dtypes or list(map(_shape, arrays)) != self._shapes:
            raise _OtherwiseError
        self._sharing.check(list(map(id, leaves)))
        return arrays


class _Others:
    """Arrays of all other kinds, mostly of dtypes that NumPy lacks."""

    met: _Met | None = None

    def __init__(self, leaves: list[Any], sources: list[ArraySource]) -> None:
        self._kinds = list(map(_kind, sources))
        self._sharing = _Sharing(source.memory for source in sources)

    def arrays(self, leaves: list[Any]) -> list[Array]:
        sources = list(map(_source, leaves))
        if list(map(_kind, sources)) != self._kinds:
            raise _OtherwiseError
        self._sharing.check([source.memory for source in sources])
        return [source.array for source in sources]


def _kind(source: ArraySource) -> object:
    return source.dtype, source.stored_as, source.array.shape


def _source(leaf: Any) -> ArraySource:
    source = source_of(leaf)
    if source is None:
        raise _OtherwiseError
    return source


def _way_of(leaf: Any, source: ArraySource) -> type[_Arrays | _Tensors | _Converted | _Others]:
    """How the bytes of such a leaf are found.

    Raises:
        _OtherwiseError: If nothing of it can be told by its type.
    """
    if type(leaf) is np.ndarray:
        return _Arrays if source.array is leaf else _Others
    library = library_of(leaf)
    # Those of other classes may be the same memory as an array, or not what they look like.
    if library == "torch":
        torch = sys.modules["torch"]
        if type(leaf) in {torch.Tensor, torch.nn.Parameter}:
            return _Tensors if is_of_numpy(source) else _Others
    elif library == "jax" or isinstance(leaf, np.generic):
        return _Converted if is_of_numpy(source) else _Others
    raise _OtherwiseError


@final
class _Plan:
    """What one part looked like.

    Raises:
        _OtherwiseError: If it has something that could change without being seen.
    """

    def __init__(self, part: str, walk: _Noting, draft: PartDraft) -> None:
        if walk.root is None or not walk.has_plan or walk.is_rearranged:
            raise _OtherwiseError
        self._part, self.root, self._specs = part, walk.root, draft.specs
        self._walk = Flattener(part)
        self._types = list(map(type, walk.leaves))
        self._is_array, self._is_value = walk.is_array, [not one for one in walk.is_array]
        self._values = list(compress(walk.leaves, self._is_value))
        if not _PLAIN.issuperset(map(type, self._values)):
            raise _OtherwiseError
        self._places = [walk.places[n] for n, is_value in enumerate(self._is_value) if is_value]
        arrays = list(compress(walk.leaves, walk.is_array))
        ways = list(map(_way_of, arrays, walk.found))
        self._groups: list[tuple[list[bool] | None, _Group]] = []
        numbers: list[int] = []  # of all arrays, group by group
        for way in (_Arrays, _Tensors, _Converted, _Others):
            its = [one is way for one in ways]
            if any(its):
                group = way(list(compress(arrays, its)), list(compress(walk.found, its)))
                self._groups.append((None if all(its) else its, group))
                numbers.extend(compress(count(), its))
        found_at = {id(walk.found[number].array): at for at, number in enumerate(numbers)}
        order = [found_at[id(array)] for array in draft.arrays]
        self._order = None if order == list(range(len(numbers))) else order
        """Where each of the draft's is among all; None if these are the same."""

    def draft(self, leaves: list[Any]) -> PartDraft | None:
        """The draft of a tree that is as it was, of its leaves as `root` gives them.

        None if one of them is not, and the plan is of no use.
        """
        try:
            return self._draft(leaves)
        except Exception:  # rule 1: whoever goes the whole way meets it again
            return None

    def _draft(self, leaves: list[Any]) -> PartDraft:
        if list(map(type, leaves)) != self._types:
            raise _OtherwiseError
        arrays = leaves
        if self._values:
            arrays = list(compress(leaves, self._is_array))
        found: list[Array] = []
        group: _Group | None = None
        for its, group in self._groups:
            found += group.arrays(arrays if its is None else list(compress(arrays, its)))
        if self._values:
            self._take_values(list(compress(leaves, self._is_value)))
        if self._order is not None:
            found = [found[number] for number in self._order]
        met = None if group is None or len(self._groups) > 1 else group.met
        extent = None if met is None else met.measure(found)
        return PartDraft(self._part, self.root.write(self._walk), self._specs, found, extent)

    def _take_values(self, values: list[Any]) -> None:
        """Write those anew that are not the same objects: nobody can change these."""
        for number in compress(count(), map(is_not, values, self._values)):
            node, index = self._places[number]
            node.put(index, self._walk.leaf(values[number], ""))
        self._values = values
