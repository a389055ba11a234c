"""Trees: what is put in comes out, with its types; what is not ours is refused."""

import enum
import math
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peakhold.errors import InvalidArgumentError
from peakhold.snapshots.tree import TreeError, flatten, parse_json, to_json, unflatten


def round_trip(tree):
    skeleton, sources = flatten("part", tree)
    return unflatten(parse_json(to_json(skeleton)), lambda name: sources[name].array)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.text(),
    st.binary(max_size=20),
    st.complex_numbers(),
)
keys = st.one_of(
    st.text(), st.sampled_from(["$tensor", "$dict", "$", "$x"]), st.integers(), st.none()
)
keys = st.one_of(keys, st.tuples(keys, keys))
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
    ),
    max_leaves=20,
)


@given(trees)
def test_any_tree(tree):
    assert repr(round_trip(tree)) == repr(
        tree
    )  # repr tells 1 from True and from 1.0, and shows NaN


class Colour(enum.IntEnum):
    RED = 3


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (namedtuple("State", "mu nu")(1, 2), (1, 2)),
        ([Colour.RED], [3]),
        (np.str_("text"), "text"),
        ({"rate": float("inf")}, {"rate": math.inf}),
        ((), ()),
        ({}, {}),
        ({0: {"step": 1}, 1: {"step": 2}}, {0: {"step": 1}, 1: {"step": 2}}),
        ("\ud800 lone", "\ud800 lone"),
    ],
)
def test_what_becomes_of(tree, expected):
    got = round_trip(tree)
    assert (got, type(got)) == (expected, type(expected))


def test_circles_and_strangers_are_refused():
    circle = []
    circle.append(circle)
    for tree in (
        circle,
        {"a": {1, 2}},
        {"a": lambda: 0},
        {frozenset(): 1},
        {(object(),): 1},
        range(3),
    ):
        with pytest.raises(InvalidArgumentError, match=r"expected dicts, .*got parts\['part'\] at"):
            flatten("part", tree)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"\xff", b"[1,]", b"NaN", b"[Infinity]", b"[-Infinity]", b'{"a":1,"a":2}',
        b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"\x00",
    ],
)  # fmt: skip
def test_what_is_not_strict_json_is_refused(text):
    with pytest.raises(TreeError):
        parse_json(text)


@pytest.mark.parametrize(
    "node",
    [
        {"$tensor": "gone"}, {"$tensor": 3}, {"$tuple": {}}, {"$float": "1"}, {"$float": 1.0},
        {"$complex": [1.0]}, {"$complex": [1, 2]}, {"$bytes": "!"}, {"$bytes": 3},
        {"$dict": {}}, {"$dict": [[1]]}, {"$dict": [[1, 2], [1, 3]]}, {"$dict": [[[], 1]]},
        {"$unknown": 1}, {"$": 1}, {"$tuple": [], "x": 1}, {"x": 1, "$tuple": []},
    ],
)  # fmt: skip
def test_marks_that_are_not_ours_are_refused(node):
    def tensor(name):
        raise TreeError(name)

    with pytest.raises(TreeError):
        unflatten({"deep": [node]}, tensor)


def test_depth_is_bounded():
    node = 1
    for _ in range(900):
        node = [node]
    with pytest.raises(TreeError, match="deep"):
        unflatten(node, lambda name: None)


def test_many_sparse_tensors_are_taken_apart_in_one_go_and_others_refused():
    torch = pytest.importorskip("torch")
    sparse = torch.eye(2).to_sparse()
    skeleton, sources = flatten("part", {"a": [sparse, torch.ones(2), sparse.clone()]})
    assert [sorted(one) for one in skeleton["a"]] == [
        ["indices", "layout", "size", "values"], ["$tensor"], ["indices", "layout", "size", "values"],
    ]  # fmt: skip
    assert "a/0/values" in sources and "a/2/values" in sources
    bad = torch.zeros(2, dtype=torch.uint8).view(torch.int4)
    with pytest.raises(InvalidArgumentError, match=r"(?s)torch.int4.*a/1.*Hint: dequantize"):
        flatten("part", {"a": [torch.ones(2), bad]})


def test_views_that_differ_by_a_sign_are_two_arrays():
    torch = pytest.importorskip("torch")
    base = torch.complex(torch.ones(2), torch.ones(2))
    _, sources = flatten("part", [base, base.conj(), base.conj(), base.imag, base.conj().imag])
    assert {name: source.array[0].item() for name, source in sources.items()} == {
        "0": 1 + 1j, "1": 1 - 1j, "3": 1.0, "4": -1.0,
    }  # fmt: skip
