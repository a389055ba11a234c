"""Processes that want the same folder: writers in turn, and a reader that must never notice."""

import mmap
import os
import struct
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


class Tally:
    """What both writers have done so far, in memory that they share: it says when there is enough."""

    ENOUGH = 6
    WHAT = ("turns", "refused")

    def __init__(self):
        self.shared = mmap.mmap(-1, 8 * 4)

    def _place(self, number, what):
        return 8 * (2 * number + self.WHAT.index(what))

    def count(self, number, what):
        struct.pack_into("q", self.shared, self._place(number, what), self[number, what] + 1)

    def __getitem__(self, key):
        return struct.unpack_from("q", self.shared, self._place(*key))[0]

    @property
    def is_enough(self):
        return all(self[number, what] >= self.ENOUGH for number in (0, 1) for what in self.WHAT)


def contend(folder, tally, seconds, number):
    """Open, save a few, close, again and again; only the owner's error is allowed.

    How often is counted, not how fast: it goes on until both have had enough turns, and were turned
    away often enough. After a turn the folder is left to the other until its turn has begun.
    """
    end, saved, step, other = time.monotonic() + seconds, 0, number, 1 - number
    while time.monotonic() < end or not tally.is_enough:
        try:
            store = Store(folder, KeepLast(2), undo=number)
        except StoreOwnedError:
            tally.count(number, "refused")
            time.sleep(0.001)  # leave the core to the owner
            continue
        tally.count(number, "turns")
        turns = tally[other, "turns"]
        with store:
            for _ in range(3):
                store.save(step, state(step)).result()
                step, saved = step + 2, saved + 1
        while tally[other, "turns"] == turns and not tally.is_enough:
            time.sleep(0.001)
    print(f"writer {number}: {saved} saved, {tally[number, 'refused']} refused", flush=True)


def contention(folder, seconds):
    """Two writers and a reader, for so many seconds and until all have had their turns."""
    Store(folder).close()
    with Store(folder) as store:
        store.save(0, state(0)).result()
    tally = Tally()
    writers = [in_child(lambda n=n: contend(folder, tally, seconds, n)) for n in (0, 1)]
    reader, reads, newest = Reader(folder), 0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end or not tally.is_enough:
        loaded = reader.load("latest")  # any damage, any absence, any torn file raises or warns
        assert loaded.passed_over == ()
        assert loaded["train"]["step"] == loaded.entry.step
        assert loaded.entry.commit >= newest
        newest, reads = loaded.entry.commit, reads + 1
        if reads % 20 == 0:
            assert all(finding.ok for finding in reader.verify())

    assert [status_of(pid) for pid in writers] == [0, 0]
    print(f"reader: {reads} reads, newest commit {newest}, no unreadable moment")
    assert reads > 0 and newest > 2 * Tally.ENOUGH and len(survey(folder)) == 2
