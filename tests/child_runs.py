"""Runs in processes that tests start are taken again by their policies, too, as `replaying.py` does.

Rules of this file:

1. A child finds it by its environment alone: `PYTHONPATH` leads to a `sitecustomize` that loads this
   file, and a variable says into which folder to report. Nothing of Peakhold is imported for it:
   some tests look at what an import loads.
2. Most children of the crash tests are killed, at any moment. So each step is taken again as soon as
   it is told, and what came of it stands in a page of a file that is mapped into memory: it is there
   whatever becomes of the process, and costs no call to the system, which some tests count.
3. A process that is forked, from such a child or from pytest itself, reports into a file of its own.
"""

import functools
import importlib.util
import mmap
import os
import struct
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
VARIABLE = "PEAKHOLD_TEST_RUNS"
LISTENING = "peakhold.runtime.listening"

_SIZE = 4096
_HEAD = struct.Struct("3q")  # runs, steps, steps that were wrong; then words about the first


# In the child


class Report:
    """A listener that takes each step again, and keeps count where a kill leaves it.

    Args:
        folder: Where the files are.
    """

    def __init__(self, folder):
        self._folder, self._context = folder, None
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self):
        self._replay = self._page = None
        self._runs = set()

    def listen(self):
        """Be told of every moment from now on, as long as the process lives."""
        if self._context is None:
            self._context = sys.modules[LISTENING].listening(self)
            self._context.__enter__()

    def __call__(self, told):
        if self._page is None:
            self._replay = _load("replaying").Replay()
            self._page = _new_page(self._folder)
        self._replay(told)
        self._runs.add(told.run_id)
        wrong = self._replay.wrong
        if wrong:
            words = repr(wrong[0]).encode()[: _SIZE - _HEAD.size]
            self._page[_HEAD.size : _HEAD.size + len(words)] = words
        _HEAD.pack_into(self._page, 0, len(self._runs), self._replay.steps, len(wrong))


def _new_page(folder):
    path = os.path.join(folder, f"{os.getpid()}-{time.monotonic_ns()}")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        os.ftruncate(descriptor, _SIZE)
        return mmap.mmap(descriptor, _SIZE)
    finally:
        os.close(descriptor)


def _load(name):
    """A module beside this one, which is on no path of a child."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, os.path.join(HERE, f"{name}.py"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


class _OnceImported:
    """Has a report listen as soon as there is something to listen to."""

    def __init__(self, report):
        self._report = report

    def find_spec(self, name, path=None, target=None):
        if name != LISTENING:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def and_listen(module):
            execute(module)
            self._report.listen()

        spec.loader.exec_module = and_listen
        return spec


def listen_once_imported(folder):
    """In a process that begins: listen to all of its runs."""
    sys.meta_path.insert(0, _OnceImported(Report(folder)))


# In pytest


@functools.cache  # `conftest.py`, which asks, is imported under two names
def prepare():
    """Have children of this process report; returns the folder."""
    import tempfile  # not for children

    folder = tempfile.mkdtemp(prefix="peakhold-child-runs-")
    paths = [os.path.join(HERE, "children"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ.update({"PYTHONPATH": os.pathsep.join(paths), VARIABLE: folder})
    report = Report(folder)
    os.register_at_fork(after_in_child=lambda: LISTENING in sys.modules and report.listen())
    return folder


class Told:
    """What the children of a folder have reported so far."""

    def __init__(self, folder):
        self.runs = self.steps = self.processes = 0
        self.wrong = []
        for entry in os.scandir(folder):
            with open(entry, "rb") as file:
                page = file.read()
            if len(page) < _SIZE:  # killed as it made the file
                continue
            runs, steps, n_wrong = _HEAD.unpack_from(page)
            self.processes += 1
            self.runs += runs
            self.steps += steps
            if n_wrong:
                words = page[_HEAD.size :].rstrip(b"\0").decode(errors="replace")
                self.wrong.append(
                    (entry.path, f"{n_wrong} of {steps} steps decided otherwise: {words}")
                )
