"""Copies of a tree of many small arrays: quick while it is as it was, and right when it is not."""

import dataclasses
import gc
from collections import namedtuple
from operator import is_

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from peakhold import LoopHost, trees
from peakhold.host.onto_live import TakenApart, taken_apart
from peakhold.snapshots import part_buffer
from peakhold.snapshots.host_buffers import draft
from peakhold.snapshots.plan import Planner
from peakhold.snapshots.pool import SnapshotPool
from peakhold.trees import leaf_list

Pair = namedtuple("Pair", "w n")


def tree_of(value):
    return {f"layer {n}": {"w": np.full(3, value), "b": [np.full((), value)]} for n in range(50)}


class Model:
    """A pool of a state that may be replaced."""

    def __init__(self):
        self.state = tree_of(0.0)
        self.host = LoopHost(get_state=lambda: self.state, set_state=lambda state: None)
        self.pool = SnapshotPool(lambda: self.host)

    def take(self):
        self.pool.is_stale = True
        return self.pool.take(["weights"])


def seen(held):
    """Names and values, by the pool's own names."""
    (names,) = [copy.buffer.named(copy.pool.host) for copy in held._copies.values()]
    return {name: leaf.tolist() for name, leaf in names}


def expected(tree):
    return {
        f"{layer}.{path}": leaf.tolist()
        for layer, inner in tree.items()
        for path, leaf in (("w", inner["w"]), ("b.0", inner["b"][0]))
    }


def test_a_tree_that_is_as_it_was_is_not_taken_apart_again(monkeypatch):
    model = Model()
    model.take().release()
    walks = []
    for module, name in (
        (trees, "leaf_list"), (trees, "_outline_of"), (part_buffer, "with_leaves")
    ):  # fmt: skip
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, real=real, name=name: (walks.append(name), real(*a))[1]
        )
    for value in (1.0, 2.0, 3.0):
        model.state = tree_of(value)  # other arrays of the same looks
        held = model.take()
        assert seen(held) == expected(model.state)
        held.release()
    assert walks in ([], ["with_leaves"])  # the tree that is shown is put together once


def test_two_that_are_held_at_a_time_are_two():
    model = Model()
    first = model.take()
    model.state = tree_of(5.0)
    second = model.take()
    assert seen(first) == expected(tree_of(0.0)) and seen(second) == expected(tree_of(5.0))


def _other_key(tree):
    tree["layer x"] = tree.pop("layer 7")


def _other_order(tree):
    tree["layer 7"] = tree.pop("layer 7")


def _one_more(tree):
    tree["layer 7"]["b"].append(np.ones(2))


def _other_shape(tree):
    tree["layer 7"]["w"] = np.full(4, 9.0)


def _other_dtype(tree):
    tree["layer 7"]["w"] = np.full(3, 9, np.int32)


def _other_byte_order(tree):
    tree["layer 7"]["w"] = np.full(3, 9.0, ">f8")


def _a_number(tree):
    tree["layer 7"]["w"] = 3.5


def _other_container(tree):
    tree["layer 7"]["b"] = tuple(tree["layer 7"]["b"])


def _nothing(tree):
    tree["layer 7"]["w"] = np.empty(0)


CHANGES = [
    _other_key, _other_order, _one_more, _other_shape, _other_dtype, _other_byte_order, _a_number,
    _other_container, _nothing,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_has_changed_is_in_the_next_copy(change):
    model = Model()
    for _ in range(2):
        model.take().release()
    model.state = tree_of(1.0)
    change(model.state)
    for _ in range(3):
        parts = model.take().parts["weights"]
        assert list(parts) == list(model.state)
        for layer, inner in model.state.items():
            assert repr(parts[layer]) == repr(inner)
            for got, wanted in zip(
                [parts[layer]["w"], *parts[layer]["b"]], [inner["w"], *inner["b"]], strict=True
            ):
                assert getattr(got, "dtype", None) == getattr(wanted, "dtype", None)


def test_a_tree_that_always_changes_is_copied_all_the_same():
    model = Model()
    for n in range(12):
        model.state = tree_of(float(n))
        model.state[f"more {n}"] = {"w": np.ones(n), "b": [np.ones(())]}
        held = model.take()
        assert seen(held) == expected(model.state)
        held.release()


@dataclasses.dataclass
class Record:
    w: object


NUMPY = {"a": np.ones(2), "b": [np.zeros(3), (1, "x", None)], "c": {}}
KINDS = {
    "plain": lambda: {**NUMPY},
    "longer": lambda: {**NUMPY, "d": 3},
    "tensors": lambda: {"a": torch.ones(2), "b": [torch.nn.Parameter(torch.ones(1)), 2]},
    "conjugate": lambda: {"a": torch.ones(2, dtype=torch.complex64).conj(), "b": 1},
    "of JAX": lambda: {"a": jnp.ones(2), "b": [np.ones(1)]},
    "record": lambda: {"a": Record(np.ones(2))},
    "named": lambda: {"a": Pair(np.ones(2), 1)},
    "leaf": lambda: np.ones(2),
    "an array's subclass": lambda: {"a": np.ma.masked_array([1.0, 2.0])},
}
PLAIN = {"plain", "longer", "tensors", "leaf"}


@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", KINDS)
def test_a_state_is_taken_apart_as_without_memory_of_the_one_before(first, second):
    memory, before = TakenApart(), first
    for kind in (first, first, second, first):
        state = KINDS[kind]()
        (plain, walk), expected = memory.of(state), taken_apart(state)

        assert shape_of(plain) == shape_of(expected)
        assert (walk is None) or (plain is state and all(map(is_, walk[0], leaf_list(state))))
        if kind == before:
            assert (plain is state) is (kind in PLAIN)
        before = kind


def test_what_is_never_plain_is_not_looked_at_for_ever(monkeypatch):
    memory = TakenApart()
    looks = []
    monkeypatch.setattr(
        trees.Likeness, "leaves_of", lambda self, tree: looks.append(1) or ([], None)
    )
    for _ in range(20):
        memory.of({"a": Record(1)})

    assert len(looks) == 4


def shape_of(tree):
    """Types and values of all there is."""
    if isinstance(tree, dict):
        return dict, {key: shape_of(child) for key, child in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree), [shape_of(child) for child in tree]
    return type(tree), np.asarray(tree.detach() if hasattr(tree, "detach") else tree).tolist()


def drafted(drafts):
    """What would be written, and where the bytes are."""
    return [
        (one.name, one.skeleton, one.specs, [array.tolist() for array in one.arrays])
        for one in drafts
    ]


def test_what_is_filled_again_is_written_without_another_look(monkeypatch):
    model, planner, walks = Model(), Planner(), []
    real = trees.Outline.leaves_of
    monkeypatch.setattr(
        trees.Outline, "leaves_of", lambda self, tree: (walks.append(self), real(self, tree))[1]
    )
    looks = []
    for value in range(6):
        model.state = tree_of(float(value))
        held = model.take()
        walks.clear()
        found = drafted(planner.draft(held.parts))
        looks.append(len(walks))

        assert found == drafted(draft(held.parts))
        held.release()

    assert looks[-2:] == [0, 0]


@pytest.mark.parametrize("kind", sorted(PLAIN - {"leaf"}))
def test_another_state_is_drafted_as_what_it_is(kind):
    model, planner = Model(), Planner()
    for state in (tree_of(1.0), KINDS[kind](), KINDS[kind](), tree_of(2.0), KINDS[kind]()):
        model.state = state
        held = model.take()

        assert drafted(planner.draft(held.parts)) == drafted(draft(held.parts))
        renamed = {"other": held.parts["weights"]}
        assert drafted(planner.draft(renamed)) == drafted(draft(renamed))
        held.release()


def test_a_draft_holds_no_memory_of_a_run_that_is_gone():
    model, planner = Model(), Planner()
    for _ in range(3):
        held = model.take()
        planner.draft(held.parts)
        held.release()
    assert len(planner._filled) == 1

    del model, held
    gc.collect()

    assert len(planner._filled) == 0
