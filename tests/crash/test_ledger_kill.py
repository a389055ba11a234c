"""`kill -9` at random while a run's record is added to: no line that was flushed is ever lost.

Many lives of one record, one after the other, each killed. Some write seven bytes at a time, so that
a kill tears a line; some go on from an earlier position. A model says what readers must see.
"""

import mmap
import os
import random
import signal
import struct

import pytest

from peakhold.ledger import Ledger, RunFolder, read_events
from peakhold.testing import FailingDisk
from store_contention import in_child, status_of

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*")
COUNT = struct.Struct("qq")
"""What a life has appended, and what it has flushed."""


def live(folder, offset, life, page, rng, short_writes):
    """Own the folder, and add to the record until death."""
    folder.own()
    ledger = Ledger(folder.events, offset, disk=FailingDisk(short_writes=short_writes))
    if offset is not None:
        ledger.go_on()
        ledger.flush()
    flushed = 0
    for n in range(1_000_000):
        ledger.append({"kind": "note", "n": [life, n], "text": "x" * rng.randrange(20)})
        if rng.random() < 0.3:
            ledger.flush(durable=rng.random() < 0.01)
            flushed = n + 1
        COUNT.pack_into(page, 0, n + 1, flushed)


@pytest.mark.parametrize(
    ("lives", "enough_torn"),
    [(100, 5), pytest.param(2000, 100, marks=pytest.mark.exhaustive)],
    ids=["100", "2,000"],
)
def test_no_line_that_was_flushed_is_lost(tmp_path, lives, enough_torn):
    """So many lives, and more until enough of them have torn a line: how many do hangs on the disk."""
    rng = random.Random(11)
    folder = RunFolder(tmp_path / "run")
    page = mmap.mmap(-1, mmap.PAGESIZE)
    checkpoints = [(0, [])]
    torn = cut_back = 0
    for life in range(10 * lives):
        if life >= lives and torn >= enough_torn:
            break
        goes_on = life > 0 and rng.random() < 0.4
        offset, before = rng.choice(checkpoints) if goes_on else (None, checkpoints[-1][1])
        COUNT.pack_into(page, 0, 0, 0)
        seed, short = rng.random(), rng.random() < 0.5
        child = in_child(
            lambda o=offset, k=life, s=seed, w=short: live(folder, o, k, page, random.Random(s), w)
        )
        enough = rng.randrange(1, 150)
        while COUNT.unpack_from(page)[0] < enough:
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended by itself"
        os.kill(child, signal.SIGKILL)
        assert status_of(child) == -signal.SIGKILL
        appended, flushed = COUNT.unpack_from(page)

        damage = []
        seen = [
            event["n"]
            for event in read_events(folder.events, on_damage=lambda *what: damage.append(what))
            if event["kind"] == "note"
        ]
        written = len(seen) - len(before)
        assert damage == []
        assert seen[: len(before)] == before
        assert seen[len(before) :] == [[life, n] for n in range(written)]
        assert flushed <= written <= appended + 1
        assert str(folder.status()) in {"interrupted", "empty"}

        size = os.path.getsize(folder.events)
        with folder.own():
            ledger = Ledger(folder.events, None)
            torn += ledger.offset < size
            assert os.path.getsize(folder.events) == ledger.offset, "the torn line is still there"
            checkpoints.append((ledger.offset, seen))
            ledger.close()
        cut_back += goes_on

    print(f"\n{life} lives, {torn} lines torn, {cut_back} went on from before", end="")
    assert torn >= enough_torn, "hardly a line was torn: that shows little"
    assert cut_back >= lives / 5
