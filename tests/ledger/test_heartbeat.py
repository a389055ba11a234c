"""A sign of life: there while the run lives, and never in its way."""

import errno
import os
import signal
import threading
import time

import pytest

from peakhold.errors import SaveWarning
from peakhold.ledger import Heartbeat, read_heartbeat
from peakhold.ledger.heartbeat import STALE_S, is_beating
from peakhold.testing import FailingDisk
from store_contention import in_child, status_of

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "heartbeat"


class Beats(FailingDisk):
    """Tells when the file was replaced."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.came = threading.Semaphore(0)

    def rename(self, *args):
        super().rename(*args)
        self.came.release()


def test_it_says_who_is_alive_and_since_when(path):
    beat = Heartbeat(path)
    began = time.time()
    beat.start()
    first = read_heartbeat(path)
    beat.progressed()
    beat.close("stop")

    assert first["pid"] == os.getpid() and first["progressed_at"] is None
    assert first["ended"] is None and abs(first["alive_at"] - began) < 60
    last = read_heartbeat(path)
    assert last["ended"] == "stop" and last["progressed_at"] >= round(began, 3) - 0.001
    assert is_beating(first) and not is_beating(last)


def test_it_is_replaced_again_and_again_by_a_thread(path):
    disk = Beats()
    beat = Heartbeat(path, every_s=0.001, disk=disk)
    beat.start()
    for _ in range(5):
        assert disk.came.acquire(timeout=60)
    assert beat._thread.daemon
    beat.close("stop")

    assert not beat._thread.is_alive()
    assert os.listdir(path.parent) == ["heartbeat"]


def test_to_close_twice_says_the_first_reason(path):
    beat = Heartbeat(path)
    beat.start()
    beat.close("first")
    beat.close("second")

    assert read_heartbeat(path)["ended"] == "first"


def test_that_it_cannot_be_written_is_said_once(path):
    disk = FailingDisk(1, errno.ENOSPC, calls=["create"], forever=True)
    beat = Heartbeat(path, every_s=0.001, disk=disk)
    with pytest.warns(SaveWarning, match="alive") as said:
        beat.start()
        while disk.count < 5:
            beat.progressed()
        beat.progressed()
        beat.close("stop")

    assert len(said) == 1 and "Training goes on" in str(said[0].message)
    assert read_heartbeat(path) is None and os.listdir(path.parent) == []


def test_a_failed_write_leaves_what_was_there(path):
    Heartbeat(path).start()
    before = path.read_bytes()
    disk = FailingDisk(1, errno.EIO, calls=["rename"])
    with pytest.warns(SaveWarning):
        Heartbeat(path, disk=disk).start()

    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["heartbeat"]


def test_a_forked_child_has_no_part_in_it(path):
    beat = Heartbeat(path, every_s=3600)
    beat.start()
    before = path.read_bytes()

    def child():
        beat.progressed()
        beat.close("child")
        beat.start()

    assert status_of(in_child(child)) == 0
    assert path.read_bytes() == before
    beat.close("stop")
    assert read_heartbeat(path)["ended"] == "stop"


def test_no_process_lives_because_of_it(path):
    def child():
        Heartbeat(path, every_s=3600).start()

    assert status_of(in_child(child)) == 0


def test_who_was_killed_is_not_alive(path):
    def child():
        Heartbeat(path, every_s=3600).start()
        os.kill(os.getpid(), signal.SIGKILL)

    assert status_of(in_child(child)) == -signal.SIGKILL
    assert not is_beating(read_heartbeat(path))


def test_whoever_is_silent_is_not_alive(path):
    Heartbeat(path).start()
    beat = read_heartbeat(path)

    assert is_beating(beat)
    assert not is_beating({**beat, "alive_at": beat["alive_at"] - STALE_S - 1})
    assert is_beating({**beat, "host": "another", "pid": 2**22 + 1})
    assert not is_beating({**beat, "pid": 10**30})
    assert not is_beating(None)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"\0" * 100, b"[]", b'{"kind":"heartbeat"}', b"x" * 2_000_000,
        b'{"kind":"heartbeat","alive_at":"now","pid":1,"host":"h"}',
        b'{"kind":"heartbeat","alive_at":1,"pid":"1","host":"h"}',
    ],
)  # fmt: skip
def test_what_is_none_is_none(path, content):
    path.write_bytes(content)

    assert read_heartbeat(path) is None


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_none(path, make):
    make(path)

    assert read_heartbeat(path) is None


def test_a_secret_in_the_reason_is_masked(path):
    beat = Heartbeat(path)
    beat.start()
    beat.close("GET https://me:hunter2@example.com failed")

    assert b"hunter2" not in path.read_bytes()
    assert read_heartbeat(path)["ended"] == "GET https://***@example.com failed"
