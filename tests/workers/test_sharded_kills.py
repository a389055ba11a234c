"""`kill -9` of one of four workers while it saves its pieces: two go on from the last whole step.

A victim dies before one of the calls that change the disk, or so many seconds after an epoch's end.
The step that a run goes on from is the newest that all four have whole, and its state is that of the
unbroken run, bit for bit. `make test` kills twice; `make crash` before each call of a save and at
random, at least 20 times, and says how many of the kills have hit the save.
"""

import os
import random
import shutil

import pytest

from peakhold.store import Reader
from workers.forked import Ground
from workers.test_sharded import shared

pytest.importorskip("torch")

SIZE, EPOCH = 4, 3
SECONDS = 0.1
"""After an epoch; its save is over by then, mostly."""


@pytest.fixture(scope="module")
def ground():
    ground = Ground(["torch", "torch.distributed.fsdp", "sharded_programs"], {})
    yield ground
    ground.close()


@pytest.fixture(scope="module")
def unbroken(ground, tmp_path_factory):
    """By rank, its states; and the calls of its save, by name."""
    folder = str(tmp_path_factory.mktemp("unbroken"))
    results = ground.results(
        "sharded_programs", "killed_in_a_save", SIZE, [folder, -1, EPOCH, None]
    )
    return [states for _, states, _ in results]


def folder_of(backup, rank):
    return backup / f"rank-{rank}" if rank else backup


def newest_of_all(backup):
    """The newest step that all have."""
    steps = [
        {entry.step for entry in Reader(folder_of(backup, rank)).list()} for rank in range(SIZE)
    ]
    return max(set.intersection(*steps))


def kill_and_go_on(ground, unbroken, folder, victim, when, *, also_four=False):
    """Whether the kill has hit the save: its folder is there, hidden, or its step on some only."""
    folder.mkdir()
    ended = ground.run(
        "sharded_programs", "killed_in_a_save", SIZE, [str(folder), victim, EPOCH, when]
    )
    if isinstance(when, float) and not any(one.status for one in ended):
        return False  # the run was over before
    assert ended[victim].status == -9, ended
    assert all(one.status == 1 for one in ended if one.rank != victim), ended
    backup = folder / "backup"
    step = newest_of_all(backup)
    hidden = [name for name in os.listdir(folder_of(backup, victim)) if name.startswith(".tmp-")]
    four = folder.with_name(folder.name + "-four")
    if also_four:
        shutil.copytree(folder, four)

    results = ground.results("sharded_programs", "train", 2, [str(folder)])
    for began, states, best in results:
        assert began == step
        assert shared(states[f"before {began}"]) == shared(unbroken[0][f"before {began}"])
        assert best[1] == 2
    assert not backup.exists()
    if also_four:
        for whole, (began, states, _) in zip(
            unbroken, ground.results("sharded_programs", "train", SIZE, [str(four)]), strict=True
        ):
            assert began == step
            assert all(state == whole[moment] for moment, state in states.items())
    return bool(hidden) or step == EPOCH


def test_a_worker_that_dies_in_its_save_costs_no_step(ground, unbroken, tmp_path):
    """Before its checkpoint gets its name, and as its first file is written."""
    calls = unbroken[-1]["calls"]
    renamed = calls.index("rename") + 1

    assert kill_and_go_on(ground, unbroken, tmp_path / "a", SIZE - 1, renamed, also_four=True)
    assert kill_and_go_on(ground, unbroken, tmp_path / "b", 1, calls.index("write") + 1)


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)  # some ten seconds for each kill
def test_a_worker_that_dies_at_any_moment_of_its_save_costs_no_step(ground, unbroken, tmp_path):
    rng, calls = random.Random(1), unbroken[-1]["calls"]
    kills = [(SIZE - 1, number) for number in range(1, calls.index("rename") + 3)]
    n_steps, n_before = len(kills), calls.index("rename") + 1
    while len(kills) < max(20, n_steps + 8):
        victim = rng.randrange(SIZE)
        kills.append((victim, rng.randint(1, len(calls))))
        kills.append((victim, rng.uniform(0.001, SECONDS)))
    n_hits = 0
    for number, (victim, when) in enumerate(kills):
        folder = tmp_path / str(number)
        hit = kill_and_go_on(ground, unbroken, folder, victim, when, also_four=number % 5 == 0)
        n_hits += hit
        shutil.rmtree(folder)
    print(
        f"\n{len(kills)} kills of one of {SIZE} workers in a sharded save, {n_steps} before its calls "
        f"in turn ({', '.join(calls[:n_steps])}); {n_hits} hit the save"
    )
    assert n_hits >= n_before
