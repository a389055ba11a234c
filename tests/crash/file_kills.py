"""Kill a process while `ModelCheckpoint` saves, and look at the folder as a stranger would.

The parent is warm: it has imported Keras and built the model; each victim is a fork of it. The
victim wraps the functions of `os` that commit a file and publishes where it is in one shared byte,
so that the parent can aim, and can count what it hit. Every float of a model is its *version*, so
what lies under a name tells which save it is of; what the parent asserts, it reads with stock Keras,
`json` and `xxhash`, never with the code that wrote it.
"""

import contextlib
import copy
import enum
import faulthandler
import gc
import itertools
import json
import mmap
import os
import random
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import xxhash

import keras
import peakhold.keras as ours
from sidecar_lines import entries_of

if keras.backend.backend() != "torch":
    pytest.skip("only torch survives a fork: KERAS_BACKEND=torch", allow_module_level=True)

FORMATS = (".keras", ".weights.h5", ".h5")
TEMPORARY = ".peakhold-tmp"
SECOND_LINK = ".peakhold-old"


class Phase(enum.IntEnum):
    """Where a save is; published by the victim."""

    IDLE = 0
    """No save under way."""
    OPENED = 1
    """The temporary file is there, without content."""
    WRITING = 2
    """The first write to the temporary file has returned."""
    FLUSHED = 3
    """`fsync` of the temporary file has returned."""
    RECORDING = 4
    """A temporary sidecar is there."""
    RECORDED = 5
    """The sidecar has got its name."""
    ASIDE = 6
    """What stood under the final name is being given a second one."""
    RENAMING = 7
    """The rename of the model's file is asked for."""
    RENAMED = 8
    """It has returned."""


BETWEEN = (Phase.WRITING, Phase.FLUSHED, Phase.RECORDING, Phase.RECORDED, Phase.ASIDE)
"""After the first write, before the rename."""

AIMS = (
    Phase.OPENED,
    *(Phase.WRITING,) * 3,
    *(Phase.FLUSHED,) * 2,
    *(Phase.RECORDING,) * 2,
    Phase.RECORDED,
    Phase.RENAMED,
)
"""A shot may go wide: what it hits is counted, not what it was aimed at."""


# Models


def build(units=1024):
    """About 4 MB."""
    net = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(units),
            keras.layers.Dense(units - 1),
            keras.layers.Dense(1),
        ]
    )
    # Not "mse": Keras itself cannot load an .h5 file of a model compiled with that string.
    net.compile("sgd", keras.losses.MeanSquaredError())
    return net


def set_version(net, version):
    net.set_weights([np.full(w.shape, version, w.dtype) for w in net.get_weights()])


def saver(path, **arguments):
    arguments = {"monitor": "loss", "mode": "min", "save_best_only": True, **arguments}
    lib = arguments.pop("lib", ours)
    weights_only = str(path).endswith(".weights.h5")
    return lib.ModelCheckpoint(str(path), save_weights_only=weights_only, **arguments)


def save_by_keras(net, path):
    if str(path).endswith(".weights.h5"):
        net.save_weights(path)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net.save(path)


def version_of(path, blank):
    """Load a file with stock Keras; the one number that all its weights are.

    `blank` is a model of the same shapes for files that hold weights only.
    """
    if str(path).endswith(".weights.h5"):
        set_version(blank, -1)
        blank.load_weights(path)
        net = blank
    else:
        net = keras.models.load_model(path)
    numbers = {float(value) for w in net.get_weights() for value in (w.min(), w.max())}
    assert len(numbers) == 1, f"{path} holds a mixture of {sorted(numbers)}"
    return int(numbers.pop())


# Processes


def in_child(work, *args):
    """Run in a fork; returns what it returned (JSON), or the number of the signal that ended it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _die_with(lambda: os.write(writer, json.dumps(work(*args)).encode()))
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status <= 0, "the child failed; its traceback is above"
    return json.loads(answer) if status == 0 else -status


@contextlib.contextmanager
def beside(work, *args):
    """Another process while the block runs; it does not outlive it. Yields its id."""
    pid = os.fork()
    if pid == 0:
        _die_with(lambda: work(*args))
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _die_with(work):
    """The end of a fork: never back into the test runner."""
    gc.disable()  # a collection would touch, and so copy, every page of the parent's
    faulthandler.disable()  # a segmentation fault of HDF5's is a result here, not news
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        work()
    except BaseException:  # whatever it is must not reach the runner's own frames
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


class Board:
    """What the victim publishes: the number of its save and the phase, in one byte; the times."""

    def __init__(self):
        self._save = 0
        self._shared = mmap.mmap(-1, 4096)
        self._times = memoryview(self._shared)[8 : 8 + 8 * len(Phase)].cast("Q")

    def publish(self, phase, save=None):
        self._times[phase] = time.monotonic_ns()
        self._save = self._save if save is None else save
        self._shared[0] = self._save << 4 | phase

    def clear(self):
        self._shared[:] = bytes(len(self._shared))

    def read(self):
        return self._shared[0] >> 4, Phase(self._shared[0] & 15)

    def spans(self):
        """Seconds from the last beginning of each phase to that of the next."""
        began = sorted((self._times[phase], phase) for phase in Phase if self._times[phase])
        return {
            phase: (until - since) / 1e9 for (since, phase), (until, _) in itertools.pairwise(began)
        }

    def wait(self, save, phase, pid):
        """Spin until the victim is there or beyond; False if it ended before."""
        spins = 0
        while self.read() < (save, phase):
            spins += 1
            if spins % 256 == 0 and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return False
            os.sched_yield()
        return True


class Watch:
    """In the victim: publish around the calls that commit a file.

    With `die_before`, the victim kills itself right before that call of its first save.
    """

    def __init__(self, board, folder, *, die_before=None):
        self.board, self.folder, self.die_before, self.save = board, folder, die_before, None
        self.calls = []
        """The calls of the first save, in order."""
        self._owned = set()
        self._kinds = {}
        self._os = {
            name: getattr(os, name)
            for name in ("open", "write", "fsync", "rename", "link", "unlink", "close")
        }
        for name in self._os:
            setattr(os, name, getattr(self, f"_{name}"))

    def begin(self, save):
        self.save = save
        self.board.publish(Phase.IDLE, save)

    def end(self):
        self.board.publish(Phase.IDLE, self.save + 1)
        self.save = None

    def _count(self, call):
        if self.save != 0:
            return
        if len(self.calls) == self.die_before:
            os.kill(os.getpid(), signal.SIGKILL)
        self.calls.append(call)

    def _open(self, path, *args, **kwargs):
        name = os.path.basename(path)
        adds = name.endswith(".peakhold.json") and bool(args and args[0] & os.O_APPEND)
        if self.save is None or not (adds or name.endswith(TEMPORARY)):
            return self._os["open"](path, *args, **kwargs)
        kind = "sidecar" if ".peakhold.json" in name else "model"
        self._count(f"open {kind}")
        descriptor = self._os["open"](path, *args, **kwargs)
        self._kinds[descriptor] = kind
        if kind == "sidecar":
            self.board.publish(Phase.RECORDING)
        else:
            self.board.publish(Phase.OPENED)
            self._owned.add(descriptor)
        return descriptor

    def _write(self, descriptor, data):
        kind = self._kinds.get(descriptor)
        if kind is not None:
            self._count(f"write {kind}")
        n_bytes = self._os["write"](descriptor, data)
        if kind == "model" and self.board.read()[1] is Phase.OPENED:
            self.board.publish(Phase.WRITING)
        return n_bytes

    def _close(self, descriptor):
        self._kinds.pop(descriptor, None)
        self._os["close"](descriptor)

    def _fsync(self, descriptor):
        self._count("fsync")
        self._os["fsync"](descriptor)
        if descriptor in self._owned:
            self._owned.discard(descriptor)
            self.board.publish(Phase.FLUSHED)
        elif self._kinds.get(descriptor) == "sidecar":
            self.board.publish(Phase.RECORDED)

    def _rename(self, source, target, **kwargs):
        model = ".peakhold.json" not in str(target) and not self._is_aside(kwargs["dst_dir_fd"])
        self._count(f"rename {os.path.basename(target)}")
        if self.save is not None and model:
            self.board.publish(Phase.RENAMING)
        self._os["rename"](source, target, **kwargs)
        if self.save is not None and model:
            self.board.publish(Phase.RENAMED)

    def _is_aside(self, folder):
        path = self.folder / "previous"
        return path.is_dir() and os.path.samestat(path.stat(), os.fstat(folder))

    def _link(self, source, target, **kwargs):
        self._count("link")
        if self.save is not None and not target.endswith(SECOND_LINK):
            self.board.publish(Phase.ASIDE)
        self._os["link"](source, target, **kwargs)

    def _unlink(self, path, **kwargs):
        self._count("unlink")
        self._os["unlink"](path, **kwargs)


# One folder under fire


@dataclass(frozen=True)
class Run:
    """What a victim is told to do."""

    versions: tuple[int, ...]
    start_epoch: int
    """0: a new run; above: one that goes on."""
    values: tuple[float, ...]
    worse: float | None
    """In a run that goes on: the value of a first epoch that must not be saved."""


@dataclass
class Found:
    """What lies in the folder."""

    version: int
    aside: list[int] = field(default_factory=list)
    """Versions of the files kept aside, the stranger's first."""
    leftovers: set[str] = field(default_factory=set)


STRANGER = 1
"""The version of the file that somebody else wrote under the final name."""


class Range:
    """A folder with a checkpoint in it, users' files beside it, and runs that are killed there."""

    def __init__(self, folder, suffix, net, *, seed, stranger=True, n_saves=3, background=False):
        self.folder, self.suffix, self.background = Path(folder), suffix, background
        self.net, self.blank, self.n_saves = net, keras.models.clone_model(net), n_saves
        self.path = self.folder / f"best{suffix}"
        self.random, self.board = random.Random(seed), Board()
        self.ledger = {}
        """Epoch and value by version."""
        self.hits, self.missed = Counter(), 0
        self.next_version = STRANGER + 1
        self.stranger = None
        if stranger:
            set_version(net, STRANGER)
            save_by_keras(net, self.path)
            self.stranger = self.path.read_bytes()
        self.users = {
            f"best.mine{suffix}": b"a file of the user's",
            "best.previous": b"another",
            "notes.txt": b"and one more",
            ".best.tmp": b"hidden",
            ".hidden-peakhold-tmp.txt": b"almost like ours",
        }
        for name, content in self.users.items():
            (self.folder / name).write_bytes(content)
        self._known = {}
        self.spans = {}
        """How long each phase lasts here, in seconds."""
        self.found = Found(STRANGER) if stranger else None

    def copy_to(self, folder):
        """The same folder again, elsewhere."""
        shutil.copytree(self.folder, folder)
        other = copy.copy(self)
        other.folder, other.path = Path(folder), Path(folder) / self.path.name
        other.ledger, other.hits = dict(self.ledger), Counter(self.hits)
        return other

    # Running

    def new_run(self, *, goes_on):
        versions = tuple(range(self.next_version, self.next_version + self.n_saves))
        self.next_version += self.n_saves
        known = self.ledger.get(self.found.version) if self.found else None
        level, worse, start_epoch = self.random.uniform(10, 1000), None, 0
        if goes_on:
            start_epoch = self.random.randrange(1, 500)
            if known is not None:
                level, worse = known[1] - 1e-3, known[1] + 1.0
        values = tuple(level - 1e-3 * i for i in range(self.n_saves))
        first = start_epoch + (worse is not None)
        for i, version in enumerate(versions):
            self.ledger[version] = first + i, values[i]
        return Run(versions, start_epoch, values, worse)

    def train(self, run, die_before=None):
        """In the victim: the real callback in the real list, driven as a loop drives it."""
        callback = saver(self.path, background=self.background)
        callbacks = ours.CallbackList(callback, model=self.net, epochs=1000, verbose=0)
        watch = Watch(self.board, self.folder, die_before=die_before)
        callbacks.on_train_begin()
        epoch = run.start_epoch
        if run.worse is not None:
            callbacks.on_epoch_begin(epoch)
            stands = os.stat(self.path).st_ino
            callbacks.on_epoch_end(epoch, {"loss": run.worse})
            callback.wait()
            assert os.stat(self.path).st_ino == stands, "a run that goes on saved what is worse"
            epoch += 1
        for save, (version, value) in enumerate(zip(run.versions, run.values, strict=True)):
            callbacks.on_epoch_begin(epoch)
            set_version(self.net, version)
            watch.begin(save)
            callbacks.on_epoch_end(epoch, {"loss": value})
            if self.background:  # training goes on while the file is written
                set_version(self.net, -version)
                assert callback.wait(60)
            watch.end()
            assert callback.best == value, "a save failed without a reason"
            assert callback.best_path == str(self.path)
            epoch += 1
        callbacks.on_train_end()
        return watch.calls

    def calibrate(self):
        """One run that nobody kills: how long the phases of its last save take here."""
        run = self.new_run(goes_on=False)
        in_child(self.train, run)
        self.spans = self.board.spans()
        self.check(run, self.n_saves, Phase.IDLE)

    def fire(self):
        """One victim: wait for a phase of one of its saves, then as long as that lasts at most."""
        run = self.new_run(goes_on=self.random.random() < 0.5)
        save, aim = self.random.randrange(self.n_saves), self.random.choice(AIMS)
        self.board.clear()
        pid = os.fork()
        if pid == 0:
            _die_with(lambda: self.train(run))
        if self.board.wait(save, aim, pid):
            until = time.perf_counter() + self.random.uniform(0, self.spans[aim])
            while time.perf_counter() < until:
                pass
        os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in (0, -signal.SIGKILL), "the victim failed; its traceback is above"
        save, phase = self.board.read()
        self.check(run, save, phase)
        if phase is Phase.IDLE:
            self.missed += 1
        else:
            self.hits[phase] += 1

    def complete(self, *, goes_on):
        """One run that nobody kills."""
        run = self.new_run(goes_on=goes_on)
        self.board.clear()
        calls = in_child(self.train, run)
        self.check(run, self.n_saves, Phase.IDLE)
        return calls

    def die_before(self, n_calls, *, goes_on):
        """One victim that dies right before a call in its first save; False if it had no such call."""
        run = self.new_run(goes_on=goes_on)
        self.board.clear()
        died = in_child(self.train, run, n_calls) == signal.SIGKILL
        self.check(run, *self.board.read())
        return died

    # Looking

    def look(self):
        names = set(os.listdir(self.folder))
        sidecar = self.folder / f"{self.path.name}.peakhold.json"
        entries = entries_of(sidecar) if sidecar.name in names else {}
        names |= {f"previous/{path.name}" for path in self.folder.glob("previous/*")}
        leftovers = {n for n in names if n.endswith((TEMPORARY, SECOND_LINK))}
        aside = sorted(n for n in names - leftovers if n.startswith("previous/"))
        for name, content in self.users.items():
            assert (self.folder / name).read_bytes() == content
        known = {*aside, *self.users, sidecar.name, self.path.name, "previous"}
        strange = names - leftovers - known
        assert not strange, f"what is {strange}?"
        if self.path.name not in names:
            assert not aside
            return None
        return Found(
            self._version(self.path.name, entries),
            sorted(self._version(name, entries) for name in aside),
            leftovers,
        )

    def _version(self, name, entries):
        """The version under a name: whole, and its entry true."""
        path = self.folder / name
        content = path.read_bytes()
        digest = xxhash.xxh3_128_hexdigest(content)
        if name == self.path.name or digest not in self._known:  # files kept aside do not change
            self._known[digest] = version_of(path, self.blank)
        version = self._known[digest]
        claims = [e for e in entries.get(name, []) if e["checksum"] == digest]
        if version == STRANGER:
            assert content == self.stranger
            assert not claims, "the sidecar takes a stranger's file for ours"
            return version
        told = [(e["epoch"], e["value"], e["size"], e["monitor"], e["mode"]) for e in claims]
        assert told == [(*self.ledger[version], len(content), "loss", "min")]
        return version

    def check(self, run, save, phase):
        """What must be there after a run was killed in its save number `save`, in this phase."""
        before, now = self.found, self.look()
        if before is not None:
            assert not before.leftovers & now.leftovers, "a dead writer's file was not swept"
        old = run.versions[save - 1] if save else before.version if before is not None else None
        new = run.versions[save] if save < self.n_saves else None
        version = now.version if now is not None else None
        if phase is Phase.RENAMING:
            assert version in (old, new)
        else:
            assert version == (new if phase is Phase.RENAMED else old)
        if before is not None:
            self._check_aside(run, before, now)
        self.found = now

    def _check_aside(self, run, before, now):
        """At most one of ours is kept aside, the better one; the stranger's file for ever."""
        goes_on = run.start_epoch > 0 and before.version != STRANGER
        ours_before = [v for v in before.aside if v != STRANGER]
        kept = list(before.aside)
        if before.version == STRANGER:
            kept = sorted({*kept, STRANGER})
        elif not goes_on:
            best = min([*ours_before, before.version], key=lambda v: self.ledger[v][1])
            kept = sorted([*(v for v in kept if v == STRANGER), best])
        if now.version in run.versions:
            assert now.aside == kept
        else:
            assert now.aside in (before.aside, kept)

    def report(self):
        n_hits = self.hits.total()
        n_between = sum(self.hits[phase] for phase in BETWEEN)
        phases = ", ".join(f"{p.name.lower()} {self.hits[p]}" for p in Phase if self.hits[p])
        where = "background" if self.background else "direct"
        return (
            f"{self.suffix}, {where}: {n_hits} kills in a save, {n_between} of them between the first write "
            f"and the rename ({phases}); {self.missed} beside a save"
        )


@contextlib.contextmanager
def small_disk(folder, n_bytes):
    """A file system of its own; None where none can be mounted."""
    import subprocess

    mount = shutil.which("mount")
    command = [mount, "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
