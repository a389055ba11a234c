"""`production_callbacks` under `kill -9`: the same line again, and everything it left is as unbroken.

The log's bytes, what TensorBoard shows (one value a step), the best file, the epoch that training
stopped at, the record as readers see it, and the names: a killed run goes on under its own. `make test` runs a short form on
PyTorch, `make crash` ten kills on every backend.
"""

import pathlib
import random
import signal

import pytest

import keras
import resume_runs
from event_reader import multiplexed, series
from killing import moments
from peakhold.ledger import RunFolder
from sidecar_lines import entries_of


def left(folder):
    """What a run left on disk."""
    run = pathlib.Path(folder, "run")
    best = keras.models.load_model(run / "best.keras")
    entries = entries_of(run / "best.keras.peakhold.json")
    past = RunFolder(run).history()
    reader = multiplexed(run / "tensorboard")
    shown = {
        (name, tag): series(reader.GetAccumulator(name), tag)
        for name, found in reader.Runs().items()
        for tag in found["tensors"]
        if tag.startswith(("epoch_", "evaluation_"))
    }
    return {
        "names": sorted(path.name for path in run.iterdir()),
        "log": (run / "metrics.csv").read_bytes(),
        "record": resume_runs.record_of(run),
        "history": [past.epoch, past.history],
        "status": str(RunFolder(run).status()),
        "best": resume_runs.digest(best.get_weights()),
        "best epoch": entries["best.keras"][0]["epoch"],
        "shown": shown,
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an unbroken run leaves and says, and its calls and seconds."""
    folder = tmp_path_factory.mktemp("whole")
    assert resume_runs.process(folder, "production", 1) == 0
    said, numbers = resume_runs.finished(folder)
    return left(folder), said, numbers


def is_over(folder):
    """Whether the run had ended and its backup was gone: the same line would begin run 2."""
    run = folder / "run"
    if RunFolder(run).status().word == "ended":
        return True
    return (run / "metrics.csv").exists() and not any(run.glob("checkpoints/step-*"))


def kill_and_finish(folder, whole, moments):
    """Kill a run at each moment, let it end, and compare; returns how many kills hit it."""
    folder.mkdir()
    n_hits, over = 0, False
    for moment in moments:
        status = resume_runs.process(folder, "production", 1, moment)
        n_hits += status == -signal.SIGKILL
        over = status == 0 or is_over(folder)
        if over:
            break
    if not over:
        assert resume_runs.process(folder, "production", 1) == 0
    on_disk, said, _ = whole
    found = left(folder)
    if not (folder / "outcome.json").exists():  # killed after its last epoch's commit was deleted
        found["names"] = [
            name
            for name in found["names"]
            if name == ".lock" or not name.startswith((".", "checkpoints"))
        ]
    assert found == on_disk, f"killed at {moments}"
    if (folder / "outcome.json").exists():
        assert resume_runs.finished(folder)[0] == said, f"killed at {moments}"
    return n_hits


def run(folder, whole, n, seed):
    """Kill until so many have hit: a run that ends before its moment is compared, and not counted."""
    n_hits, places = 0, moments(random.Random(seed), whole[2])
    for number in range(3 * n):
        n_hits += kill_and_finish(folder / str(number), whole, [next(places)])
        if n_hits == n:
            break
    print(f"\n{resume_runs.BACKEND}: {n_hits} of {number + 1} kills hit", end="")
    assert n_hits == n


def test_the_unbroken_run_is_worth_comparing_with(whole):
    on_disk, said, _ = whole

    assert said["stopped"][:2] == [8, 2]
    assert on_disk["names"] == [
        ".lock", "best.keras", "best.keras.peakhold.json", "events.jsonl", "heartbeat", "metrics.csv",
        "run.json", "tensorboard",
    ]  # fmt: skip
    assert on_disk["status"].startswith("ended: val_loss: no improvement for 6 epochs")
    assert on_disk["history"][0] == list(range(9))
    assert {moment["event"] for moment, _ in on_disk["record"]} >= {
        "on_train_begin",
        "on_train_end",
    }
    assert any("EarlyStopping(val_loss)" in decided for _, decided in on_disk["record"])
    assert on_disk["log"].count(b"\n") == 10
    assert on_disk["best epoch"] in {2, 3}
    steps = [step for step, _ in on_disk["shown"]["train", "epoch_loss"]]
    assert steps == list(range(9))
    assert ("validation", "epoch_loss") in on_disk["shown"]


def test_kill_9_changes_nothing(tmp_path, whole):
    run(tmp_path, whole, 2, seed=1)


def test_two_kills_in_a_row_change_nothing(tmp_path, whole):
    calls = whole[2]["calls"]

    assert (
        kill_and_finish(tmp_path / "run", whole, [f"call:{calls // 2}", f"call:{calls // 6}"]) == 2
    )


@pytest.mark.exhaustive
def test_kill_9_at_10_moments_changes_nothing(tmp_path, whole):
    run(tmp_path, whole, 10, seed=2)
