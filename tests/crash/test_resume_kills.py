"""`kill -9` at any moment of a run that is backed up: started again, it ends as if nothing happened.

The scripted run of K-R1 and real training. A kill comes either before one of the calls that write
to the disk (so it hits saves: of the backup, of the best file, of the log), or after a random time.
`make test` runs a short form on PyTorch, `make crash` 20 kills of each kind on every backend. Each
victim is a process that `zygote.py` makes.
"""

import random
import signal

import pytest

import resume_runs
from killing import moments
from peakhold.ledger import RunFolder, read_events
from resume_runs import KINDS


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """By kind: what an unbroken run leaves, and its calls and seconds."""
    results = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        assert resume_runs.process(folder, kind, 1) == 0
        results[kind] = resume_runs.finished(folder)
    return results


def kill_and_finish(folder, kind, whole, moments):
    """Kill a run once or more, let it end, and compare; returns how many kills hit it."""
    folder.mkdir()
    n_hits = 0
    for moment in moments:
        status = resume_runs.process(folder, kind, 1, moment)
        n_hits += status == -signal.SIGKILL
        if status == 0 or was_over(folder):
            break
    else:
        assert resume_runs.process(folder, kind, 1) == 0
    expected, _ = whole[kind]
    if was_over(folder) and not (folder / "outcome.json").exists():
        assert (folder / "log.csv").read_text() == expected["csv"]
        return n_hits
    result, _ = resume_runs.finished(folder)
    wrong = {key: (result[key], expected[key]) for key in expected if result[key] != expected[key]}
    assert not wrong, f"killed at {moments}: {wrong}"
    return n_hits


def was_over(folder):
    """Whether the run had ended, and its backup was deleted: the same line then begins another."""
    backup = folder / "backup"
    begun = (folder / "log.csv").exists()
    return begun and not (backup.exists() and any(backup.glob("step-*")))


def run(folder, kind, whole, n, seed):
    """Kill until so many have hit: a run that ends before its moment is compared, and not counted."""
    rng, numbers = random.Random(seed), whole[kind][1]
    n_hits, places = 0, moments(rng, numbers)
    for number in range(3 * n):
        n_hits += kill_and_finish(folder / str(number), kind, whole, [next(places)])
        if n_hits == n:
            break
    print(f"\n{resume_runs.BACKEND}, {kind}: {n_hits} of {number + 1} kills hit", end="")
    assert n_hits == n


@pytest.mark.parametrize("kind", KINDS)
def test_kill_9_changes_nothing(tmp_path, whole, kind):
    run(tmp_path, kind, whole, 4, seed=1)


def test_two_kills_in_a_row_change_nothing(tmp_path, whole):
    _, numbers = whole["scripted"]
    moments = [f"call:{numbers['calls'] // 2}", f"call:{numbers['calls'] // 6}"]

    assert kill_and_finish(tmp_path / "run", "scripted", whole, moments) == 2


def test_sigterm_ends_the_process_as_it_would_have(tmp_path, whole):
    assert resume_runs.process(tmp_path, "real", 1, "term:5") == -signal.SIGTERM
    backups = [p.name for p in (tmp_path / "backup").iterdir() if p.name.startswith("step-")]
    # The commit under way is finished; the clean-up after it, and the next epoch's, need not be.
    assert 2 <= len(backups) <= 3
    record = RunFolder(tmp_path / "record")
    assert record.status().word == "interrupted"
    assert [*read_events(record.events)][-1]["reason"] == "SIGTERM"
    assert resume_runs.process(tmp_path, "real", 1) == 0
    assert resume_runs.finished(tmp_path)[0] == whole["real"][0]


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
def test_kill_9_at_20_moments_changes_nothing(tmp_path, whole, kind):
    run(tmp_path, kind, whole, 20, seed=2)
