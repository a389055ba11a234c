"""Several workers on PyTorch: real processes, joined by gloo over loopback."""

import csv
import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from workers.forked import Ground, without_a_network

torch = pytest.importorskip("torch")

HERE = os.path.dirname(os.path.abspath(__file__))


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


def test_the_example_for_ddp(ground, tmp_path):
    example = os.path.join(HERE, "..", "..", "examples", "ddp.py")
    ended = ground.run("torch_programs", "example", 2, [os.path.abspath(example), str(tmp_path)])
    assert all(one.status == 0 for one in ended), ended
    assert said(ended[0]).count("Peakhold: best val_loss") == 1
    assert said(ended[1]) == ""
    folder = tmp_path / "runs" / "ddp"
    values = [float(row["val_loss"]) for row in rows_of(folder / "log.csv")]
    sidecar = (folder / "best.safetensors.peakhold.json").read_text()
    assert str(min(values)) in sidecar


def test_statistics_that_differ_are_said_once_and_filed_by_rank(ground, tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    unbroken.mkdir()
    broken.mkdir()
    ended = ground.run("torch_programs", "train", 2, [str(unbroken), 6, None, "rank0"])
    first, second = whole = [one.result for one in ended]
    assert first["weights"]["0.weight"] == second["weights"]["0.weight"]
    assert first["weights"]["3.running_mean"] != second["weights"]["3.running_mean"]
    assert said(ended[0]).count("3.running_mean, 3.running_var differ between workers") == 1
    assert said(ended[1]) == ""
    file = load_file(unbroken / "best.safetensors")
    assert file["3.running_mean"].tolist() == first["weights"]["3.running_mean"]

    killed = ground.run("torch_programs", "train", 2, [str(broken), 6, [1, 3, 1], "rank0"])
    assert killed[1].status == -9
    resumed = ground.results("torch_programs", "train", 2, [str(broken), 6, None, "rank0"])
    for before, after in zip(whole, resumed, strict=True):
        assert after["weights"] == before["weights"]
        assert after["shown"] == before["shown"][-len(after["shown"]) :]
        assert len(after["shown"]) < len(before["shown"])


def test_the_mean_of_statistics_is_in_the_file_and_in_every_model(ground, tmp_path):
    ended = ground.run("torch_programs", "train", 2, [str(tmp_path), 5, None, "mean"])
    first, second = [one.result for one in ended]
    assert first["weights"] == second["weights"]
    assert "differ between workers" not in ended[0].words
    file = load_file(tmp_path / "best.safetensors")
    assert {name: array.tolist() for name, array in file.items()} == first["weights"]


def test_a_run_goes_on_with_another_number_of_workers_and_says_what_that_means(ground, tmp_path):
    killed = ground.run("torch_programs", "train", 2, [str(tmp_path), 5, [0, 3, 1]])
    assert killed[0].status == -9
    ended = ground.run("torch_programs", "train", 3, [str(tmp_path), 5])
    assert all(one.status == 0 for one in ended), ended
    first, *others = [one.result for one in ended]
    assert all(one["weights"] == first["weights"] for one in others)
    assert len(first["shown"]) in {2, 3}  # the last backup may have been under way
    assert said(ended[0]).count("the run that is resumed had 2 workers, this one has 3") == 1
    assert [row["epoch"] for row in rows_of(tmp_path / "log.csv")] == list("01234")


def test_a_full_disk_on_the_writer_is_a_failed_save_on_all(ground, tmp_path):
    for name, full in {"to the end": [2, 6], "for a while": [2, 4]}.items():
        folder = tmp_path / name
        folder.mkdir()
        ended = ground.run("torch_programs", "disk", 2, [str(folder), *full])
        assert all(one.status == 0 for one in ended), ended
        first, second = [one.result for one in ended]
        assert first["best"] == second["best"]
        assert first["files"][:2] == second["files"][:2]
        best_epoch = 1 if full[1] == 6 else 5
        assert first["files"][0] == best_epoch
        assert first["best"] == pytest.approx(1 / (1 + best_epoch) + 0.5)
        assert load_file(first["files"][1])["weight"].max() == 10 * best_epoch
        assert any("could not save epoch 3" in one for one in first["said"])
        assert not second["said"]
        # and each worker's own file is its own
        assert load_file(folder / "own-1.safetensors")["weight"].max() == 51
        assert load_file(folder / "own-0.safetensors")["weight"].max() == 10 * best_epoch
        for rank in (0, 1):
            sidecar = (folder / f"own-{rank}.safetensors.peakhold.json").read_text()
            assert f'"own-{rank}.safetensors"' in sidecar
            assert f'"own-{1 - rank}.safetensors"' not in sidecar


@pytest.fixture(scope="module")
def keras_ground():
    ground = Ground(["torch", "tensorflow", "torch_keras_programs"], {"KERAS_BACKEND": "torch"})
    yield ground
    ground.close()


def test_fit_with_synced_gradients_and_on_from_a_killed_worker(keras_ground, tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    unbroken.mkdir()
    broken.mkdir()
    first, second = keras_ground.results("torch_keras_programs", "fit", 2, [str(unbroken)])
    for name in ("history", "epochs", "weights", "seen"):
        assert first[name] == second[name]
    assert first["seen"]["stopping"][0] == min(first["history"]["val_loss"])
    assert sorted(os.listdir(unbroken)) == ["best.weights.h5", "best.weights.h5.peakhold.json",
                                            "log.csv"]  # fmt: skip
    rows = rows_of(unbroken / "log.csv")
    assert [float(row["val_loss"]) for row in rows] == first["history"]["val_loss"]

    killed = keras_ground.run("torch_keras_programs", "fit", 2, [str(broken), 12, [1, 3, 1]])
    assert killed[1].status == -9
    assert killed[0].status not in {0, -9}
    resumed = keras_ground.results("torch_keras_programs", "fit", 2, [str(broken)])
    for one in resumed:
        one["seen"]["saving"][2] = first["seen"]["saving"][2]
        assert one == first
    assert rows_of(broken / "log.csv") == rows


# Restarts by the launcher, as the docs have the command

TORCHRUN = (
    "torchrun --nproc-per-node=2 --max-restarts=3 --rdzv-backend=c10d --rdzv-endpoint=localhost:0"
)
QUIET_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def torchrun(folder, *arguments, timeout=240):
    """Run the script by the documented command; by rank, what it returned."""
    folder.mkdir()
    program, *options = TORCHRUN.split()
    launcher = [os.path.join(os.path.dirname(sys.executable), program), *options]
    script = [os.path.join(HERE, "torch_script.py"), str(folder), *map(str, arguments)]
    # What finds its own address by name finds none in a network of its own.
    command = without_a_network([*launcher, "--local-addr=127.0.0.1", *script])
    done = subprocess.run(
        command, env={**os.environ, **QUIET_STORE, "OMP_NUM_THREADS": "1"}, timeout=timeout,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    results = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]
    return results, done


@pytest.fixture(scope="module")
def unbroken(ground, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return ground.results("torch_programs", "train", 2, [str(folder), 10]), folder


def check_it_went_on(unbroken, folder, results):
    first, whole = unbroken
    for rank, one in enumerate(results):
        assert one["attempt"] == "1"
        n_again = len(one["shown"])
        assert one["shown"] == first[rank]["shown"][-n_again:]
        assert one["weights"] == first[rank]["weights"]
        assert one["seen"]["stopping"] == first[rank]["seen"]["stopping"]
        assert one["seen"]["saving"][:2] == first[rank]["seen"]["saving"][:2]
    assert (folder / "log.csv").read_bytes() == (whole / "log.csv").read_bytes()
    file = "best.safetensors"
    assert (folder / file).read_bytes() == (whole / file).read_bytes()
    left = {name for name in os.listdir(folder) if not name.startswith("rank-")}
    assert left == set(os.listdir(whole))


def test_torchrun_goes_on_from_a_killed_worker_to_the_bits_of_the_unbroken_run(unbroken, tmp_path):
    results, done = torchrun(tmp_path / "run", 10, 1, 4, 1)
    check_it_went_on(unbroken, tmp_path / "run", results)
    assert len(results[0]["shown"]) < len(unbroken[0][0]["shown"])
    assert done.stdout.count("BackupAndRestore goes on with epoch") == 1


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(10))
def test_torchrun_goes_on_from_any_kill(unbroken, tmp_path, seed):
    chance = random.Random(seed)
    victim = seed % 2, chance.randrange(8), chance.choice([0, 1, 2, *[chance.random()] * 2])
    results, _ = torchrun(tmp_path / "run", 10, *victim)
    check_it_went_on(unbroken, tmp_path / "run", results)
