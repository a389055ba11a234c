"""One writer, however processes are born and die; readers never wait and never see a half."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from peakhold.errors import StoreForkedError, StoreOwnedError
from peakhold.files import background
from peakhold.store import KeepLast, Reader, Store
from store_contention import contention, in_child, status_of
from store_support import quietly, state, survey

# Forking with threads about is what is tested: CPython and JAX warn of it.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*")


def test_the_owner_is_named(tmp_path):
    with Store(tmp_path):
        with pytest.raises(StoreOwnedError, match=f"process {os.getpid()} on ") as caught:
            Store(tmp_path)
        assert caught.value.path == str(tmp_path) and "Reader" in str(caught.value)
        note = json.loads((tmp_path / ".lock").read_text())
        assert note.keys() == {"pid", "host", "since"}


def test_a_dead_owner_is_no_owner(tmp_path):
    def die():
        Store(tmp_path).save(1, state(1)).result()
        os.kill(os.getpid(), signal.SIGKILL)

    assert status_of(in_child(die)) == -signal.SIGKILL
    assert f'"pid": {os.getpid()}' not in (tmp_path / ".lock").read_text()
    with Store(tmp_path) as store:
        assert store.latest.step == 1


def test_a_forked_child_may_not_write(tmp_path):
    with Store(tmp_path) as store:
        pending = store.save(1, state(1))

        def child():
            for call in (lambda: store.save(2, state(2)), store.wait, store.close, store.list,
                         lambda: store.delete(1), lambda: pending.task.result()):  # fmt: skip
                with pytest.raises(StoreForkedError, match="forked child"):
                    call()
            with pytest.raises(StoreOwnedError):
                Store(tmp_path)  # the parent owns it still
            Reader(tmp_path).list()

        assert status_of(in_child(child)) == 0
        assert store.save(3, state(3)).result().step == 3  # and the parent goes on
    assert survey(tmp_path) == [1, 3]


def test_a_child_drops_the_queue_and_can_use_a_writer_of_its_own(tmp_path):
    gate = threading.Event()
    background.submit(lambda: gate.wait(60))
    done = []
    task = background.submit(lambda: done.append(os.getpid()))

    def child():
        with Store(tmp_path / "child") as store:
            store.save(1, state(1)).result()
        assert done == []

    assert status_of(in_child(child)) == 0
    gate.set()
    task.result()
    assert done == [os.getpid()]


def test_parent_killed_child_alive_a_restart_succeeds(tmp_path):
    """A DataLoader worker that outlives its parent must not hold the folder."""
    told, tell = os.pipe()
    stay, leave = os.pipe()

    def parent():
        store = Store(tmp_path)
        store.save(1, state(1)).result()

        def worker():
            os.close(leave)
            os.write(tell, b"%d\n" % os.getpid())
            os.read(stay, 1)  # until the test lets it go

        in_child(worker)
        signal.pause()

    pid = in_child(parent)
    worker = int(os.read(told, 20))
    os.kill(pid, signal.SIGKILL)
    assert status_of(pid) == -signal.SIGKILL
    os.kill(worker, 0)  # it is alive
    with Store(tmp_path) as store:
        assert store.save(2, state(2)).result().step == 2
    os.close(leave)


def test_snapshots_stay_warm_beside_a_forked_child(tmp_path):
    """The buffers are not inherited: no copy-on-write faults in the parent, no memory in the child."""
    with Store(tmp_path) as store:
        store.prepare({"m": {"a": np.zeros(4_000_000)}})
        (slot,) = store._slots
        address = slot.buffers._memory.data.__array_interface__["data"][0]

        slot.buffers._memory.data[:] = 7

        def child():
            with open("/proc/self/smaps") as maps:
                text = maps.read()
            region = text[text.index(f"{address:x}-") :].split("VmFlags")[0]
            assert "Rss:                   0 kB" in region
            assert (
                slot.buffers._memory.data[::4096].max() == 0
            )  # there, and empty: nobody can be harmed
            for _ in range(50):  # nothing else has come to live there
                np.ones(1_000_000)
            slot.buffers.__init__()
            gc.collect()
            assert np.ones(4_000_000).sum() == 4_000_000

        assert status_of(in_child(child)) == 0


def run_python(code, *args):
    return subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True,
                          check=False, timeout=120)  # fmt: skip


START = """
import sys, warnings, numpy as np
from peakhold.store import Store
store = Store(sys.argv[1])
for step in range(3):
    store.save(step, {"m": {"a": np.full(200_000, step)}})
"""


@pytest.mark.parametrize("end", ["", "raise KeyError('mine')", "sys.exit(3)", "del store"])
def test_at_the_end_of_the_process_what_was_asked_for_is_finished(tmp_path, end):
    ended = run_python(START + end, tmp_path)
    assert (
        ended.returncode
        == {"": 0, "raise KeyError('mine')": 1, "sys.exit(3)": 3, "del store": 0}[end]
    )
    entries = Reader(tmp_path).list()
    assert [entry.step for entry in entries] == [0, 1, 2]
    assert all(finding.ok for finding in Reader(tmp_path).verify())


def test_a_save_at_the_very_end_is_written_too(tmp_path):
    code = START.replace(
        "for step", "import atexit\natexit.register(lambda: store.save(9, {'m': 1}))\nfor step"
    )
    ended = run_python(code, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert Reader(tmp_path).latest.step == 9


def test_a_failure_nobody_asked_for_is_said_at_the_end(tmp_path):
    code = (
        START + "store.wait(); import shutil; shutil.rmtree(sys.argv[1]); open(sys.argv[1], 'w'); "
        "store.save(7, {'m': 1})"
    )
    ended = run_python(code, tmp_path / "gone")
    assert "the save of step 7 failed" in ended.stderr


def test_the_writer_thread_ends_when_idle(tmp_path):
    with Store(tmp_path) as store:
        store.save(1, state(1)).result()
        store.wait()
        background.drain()
        assert not [t for t in threading.enumerate() if t.name == "peakhold-writer"]
        with_two = Store(tmp_path / "second")
        with_two.save(1, state(1))
        store.save(2, state(2))
        assert len([t for t in threading.enumerate() if t.name == "peakhold-writer"]) <= 1
        with_two.close()


@pytest.mark.filterwarnings("error::peakhold.errors.PeakholdWarning")
def test_two_writers_and_a_reader(tmp_path):
    contention(tmp_path, seconds=1)


def test_a_reader_keeps_what_it_began_to_read(tmp_path):
    """The folder is deleted and unlinked between two reads of one load: another one is served."""
    from peakhold.testing import WatchedDisk

    class Meddler(WatchedDisk):
        meddle = None

        def after(self, name, arguments, result):
            if name == "open" and arguments[0] == "model.safetensors" and self.meddle:
                self.meddle, meddle = None, self.meddle
                meddle()

    disk = Meddler()
    with Store(tmp_path, undo=0) as store:
        for step in (1, 2):
            store.save(step, state(step)).result()
        disk.meddle = lambda: store.delete(2)
        loaded = quietly(Reader(tmp_path, disk=disk).load)
        assert (loaded.entry.step, loaded.passed_over) == (1, ())
        with pytest.raises(LookupError, match="which=2"):
            Reader(tmp_path, disk=disk).load(2)


def test_a_reader_that_is_slower_than_the_writer(tmp_path):
    """All that was listed is deleted before the first of it is opened; others have come."""
    from peakhold.testing import WatchedDisk

    class Slow(WatchedDisk):
        meddle = None

        def after(self, name, arguments, result):
            if name == "names" and self.meddle:
                self.meddle, meddle = None, self.meddle
                meddle()

    disk = Slow()
    with Store(tmp_path, KeepLast(2), undo=0) as store:

        def save(*steps):
            for step in steps:
                store.save(step, state(step))
                store.wait()

        save(1, 2)
        disk.meddle = lambda: save(3, 4)
        assert [entry.step for entry in Reader(tmp_path, disk=disk).list()] == [3, 4]
