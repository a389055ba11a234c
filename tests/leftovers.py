"""What must not outlive a run: threads, open files, locks, temporary files. And a held writer.

The writer thread is held by a job of the test's own wherever a save must be under way.
"""

import contextlib
import fcntl
import os
import threading

from peakhold.checkpoint_files import queue as checkpoint_queue
from peakhold.files import background

TEMPORARY = ("peakhold-", ".tmp-")
"""In names of what is not there yet, or not gone yet."""


class Hold:
    """Keeps the writer thread busy from `close` to `open`."""

    def __init__(self):
        self.gate = None

    def close(self):
        if self.gate is None:
            gate, busy = threading.Event(), threading.Event()
            background.submit(lambda: (busy.set(), gate.wait(60)))
            assert busy.wait(60)
            self.gate = gate

    def open(self, *_):
        if self.gate is not None:
            self.gate.set()
            self.gate = None


def descriptors(folder):
    """Files under a folder that this process has open."""
    found, numbers = [], "/proc/self/fd"
    for number in os.listdir(numbers) if os.path.isdir(numbers) else ():
        with contextlib.suppress(FileNotFoundError):
            path = os.readlink(f"{numbers}/{number}")
            if path.startswith(str(folder)):
                found.append(path)
    return found


def locked(folder):
    """Files in it that some process has locked."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    found.append(str(path))
    return found


def check_nothing_is_left(folder):
    """No thread, no open file, no lock and no temporary file, once the writer has nothing to do."""
    background.drain()
    assert not checkpoint_queue._under_way
    # One that Ctrl-C met in its first lines is dead, and listed by Python for ever.
    alive = [t.name for t in threading.enumerate() if t.is_alive()]
    assert [name for name in alive if name.startswith("peakhold")] == []
    assert [p for p in folder.rglob("*") if any(word in p.name for word in TEMPORARY)] == []
    assert descriptors(folder) == []
    assert locked(folder) == []
