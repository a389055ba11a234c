"""The folder of a run: who owns it, and how the run stands."""

import os
import signal
import threading

import pytest

from peakhold.errors import InvalidArgumentError, RunOwnedError, SaveError, StoreForkedError
from peakhold.ledger import Heartbeat, Ledger, RunFolder
from peakhold.testing import FailingDisk
from store_contention import in_child, status_of

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*")


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "runs" / "a")


def begin(folder):
    """A run that has begun."""
    ledger, beat = Ledger(folder.events, None), Heartbeat(folder.heartbeat, every_s=3600)
    beat.start()
    ledger.append({"kind": "start"})
    ledger.flush()
    return ledger, beat


def test_a_second_owner_is_told_of_the_first(folder):
    with folder.own():
        with pytest.raises(RunOwnedError, match=f"in use by process {os.getpid()} on ") as caught:
            folder.own()
        assert caught.value.path == folder.path
        assert str(os.getpid()) in caught.value.owner and " since " in caught.value.owner
        assert "Hint:" in str(caught.value)
    with folder.own():
        pass


def test_a_dead_owner_is_no_owner(folder):
    def child():
        folder.own()
        os.kill(os.getpid(), signal.SIGKILL)

    assert status_of(in_child(child)) == -signal.SIGKILL
    with folder.own():
        pass


def test_a_forked_child_owns_nothing(folder):
    with folder.own() as owned:

        def child():
            with pytest.raises(StoreForkedError):
                owned.check()
            owned.release()
            with pytest.raises(RunOwnedError):
                folder.own()

        assert status_of(in_child(child)) == 0
        owned.check()
        with pytest.raises(RunOwnedError):
            folder.own()


def test_those_who_look_keep_nobody_from_owning_it(folder):
    over = threading.Event()
    folder.own().release()

    def look():
        while not over.is_set():
            folder.status()

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(100):
            folder.own().release()
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_what_a_killed_owner_was_writing_is_swept(folder):
    os.makedirs(folder.path)
    left = folder.at(".heartbeat.0123abcd.peakhold-tmp")
    with open(left, "wb"):
        pass
    with folder.own():
        assert not os.path.exists(left)


def test_an_owner_follows_a_folder_that_was_taken_away(folder, tmp_path):
    with folder.own() as owned:
        ledger = Ledger(folder.events, None, before_remade=owned.follow)
        ledger.append({"kind": "start"})
        ledger.flush()
        os.rename(folder.path, tmp_path / "gone")
        ledger.append({"kind": "note"})
        with pytest.warns(UserWarning, match="removed"):
            ledger.flush()
        ledger.close()
        with pytest.raises(RunOwnedError):
            folder.own()
    assert os.path.getsize(folder.events) > os.path.getsize(tmp_path / "gone" / "events.jsonl")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(SaveError, match="expected a folder"):
        RunFolder(tmp_path / "file").own()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_lock_that_is_no_file_is_refused_and_holds_nobody_up(folder, make):
    os.makedirs(folder.path)
    make(folder.at(".lock"))

    with pytest.raises(SaveError, match="expected a folder that a run can be written to"):
        folder.own()
    assert folder.status().word == "empty"


@pytest.mark.parametrize("path", [3, "", None, "gs://bucket/run"])
def test_what_is_no_path_here_is_refused(path):
    with pytest.raises(InvalidArgumentError, match="got path="):
        RunFolder(path)


# How it stands


def test_where_nothing_is_it_is_empty(folder):
    assert str(folder.status()) == "empty"
    os.makedirs(folder.path)
    assert str(folder.status()) == "empty"


def test_as_long_as_it_is_owned_it_is_running(folder):
    with folder.own():
        assert folder.status().word == "running"
        begin(folder)
        status = folder.status()
        assert status.word == "running" and str(status) == "running"
        assert str(os.getpid()) in status.owner and status.alive_at is not None


def test_without_an_end_it_is_interrupted(folder):
    def child():
        folder.own()
        begin(folder)
        os.kill(os.getpid(), signal.SIGKILL)

    assert status_of(in_child(child)) == -signal.SIGKILL
    assert str(folder.status()) == "interrupted"
    assert folder.status().owner is not None


def test_with_one_it_has_ended_and_the_reason_is_told(folder):
    with folder.own():
        ledger, beat = begin(folder)
        ledger.append({"kind": "end", "reason": "no improvement for 8 epochs"})
        ledger.close()
        beat.close("no improvement for 8 epochs")

    assert str(folder.status()) == "ended: no improvement for 8 epochs"


def test_a_run_that_goes_on_after_its_end_has_not_ended(folder):
    with folder.own():
        ledger, _ = begin(folder)
        offset = ledger.offset
        ledger.append({"kind": "end", "reason": "enough"})
        ledger.close()
        ledger = Ledger(folder.events, offset)
        ledger.go_on()
        ledger.close()
        assert folder.status().word == "running"

    assert folder.status().word == "interrupted"


def test_where_no_lock_tells_the_heartbeat_does(folder):
    with folder.own():
        _, beat = begin(folder)
    no_locks = RunFolder(folder.path, disk=FailingDisk(1, 95, calls=["share_lock"], forever=True))

    assert no_locks.status().word == "running"
    beat.close("ended")
    assert no_locks.status().word == "interrupted"


@pytest.mark.parametrize("name", ["events", "heartbeat", "run_file"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_whatever_stands_there_to_look_ends_and_raises_nothing(folder, name, make):
    os.makedirs(folder.path)
    make(getattr(folder, name))

    assert folder.status().word in {"empty", "interrupted"}
    assert folder.about() is None


def test_to_look_changes_nothing(folder):
    with folder.own():
        begin(folder)
    before = {name: os.stat(folder.at(name)).st_mtime_ns for name in os.listdir(folder.path)}

    folder.status()

    assert {name: os.stat(folder.at(name)).st_mtime_ns for name in before} == before
    assert set(os.listdir(folder.path)) == set(before)
