"""`kill -9` at every system call of a save, of retention and of opening, and at random, thousands of times.

After each kill a stranger looks at the folder: every checkpoint that is listed is whole, the latest
loads, at least as many as retention keeps are there, nothing that was reported is missing; and a new
store opens, sweeps and saves.
"""

import collections
import mmap
import os
import random
import shutil
import signal
import time

import numpy as np
import pytest
import torch

import ptracing
from peakhold.store import KeepLast, Store
from peakhold.testing import WatchedDisk
from store_support import quietly, state, survey

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*")
torch.zeros(1)  # the parent is warm: a fork costs milliseconds


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Three commits, two of them kept: the next save makes retention rename one and unlink another."""
    folder = tmp_path_factory.mktemp("begun") / "store"
    with Store(folder, KeepLast(2)) as store:
        for step in (1, 2, 3):
            store.save(step, state(step))
            store.wait()
    return folder


@pytest.fixture
def shared():
    """A page that a killed child leaves its last words on."""
    return mmap.mmap(-1, 4096)


def check(folder, reported, *, newest):
    """What must hold after any death."""
    steps = survey(folder)
    assert len(steps) >= 2, "fewer than retention keeps"
    assert steps[-1] == newest if reported else steps[-1] in (newest - 1, newest)
    with quietly(Store, folder, KeepLast(2)) as store:
        assert not list(folder.glob(".tmp-*")), "not swept"
        store.save(newest + 1, state(newest + 1)).result()
        store.wait()
    assert survey(folder)[-1] == newest + 1


def save_four(folder, shared, disk=None):
    store = Store(folder, KeepLast(2), disk=disk)
    ptracing.begin()
    store.save(4, state(4)).result()
    shared[0] = 1
    store.wait()
    ptracing.end()


@pytest.mark.parametrize(
    "skip",
    [
        pytest.param(ptracing.NOT_FILES, id="file calls"),
        pytest.param(frozenset(), id="all calls", marks=pytest.mark.exhaustive),
    ],
)
def test_at_every_system_call_of_a_save_and_of_retention(begun, tmp_path, shared, skip):
    if not ptracing.available():
        pytest.skip(
            "children cannot be traced here; the test below kills at every call of the disk"
        )
    folder = tmp_path / "store"
    shutil.copytree(begun, folder)
    calls, _ = ptracing.run(lambda: save_four(folder, shared), skip=skip)
    number, kinds, killed, reported = 0, collections.Counter(), 0, 0
    while True:
        number += 1
        shutil.rmtree(folder)
        shutil.copytree(begun, folder)
        shared[0] = 0
        made, was_killed = ptracing.run(lambda: save_four(folder, shared), number, skip)
        if not was_killed:
            break
        killed += 1
        kinds[made[-1][0]] += 1
        reported += shared[0]
        check(folder, shared[0], newest=4)
    print(f"\n{killed} of {killed} kills, one at each system call of a save and its retention "
          f"({len(calls)} in a run without); {reported} after the commit was reported: all good. "
          f"{dict(kinds.most_common(12))}")  # fmt: skip
    assert killed > 60
    assert {"write", "fsync", "renameat", "mkdirat", "unlinkat", "openat"} <= kinds.keys()
    assert reported > 10
    if skip:  # the count is the same each time: not one call was missed
        assert kinds == collections.Counter(name for name, _ in calls) and kinds["fsync"] == 9


def test_at_every_system_call_of_opening(begun, tmp_path, shared):
    """Sweeping what an earlier death left must survive death, too."""
    if not ptracing.available():
        pytest.skip("children cannot be traced here")
    left = tmp_path / "left"
    shutil.copytree(begun, left)
    shutil.copytree(left / "step-00000003", left / ".tmp-step-00000004-01234567")

    def opening():
        ptracing.begin()
        Store(folder, KeepLast(2)).close()
        ptracing.end()

    number = 0
    while True:
        number += 1
        folder = tmp_path / f"{number}"
        shutil.copytree(left, folder)
        _, was_killed = ptracing.run(opening, number, ptracing.NOT_FILES)
        check(folder, True, newest=3)
        shutil.rmtree(folder)
        if not was_killed:
            break
    print(f"\n{number - 1} of {number - 1} kills, one at each system call of opening: all good")
    assert number > 40


class DeadlyDisk(WatchedDisk):
    """Dies before its N-th call, or after it."""

    def __init__(self, at, shared, *, after):
        self.at, self.shared, self.is_after, self.count = at, shared, after, 0

    def before(self, name, arguments):
        self.count += 1
        self.shared[1] = self.count
        if self.count == self.at and not self.is_after:
            os.kill(os.getpid(), signal.SIGKILL)

    def after(self, name, arguments, result):
        if self.count == self.at and self.is_after:
            os.kill(os.getpid(), signal.SIGKILL)


def forked(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


@pytest.mark.parametrize(
    "after", [False, pytest.param(True, marks=pytest.mark.exhaustive)], ids=["before", "after"]
)
def test_at_every_call_of_the_disk(begun, tmp_path, shared, after):
    """The same without tracing, for machines that allow none."""
    folder, number, killed = tmp_path / "store", 0, 0
    while True:
        number += 1
        shutil.copytree(begun, folder)
        shared[0] = 0
        disk = DeadlyDisk(number, shared, after=after)
        pid = forked(lambda disk=disk: save_four(folder, shared, disk))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == 0:
            break
        assert status == -signal.SIGKILL
        killed += 1
        check(folder, shared[0], newest=4)
        shutil.rmtree(folder)
    print(f"\n{killed} of {killed} kills, one {'after' if after else 'before'} each call: all good")
    assert killed > 100


def test_the_calls_the_kernel_sees_are_those_the_disk_records(begun, tmp_path, shared):
    """What the power-loss test reasons about is what really happens: nothing goes past the disk."""
    if not ptracing.available():
        pytest.skip("children cannot be traced here")
    kernel = {"make_folder": "mkdirat", "sync": "fsync", "rename": "renameat", "remove": "unlinkat",
              "remove_folder": "unlinkat"}  # fmt: skip
    folder = tmp_path / "store"

    class Log(WatchedDisk):
        def after(self, name, arguments, result):
            if name in kernel:
                shared[1 + shared[1024]] = list(kernel).index(name)
                shared[1024] += 1

    shutil.copytree(begun, folder)

    def work():
        store = Store(folder, KeepLast(2), disk=Log())
        shared[1024] = 0
        ptracing.begin()
        store.save(4, state(4))
        store.wait()
        ptracing.end()

    calls, _ = ptracing.run(work)
    recorded = [kernel[list(kernel)[shared[1 + i]]] for i in range(shared[1024])]
    assert [name for name, _ in calls if name in set(kernel.values())] == recorded
    assert len(recorded) > 15


class Telltale(WatchedDisk):
    """Writes on the shared page whether a commit, or retention, is under way."""

    def __init__(self, shared):
        self.shared = shared

    def before(self, name, arguments):
        if name == "make_folder" and arguments[0].startswith(".tmp-"):
            self.shared[1] = 1
        elif name == "rename" and not arguments[0].startswith(".tmp-"):
            self.shared[1] = 2

    def after(self, name, arguments, result):
        if name == "sync" and self.shared[2]:
            self.shared[1] = self.shared[2] = 0
        elif name == "rename" and arguments[0].startswith(".tmp-"):
            self.shared[2] = 1  # the next flush is the parent's: then it is committed
        elif name == "remove_folder":
            self.shared[1] = 0


def save_for_ever(folder, shared, size):
    store = Store(folder, KeepLast(2), disk=Telltale(shared))
    step = store.latest.step if store.latest else 0
    while True:
        step += 1
        tree = state(step)
        if size:
            tree["big"] = {"w": np.full(size, step % 251, np.uint8)}
        pending = store.save(step, tree)
        pending.result()
        shared[8:16] = step.to_bytes(8, "little")


def kill_at_random(folder, shared, kills, size=0):
    rng = random.Random(kills)
    counts, aimed = collections.Counter(), 0
    for _ in range(kills):
        shared[1] = shared[2] = 0
        before = int.from_bytes(shared[8:16], "little")
        pid = forked(lambda: save_for_ever(folder, shared, size))
        while int.from_bytes(shared[8:16], "little") == before:  # until its first commit
            time.sleep(0.0005)
            assert os.waitpid(pid, os.WNOHANG)[0] == 0, "the child ended by itself"
        time.sleep(rng.random() * (0.008 if not size else 0.05))
        if rng.random() < 0.6:  # these are aimed at a commit, at a random moment of it
            aimed += 1
            while shared[1] != 1:
                pass
            time.sleep(rng.random() * (0.001 if not size else 0.02))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        counts[
            "in a commit" if shared[1] == 1 else "in retention" if shared[1] == 2 else "between"
        ] += 1
        reported = int.from_bytes(shared[8:16], "little")
        steps = survey_some(folder, size)
        assert steps[-1] in (reported, reported + 1), (steps, reported)
        assert len(steps) >= min(2, reported)
    print(f"\n{kills} random kills, state of {max(size, 4000):,} bytes, {aimed} of them aimed at a "
          f"commit; hit: {dict(counts)}; {reported} commits, nothing lost")  # fmt: skip
    assert counts["in a commit"] >= kills / 2
    return counts


def survey_some(folder, size):
    if not size:
        return survey(folder)
    from peakhold.store import Reader

    reader = Reader(folder)
    assert all(finding.ok for finding in reader.verify())
    entries = reader.list()
    for entry in entries:
        assert (reader.load(entry, ["big"])["big"]["w"] == entry.step % 251).all()
    return [entry.step for entry in entries]


def test_at_random(tmp_path, shared):
    kill_at_random(tmp_path, shared, kills=120)


@pytest.mark.exhaustive
def test_at_random_two_thousand_times(tmp_path, shared):
    small = kill_at_random(tmp_path / "small", shared, kills=1500)
    shared[8:16] = bytes(8)
    large = kill_at_random(tmp_path / "large", shared, kills=500, size=20_000_000)
    total = small + large
    print(f"\n{total.total()} random kills in all: {dict(total)}")
    assert total.total() == 2000 and total["in a commit"] >= 1000
