"""The one walker: what is a container, what a leaf, and how far down it goes."""

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest

from peakhold.snapshots.arrays import RawTensor
from peakhold.trees import TooDeepError, fold, leaf_list, leaves, map_tree


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclasses.dataclass
class Record:
    inner: Any
    name: str = "record"


class Lazy(Mapping):
    """Makes its values when it is asked."""

    def __getitem__(self, key):
        return [key, key * 2]

    def __iter__(self):
        return iter("ab")

    def __len__(self):
        return 2


RAW = RawTensor("BF16", (1,), memoryview(b"\0\0"))
TREES = [
    (3, 3, ["0"]),
    ({"a": 1, 2: [3, (4,)]}, {"a": 1, 2: [3, (4,)]}, ["a", "2.0", "2.1.0"]),
    (OrderedDict(b=1, a=2), {"b": 1, "a": 2}, ["b", "a"]),
    (MappingProxyType({"a": 1}), {"a": 1}, ["a"]),
    (Lazy(), {"a": ["a", "aa"], "b": ["b", "bb"]}, ["a.0", "a.1", "b.0", "b.1"]),
    ([Pair(1, [2])], [Pair(1, [2])], ["0.0", "0.1.0"]),
    ({"r": Record([5])}, {"r": {"inner": [5], "name": "record"}}, ["r.inner.0", "r.name"]),
    ([Record], [Record], ["0"]),  # the class is none
    ({"raw": RAW}, {"raw": RAW}, ["raw"]),  # a dataclass, but an array first
    ({}, {}, []),
]


@pytest.mark.parametrize(("tree", "plain", "names"), TREES, ids=str)
def test_every_walk_goes_the_same_way(tree, plain, names):
    seen = []
    got = map_tree(tree, lambda leaf: seen.append(leaf) or leaf)
    assert (got, type(got)) == (plain, type(plain))
    assert leaf_list(tree) == seen
    assert [name for name, _ in leaves(tree, convert=False)] == names
    paths = []
    fold(tree, lambda leaf, path: paths.append((path, leaf)), lambda *_: None)
    assert paths == [(n.replace(".", "/") if n != "0" or plain == [Record] else "", leaf)
                     for n, leaf in zip(names, seen, strict=True)]  # fmt: skip


def test_arrays_of_any_library_are_leaves():
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    tree = [np.zeros(2), np.float32(1), torch.zeros(2), torch.nn.Parameter(torch.zeros(2)),
            jax.numpy.zeros(2), jax.random.key(0)]  # fmt: skip
    assert all(one is other for one, other in zip(leaf_list(tree), tree, strict=True))


def test_a_stranger_that_jax_is_told_of_later_is_a_container_from_then_on():
    jax = pytest.importorskip("jax")

    class Node:
        inner = 1

    node = Node()
    assert leaf_list([node]) == [node]
    jax.tree_util.register_pytree_node(Node, lambda n: ((n.inner,), None), lambda _, c: Node())
    assert leaf_list([node]) == [1]


@pytest.mark.parametrize(
    "walk",
    [
        lambda tree: map_tree(tree, id),
        leaf_list,
        lambda tree: leaf_list(tree, lambda _: False),
        lambda tree: list(leaves(tree)),
        lambda tree: fold(tree, lambda *_: None, lambda *_: None),
    ],
)
def test_a_circle_has_a_name(walk):
    circle = {"inner": []}
    circle["inner"].append(circle)
    with pytest.raises(TooDeepError, match="nested deeper than 200, or in a circle"):
        walk(circle)


def test_one_may_stop_above_a_container():
    tree = {"a": [1, {"stop": 2}], "b": {"stop": 3}}
    assert leaf_list(tree, lambda one: isinstance(one, dict) and "stop" in one) == [
        1, {"stop": 2}, {"stop": 3},
    ]  # fmt: skip
