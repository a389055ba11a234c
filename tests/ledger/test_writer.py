"""The record of a run: nothing that was written is lost, and nothing that happens ends training."""

import errno
import gc
import inspect
import json
import os
import warnings

import pytest

from interrupting import Lines, interrupt
from peakhold.errors import (
    InvalidArgumentError,
    SaveError,
    SaveWarning,
    StoreClosedError,
    StoreForkedError,
)
from peakhold.files import background
from peakhold.ledger import Ledger, read_events
from peakhold.store.part_writer import write_all
from peakhold.testing import FailingDisk
from store_contention import in_child, status_of

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*")


def note(n):
    return {"kind": "note", "n": n}


def numbers(path):
    return [event["n"] for event in read_events(path) if event["kind"] == "note"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.jsonl"


@pytest.fixture
def ledger(path):
    ledger = Ledger(path, None)
    yield ledger
    ledger.close()


def test_events_are_read_in_their_order(ledger, path):
    for n in range(3):
        ledger.append(note(n))
    ledger.flush()

    assert numbers(path) == [0, 1, 2]
    assert all(type(event["time"]) is float for event in read_events(path))


def test_a_time_of_the_callers_stays(ledger, path):
    ledger.append({"kind": "note", "time": 3.5})
    ledger.flush()

    assert [event["time"] for event in read_events(path)] == [3.5]


def test_nothing_is_written_before_the_flush(ledger, path):
    ledger.append(note(1))

    assert path.read_bytes() == b""
    ledger.flush()
    assert numbers(path) == [1]


def test_many_events_are_written_without_one(ledger, path):
    for n in range(10_000):
        ledger.append(note(n))

    written = numbers(path)
    assert len(written) > 8_000 and written == list(range(len(written)))


def test_the_offset_is_where_the_next_line_begins(ledger, path):
    offsets = []
    for n in range(3):
        offsets.append(ledger.offset)
        ledger.append(note(n))
        if n == 1:
            ledger.flush()
    ledger.flush()

    data = path.read_bytes()
    assert [json.loads(data[at:].splitlines()[0])["n"] for at in offsets] == [0, 1, 2]
    assert ledger.offset == len(data)


def test_durable_is_what_was_flushed_so(ledger, path):
    ledger.append(note(1))
    ledger.flush(durable=True)

    assert ledger.wait(60)


def test_what_the_writer_thread_is_handed_later_comes_later(path):
    class Watched(FailingDisk):
        synced = []

        def sync(self, fd):
            self.synced.append(os.fstat(fd).st_size)
            super().sync(fd)

    disk = Watched()
    ledger = Ledger(path, None, disk=disk)
    ledger.append(note(1))
    ledger.flush(durable=True)
    seen = background.submit(lambda: list(disk.synced)).result(60)
    size = path.stat().st_size
    ledger.close()

    assert seen[:1] == [size] != [0]


# Going on


def test_a_torn_last_line_is_cut_off(path):
    path.write_bytes(b'{"kind":"note","n":1}\n{"kind":"note","n":')
    ledger = Ledger(path, None)
    ledger.append(note(2))
    ledger.close()

    assert numbers(path) == [1, 2]
    assert path.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("torn", [b"", b"{", b"\0" * 5000, b"x" * 200_000])
@pytest.mark.parametrize("whole", [b"", b'{"kind":"note","n":0}\n' * 3, b"\n"])
def test_whatever_is_torn_goes_and_what_is_whole_stays(path, whole, torn):
    path.write_bytes(whole + torn)

    ledger = Ledger(path, None)

    assert path.read_bytes() == whole
    assert ledger.offset == len(whole)
    ledger.close()


def test_a_line_that_nobody_here_can_have_written_stays(path):
    with open(path, "wb") as file:
        file.truncate(1 << 43)  # 8 TiB of nothing
    ledger = Ledger(path, None)
    ledger.append(note(1))
    ledger.close()
    damage = []

    events = list(read_events(path, on_damage=lambda at, what: damage.append(at)))

    assert [event["n"] for event in events] == [1]
    assert damage == [0]
    assert path.stat().st_size > 1 << 43


def test_the_run_goes_on_from_an_offset(path):
    first = Ledger(path, None)
    first.append(note(1))
    offset = first.offset
    first.append(note(2))
    first.close()

    second = Ledger(path, offset)
    second.go_on(epoch=3)
    second.append(note(3))
    second.close()

    assert numbers(path) == [1, 3]
    assert [event["from"] for event in read_events(path) if event["kind"] == "goes_on"] == [offset]
    assert second.missing_bytes == 0


def test_a_record_that_is_shorter_than_the_checkpoint_says_goes_on_at_its_end(path):
    path.write_bytes(b'{"kind":"note","n":1}\n')

    ledger = Ledger(path, 500)
    ledger.go_on()
    ledger.append(note(2))
    ledger.close()

    assert ledger.missing_bytes == 500 - 22
    assert numbers(path) == [1, 2]


# What is wrong with the place is said before anything runs


def _fifo(path):
    os.mkfifo(path)


def _folder(path):
    path.mkdir()


def _link(path):
    path.with_name("elsewhere").write_bytes(b"")
    path.symlink_to(path.with_name("elsewhere"))


def _link_to_nowhere(path):
    path.symlink_to(path.with_name("nowhere"))


def _no_folder(path):
    path.parent.rmdir()


@pytest.mark.parametrize("make", [_fifo, _folder, _link, _link_to_nowhere, _no_folder])
def test_a_place_where_no_file_can_be_is_refused(tmp_path, make):
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "events.jsonl"
    make(path)

    with pytest.raises(SaveError, match=r"expected a file .*, got path=.*events\.jsonl") as caught:
        Ledger(path, None)
    assert "Hint:" in str(caught.value)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_refused(path, code):
    disk = FailingDisk(1, code, calls=["open_log"])

    with pytest.raises(SaveError, match=os.strerror(code)):
        Ledger(path, None, disk=disk)


@pytest.mark.parametrize("event", [{}, {"n": 1}, {"kind": 3}])
def test_an_event_says_what_it_is(ledger, event):
    with pytest.raises(InvalidArgumentError, match="kind"):
        ledger.append(event)


# What goes wrong while training runs


def test_a_full_disk_is_said_once_and_what_was_kept_comes_later(path):
    disk = FailingDisk(1, errno.ENOSPC, calls=["write"], forever=True)
    ledger = Ledger(path, None, disk=disk)
    with pytest.warns(SaveWarning, match="No space left") as said:
        for n in range(5):
            ledger.append(note(n))
            ledger.flush()
    assert len(said) == 1 and "Training goes on" in str(said[0].message)
    assert numbers(path) == []

    disk.at = 0
    ledger.append(note(5))
    ledger.close()

    assert numbers(path) == [0, 1, 2, 3, 4, 5]


def test_it_is_said_again_after_it_has_worked(path):
    disk = FailingDisk(0, errno.ENOSPC, calls=["write"], forever=True)
    ledger = Ledger(path, None, disk=disk)
    for n in range(2):
        ledger.append(note(n))
        disk.at = 1
        with pytest.warns(SaveWarning):
            ledger.flush()
        disk.at = 0
        ledger.flush()
    ledger.close()

    assert numbers(path) == [0, 1]


class FillsUp(FailingDisk):
    """Takes a part of what is written, and then nothing."""

    room = None

    def write(self, fd, data):
        if self.room is None:
            return super().write(fd, data)
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = super().write(fd, data[: self.room])
        self.room -= done
        return done


@pytest.mark.parametrize("cannot_cut", [False, True])
def test_a_half_written_line_is_taken_back(path, cannot_cut):
    disk = FillsUp(1 if cannot_cut else 0, errno.EIO, calls=["truncate"])
    ledger = Ledger(path, None, disk=disk)
    ledger.append(note(1))
    ledger.flush()
    disk.room = 10
    ledger.append(note(2))
    with pytest.warns(SaveWarning, match="No space left"):
        ledger.flush()
    assert numbers(path) == [1]
    disk.room = None
    ledger.append(note(3))
    ledger.flush()

    assert numbers(path) == [1, 2, 3]
    assert path.read_bytes().count(b"\n") == 3
    assert ledger.offset == path.stat().st_size
    ledger.close()


def test_what_does_not_fit_into_memory_is_counted(path):
    disk = FailingDisk(1, errno.ENOSPC, calls=["write"], forever=True)
    ledger = Ledger(path, None, disk=disk)
    text = "x" * 100_000
    with pytest.warns(SaveWarning):
        for n in range(60):
            ledger.append({**note(n), "text": text})
        ledger.flush()
    disk.at = 0
    ledger.append(note(60))
    ledger.close()

    events = list(read_events(path))
    kept = [event["n"] for event in events if event["kind"] == "note"]
    lost = [event["lines"] for event in events if event["kind"] == "lost"]
    assert kept == [*range(len(kept) - 1), 60] or kept == list(range(len(kept)))
    assert len(kept) + sum(lost) == 61 and sum(lost) > 0
    assert ledger.offset == path.stat().st_size


def test_a_file_that_is_removed_is_put_back_and_offsets_stay_true(ledger, path):
    ledger.append(note(1))
    ledger.flush()
    offset = ledger.offset
    before = path.read_bytes()
    path.unlink()
    ledger.append(note(2))
    with pytest.warns(SaveWarning, match="removed"):
        ledger.flush()

    assert path.read_bytes()[:offset] == before
    assert numbers(path) == [1, 2]
    ledger.append(note(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ledger.flush()
    assert numbers(path) == [1, 2, 3]


def test_a_folder_that_is_removed_is_made_anew(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    path, asked = folder / "events.jsonl", []
    ledger = Ledger(path, None, before_remade=lambda: asked.append(folder.exists()))
    ledger.append(note(1))
    ledger.flush()
    path.unlink()
    folder.rmdir()
    ledger.append(note(2))
    with pytest.warns(SaveWarning, match="removed"):
        ledger.flush()
    ledger.close()

    assert asked == [False]
    assert numbers(path) == [1, 2]


def test_another_file_in_its_place_goes_on(ledger, path):
    ledger.append(note(1))
    ledger.flush()
    edited = path.with_name("edited")
    edited.write_bytes(b'{"kind":"note","n":7}\n{"kind":"torn')
    edited.replace(path)
    ledger.append(note(2))
    with pytest.warns(SaveWarning, match="replaced"):
        ledger.flush()

    assert numbers(path) == [7, 2]
    assert ledger.offset == path.stat().st_size


def test_a_file_that_somebody_empties_goes_on(ledger, path):
    ledger.append(note(1))
    ledger.flush()
    path.write_bytes(b"")
    ledger.append(note(2))
    with pytest.warns(SaveWarning, match="changed"):
        ledger.flush()

    assert numbers(path) == [2]
    assert ledger.offset == path.stat().st_size


def test_where_a_folder_takes_its_place_it_is_said_once_and_goes_on_when_that_is_gone(ledger, path):
    ledger.append(note(1))
    ledger.flush()
    path.unlink()
    path.mkdir()
    with pytest.warns(SaveWarning) as said:
        for n in (2, 3):
            ledger.append(note(n))
            ledger.flush()
    assert len(said) == 1
    path.rmdir()
    ledger.append(note(4))
    ledger.flush()  # it is put back, with what was written before

    assert numbers(path) == [1, 2, 3, 4]


def test_a_flush_to_the_disk_that_fails_is_said(path):
    disk = FailingDisk(1, errno.EIO, calls=["sync"])
    ledger = Ledger(path, None, disk=disk)
    ledger.append(note(1))
    ledger.flush(durable=True)
    ledger.wait()
    with pytest.warns(SaveWarning, match="may not be durable"):
        ledger.flush(durable=True)
    ledger.close()


# Ctrl-C


def all_lines_of(work, made):
    """Interrupt a piece of work at each line of ours in turn, each time on something made anew."""
    n, where = 0, []
    while True:
        n += 1
        ledger = made(n)
        lines = Lines(n, interrupt, files=(inspect.getfile(Ledger), inspect.getfile(write_all)))
        was_hit = False
        try:
            with lines:
                work(ledger)
        except KeyboardInterrupt:
            was_hit = True
        yield ledger, was_hit
        where.append(lines.where)
        if lines.count < n:
            break
    assert len(set(where)) > 10


@pytest.mark.parametrize("short", [False, True])
def test_an_interrupt_in_a_flush_neither_loses_a_line_nor_writes_it_twice(tmp_path, short):
    def made(n):
        ledger = Ledger(tmp_path / f"{n}.jsonl", None, disk=FailingDisk(short_writes=short))
        ledger.append(note(0))
        ledger.flush()
        ledger.append(note(1))
        ledger.append(note(2))
        return ledger

    for ledger, _ in all_lines_of(lambda ledger: ledger.flush(durable=True), made):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ledger.append(note(3))
            ledger.flush()
        assert numbers(ledger.path) == [0, 1, 2, 3]
        assert ledger.offset == os.path.getsize(ledger.path)
        ledger.close()


def test_an_interrupt_while_a_line_is_added_adds_it_or_does_not(tmp_path):
    def made(n):
        ledger = Ledger(tmp_path / f"{n}.jsonl", None)
        ledger.append(note(0))
        return ledger

    for ledger, was_hit in all_lines_of(lambda ledger: ledger.append(note(1)), made):
        ledger.append(note(2))
        ledger.flush()
        seen = numbers(ledger.path)
        assert seen == [0, 1, 2] or (was_hit and seen == [0, 2])
        assert ledger.offset == os.path.getsize(ledger.path)
        ledger.close()


# Processes


def test_a_forked_child_writes_nothing(ledger, path):
    ledger.append(note(1))

    def child():
        with pytest.raises(StoreForkedError):
            ledger.append(note(2))
        with pytest.raises(StoreForkedError):
            ledger.flush()
        ledger.close()

    assert status_of(in_child(child)) == 0
    assert path.read_bytes() == b""
    ledger.append(note(3))
    ledger.flush()
    assert numbers(path) == [1, 3]


def test_to_close_writes_what_is_left_and_lets_the_file_go(path):
    gc.collect()
    background.drain()
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    ledger = Ledger(path, None)
    ledger.append(note(1))
    ledger.close()
    ledger.close()
    ledger.wait()
    gc.collect()

    assert numbers(path) == [1]
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


def test_after_the_end_nothing_is_taken(ledger):
    ledger.close()
    with pytest.raises(StoreClosedError, match=r"events\.jsonl"):
        ledger.append(note(1))
    with pytest.raises(StoreClosedError):
        ledger.flush()


def test_the_name_of_a_new_file_is_flushed_too(path):
    class Watched(FailingDisk):
        kinds = []

        def sync(self, fd):
            self.kinds.append(os.path.isdir(f"/proc/self/fd/{fd}") or not os.path.isdir("/proc"))
            super().sync(fd)

    disk = Watched()
    ledger = Ledger(path, None, disk=disk)
    for n in range(2):
        ledger.append(note(n))
        ledger.flush(durable=True)
        ledger.wait()
    ledger.close()

    assert disk.kinds[:2] == [False, True] and True not in disk.kinds[2:]
