"""`kill -9` inside an epoch of `fit`: started again, the run ends with the bits of the unbroken one.

Real training with a backup after every fifth batch. `make test` runs a short form on PyTorch, `make
crash` 20 kills on every backend: half of them after a batch, which are all inside epochs, half
before a call to the disk or at any time. A resumed process has another seed, where the framework's
own order does not hang on it.
"""

import random
import signal

import pytest

import resume_runs
from peakhold.errors import StoreError
from peakhold.store import Reader
from resume_runs import WITHIN

N_BATCHES = 12 * 12


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an unbroken run leaves, and its calls and seconds."""
    folder = tmp_path_factory.mktemp("whole")
    assert resume_runs.process(folder, WITHIN, 1) == 0
    return resume_runs.finished(folder)


def kill_and_finish(folder, whole, *moments):
    """Kill a run, one process after the other, let it end, and compare.

    Returns:
        How many kills hit, and how many of them left a place inside an epoch.
    """
    folder.mkdir()
    n_hits = n_within = 0
    for moment in moments:
        if resume_runs.process(folder, WITHIN, seed_for(folder), moment) != -signal.SIGKILL:
            break
        n_hits += 1
        n_within += newest(folder).get("batch") is not None
    else:
        if was_over(folder):
            return n_hits, n_within
        assert resume_runs.process(folder, WITHIN, seed_for(folder)) == 0
    result, expected = resume_runs.finished(folder)[0], whole[0]
    wrong = {key: (result[key], expected[key]) for key in expected if result[key] != expected[key]}
    assert not wrong, f"killed at {moments}: {wrong}"
    return n_hits, n_within


def seed_for(folder):
    """A run that begins anew needs the seed that it had; one that goes on brings its own back."""
    return 1 if newest(folder).get("begins", True) else 9


def newest(folder):
    """The state of the newest backup; empty if there is none."""
    try:
        reader = Reader(folder / "backup")
        latest = reader.latest
        return {} if latest is None else reader.load(latest.step, ["train_state"])["train_state"]
    except (OSError, StoreError):
        return {}


def was_over(folder):
    """Whether the backup was deleted already: the same line then begins another run."""
    backup = folder / "backup"
    return (folder / "log.csv").exists() and not any(backup.glob("step-*"))


def test_kill_9_inside_an_epoch_changes_nothing(tmp_path, whole):
    assert kill_and_finish(tmp_path / "first", whole, "batch:8") == (1, 1)
    assert kill_and_finish(tmp_path / "twice", whole, "batch:45", "batch:20") == (2, 2)
    time = random.Random(3).uniform(0.2, 0.8) * whole[1]["seconds"]
    kill_and_finish(tmp_path / "any", whole, f"time:{time:.4f}")


@pytest.mark.exhaustive
def test_kill_9_at_20_moments_inside_epochs_changes_nothing(tmp_path, whole):
    rng = random.Random(4)
    anytime = resume_runs.moments(rng, whole[1])
    n_hits = n_within = 0
    for number in range(60):
        inside = f"batch:{rng.randint(6, N_BATCHES - 1)}"
        hit, within = kill_and_finish(
            tmp_path / str(number), whole, inside if number % 2 else next(anytime)
        )
        n_hits, n_within = n_hits + hit, n_within + within
        if n_hits == 20:
            break
    print(f"\n{resume_runs.BACKEND}: {n_hits} of {number + 1} kills hit, {n_within} inside", end="")
    assert n_hits == 20
    assert n_within >= 10
