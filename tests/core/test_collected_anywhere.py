"""A log that is collected in the middle of `threading`'s own business starts no thread there."""

import subprocess
import sys
import threading

import pytest

PROGRAM = """
import sys, threading
from peakhold.files import background
from peakhold.files.log_file import LogFile

log, is_done = LogFile(sys.argv[1]), threading.Event()
log.create(b"epoch\\n")
background.drain()
background.submit(is_done.set, may_wait=True)
with threading._shutdown_locks_lock:  # as where a thread begins, and the collector runs
    del log
assert is_done.wait(20)
print("done")
"""


@pytest.mark.skipif(
    not hasattr(threading, "_shutdown_locks_lock"), reason="this Python begins threads otherwise"
)
def test_a_log_that_is_collected_where_a_thread_begins(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "log.csv")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.stdout == "done\n", done.stderr
