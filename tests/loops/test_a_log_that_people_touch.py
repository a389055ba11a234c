"""A log that people or programs change, beside a run: continued, or refused in words.

What must never happen: a second file, a file without a header, a whole row that is gone.
"""

import gc
import math
import os
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

import peakhold
from loops.log_runs import Logged, column, rows
from peakhold.errors import SaveError, SaveWarning
from peakhold.files import background
from peakhold.files.rows import up_to


def test_it_is_deleted_in_mid_run(tmp_path):
    path = tmp_path / "log.csv"
    run = Logged(path).epochs(0.5, 0.4)
    path.unlink()
    with pytest.warns(SaveWarning, match="deleted or emptied.*starts again with epoch 3"):
        run.epochs(0.3)
    run.epochs(0.2).end()

    assert [(row["epoch"], row["loss"]) for row in rows(path)] == [("2", "0.3"), ("3", "0.2")]


def test_its_folder_is_deleted_in_mid_run(tmp_path):
    path = tmp_path / "logs" / "log.csv"
    run = Logged(path).epochs(0.5)
    path.unlink()
    path.parent.rmdir()
    with pytest.warns(SaveWarning, match="starts again with epoch 2"):
        run.epochs(0.4).end()

    assert column(path) == ["0.4"]


def test_it_is_emptied_in_mid_run(tmp_path):
    """As `: > log.csv` does, while `tail -f` looks on."""
    path = tmp_path / "log.csv"
    run = Logged(path).epochs(0.5)
    path.write_bytes(b"")
    with pytest.warns(SaveWarning, match="starts again"):
        run.epochs(0.4, 0.3).end()

    assert column(path) == ["0.4", "0.3"]


@pytest.mark.parametrize("append", [False, True])
def test_the_process_goes_elsewhere_in_mid_run(tmp_path, monkeypatch, append):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run = Logged("log.csv", append=append).epochs(0.5)
    monkeypatch.chdir(tmp_path / "there")
    run.epochs(0.4, late=1.0).epochs(0.3).end()

    assert column("../here/log.csv") == ["0.5", "0.4", "0.3"]
    assert os.listdir(tmp_path / "there") == []


def test_the_other_files_of_a_run_stay_where_it_began_too(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    others = [
        peakhold.ModelCheckpoint("models/w_{epoch}.safetensors", "loss"),
        peakhold.TensorBoard("board", write_graph=False),
        peakhold.BackupAndRestore("backup"),
    ]
    run = Logged("log.csv", more=others).epochs(0.5)
    monkeypatch.chdir(tmp_path / "there")
    run.epochs(0.4)
    run.loop.on_test_begin()
    run.loop.on_test_end({"loss": 0.5})
    run.epochs(0.3).end()

    assert os.listdir(tmp_path / "there") == []
    assert {"w_1.safetensors", "w_2.safetensors", "w_3.safetensors"} < set(
        os.listdir(tmp_path / "here" / "models")
    )


def by_line(change):
    def edit(path):
        lines = path.read_bytes().decode().splitlines()
        path.write_text("".join(f"{line}\n" for line in change(lines)))

    return edit


EDITS = {
    "a note at the end": (by_line(lambda lines: [*lines, "# looks good"]), ["0.5", "0.4"]),
    "a value": (by_line(lambda lines: [*lines[:-1], "1,0.9"]), ["0.5", "0.9"]),
    "a row less": (by_line(lambda lines: lines[:-1]), ["0.5"]),
    "a column more": (
        by_line(lambda lines: [f"{line},{'note' if n == 0 else 'x'}" for n, line in enumerate(lines)]),
        ["0.5", "0.4"],
    ),
    "columns in another order": (
        by_line(lambda lines: [",".join(reversed(line.split(","))) for line in lines]),
        None,
    ),
    "no last line end": (lambda path: path.write_bytes(path.read_bytes().rstrip()), ["0.5", "0.4"]),
    "a byte order mark": (
        lambda path: path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes()),
        ["0.5", "0.4"],
    ),
    "an editor that renames": (
        lambda path: (path.with_suffix(".new").write_bytes(path.read_bytes()),
                      os.replace(path.with_suffix(".new"), path)),
        ["0.5", "0.4"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_it_is_edited_in_mid_run(tmp_path, edit):
    change, expected = EDITS[edit]
    path = tmp_path / "log.csv"
    run = Logged(path).epochs(0.5, 0.4)
    change(path)
    if expected is None:  # no column `epoch` stands first: that is no log of ours any more
        after = path.read_bytes()
        with pytest.warns(SaveWarning, match="epoch 3 .*first column is 'epoch'"):
            run.epochs(0.3)
        assert path.read_bytes() == after
        change(path)
        expected = ["0.5", "0.4", "0.3"]
        run.epochs(0.2)
    else:
        run.epochs(0.3, 0.2)
        expected = [*expected, "0.3"]
    run.end()

    text = path.read_text(encoding="utf-8-sig")
    assert text.splitlines()[0].startswith("epoch,loss")
    lines = [line.split(",") for line in text.splitlines() if not line.startswith("#")]
    assert [line[1] for line in lines[1:]] == [*expected, "0.2"]
    assert edit != "a note at the end" or "# looks good\n" in text


def test_another_program_has_made_something_else_of_it(tmp_path):
    """A spreadsheet that separates by semicolons. What cannot be added is kept, and said."""
    path = tmp_path / "log.csv"
    run = Logged(path).epochs(0.5)
    before = path.read_bytes()
    path.write_bytes(before.replace(b",", b";"))
    with pytest.warns(SaveWarning, match="(?s)epoch 2 .*separated by ','.*tried again"):
        run.epochs(1 / 2)
    assert _said(run, 1 / 3) == []
    assert path.read_bytes() == before.replace(b",", b";")
    path.write_bytes(before)
    run.end()

    assert column(path) == ["0.5", repr(1 / 2), repr(1 / 3)]


def test_a_metric_comes_late_to_a_log_that_was_edited(tmp_path):
    path = tmp_path / "log.csv"
    run = Logged(path).epochs(0.5, 0.4)
    path.write_text("epoch,loss,loss\n0,0.5,first\n1,0.4,second,without a name\n")
    run.epochs(0.3, late=1.0).end()

    assert path.read_text().splitlines() == [
        "epoch,late,loss,loss",
        "0,NA,0.5,first",
        "1,NA,0.4,second,without a name",
        "2,1.0,0.3,0.3",
    ]


# Before the run


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_last_row_without_a_line_end_is_a_row(tmp_path, line_end):
    path = tmp_path / "log.csv"
    path.write_bytes(f"epoch,loss{line_end}0,0.5{line_end}1,0.4".encode())
    with pytest.warns(SaveWarning, match="no line end but all columns: '1,0.4'"):
        Logged(path, append=True).epochs(0.3).end()

    assert (
        path.read_bytes().decode()
        == f"epoch,loss{line_end}0,0.5{line_end}1,0.4{line_end}0,0.3{line_end}"
    )


def test_a_header_alone_without_a_line_end_is_a_header(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b"epoch,loss")
    Logged(path, append=True).epochs(0.3).end()

    assert path.read_bytes() == b"epoch,loss\r\n0,0.3\r\n"


@pytest.mark.parametrize(
    "notes", [b"my notes", b"\0" * 9, "läuft".encode("latin-1"), b"x" * 200_000]
)
def test_what_is_no_log_is_refused_and_stays(tmp_path, notes):
    path = tmp_path / "notes.txt"
    path.write_bytes(notes)
    with pytest.raises(SaveError, match="expected a log"):
        Logged(path, append=True)

    assert path.read_bytes() == notes


@pytest.mark.parametrize("torn", ["1", "1,0.", '1,0.3,"[1'])
def test_a_torn_row_is_removed_and_said(tmp_path, torn):
    path = tmp_path / "log.csv"
    path.write_text(f"epoch,loss,x\n0,0.5,1\n{torn}")
    with pytest.warns(SaveWarning, match="removed the torn last line"):
        Logged(path, append=True).epochs(0.3, x=2.0).end()

    assert column(path) == ["0.5", "0.3"]


def test_two_programs_write_one_log(tmp_path):
    """Rows of both, whole, under one header, although one of them brings a column."""
    path = tmp_path / "log.csv"
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from loops.log_runs import Logged\n"
        "Logged(sys.argv[2], append=True).epochs(*[0.25] * 40).end()\n"
    )
    here = os.path.dirname(os.path.dirname(__file__))
    run = Logged(path, append=True).epochs(0.5)
    with subprocess.Popen([sys.executable, "-c", program, here, str(path)]) as other:
        run.epochs(*[0.5] * 39)
        assert other.wait(120) == 0
    run.end()

    assert sorted(column(path)) == ["0.25"] * 40 + ["0.5"] * 40


# Resume


RESUMED = {
    "nothing": (lambda lines: lines, ["0.5", "0.4", "0.2"]),
    "a note in the middle": (
        lambda lines: [*lines[:2], "# note", *lines[2:]],
        ["0.5", "0.4", "0.2"],
    ),
    "a note at the end": (lambda lines: [*lines, "# note"], ["0.5", "0.4", "0.2"]),
    "the first row is gone": (lambda lines: [lines[0], *lines[2:]], ["0.4", "0.2"]),
}


@pytest.mark.parametrize("edit", RESUMED)
@pytest.mark.filterwarnings("ignore::peakhold.errors.SaveWarning")
def test_it_is_edited_between_a_crash_and_the_resume(tmp_path, edit):
    """The backup knows two epochs, the log three: the third is run again, and only that row goes."""
    change, expected = RESUMED[edit]
    path = tmp_path / "log.csv"

    def begin():
        weights = {"w": np.zeros(2)}
        host = peakhold.LoopHost(get_state=lambda: weights, set_state=weights.update)
        parts = [peakhold.CSVLogger(path, append=True), peakhold.BackupAndRestore(tmp_path / "b")]
        loop = peakhold.CallbackList(parts, host=host, epochs=9, verbose=0)
        loop.on_train_begin()
        return loop

    loop = begin()
    for epoch, loss in enumerate((0.5, 0.4)):
        loop.on_epoch_begin(epoch)
        loop.on_epoch_end(epoch, {"loss": loss})
    background.drain()
    with path.open("a") as file:  # written, and not in the backup
        file.write("2,0.3\n")
    del loop
    by_line(change)(path)

    loop = begin()
    loop.on_epoch_begin(2)
    loop.on_epoch_end(2, {"loss": 0.2})
    loop.on_train_end()

    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert [line.split(",")[1] for line in lines[1:]] == expected
    assert ("# note" in path.read_text()) == ("note" in edit)


# The flush


class Flushes:
    """Every flush of a descriptor: in which thread, and as long as it is told to take."""

    def __init__(self, monkeypatch):
        self.threads, self.go_on, self.fail = [], threading.Event(), []
        self.began = threading.Event()
        self.go_on.set()
        real = os.fsync

        def fsync(descriptor):
            self.threads.append(threading.current_thread().name)
            self.began.set()
            assert self.go_on.wait(60)
            if self.fail:
                raise self.fail.pop()
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)


def test_training_does_not_wait_for_the_flush_of_a_row(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    run = Logged(path)
    flushes = Flushes(monkeypatch)
    flushes.go_on.clear()
    run.epochs(0.5)
    assert column(path) == ["0.5"], "it is there nevertheless"
    run.epochs(0.4, 0.3, 0.2)
    assert column(path) == ["0.5", "0.4", "0.3", "0.2"]
    flushes.go_on.set()
    run.end()

    assert set(flushes.threads) == {"peakhold-writer"}
    assert len(flushes.threads) <= 4, "a flush that has not begun is not asked for twice"


def test_a_run_ends_when_its_rows_are_durable(tmp_path, monkeypatch):
    run = Logged(tmp_path / "log.csv").epochs(0.5)
    background.drain()
    flushes, ended = Flushes(monkeypatch), []
    flushes.go_on.clear()
    run.epochs(0.4)

    def let_go():
        assert not ended
        flushes.go_on.set()

    threading.Timer(0.2, let_go).start()
    run.end()
    ended.append(True)
    assert flushes.go_on.is_set() and flushes.threads == ["peakhold-writer"]


def test_a_row_is_durable_before_the_backup_that_knows_of_it(tmp_path, monkeypatch):
    path, order = tmp_path / "log.csv", []
    keeper = peakhold.BackupAndRestore(tmp_path / "backup")
    run = Logged(path, more=[keeper]).epochs(0.5)
    background.drain()
    monkeypatch.setattr("peakhold.files.log_file._FLUSH_EVERY_S", math.inf)  # only the backup asks
    place, real, rename = path.stat().st_ino, os.fsync, os.rename

    def fsync(descriptor):
        if os.fstat(descriptor).st_ino == place:
            order.append("row")
        real(descriptor)

    def renamed(old, new, **more):
        if str(new).startswith("step-"):
            order.append("backup")
        rename(old, new, **more)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", renamed)
    run.epochs(0.4, 0.3)
    background.drain()

    assert order.index("row") < order.index("backup")
    assert order.count("backup") == 2 and order[-1] == "backup"


def test_rows_that_come_fast_share_a_flush(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    run = Logged(path).epochs(0.5)
    background.drain()
    flushes = Flushes(monkeypatch)
    monkeypatch.setattr("peakhold.files.log_file._FLUSH_EVERY_S", math.inf)
    run.epochs(*[0.4] * 50)
    assert len(column(path)) == 51, "each is there at once"
    assert not flushes.threads, "nothing asks for more: the system writes it within half a minute"
    monkeypatch.setattr("peakhold.files.log_file._FLUSH_EVERY_S", 0.0)
    run.epochs(0.3)
    background.drain()
    assert len(flushes.threads) == 1, "one for all that was waiting"
    run.end()


def test_rows_of_a_run_that_nobody_ends_are_flushed_when_it_is_gone(tmp_path, monkeypatch):
    run = Logged(tmp_path / "log.csv").epochs(0.5)
    background.drain()
    n_open = len(os.listdir("/proc/self/fd"))
    flushes = Flushes(monkeypatch)
    monkeypatch.setattr("peakhold.files.log_file._FLUSH_EVERY_S", math.inf)
    run.epochs(0.4)
    assert not flushes.threads
    del run
    gc.collect()  # no job is handed over, and nobody waits
    assert flushes.began.wait(60)  # the writer is started by a thread that nobody can wait for
    for thread in threading.enumerate():
        if thread.name == "peakhold-writer":
            thread.join()
    assert flushes.threads == ["peakhold-writer"]
    assert len(os.listdir("/proc/self/fd")) < n_open, "and its file is closed"


def test_a_flush_that_failed_is_said_and_no_row_is_there_twice(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    run = Logged(path).epochs(0.5)
    background.drain()
    before = path.stat().st_ino
    flushes = Flushes(monkeypatch)
    flushes.fail.append(OSError(5, "Input/output error"))
    run.epochs(0.4)
    background.drain()
    with pytest.warns(SaveWarning, match="could not flush.*Input/output error.*written again"):
        run.epochs(0.3)
    run.epochs(0.2).end()

    assert column(path) == ["0.5", "0.4", "0.3", "0.2"]
    assert path.stat().st_ino != before, "the kernel may have dropped what was in the old one"


def test_the_last_flush_fails(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    run = Logged(path).epochs(0.5)
    background.drain()
    flushes = Flushes(monkeypatch)
    flushes.fail.append(OSError(5, "Input/output error"))
    run.epochs(0.4)
    with pytest.warns(SaveWarning, match="written again"):
        run.end()

    assert column(path) == ["0.5", "0.4"]


def n_points(folder):
    """How often a line's name stands in the files, which a reader need not take apart for that."""
    return sum(path.read_bytes().count(b"epoch_loss") for path in folder.glob("events*"))


def test_training_does_not_wait_for_the_disk_that_has_tensorboard_s_events(tmp_path, monkeypatch):
    board = peakhold.TensorBoard(tmp_path, write_graph=False)
    loop = peakhold.CallbackList(board, epochs=4, verbose=0)
    flushes = Flushes(monkeypatch)
    flushes.go_on.clear()
    loop.on_train_begin()
    for epoch in range(4):
        loop.on_epoch_begin(epoch)
        loop.on_epoch_end(epoch, {"loss": 1.0 - epoch / 10, "val_loss": 2.0})

    shown = n_points(tmp_path / "train")
    flushes.go_on.set()
    background.drain()
    n_flushes = len(flushes.threads)
    loop.on_train_end()

    assert shown == 4, "readers see it all, though nothing is on the disk yet"
    assert set(flushes.threads[:n_flushes]) == {"peakhold-writer"}
    assert 2 <= n_flushes <= 4, "one is on its way and one waits, of each file"


@pytest.mark.parametrize("fails_after", [0, 1, 2])
def test_a_flush_of_tensorboard_s_events_that_failed_is_said(fails_after, tmp_path, monkeypatch):
    monkeypatch.setattr("peakhold.tensorboard.records._SYNC_EVERY", 0.0)
    board = peakhold.TensorBoard(tmp_path, write_graph=False)
    loop = peakhold.CallbackList(board, epochs=3, verbose=0)
    flushes = Flushes(monkeypatch)
    loop.on_train_begin()
    with pytest.warns(SaveWarning, match="TensorBoard could not write.*Input/output error"):
        for epoch in range(3):
            if epoch == fails_after:
                background.drain()
                flushes.fail.append(OSError(5, "Input/output error"))
            loop.on_epoch_begin(epoch)
            loop.on_epoch_end(epoch, {"loss": 0.5})
        background.drain()
        loop.on_train_end()

    assert n_points(tmp_path / "train") == 3


def test_a_number_too_long_for_an_epoch_is_somebody_s_note():
    """Python refuses to read it."""
    note = ["9" * 5_000, "0.5"]

    assert up_to([], [note], expected=0, mine=0) == ([note], 0)


HOSTILE = {
    "nuls": b"\0" * 4096,
    "not text": b"epoch,loss\n0,\xff\xfe\n",
    "nuls behind": b"epoch,loss\r\n0,0.5\r\n" + b"\0" * 4096,
    "nuls inside": b"epoch,loss\r\n\0\0\0\0\r\n0,0.5\r\n",
    "a cell of a megabyte": b"epoch,loss\r\n0," + b"5" * 1_000_000 + b"\r\n",
    "a quote that does not end": b'epoch,loss\r\n0,"0.5\r\n1,0.4\r\n',
    "a number too long": b"epoch,loss\r\n" + b"9" * 5_000 + b",0.5\r\n",
    "huge": b"epoch,loss\r\n0,1e400\r\n",
    "one column": b"epoch\r\n0\r\n",
    "no column": b",,,\r\n,,,\r\n",
    "a column twice": b"epoch,loss,loss\r\n0,1,2\r\n",
    "two beginnings": b"\xef\xbb\xbf\xef\xbb\xbfepoch,loss\r\n0,0.5\r\n",
    "ten thousand columns": b"epoch," + b",".join(b"m%d" % n for n in range(10_000)) + b"\r\n",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_log_that_is_damaged_or_hostile_goes_on_or_is_refused_before_the_first_batch(
    tmp_path, what
):
    path = tmp_path / "log.csv"
    path.write_bytes(HOSTILE[what])
    try:
        run = Logged(path, append=True)
    except SaveError as error:
        assert "expected" in str(error)  # noqa: PT017 - some of them can be gone on with
        assert path.read_bytes() == HOSTILE[what]
        return
    run.epochs(0.25).end()

    content = path.read_bytes()
    assert b"0.25" in content
    assert all(line in content for line in HOSTILE[what].splitlines()[1:] if b"0.5" in line)


# What cannot be written


def _said(run, *values):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run.epochs(*values)
    return [str(one.message) for one in told]


def test_a_reason_is_told_once_until_it_was_written_again(tmp_path):
    path = tmp_path / "log.csv"
    run = Logged(path).epochs(0.5)
    path.unlink()
    path.mkdir()
    (told,) = _said(run, 0.4, 0.3, 0.2)
    assert "epoch 2 " in told and "tried again" in told

    path.rmdir()
    path.write_bytes(b"step;loss\r\n")
    (told,) = _said(run, 0.1, 0.0)
    assert "first column is 'epoch'" in told

    path.unlink()
    assert len(_said(run, 1.0)) == 1  # that it was deleted
    path.unlink()
    path.mkdir()
    assert len(_said(run, 2.0, 3.0)) == 1
    path.rmdir()
    run.end()


def test_what_was_never_written_is_told_at_the_end(tmp_path):
    path = tmp_path / "log.csv"
    run = Logged(path).epochs(0.5)
    path.unlink()
    path.mkdir()
    assert len(_said(run, 0.4, 0.3)) == 1
    with pytest.warns(SaveWarning, match=r"2 rows of CSVLogger .*epochs 2 to 3"):
        run.end()
