"""`peakhold.Run` under DistributedDataParallel, killed with SIGKILL: the same bits on every rank."""

import collections
import json
import os
import random
import re
import subprocess
import sys

import pytest

from killing import moments
from peakhold.ledger import RunFolder
from run_kills import PLACES
from run_programs import rows_of, written
from workers.forked import Ground, without_a_network

torch = pytest.importorskip("torch")
HERE = os.path.dirname(os.path.abspath(__file__))
DOCS = os.path.join(HERE, "..", "..", "docs", "how-to", "workers-torch.md")


@pytest.fixture(scope="module")
def ground():
    # What an optimizer imports when it is made first: once, and not in each worker.
    ground = Ground(["torch", "torch._dynamo", "torch.utils.data", "run_torch"], {})
    yield ground
    ground.close()


def ended_of(ground, folder, *victim):
    """Run it; by rank, how each has ended."""
    folder.mkdir(exist_ok=True)
    return ground.run("run_torch", "work", 2, [str(folder), *victim])


def finished(ended):
    """By rank, what it returned."""
    assert all(one.status == 0 and one.error is None for one in ended), ended
    return [one.result for one in ended]


@pytest.fixture(scope="module")
def unbroken(ground, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "one"
    first, second = finished(ended_of(ground, folder))
    assert {**second[0], "trained": 0} == {**first[0], "trained": 0}
    assert second[0]["trained"] != first[0]["trained"]  # batch statistics are each rank's own
    return [first, second], written(folder / "run")


def check_it_ends_as(unbroken, folder, results):
    for (told, _), (whole, _) in zip(results, unbroken[0], strict=True):
        assert told == whole
    assert written(folder / "run") == unbroken[1]


def command_of_the_docs():
    """How the page has workers started again."""
    with open(DOCS) as file:
        page = file.read()
    variable, value = re.search(r"^export (\w+)=(\w+)$", page, re.MULTILINE).groups()
    command = re.search(r"^torchrun (.*) train\.py$", page, re.MULTILINE)[1]
    return {variable: value}, command.replace("-per-node=4", "-per-node=2").split()


def torchrun(folder, *victim):
    """Run the script by the documented command; by rank, what it returned."""
    folder.mkdir()
    environment, options = command_of_the_docs()
    launcher = [os.path.join(os.path.dirname(sys.executable), "torchrun"), *options]
    script = [os.path.join(HERE, "run_torch.py"), str(folder), *map(str, victim)]
    # What finds its own address by name finds none in a network of its own.
    command = without_a_network([*launcher, "--local-addr=127.0.0.1", *script])
    path = os.pathsep.join([os.path.dirname(HERE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, env={**os.environ, **environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        timeout=240, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


def test_torchrun_goes_on_inside_an_epoch_to_the_bits_of_the_unbroken_run(unbroken, tmp_path):
    folder = tmp_path / "run"
    results = torchrun(folder, 1, "batch:20")
    assert [rest["attempt"] for _, rest in results] == [1, 1]
    check_it_ends_as(unbroken, folder, results)
    ledger = [json.loads(line) for line in (folder / "run" / "events.jsonl").open()]
    assert [one["epoch"] for one in ledger if one["kind"] == "goes_on"] == [1]


def test_sigterm_to_one_process_ends_all_and_they_go_on(ground, unbroken, tmp_path):
    folder = tmp_path / "run"
    ended = ended_of(ground, folder, 1, "term:20")
    assert [one.error for one in ended] == [["SystemExit", "75"]] * 2, ended
    assert str(RunFolder(folder / "run").status()) == "interrupted"
    check_it_ends_as(unbroken, folder, finished(ended_of(ground, folder)))


def test_a_model_in_pieces_goes_on_inside_an_epoch(ground, tmp_path):
    results = ground.results("sharded_programs", "in_runs", 2, [str(tmp_path)])
    for (unbroken, n_batches), (resumed, n_again) in results:
        assert resumed == unbroken
        assert (n_batches, n_again) == (28, 10)  # behind batch 4 of epoch 3


@pytest.mark.exhaustive
@pytest.mark.parametrize("victim", [0, 1, -1])
def test_kill_9_at_20_moments_changes_nothing(ground, unbroken, tmp_path, victim):
    """Of one rank, or of both: -1."""
    where, hits, chance = collections.Counter(), 0, random.Random(f"kill {victim}")
    numbers = unbroken[0][0][1]
    for number, kill in zip(range(60), moments(chance, numbers), strict=False):
        if victim == 1 and kill.startswith("call:"):
            kill = f"batch:{chance.randint(1, 48)}"  # it writes nothing
        folder = tmp_path / str(number)
        killed = ended_of(ground, folder, victim, kill)
        statuses = [one.status for one in killed]
        hit = -9 in statuses
        if hit and RunFolder(folder / "run").status().word == "ended":
            assert written(folder / "run") == unbroken[1]  # it had all done
        elif hit:
            assert all(status != 0 for status in statuses) or victim == 1, killed
            at = (folder / f"place-0-{max(victim, 0)}").read_bytes()[0]
            where[PLACES[at]] += 1
            hits += 1
            check_it_ends_as(unbroken, folder, finished(ended_of(ground, folder)))
        else:
            check_it_ends_as(unbroken, folder, finished(killed))
        if hits == 20 and where["batch"] + where["save"] + where["evaluation"] >= 10:
            break
    print(f"\nrank {victim}: {hits} kills of {number + 1}: {dict(where)}", end="")
    assert hits >= 20
    assert where["batch"] + where["save"] + where["evaluation"] >= 10


def test_the_example(ground, tmp_path):
    example = os.path.abspath(os.path.join(HERE, "..", "..", "examples", "ddp_run.py"))
    ended = ground.run("torch_programs", "example", 2, [example, str(tmp_path)])
    assert all(one.status == 0 for one in ended), ended
    said = [[line for line in one.words.splitlines() if not line.startswith("[W")] for one in ended]
    assert said[1] == []
    rows = rows_of(tmp_path / "runs" / "ddp_run" / "metrics.csv")
    values = [float(row[rows[0].index("val_loss")]) for row in rows[1:]]
    best = min(values)
    assert said[0][-1].startswith(f"epoch {values.index(best) + 1}, val_loss {best:.4g}, ")
