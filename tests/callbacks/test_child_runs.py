"""A policy that decides otherwise the second time is found in a process that a test has started."""

import os
import signal
import subprocess
import sys

import pytest

import child_runs

PROGRAM = """
import os
import sys
from dataclasses import dataclass

from peakhold import CallbackList
from peakhold.extend import Deciding, Event, Participating, Stop

asked = []


@dataclass(frozen=True)
class Policy:
    "Counts epochs; where it is wrong, it also counts how often it was asked."

    is_wrong: bool

    def init(self):
        return 0

    def step(self, done, moment):
        if moment.event is not Event.EPOCH_END:
            return done, ()
        asked.append(moment)
        n = len(asked) if self.is_wrong else done + 1
        return done + 1, (Stop("enough"),) if n == 4 else ()

    def learn(self, done, fact):
        return done

    def go_on(self, done):
        return done


def train(is_wrong):
    asked.clear()
    callbacks = CallbackList([Participating(Deciding(Policy(is_wrong)))], epochs=3, verbose=0)
    callbacks.on_train_begin()
    for epoch in range(3):
        callbacks.on_epoch_begin(epoch)
        callbacks.on_epoch_end(epoch, {"loss": 0.5})
    callbacks.on_train_end()
"""


def told(folder, body):
    """What a process that runs a program reports, and how it ended."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + body],
        env={**os.environ, child_runs.VARIABLE: str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return child_runs.Told(folder), done


def test_all_runs_of_a_process_are_taken_again(tmp_path):
    report, done = told(tmp_path / "told", "train(False)\ntrain(False)")

    assert done.returncode == 0, done.stderr
    assert (report.processes, report.runs, report.wrong) == (1, 2, [])
    assert report.steps >= 2 * 3


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "os._exit(1)", "os.kill(os.getpid(), 9)"])
def test_a_policy_that_decides_otherwise_is_found_however_the_process_ends(end, tmp_path):
    report, _ = told(tmp_path / "told", f"train(True)\n{end}")

    ((_, words),) = report.wrong
    assert words.startswith("1 of ") and "Stop(reason='enough'" in words


def test_so_is_one_in_a_process_that_was_forked(tmp_path):
    body = "train(False)\nif os.fork():\n    os.wait()\nelse:\n    train(True)"
    report, done = told(tmp_path / "told", body)

    assert done.returncode == 0, done.stderr
    assert (report.processes, report.runs, len(report.wrong)) == (2, 2, 1)


def test_a_process_that_was_forked_from_this_one_reports(tmp_path):
    before = child_runs.Told(os.environ[child_runs.VARIABLE]).processes
    pid = os.fork()
    if pid == 0:
        try:
            names = {}
            exec(PROGRAM + "train(False)", names)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)

    assert child_runs.Told(os.environ[child_runs.VARIABLE]).processes == before + 1


def test_nothing_of_peakhold_is_imported_for_it(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "sitecustomize" in done.stdout
    assert "peakhold" not in done.stdout
