"""One engine below the store and the callbacks' pool: how their copies lie, and that they are copies."""

import gc

import ml_dtypes
import numpy as np
import pytest
import torch

from peakhold import LoopHost
from peakhold.snapshots.host_buffers import HostBuffers, Snapshot, draft
from peakhold.snapshots.memory import HostMemory, in_one_piece
from peakhold.snapshots.pool import SnapshotPool
from peakhold.store import Store

MIXED = {
    "numpy": lambda v: {
        "flag": np.full(3, v % 2, np.bool_),
        "half": np.full((5, 7), v, np.float16),
        "brain": np.full(11, v, ml_dtypes.bfloat16),
        "wide": [np.full((3, 2), v, np.float64), np.full(2, v, np.complex128)],
        "none": np.zeros((0, 4)),
        "number": np.array(v, np.int64),
        "large": np.full(1_000_001, v, np.float32),
    },
    "torch": lambda v: {
        "flag": torch.full((3,), bool(v % 2)),
        "half": torch.full((5, 7), float(v), dtype=torch.float16),
        "brain": torch.full((11,), float(v), dtype=torch.bfloat16),
        "eighth": torch.full((13,), float(v)).to(torch.float8_e4m3fn),
        "wide": (torch.full((3, 2), float(v), dtype=torch.float64), torch.full((2,), v * 1j)),
        "none": torch.zeros((0, 4)),
        "number": torch.tensor(v),
        "large": torch.full((1_000_001,), float(v)),
        "large brain": torch.full((1_000_001,), float(v), dtype=torch.bfloat16),
    },
}


def bytes_of(tree):
    snapshot = Snapshot.of_immutable(draft({"p": tree}))
    return {spec.name: data.tobytes() for spec, data in snapshot.tensors("p")}


def overwrite(tree):
    for leaf in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(leaf, (dict, list, tuple)):
            overwrite(leaf)
        else:
            leaf[...] = 0


def pool_of(tree):
    host = LoopHost(get_state=lambda: tree, set_state=lambda _: None)
    return SnapshotPool(lambda: host)


@pytest.mark.parametrize("kind", MIXED)
def test_a_callbacks_copy_is_written_in_one_piece(kind, tmp_path):
    tree = MIXED[kind](3)
    expected = bytes_of(tree)
    held = pool_of(tree).take(["weights"])
    overwrite(tree)

    snapshot = Snapshot.of_immutable(draft({"weights": held.parts["weights"]}))
    region = snapshot.region("weights")
    assert region is not None and len(region) == sum(map(len, expected.values()))
    assert {spec.name: data.tobytes() for spec, data in snapshot.tensors("weights")} == expected
    with Store(tmp_path) as store:
        store.save(1, held.parts, immutable=True).result()
        assert bytes_of(store.load()["weights"]) == expected


@pytest.mark.parametrize("kind", MIXED)
def test_the_store_and_the_pool_lay_a_state_alike(kind):
    tree = MIXED[kind](5)
    taken = HostBuffers().take(draft({"weights": tree}))
    held = pool_of(tree).take(["weights"])
    kept = Snapshot.of_immutable(draft({"weights": held.parts["weights"]}))
    assert kept.layout.specs == taken.layout.specs
    assert kept.region("weights").tobytes() == taken.region("weights").tobytes()


@pytest.mark.parametrize("kind", MIXED)
def test_a_callbacks_copy_is_never_torn(kind):
    """Each copy, of several moments that are held at a time, is of its own moment."""
    tree = MIXED[kind](0)
    pool, held, was = pool_of(tree), [], []
    for value in range(1, 30):
        overwrite(tree)
        tree.update(MIXED[kind](value))
        was.append(bytes_of(tree))
        pool.is_stale = True
        held.append(pool.take(["weights"]))
        overwrite(tree)
        if len(held) == 3:  # its memory is used again
            held.pop(0).release()
            was.pop(0)
        for one, expected in zip(held, was, strict=True):
            assert bytes_of(one.parts["weights"]) == expected


def test_tensors_that_do_not_lie_in_rows_are_copied_as_they_are():
    tree = {
        "t": torch.arange(6.0).reshape(2, 3).T,
        "f": torch.zeros((1, 2, 3, 3)).to(memory_format=torch.channels_last),
        "w": torch.nn.Parameter(torch.ones(2)),
    }
    expected = {name: tensor.detach().clone() for name, tensor in tree.items()}
    held = pool_of(tree).take(["weights"])
    for name in ("t", "f", "w"):
        tree[name].detach().fill_(9)
    parts = held.parts["weights"]
    assert all(torch.equal(parts[name], expected[name]) for name in expected)
    assert parts["f"].is_contiguous(memory_format=torch.channels_last)


def test_one_piece_is_seen_only_where_there_is_one():
    memory = HostMemory()
    f4 = np.dtype("<f4")
    memory.lay(48, [(0, (4,), f4), (16, (4,), f4), (32, (4,), f4)])
    memory.take(np.full(4, v, "<f4") for v in range(3))
    a, b, c = memory.views
    piece = in_one_piece([a, np.zeros(0), b, c])
    assert piece.view("<f4").tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert in_one_piece([b, c]).nbytes == 32
    assert in_one_piece([a, c]) is None, "a hole"
    assert in_one_piece([b, a, c]) is None, "another order"
    assert in_one_piece([a[::2], b]) is None, "not in rows"
    assert in_one_piece([a.view(">f4"), b]) is None, "the other byte order"
    assert in_one_piece([np.zeros(4)]) is None, "somebody else's memory"
    whole = np.zeros(8)
    assert in_one_piece([whole[:4], whole[4:]]) is None
    assert in_one_piece([]) is None
    del memory, a, b, c
    gc.collect()
    assert piece.view("<f4")[8] == 2, "it keeps the memory that it shows"
