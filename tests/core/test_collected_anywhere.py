"""What is collected in the middle of `threading`'s own business starts no thread there.

The collector runs in any line of any thread, also in one of `threading` that holds a lock for which
`Thread.start` waits: for ever, in the thread that holds it.
"""

import pathlib
import re
import subprocess
import sys
import threading

import pytest

import peakhold

BEGIN = """
import sys, threading
from peakhold.files import background
is_done = threading.Event()
"""
END = """
with threading._shutdown_locks_lock, threading._active_limbo_lock:  # as where a thread begins
    del one
assert is_done.wait(20)
print("done")
"""
COLLECTED = {
    "files/log_file.py": """
from peakhold.files.log_file import LogFile
one = LogFile(sys.argv[1])
one.create(b"epoch\\n")
background.drain()
background.submit(is_done.set, may_wait=True)
""",
    "store/store.py": """
import numpy as np
from peakhold.store import Store
one = Store(sys.argv[1])
one.save(0, {"w": np.zeros(3)})
one.wait()
background.drain()
own = one._own
class Told:
    def wait(self, timeout): return own.released
is_done = Told()
""",
    "alerts/failure.py": """
from peakhold.alerts.failure import OpenRun
from peakhold.alerts.outbox import Outbox
from peakhold.alerts.outcome import Outcome
class Sender:
    where = "here"
    def send(self, text, timeout_s):
        is_done.set()
        return Outcome(True, "")
class Owner: pass
one, box = Owner(), Outbox(Sender())
watch = OpenRun(one, box.push)
""",
    "tensorboard/writer.py": """
from peakhold.tensorboard import EventWriter
one = EventWriter(sys.argv[1])
one.scalar("loss", 1.0, 0)
file = one._sink
class Told:
    def wait(self, timeout): return file._file.closed
is_done = Told()
one.path
""",
    "snapshots/pool.py": """
import numpy as np
from peakhold import LoopHost
from peakhold.snapshots.pool import SnapshotPool, held_weakly
host = LoopHost(get_state=lambda: {"w": np.zeros(3)}, set_state=print)
pool = SnapshotPool(held_weakly(host))
one = pool.take(["weights"])
class Told:
    def wait(self, timeout): return len(pool._free["weights"]) == 2
is_done = Told()
pool.is_stale = True
pool.take(["weights"]).release()
pool.lock.acquire()  # as where the pool itself allocates
""",
    "runtime/spilled.py": """
import os
from peakhold.runtime.spilled import Spill
one = Spill()
folder = one.folder
class Told:
    def wait(self, timeout): return not os.path.exists(folder)
is_done = Told()
""",
    "checkpoint_files/unheard.py": """
from peakhold.checkpoint_files.unheard import Unheard, told_at_its_end
class Save: unheard = Unheard()
class Owner: pass
one, save = Owner(), Save()
told_at_its_end(one, "ModelCheckpoint", [save])
class Told:
    def wait(self, timeout): return save.unheard.is_alone
is_done = Told()
""",
}


def test_these_are_all_that_hear_of_their_end():
    root = pathlib.Path(peakhold.__file__).parent
    hears = re.compile(r"weakref\.finalize\(|def __del__|weakref\.ref\([^()]*,")
    found = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if hears.search(path.read_text("utf-8"))
    }
    assert found == set(COLLECTED)


@pytest.mark.skipif(
    not hasattr(threading, "_shutdown_locks_lock"), reason="this Python begins threads otherwise"
)
@pytest.mark.parametrize("what", COLLECTED)
def test_what_is_collected_where_a_thread_begins(tmp_path, what):
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + COLLECTED[what] + END, str(tmp_path / "it")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.stdout == "done\n", done.stderr
