"""A resource outlives its asynchronous user: Ctrl-C, handlers, forks, and the interpreter's end."""

import itertools
import os
import signal
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest

from interrupting import Lines, forget_threads_that_never_began
from peakhold.errors import SaveError, SaveWarning, StoreBusyError, StoreOwnedError
from peakhold.files import background
from peakhold.runtime.spilled import Spill
from peakhold.snapshots import memory
from peakhold.snapshots.pool import SnapshotPool
from peakhold.store import Reader, Store
from peakhold.store.lock import LOCK_NAME
from peakhold.testing import WatchedDisk
from store_contention import in_child, status_of
from store_interrupts import (
    MODES,
    handle_elsewhere,
    handle_in_save,
    interrupt_close,
    interrupt_save,
    overwrite,
)
from store_support import quietly, state, survey

pytestmark = [pytest.mark.timeout(60), pytest.mark.filterwarnings("ignore:.*fork.*")]
STEP = 7
"""Every so many lines; `make crash` takes each."""


@pytest.fixture(autouse=True)
def _nothing_is_left():
    yield
    forget_threads_that_never_began()


def each_line(one, tmp_path, offset=1):
    """Call `one(folder, line)` for line after line until there are no more; how many there were."""
    for at in itertools.count(offset, STEP):
        folder = tmp_path / f"{at}"
        folder.mkdir()
        if not one(folder, at):
            return at - 1


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("mode", MODES)
def test_ctrl_c_while_a_save_is_handed_over(tmp_path, mode, busy):
    n_lines = each_line(lambda f, at: interrupt_save(f, mode, at, busy=busy), tmp_path)
    assert n_lines > 100


@pytest.mark.parametrize("how", ["close", "wait", "delete"])
def test_ctrl_c_while_one_waits(tmp_path, how):
    assert each_line(lambda f, at: interrupt_close(f, at, how), tmp_path) > 20


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("mode", ["copied", "replacing"])
def test_a_handler_that_saves_while_a_save_is_handed_over(tmp_path, mode, busy):
    made = set()

    def one(folder, at):
        done = handle_in_save(folder, mode, at, busy=busy)
        made.add(done)
        return done is not None

    assert each_line(one, tmp_path) > 100
    assert made == {"busy", None}


@pytest.mark.parametrize("how", ["result", "wait", "close"])
def test_a_handler_that_saves_while_one_waits(tmp_path, how):
    made = set()

    def one(folder, at):
        done = handle_elsewhere(folder, at, how)
        made.add(done)
        return done is not None

    assert each_line(one, tmp_path) > 20
    assert 7 in made and made <= {7, None, "StoreClosedError"}


def test_a_real_signal_in_the_middle_of_a_copy(tmp_path, monkeypatch):
    """The copy is not torn by a handler that saves: it is told what to do."""
    told = []

    def handler(number, frame):
        try:
            store.save(2, state(2))
        except StoreBusyError as error:
            told.append(str(error))

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with Store(tmp_path) as store:
            store.save(0, state(0)).result()
            real = memory.copy_arrays

            def copy(pairs, **known):
                signal.raise_signal(signal.SIGUSR1)
                real(pairs, **known)

            monkeypatch.setattr(memory, "copy_arrays", copy)
            store.save(1, state(1)).result()
            monkeypatch.undo()
            signal.raise_signal(signal.SIGUSR1)  # when nothing is being copied, it saves
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(told) == 1 and "set a flag" in told[0]
    assert survey(tmp_path) == [0, 1, 2]


@pytest.mark.parametrize("mode", ["live", "immutable"])
def test_nothing_is_committed_of_arrays_that_may_have_changed(tmp_path, mode):
    """Ctrl-C while the writer reads them: what it has read by then is thrown away."""
    reading, changed = threading.Event(), threading.Event()

    class Gated(WatchedDisk):
        def before(self, name, arguments):
            if name == "write" and len(arguments[1]) > 500:
                reading.set()
                assert changed.wait(60)

    class AnyLine(Lines):
        def _line(self, frame, event, argument):
            ours = frame.f_code.co_filename == background.__file__
            if ours and frame.f_code.co_name == "wait" and reading.wait(60):
                raise KeyboardInterrupt
            return self._line

    store = Store(tmp_path, disk=Gated(), memory_limit=0)
    parts = state(1)
    with pytest.raises(KeyboardInterrupt), AnyLine():
        store.save(1, parts, immutable=mode == "immutable").result()
    if mode == "live":
        overwrite(parts)
    changed.set()
    assert store.save(2, state(2)).result().step == 2
    store.close()
    assert survey(tmp_path) == ([2] if mode == "live" else [1, 2])


def test_a_store_that_was_interrupted_while_closing_can_be_closed(tmp_path):
    entered, go_on = threading.Event(), threading.Event()
    background.submit(lambda: (entered.set(), go_on.wait(60)))
    assert entered.wait(60)
    store = Store(tmp_path)
    store.save(1, state(1))
    with (
        pytest.raises(KeyboardInterrupt),
        Lines(12, lambda: (_ for _ in ()).throw(KeyboardInterrupt)),
    ):
        store.close()
    with pytest.raises(StoreOwnedError):
        Store(tmp_path)  # its save is still to be written
    go_on.set()
    store.close()
    Store(tmp_path).close()
    assert survey(tmp_path) == [1]


# -- forks ------------------------------------------------------------------------------------


def test_a_forked_child_does_not_wait_for_the_pools_lock(tmp_path):
    from peakhold import LoopHost

    host = LoopHost(get_state=lambda: {"w": np.ones(3)}, set_state=lambda _: None)
    pool = SnapshotPool(lambda: host)
    held, alone = pool.take(["weights"]), type(pool.take(["weights"])).of({"weights": np.ones(3)})
    inside, leave = threading.Event(), threading.Event()

    def hold_them():
        with pool.lock, alone._lock:
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=hold_them)
    thread.start()
    assert inside.wait(60)

    def child():
        signal.alarm(20)
        held.release()
        alone.release()
        pool.take(["weights"]).release()

    assert status_of(in_child(child)) == 0
    leave.set()
    thread.join()
    held.release()


def run_python(code, *args):
    return subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True,
                          check=False, timeout=120)  # fmt: skip


def test_a_child_that_ends_normally_leaves_its_parents_best_weights(tmp_path):
    code = """
import os, sys, tempfile
tempfile.tempdir = sys.argv[1]
import numpy as np
from peakhold.runtime.spilled import Spill
spill = Spill()
kept = spill.save({"weights": {"w": np.arange(3)}})
pid = os.fork()
if pid == 0:
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert kept.parts["weights"]["w"].tolist() == [0, 1, 2]
print("there")
"""
    ended = run_python(code, tmp_path)
    assert ended.stdout == "there\n", ended.stderr
    assert list(tmp_path.iterdir()) == [], "and the parent has removed them"


def test_spilled_weights_are_gone_with_their_owner():
    spill = Spill()
    folder = spill.folder
    spill.save({"weights": {"w": np.ones(3)}})
    del spill
    assert not os.path.exists(folder)


# -- the end of the interpreter -------------------------------------------------------------


@pytest.mark.parametrize("held_by", ["__main__", "a cycle"])
def test_a_save_in_del_at_the_end_of_the_interpreter(tmp_path, held_by):
    code = """
import sys, types
from peakhold.store import Store
class Trainer:
    def __init__(self):
        self.store = Store(sys.argv[1])
        self.store.save(1, {"m": 1}).result()
    def __del__(self):
        self.store.save(2, {"m": 2})
trainer = Trainer()
if sys.argv[2] == "a cycle":
    trainer.me = trainer
"""
    ended = run_python(code, tmp_path, held_by)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [entry.step for entry in Reader(tmp_path).list()] == [1, 2]
    assert all(finding.ok for finding in Reader(tmp_path).verify())


def test_a_save_in_del_that_fails_is_told(tmp_path):
    code = """
import shutil, sys
from peakhold.store import Store
class Trainer:
    def __init__(self):
        self.store = Store(sys.argv[1])
    def __del__(self):
        shutil.rmtree(self.store.folder)
        self.store.folder.touch()  # the folder cannot be made anew
        self.store.save(2, {"m": 2})
trainer = Trainer()
"""
    ended = run_python(code, tmp_path / "store")
    assert ended.returncode == 0 and "save of step 2 failed" in ended.stderr


# -- the lock's file -----------------------------------------------------------------------


def test_a_lock_that_was_removed_before_it_was_locked_is_nobodys(tmp_path):
    class Meddler(WatchedDisk):
        meddle = True

        def before(self, name, arguments):
            if name == "lock" and self.meddle:
                self.meddle = False
                os.unlink(tmp_path / LOCK_NAME)

    with Store(tmp_path, disk=Meddler()):
        with pytest.raises(StoreOwnedError, match=f"process {os.getpid()} on "):
            Store(tmp_path)
    Store(tmp_path).close()


@pytest.mark.parametrize(
    ("folder", "umask", "lock"),
    [(0o700, 0o077, 0o600), (0o755, 0o022, 0o644), (0o2775, 0o022, 0o664), (0o777, 0o077, 0o666)],
)
def test_who_may_write_to_the_folder_may_lock_it(tmp_path, folder, umask, lock):
    tmp_path.chmod(folder)
    before = os.umask(umask)
    try:
        Store(tmp_path).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / LOCK_NAME).stat().st_mode) == lock


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs rights that we lack")
def test_a_colleagues_lock_that_may_only_be_read_can_be_locked(tmp_path):
    import shutil
    import tempfile

    base = tempfile.mkdtemp()
    try:
        os.chmod(base, 0o777)
        (lock := os.path.join(base, LOCK_NAME)) and open(lock, "w").close()
        os.chmod(lock, 0o644)
        os.seteuid(65534)
        try:
            with Store(base) as store:
                assert store.save(1, state(1)).result().step == 1
                with pytest.raises(StoreOwnedError, match="not written its name"):
                    Store(base)
        finally:
            os.seteuid(0)
    finally:
        shutil.rmtree(base)


# -- two threads, and no memory ----------------------------------------------------------------


def test_a_reader_that_two_threads_share(tmp_path):
    """One scans while the other has just seen another folder: `KeyError`, or a changed dict."""
    with Store(tmp_path, undo=0) as store:
        for step in range(8):
            store.save(step, state(step)).result()
        reader, errors = store._reader, []
        stop = threading.Event()

        def look():
            try:
                while not stop.is_set():
                    quietly(reader.list)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=look) for _ in range(3)]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for step in range(8):
                store.delete(step)
                store.save(step + 10, state(step + 10)).result()
        finally:
            sys.setswitchinterval(interval)
            stop.set()
            for thread in threads:
                thread.join()
        assert errors == []
        assert [entry.step for entry in reader.list()] == list(range(10, 18))


def no_memory(monkeypatch, limit=1 << 20):
    """As a process under `ulimit -v`: mmap itself says ENOMEM, which is an `OSError`."""
    real = memory.mmap.mmap

    def mmap(fd, length, **named):
        if length > limit:
            raise OSError(12, "Cannot allocate memory")
        return real(fd, length, **named)

    monkeypatch.setattr(memory.mmap, "mmap", mmap)


def test_a_failed_allocation_is_a_memory_error(monkeypatch):
    no_memory(monkeypatch)
    with pytest.raises(MemoryError, match="2,097,152 bytes"):
        memory.allocate(2 << 20)


@pytest.mark.parametrize("prepared", [False, True])
def test_after_a_failed_allocation_a_store_goes_on(tmp_path, monkeypatch, prepared):
    small, large = {"m": {"a": np.arange(9)}}, {"m": {"a": np.arange(400_000)}}
    with Store(tmp_path) as store:
        store.save(1, small).result()
        no_memory(monkeypatch)
        if prepared:
            with pytest.warns(SaveWarning, match="no memory for a copy"):
                store.prepare(large)
        pending = quietly(store.save, 2, large)
        assert pending.done, "it was written from the live arrays, before `save` returned"
        large["m"]["a"][...] = 0
        quietly(store.save, 3, small).result()
        monkeypatch.undo()
        quietly(store.save, 4, large).result()
    reader = Reader(tmp_path)
    assert reader.load(2)["m"]["a"].sum() == sum(range(400_000))
    assert [reader.load(step)["m"]["a"].size for step in (1, 3, 4)] == [9, 9, 400_000]


def test_no_memory_for_a_copy_is_told(tmp_path, monkeypatch):
    store = Store(tmp_path)
    no_memory(monkeypatch)
    store.save(1, {"m": np.arange(400_000)}).result()
    with pytest.warns(SaveWarning, match="no memory for a copy"):
        store.close()


def test_memory_that_runs_out_while_writing_fails_that_save_alone(tmp_path):
    class Poor(WatchedDisk):
        poor = False

        def before(self, name, arguments):
            if name == "write" and self.poor:
                raise MemoryError("mine")

    disk = Poor()
    with Store(tmp_path, disk=disk) as store:
        disk.poor = True
        with pytest.raises(MemoryError, match="mine"):
            store.save(1, state(1)).result()
        disk.poor = False
        store.save(2, state(2)).result()
    assert survey(tmp_path) == [2]
    with pytest.raises(SaveError):
        Store(tmp_path / "step-00000002" / "manifest.json")
