"""Loops on `peakhold.Run` that are killed with SIGKILL, in processes of their own."""

import contextlib
import functools
import json
import mmap
import os
import pathlib
import signal
import time

import run_programs
from killing import armed
from peakhold import Every
from peakhold.backup.keeping import Keeping
from peakhold.ledger import RunFolder
from zygote import Zygote, environment_of

BACKEND = os.environ.get("KERAS_BACKEND", "torch")
KINDS = {"jax": ["jax"], "tensorflow": ["tape"]}.get(BACKEND, ["torch", "torch steps"])
with contextlib.suppress(ImportError):  # before the fork, and not in each victim
    if BACKEND == "torch":
        pass
    elif BACKEND == "jax":
        pass
    else:
        pass
PLACES = ["between", "batch", "evaluation", "save"]
ARGUMENTS = {"save_every": Every(batches=3)}


@functools.cache
def _zygote():
    return Zygote("run_kills", environment_of(BACKEND))


def process(folder, kind, kill=""):
    """Run a loop as a process of its own; returns its exit status."""
    status = _zygote().run(str(folder), kind, kill)
    assert status in {0, -signal.SIGKILL}, "its traceback is above"
    return status


def finished(folder):
    """What the last process of a run left, and how many calls and seconds it took."""
    result = json.loads(pathlib.Path(folder, "outcome.json").read_text())
    return result["left"], result


def place_of(folder):
    """Where the loop was when it was killed, and whether a checkpoint was being written."""
    at = PLACES[pathlib.Path(folder, "place").read_bytes()[0]]
    checkpoints = pathlib.Path(folder, "run", "checkpoints")
    writing = checkpoints.is_dir() and any(
        p.name.startswith(".tmp-") for p in checkpoints.iterdir()
    )
    return at, writing


def has_ended(folder):
    """Whether the run was over when its process was killed: there is nothing to go on with."""
    return RunFolder(pathlib.Path(folder, "run")).status().word == "ended"


class Marker:
    """A byte of a file that outlives its process: where the loop is."""

    def __init__(self, path):
        path.write_bytes(b"\0")
        with path.open("r+b") as file:
            self._byte = mmap.mmap(file.fileno(), 1)

    def __call__(self, place):
        self._byte[0] = PLACES.index(place)
        time.sleep(0.001)  # a batch of a model that is worth a checkpoint takes as long

    def during(self, place, method):
        """A method, marked as long as it runs."""

        @functools.wraps(method)
        def marked(*args, **kwargs):
            before, self._byte[0] = self._byte[0], PLACES.index(place)
            try:
                return method(*args, **kwargs)
            finally:
                self._byte[0] = before

        return marked


def main(folder, kind, kill=""):
    folder = pathlib.Path(folder)
    folder.mkdir(exist_ok=True)
    how, _, when = kill.partition(":")
    marker = Marker(folder / "place")
    Keeping._save = marker.during("save", Keeping._save)
    made = armed(how, when)
    begun = time.monotonic()
    run, trained = run_programs.LOOPS[kind](folder / "run", marker, **ARGUMENTS)
    seconds = time.monotonic() - begun
    left = run_programs.left(folder / "run", run, trained)
    left["history"] = [left["history"].epoch, left["history"].history]
    result = {"left": left, "calls": made[0], "seconds": seconds}
    (folder / "outcome.json").write_text(json.dumps(result))
