"""The script for Slurm, with stand-ins for Slurm's commands that do what it relies on."""

import os
import signal
import subprocess
import sys
import time

import pytest

import containers
from deploy.example_runs import ARGUMENTS, TRAIN, left, n_epochs

SCRIPT = containers.ROOT / "deploy" / "slurm.sh"


STAND_INS = {
    "srun": 'echo $$ > step; exec "$@"',
    "scancel": 'test "$2" = 7 && kill -s "${1#--signal=}" "$(cat step)"',
    "scontrol": 'echo "$@" >> asked',
}


class Queue:
    """Jobs of one number, and how often they were put in the queue again."""

    def __init__(self, folder):
        self._folder = folder
        for name, body in STAND_INS.items():
            (folder / name).write_text(f"#!/bin/sh\n{body}\n")
            (folder / name).chmod(0o755)

    def start(self, *command, **variables):
        path = f"{self._folder}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "SLURM_JOB_ID": "7", "OMP_NUM_THREADS": "1"}
        environment |= variables
        return subprocess.Popen(
            ["bash", SCRIPT, *map(str, command)], env=environment, cwd=self._folder,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    @property
    def asked(self):
        path = self._folder / "asked"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def queue(tmp_path):
    folder = tmp_path / "queue"
    folder.mkdir()
    return Queue(folder)


def until(job, condition):
    while not condition() and job.poll() is None:
        time.sleep(0.002)


def test_the_time_of_a_job_is_over_and_the_next_one_goes_on(queue, outside, runs):
    command = ["python", TRAIN, "--folder", runs / "example", *ARGUMENTS]
    job = queue.start(*command)
    until(job, lambda: n_epochs(runs) >= 1)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(60) == 75
    assert queue.asked == ["requeue 7"]

    assert queue.start(*command).wait(120) == 0
    assert queue.asked == ["requeue 7"], "a run that has ended is over"
    assert left(runs) == outside


WAITS = "trap 'exit {code}' {name}; touch trains; while :; do sleep 0.01; done"


@pytest.mark.parametrize(
    ("stop_signal", "training", "code", "asked"),
    [
        ("USR1", WAITS.format(name="USR1", code=75), 75, ["requeue 7"]),
        ("USR1", "touch trains; exec sleep 60", 138, ["requeue 7"]),
        ("TERM", "touch trains; exec sleep 60", 143, ["requeue 7"]),
        ("USR1", WAITS.format(name="USR1", code=1), 1, []),
        ("USR1", WAITS.format(name="USR1", code=0), 0, []),
    ],
    ids=["saved", "before training", "fit", "failed", "has just ended"],
)
def test_what_is_put_in_the_queue_again(queue, tmp_path, stop_signal, training, code, asked):
    job = queue.start("sh", "-c", training, STOP_SIGNAL=stop_signal)
    until(job, lambda: (tmp_path / "queue" / "trains").exists())
    job.send_signal(signal.SIGUSR1)

    assert job.wait(60) == code
    assert queue.asked == asked


def test_what_is_cancelled_saves_and_is_not_put_in_the_queue_again(queue, tmp_path):
    """Slurm sends SIGTERM to the script, and to its step."""
    job = queue.start("sh", "-c", WAITS.format(name="TERM", code=75))
    until(job, lambda: (tmp_path / "queue" / "trains").exists())
    job.send_signal(signal.SIGTERM)
    os.kill(int((tmp_path / "queue" / "step").read_text()), signal.SIGTERM)

    assert job.wait(60) == 75
    assert queue.asked == []


def test_without_a_command_it_is_train_py(queue, tmp_path):
    (tmp_path / "queue" / "train.py").write_text("raise SystemExit(3)")

    assert queue.start().wait(60) == 3
