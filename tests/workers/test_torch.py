"""Several workers on PyTorch: real processes, joined by gloo over loopback."""

import csv
import os

import numpy as np
import pytest
from safetensors.numpy import load_file

from workers.forked import Ground

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def ground():
    ground = Ground(["torch", "torch_programs"], {})
    yield ground
    ground.close()


def test_the_store_of_a_group_is_where_it_is_looked_for():
    from torch.distributed import distributed_c10d

    assert callable(distributed_c10d._get_default_store)
    assert all(callable(getattr(torch.distributed.Store, name)) for name in ("clone", "check"))


def test_every_kind_of_store_serves_and_a_group_made_anew_begins_anew(ground, tmp_path):
    ended = ground.run("torch_programs", "stores", arguments=[str(tmp_path)])
    assert all(one.status == 0 for one in ended), ended
    found = [dict(one.result) for one in ended]
    assert found[0] == found[1]
    assert set(found[0].values()) == {2 / 3}
    assert len(found[0]) == 4
    for one in ended:  # a wait in vain is no news
        assert "timed out" not in one.words


def said(ended):
    """What a worker has printed, without what torch says of the network."""
    lines = ended.words.splitlines()
    return "\n".join(line for line in lines if not line.startswith("[W"))


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("size", [2, 4])
def test_a_plain_loop_with_ddp(ground, tmp_path, size):
    ended = ground.run("torch_programs", "train", size, [str(tmp_path)])
    assert all(one.status == 0 for one in ended), ended
    first, *others = results = [one.result for one in ended]

    # one decision: the same epochs, the same best, the same weights, whatever each has measured
    for other in others:
        assert other["seen"] == first["seen"]
        assert other["weights"] == first["weights"]
        assert other["rate"] == first["rate"]
        assert [after for _, after in other["shown"]] == [after for _, after in first["shown"]]
    own = [[own["val_loss"] for own, _ in each["shown"]] for each in results]
    after = [after["val_loss"] for _, after in first["shown"]]
    weights = [16 + 8 * rank for rank in range(size)]
    np.testing.assert_allclose(after, np.average(own, axis=0, weights=weights))
    best, best_epoch, *_ = first["seen"]["stopping"]
    assert best == min(after) == after[best_epoch]
    assert len({min(one) for one in own} | {best}) == size + 1  # none of them would do alone

    # one file, one table
    assert sorted(os.listdir(tmp_path)) == ["best.safetensors", "best.safetensors.peakhold.json",
                                            "log.csv"]  # fmt: skip
    file = load_file(tmp_path / "best.safetensors")
    assert {name: array.tolist() for name, array in file.items()} == first["weights"]
    rows = rows_of(tmp_path / "log.csv")
    assert [int(row["epoch"]) for row in rows] == list(range(len(after)))
    assert [float(row["val_loss"]) for row in rows] == after

    # one voice
    assert said(ended[0]).count("Peakhold: training ended after epoch") == 1
    assert [said(one) for one in ended[1:]] == [""] * (size - 1)
