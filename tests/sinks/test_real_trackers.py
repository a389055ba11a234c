"""The real trackers, without a network: what they have of a run that was killed and went on."""

import importlib.util
import json
import math
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import pytest

CHILD = pathlib.Path(__file__).with_name("tracked.py")
MISSING = [one for one in ("wandb", "mlflow", "trackio") if importlib.util.find_spec(one) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"pip install {' '.join(MISSING)}")


def without_a_network():
    """Where the system lets anybody have a network of their own, with nothing in it."""
    tried = ["unshare", "-rn", "true"]
    can = shutil.which("unshare") and subprocess.run(tried, capture_output=True, check=False)
    return tried[:2] if can and can.returncode == 0 else []


def child(folder, how, within=(), **environment):
    environment = {
        **os.environ, "MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true",
        "TRACKIO_DIR": str(folder / "trackio"), "HF_HUB_OFFLINE": "1", "MY_TOKEN": "correct-horse",
        "WANDB_ERROR_REPORTING": "false", "HOME": str(folder), **environment,
    }  # fmt: skip
    return subprocess.run(
        [*within, sys.executable, str(CHILD), str(folder), how],
        env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def had(tmp_path_factory):
    """What each tracker has in the end."""
    folder = tmp_path_factory.mktemp("tracked")
    for how, code in (("dies", -9), ("ends", 0)):
        done = child(folder, how, without_a_network())
        assert done.returncode == code, done.stderr[-3000:]
        assert "SaveWarning" not in done.stderr
    every_byte = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"correct-horse" not in every_byte
    return json.loads(done.stdout.splitlines()[-1])


def column(rows, name):
    return [(row["step"], row[name]) for row in rows if name in row]


def same(got, expected):
    """NaN is as good as NaN."""
    assert repr([(step, float(value)) for step, value in got]) == repr([*map(tuple, expected)])


NAN = math.nan
LOSS = [[0, 1.0], [1, 0.5], [2, 0.25], [3, NAN], [4, 0.75]]
ALL_DECISIONS = """\
epoch 1: EarlyStopping(loss): best so far: first value; \
ModelCheckpoint(loss, best.safetensors): save: better than every saved file
epoch 2: EarlyStopping(loss): best so far: better than 1; \
ModelCheckpoint(loss, best.safetensors): save: better than every saved file
epoch 3: EarlyStopping(loss): best so far: better than 0.5; \
ModelCheckpoint(loss, best.safetensors): save: trained once more
at the end: EarlyStopping(loss): restore: the best epoch
""".splitlines()


def test_wandb(had):
    runs = {one["name"].partition("-")[0]: one for one in had["wandb"] if one["exit"] is not None}
    ended, short, broken = (runs[name] for name in ("run", "short", "broken"))
    same(column(ended["rows"], "loss"), LOSS)
    assert column(ended["rows"], "updates") == [(0, 4), (1, 8), (2, 12), (3, 16), (4, 20)]
    assert ended["rows"][0]["decisions"] in ALL_DECISIONS[0]
    summary = ended["summary"]
    assert (summary["best/epoch"], summary["best/loss"]) == (2, 0.25)
    assert (summary["epoch"], summary["loss"]) == (4, 0.75)
    assert (summary["state"], summary["stopped_because"]) == ("finished", "all was run")
    assert summary["all_decisions"].splitlines() == ALL_DECISIONS
    assert (ended["exit"], ended["preempting"]) == (0, False)
    assert ended["name"] == f"run-{ended['id']}"
    config = ended["config"]
    assert (config["monitor"], config["patience"], config["dataset"]) == ("loss", 9, "digits")
    assert (config["api_key"], config["login"]) == ("***", "as ***")
    ends = [(one["summary"]["state"], one["exit"], one["preempting"]) for one in (short, broken)]
    assert ends == [("interrupted", 1, True), ("failed", 1, False)]
    assert broken["summary"]["stopped_because"] == "ValueError: the data is broken"


def test_mlflow(had):
    runs = {run["name"].partition("-")[0]: run for run in had["mlflow"]}
    assert len(had["mlflow"]) == 3  # the second start went on with the first one's
    ended = runs["run"]
    same(ended["metrics"]["loss"], LOSS)
    assert ended["metrics"]["updates"] == [[0, 4], [1, 8], [2, 12], [3, 16], [4, 20]]
    # What two starts have told differently is there twice, the later after the earlier.
    assert ended["metrics"]["start"] == [[0, 0], [1, 0], [2, 0], [2, 1], [3, 1], [4, 1]]
    assert (ended["last"]["loss"], ended["last"]["best/loss"]) == (0.75, 0.25)
    assert ended["last"]["best/epoch"] == 2
    assert ended["tags"]["peakhold.decisions"].splitlines() == ALL_DECISIONS
    assert ended["params"]["monitor"] == "loss"
    assert (ended["params"]["api_key"], ended["params"]["login"]) == ("***", "as ***")
    ends = {
        name: (
            run["status"],
            run["tags"]["peakhold.state"],
            run["tags"]["peakhold.stopped_because"],
        )
        for name, run in runs.items()
    }
    assert ends == {
        "run": ("FINISHED", "finished", "all was run"),
        "short": ("KILLED", "interrupted", "its time limit has come"),
        "broken": ("FAILED", "failed", "ValueError: the data is broken"),
    }


def test_trackio(had):
    runs = {name.partition("-")[0]: run for name, run in had["trackio"].items()}
    ended = runs["run"]
    same(column(ended["rows"], "loss"), LOSS)
    # What is there stays: of epoch 2 what the first start has told, which did not come to count.
    assert column(ended["rows"], "start") == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1)]
    assert column(ended["rows"], "best/loss")[-1] == (4, 0.25)
    assert column(ended["rows"], "best/epoch")[-1] == (4, 2)
    assert ended["config"]["monitor"] == "loss"
    assert (ended["config"]["api_key"], ended["config"]["login"]) == ("***", "as ***")
    alerts = [(one["title"], one["text"], one["level"]) for one in ended["alerts"]]
    assert alerts == [("run finished", "all was run", "info")]


def test_a_server_that_never_answers_holds_neither_training_nor_the_end_of_the_process(tmp_path):
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        done = child(tmp_path, "hangs", WANDB_BASE_URL=url, WANDB_API_KEY="a" * 40, SERVER=url)

    assert done.returncode == 0, done.stderr[-3000:]
    took = json.loads(done.stdout.splitlines()[-1])
    assert took["epochs"] == 5
    assert took["end"] < 60  # a second for all of them, and what a busy machine adds
    for tracker in ("W&B", "MLflow", "Trackio"):
        assert done.stderr.count(f"what a run tells to {tracker} was not delivered: ") == 1
    assert done.stderr.count("7 of 7 messages are lost") == 3
