"""Models that lie in pieces on several workers: FSDP2, in real processes."""

import csv
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from peakhold.host.named_file import write_whole
from peakhold.host.pieces import joined, tensor_of_pieces
from peakhold.store import Reader
from workers.forked import Ground

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def ground():
    ground = Ground(["torch", "torch.distributed.fsdp", "sharded_programs"], {})
    yield ground
    ground.close()


def shared(state):
    """What all workers have in common: statistics of batch normalization are each one's own."""
    weights, moments = state
    return {name: one for name, one in weights.items() if "running" not in name}, moments


def weights_of(state):
    return {name: np.array(value, np.float32) for name, value in state[0].items()}


@pytest.fixture(scope="module")
def unbroken(ground, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, ground.results("sharded_programs", "train", 2, [str(folder)])


@pytest.fixture(scope="module")
def interrupted(ground, tmp_path_factory):
    """A run whose last worker was killed in its fifth epoch."""
    folder = tmp_path_factory.mktemp("killed")
    ended = ground.run("sharded_programs", "train", 2, [str(folder), 4])
    assert [one.status for one in ended] == [1, -9], ended
    return folder


def test_the_best_is_kept_in_pieces_and_written_whole(unbroken):
    folder, results = unbroken
    (began, states, best), (_, other_states, other_best) = results

    assert began == 0
    for moment, state in states.items():  # `full_tensor` gives all of it to both
        assert shared(other_states[moment]) == shared(state)
    assert best == other_best
    assert best[:2] == [pytest.approx(0.405), 2]
    for of_rank in (states, other_states):  # statistics belong to the best as much
        assert of_rank["end"][0] == of_rank["after 2"][0]
    file = load_file(folder / "best.safetensors")
    wanted = weights_of(states["after 2"])
    assert file.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(file[name], array, name)
    with open(folder / "log.csv", newline="") as log:
        assert [int(row["epoch"]) for row in csv.DictReader(log)] == [0, 1, 2, 3, 4, 5]
    assert sorted(os.listdir(folder)) == [
        "best.safetensors", "best.safetensors.peakhold.json", "log.csv"
    ]  # fmt: skip


def test_as_many_workers_go_on_with_the_same_bits(ground, unbroken, interrupted, tmp_path):
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    results = ground.results("sharded_programs", "train", 2, [str(tmp_path)])

    for (began, states, best), whole in zip(results, unbroken[1], strict=True):
        assert 3 <= began <= 4  # the newest that was whole on both
        assert all(state == whole[1][moment] for moment, state in states.items())
        assert best == whole[2]
    assert not (tmp_path / "backup").exists()
    with open(tmp_path / "log.csv", newline="") as log:
        assert [int(row["epoch"]) for row in csv.DictReader(log)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("size", [1, 3])
def test_another_number_of_workers_takes_the_pieces_of_all(
    ground, unbroken, interrupted, tmp_path, size
):
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    _, (whole, _) = unbroken

    for began, states, best in ground.results("sharded_programs", "train", size, [str(tmp_path)]):
        assert 3 <= began <= 4
        assert shared(states[f"before {began}"]) == shared(whole[1][f"before {began}"])
        assert best[1] == 2
        assert shared(states["end"])[0] == shared(whole[1]["after 2"])[0]
    assert not (tmp_path / "backup").exists()


def test_pieces_are_read_without_the_framework(interrupted):
    """Each folder is a store like any other; a piece says where it lies."""
    step = Reader(interrupted / "backup" / "rank-1").list()[-1].step
    pieces = [
        Reader(folder).load(step)["weights"]["0.weight"]
        for folder in (interrupted / "backup", interrupted / "backup" / "rank-1")
    ]

    assert [piece["size"] for piece in pieces] == [[7, 8], [7, 8]]
    assert [piece["offset"] for piece in pieces] == [[0, 0], [4, 0]]
    assert [piece["values"].shape for piece in pieces] == [(4, 8), (3, 8)]


def test_a_store_keeps_a_piece_with_its_place_and_never_as_the_whole(ground, tmp_path):
    zero, one = ground.results("sharded_programs", "given_to_a_store", 2, [str(tmp_path)])

    whole = np.arange(6.0).reshape(3, 2)
    for said, (begin, end) in ((zero, (0, 2)), (one, (2, 3))):
        part, copy = said["part"], said["copy"]
        assert (part["layout"], part["size"], part["offset"]) == ("piece", [3, 2], [begin, 0])
        assert part["values"] == whole[begin:end].tolist()
        assert (copy["layout"], copy["size"], copy["offset"]) == ("piece", [3, 2], [0, 0])
        assert copy["values"] == whole.tolist()
        assert said["as an array"] == "each worker holds a piece of it; save `full_tensor()`"


def test_a_disk_that_fails_in_the_middle_keeps_nobody_waiting(ground, tmp_path):
    """The others have gone through the same collectives; the save has failed for all."""
    ended = ground.run("sharded_programs", "train", 2, [str(tmp_path), None, "fails"])

    assert all(one.status == 0 for one in ended), ended
    first, second = [one.result for one in ended]
    assert "No space left" in ended[0].words
    assert first[2] == second[2]
    assert first[2][2:] == [pytest.approx(0.405), "best.safetensors", 2]


# Without processes


def pieces_of(whole, cuts, axis=0):
    offset, pieces = 0, []
    for part in torch.tensor_split(whole, cuts, axis):
        at = [0] * whole.ndim
        at[axis] = offset
        offset += part.shape[axis]
        pieces.append({"layout": "piece", "size": list(whole.shape), "offset": at,
                       "shards": [axis], "values": part})  # fmt: skip
    return pieces


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("cuts", [[2], [1, 3], [0, 5], [5]])
def test_pieces_make_the_whole(cuts, axis):
    whole = torch.arange(35.0).reshape(7, 5)

    made = tensor_of_pieces(joined(pieces_of(whole, cuts, axis)), torch.zeros(7, 5), None)

    assert torch.equal(made, whole)


def test_a_part_that_is_missing_is_an_error():
    first, second = pieces_of(torch.arange(35.0).reshape(7, 5), [4])

    with pytest.raises(ValueError, match="got state='20 of 35 values'"):
        tensor_of_pieces(joined([first, first]), torch.zeros(7, 5), None)
    with pytest.raises(ValueError, match="load the pieces of all"):
        tensor_of_pieces(second, torch.zeros(7, 5), None)


@pytest.mark.parametrize(
    "dtype",
    ["float32", "bfloat16", "int64", "bool", "float16", "complex64", "uint8", "float8_e4m3fnuz",
     "float8_e5m2fnuz"],
)  # fmt: skip
def test_what_is_streamed_is_what_safetensors_reads(dtype, tmp_path):
    from safetensors.torch import load_file as load

    named = [
        ("a.weight", torch.ones(3, 2).to(getattr(torch, dtype))),
        ("b", torch.zeros(()).to(getattr(torch, dtype))),
        ("empty", torch.zeros(0, 4).to(getattr(torch, dtype))),
        ("turned", torch.arange(6).reshape(2, 3).to(getattr(torch, dtype)).T),
    ]
    with open(tmp_path / "m.safetensors", "wb") as file:
        write_whole(file, dict(named))

    loaded = load(tmp_path / "m.safetensors")

    assert loaded.keys() == dict(named).keys()
    bits = {"float8_e4m3fnuz": torch.uint8, "float8_e5m2fnuz": torch.uint8}.get(dtype)
    for name, tensor in named:
        kept = loaded[name]
        assert kept.dtype == tensor.dtype
        if bits is not None:  # PyTorch does not compare these
            kept, tensor = kept.view(bits), tensor.contiguous().view(bits)
        assert torch.equal(kept, tensor)


def test_names_that_coincide_and_numbers_are_all_there(tmp_path):
    from safetensors.torch import load_file as load

    tree = {"a.b": torch.ones(2), "a": {"b": torch.zeros(3)}, "steps": 7, "rate": 0.5}
    begun = []
    with open(tmp_path / "m.safetensors", "wb") as file:
        write_whole(file, tree, lambda: begun.append(file.tell()))

    loaded = load(tmp_path / "m.safetensors")

    assert begun == [0]
    assert {name: one.tolist() for name, one in loaded.items()} == {
        "a.b": [1, 1], "a.b#2": [0, 0, 0], "steps": 7, "rate": 0.5
    }  # fmt: skip


def test_what_no_file_holds_is_told_before_anybody_gathers(tmp_path):
    begun = []
    with open(tmp_path / "m.safetensors", "wb") as file, pytest.raises(TypeError, match="word"):
        write_whole(file, {"a": torch.ones(2), "word": "text"}, lambda: begun.append(1))

    assert begun == []


def test_what_is_private_of_torch_is_there():
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    assert callable(DTensor.__create_chunk_list__)
    assert callable(compute_local_shape_and_global_offset)
