"""Processes that want the same folder: writers in turn, and a reader that must never notice."""

import os
import time

from peakhold.errors import StoreOwnedError
from peakhold.store import KeepLast, Reader, Store
from store_support import state, survey


def in_child(work):
    """Run `work` in a forked child; return the child's process id. 0 is its status if all is well."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def status_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def contend(folder, seconds, number):
    """Open, save a few, close, again and again; only the owner's error is allowed."""
    end, refused, saved, step = time.monotonic() + seconds, 0, 0, number
    while time.monotonic() < end:
        try:
            store = Store(folder, KeepLast(2), undo=number)
        except StoreOwnedError:
            refused += 1
            time.sleep(0.001)  # leave the core to the owner
            continue
        with store:
            for _ in range(3):
                store.save(step, state(step)).result()
                step, saved = step + 2, saved + 1
    assert saved > 5 and refused > 5, (saved, refused)
    print(f"writer {number}: {saved} saved, {refused} refused", flush=True)


def contention(folder, seconds):
    Store(folder).close()
    with Store(folder) as store:
        store.save(0, state(0)).result()
    writers = [in_child(lambda n=n: contend(folder, seconds, n)) for n in (0, 1)]
    reader, reads, newest = Reader(folder), 0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        loaded = reader.load("latest")  # any damage, any absence, any torn file raises or warns
        assert loaded.passed_over == ()
        assert loaded["train"]["step"] == loaded.entry.step
        assert loaded.entry.commit >= newest
        newest, reads = loaded.entry.commit, reads + 1
        if reads % 20 == 0:
            assert all(finding.ok for finding in reader.verify())

    assert [status_of(pid) for pid in writers] == [0, 0]
    print(f"reader: {reads} reads, newest commit {newest}, no unreadable moment")
    assert reads > 20 * seconds and len(survey(folder)) == 2
