"""What becomes of the others, in real processes, when one is killed, sleeps, raises or is told to end.

Each ends or goes on as it is written, names the rank, and no process is left behind.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from peakhold.store import Reader

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.torch_is_enough("processes of torch"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked"),
]
PROGRAM = Path(__file__).with_name("fates.py")
KILLED, TERMINATED, INTERRUPTED = -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT


def in_a_network_of_its_own(command):
    """The command, where only loopback can be reached, if the machine allows that."""
    for unshare in (["unshare", "-n"], ["unshare", "-rn"]):
        try:
            subprocess.run([*unshare, "ip", "link", "set", "lo", "up"], check=True, timeout=20)
        except (OSError, subprocess.SubprocessError):
            continue
        return [*unshare, "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]
    return command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fates")


@pytest.fixture(scope="module")
def fates(folder):
    """How all scenarios came out, by name; torch is imported once."""
    names = [name for name in FATES if name != "ctrl_c_in_fit"]
    command = [sys.executable, str(PROGRAM), str(folder), *names, "ctrl_c_in_fit"]
    done = subprocess.run(
        in_a_network_of_its_own(command), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    found = map(json.loads, done.stdout.splitlines())
    return {one["name"]: one for one in found}


LOST = "expected 2 workers, got rank 1, which is gone: its process has ended"
FATES = {
    # how each process ended; what rank 0 said
    "killed_in_a_batch": ([1, KILLED], ["RuntimeError", "gloo"]),
    "killed_before_an_exchange": ([1, KILLED], ["WorkerLostError", LOST]),
    "killed_in_a_save": ([KILLED, 1], []),
    "killed_in_the_handshake": ([1, KILLED], ["WorkerLostError", LOST]),
    "never_begins": ([1, 1], ["expected all 2 workers to begin a run within 2 s", "of rank 1"]),
    "sleeps": (
        [1, KILLED],
        ["WorkersTimeoutError: expected rank 1 (", "; silent for ", "at the end of epoch 2 (Early"],
    ),
    "sleeps_in_a_batch": (
        [1, KILLED],
        ["Peakhold: rank 1 gives no sign of life (last seen ", "; silent for 1 s). Rank 0, "],
    ),
    "raises_in_its_loop": (
        [1, 1],
        ["WorkerFailedError: rank 1 ended with ValueError: the user's own"],
    ),
    "raises_in_a_callback": (
        [1, 1],
        ["WorkerFailedError: rank 1 ended with ValueError: the callback's own"],
    ),
    "ends_early": ([1, 1], ["WorkersDifferError", "rank 1 at the end of training, after epoch 2"]),
    "has_fewer_batches": ([1, 1], ["RuntimeError", "gloo"]),
    "differs": ([1, 1], ["WorkersDifferError", "on rank 0, and 3 on rank 1"]),
    "ctrl_c_on_one": ([INTERRUPTED] * 3, ["KeyboardInterrupt"]),
    "sigterm_to_one": ([TERMINATED] * 2, []),
    "sigterm_to_all": ([TERMINATED] * 2, []),
    "sigterm_while_one_is_gone": (
        [TERMINATED, KILLED, TERMINATED],
        ["Peakhold: SIGTERM, and rank 1 is gone", "The newest backup is step 0 in", "gone', the b"],
    ),
    "ctrl_c_in_fit": ([INTERRUPTED] * 2, ["KeyboardInterrupt"]),
}


@pytest.mark.parametrize("name", FATES)
def test_each_ends_as_it_is_written_and_rank_0_says_why(fates, name):
    ended, words = FATES[name]

    assert fates[name]["ended"] == ended
    for word in words:
        assert word in fates[name]["said"][0]


def test_of_a_group_that_is_gone_with_rank_0_the_others_say_so(fates):
    said = fates["killed_in_a_save"]["said"][1]

    assert "WorkerLostError: expected the group of workers, got no connection to it" in said


def test_whoever_has_fewer_batches_names_the_one_that_is_still_in_one(fates):
    said = fates["has_fewer_batches"]["said"][1]

    assert "Peakhold: waiting for rank 0 (" in said
    assert "rank 1 is at the end of epoch 1 (EarlyStopping(loss))" in said
    assert "WorkerFailedError: rank 0 ended with RuntimeError: " in said


@pytest.mark.parametrize(
    "name", ["ctrl_c_on_one", "sigterm_to_one", "sigterm_to_all", "ctrl_c_in_fit"]
)
def test_whoever_is_told_to_end_all_end_after_the_same_batch(fates, name):
    done = fates[name]["done"]

    assert done == [done[0]] * len(done)
    assert int(done[0][1]) > 20


def test_where_sigterm_came_there_is_a_backup_of_that_batch(fates, folder):
    n_batches = int(fates["sigterm_to_one"]["done"][0][1])

    backup = Reader(folder / "one").load("latest")

    assert backup.entry.reason == f"batch {n_batches} of epoch 1"
    assert float(backup["weights"]["weight"][0, 0]) == n_batches


def test_sigterm_while_one_is_gone_ends_the_others_within_5_seconds(fates):
    assert fates["sigterm_while_one_is_gone"]["seconds"] < 5
