"""A run that is killed with SIGKILL, at any moment, ends with the bits that it would have had."""

import collections
import random

import pytest

import run_kills
from killing import moments


@pytest.fixture(scope="module", params=run_kills.KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def unbroken(kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "one"
    assert run_kills.process(folder, kind) == 0
    return run_kills.finished(folder)


def kill_and_go_on(folder, kind, unbroken, kill):
    """Kill a run once, and start it again; where it was, None if it had ended before."""
    left, _ = unbroken
    hit = run_kills.process(folder, kind, kill) != 0
    if hit and run_kills.has_ended(folder):
        return None
    place = run_kills.place_of(folder) if hit else None
    if hit:
        assert run_kills.process(folder, kind) == 0
    assert run_kills.finished(folder)[0] == left
    return place


def run(tmp_path, kind, unbroken, n, seed, inside=0):
    """Kill `n` times, or until as many have come inside of epochs."""
    where, hits, within = collections.Counter(), 0, 0
    places = moments(random.Random(seed), unbroken[1])
    for number, kill in zip(range(3 * n), places, strict=False):
        place = kill_and_go_on(tmp_path / str(number), kind, unbroken, kill)
        if place is not None:
            hits += 1
            where[place[0]] += 1
            where["while a checkpoint was written"] += place[1]
            within = where["batch"] + where["save"] + where["evaluation"]
        if hits >= n and within >= inside:
            break
    print(f"\n{kind}: {hits} kills of {number + 1}: {dict(where)}", end="")
    assert hits >= n
    assert within >= inside


def test_kill_9_changes_nothing(tmp_path, kind, unbroken):
    run(tmp_path, kind, unbroken, 2, seed=1)


def test_killed_again_and_again(tmp_path, kind, unbroken):
    calls = unbroken[1]["calls"]
    killed = 0
    for _ in range(8):
        if run_kills.process(tmp_path / "run", kind, f"call:{max(20, calls // 4)}") == 0:
            break
        killed += 1
    else:
        assert run_kills.process(tmp_path / "run", kind) == 0
    assert killed > 1
    assert run_kills.finished(tmp_path / "run")[0] == unbroken[0]


@pytest.mark.exhaustive
def test_kill_9_at_20_moments_changes_nothing(tmp_path, kind, unbroken):
    run(tmp_path, kind, unbroken, 20, seed=2, inside=10)
