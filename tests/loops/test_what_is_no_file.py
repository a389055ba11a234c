"""What stands under a name and is no file: written through or refused, never replaced by a file.

The devices are nodes of our own: a test that fails must not take `/dev/null` from the machine.
"""

import os
import socket
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest

import peakhold
from loops.log_runs import Logged, rows
from peakhold import files
from peakhold.disk.disk import Disk
from peakhold.disk.path_disk import PathDisk
from peakhold.errors import SaveError, SaveWarning
from peakhold.tensorboard.projector import Embedding, write_projector


def device(path):
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")


def fifo(path):
    os.mkfifo(path)


def bound_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def link_to_device(path):
    device(path.parent / "node")
    path.symlink_to("node")


KINDS = [device, fifo, bound_socket, link_to_device]


@pytest.fixture(params=KINDS, ids=lambda make: make.__name__)
def standing(request, tmp_path):
    """A path where something stands that is no file."""
    path = tmp_path / "name.safetensors"
    request.param(path)
    before = os.stat(path)
    yield path
    after = os.stat(path)
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode), "it was replaced"
    assert not [name for name in os.listdir(tmp_path) if "peakhold" in name]


@pytest.mark.parametrize("disk", [Disk, PathDisk], ids=["descriptors", "paths"])
def test_no_commit_takes_its_place(standing, disk):
    written = []
    with pytest.raises(OSError, match="no file.*would take its place"):
        files.commit(str(standing), written.append, disk=disk())

    assert not written, "nothing is written for nothing"


@pytest.mark.parametrize("disk", [Disk, PathDisk], ids=["descriptors", "paths"])
def test_nor_what_was_put_there_while_it_was_written(tmp_path, disk):
    path = tmp_path / "best.bin"

    def write(file):
        file.write(b"new")
        os.mkfifo(path)

    with pytest.raises(OSError, match="would take its place"):
        files.commit(str(path), write, disk=disk())
    assert (os.listdir(tmp_path), stat.S_ISFIFO(path.stat().st_mode)) == (["best.bin"], True)


def test_a_checkpoint_is_refused_before_the_first_batch(standing):
    saver = peakhold.ModelCheckpoint(standing, "loss")
    with pytest.raises(SaveError, match="no file"):
        Logged(standing.with_name("log.csv"), more=[saver])


def test_a_checkpoint_s_sidecar_is_read_only_if_it_is_a_file(tmp_path):
    """A FIFO that nobody writes to would be read for ever."""
    os.mkfifo(tmp_path / "best.safetensors.peakhold.json")
    weights = {"w": np.zeros(2)}
    saver = peakhold.ModelCheckpoint(tmp_path / "best.safetensors", "loss")
    host = peakhold.LoopHost(get_state=lambda: weights, set_state=weights.update)
    loop = peakhold.CallbackList([saver], host=host, epochs=1, verbose=0)
    with pytest.raises(SaveError, match="no file"):
        loop.on_train_begin()
        loop.on_epoch_begin(0)


def test_a_projector_s_configuration_is_refused(standing):
    os.rename(standing, standing.with_name("projector_config.pbtxt"))
    try:
        with pytest.raises(OSError, match="no file"):
            write_projector(str(standing.parent), [Embedding("e", np.eye(2), None)])
    finally:
        os.rename(standing.with_name("projector_config.pbtxt"), standing)


# A log is written through


def test_a_log_on_a_device_leaves_the_device(tmp_path):
    for make in (device, link_to_device):
        path = tmp_path / f"{make.__name__}.csv"
        make(path)
        before = os.stat(path)
        for append in (False, True):
            Logged(path, append=append).epochs(0.5, 0.4).epochs(0.3, late=1.0).end()
        after = os.stat(path)
        assert (after.st_ino, after.st_rdev) == (before.st_ino, before.st_rdev)
        assert path.is_symlink() == (make is link_to_device)


def test_a_reader_of_a_fifo_gets_every_row(tmp_path):
    """Also one that comes with a new column: nothing that went through can be taken back."""
    path, got = tmp_path / "log.csv", tmp_path / "got.csv"
    os.mkfifo(path)
    end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(end, True)
    run = Logged(path)
    with got.open("wb") as out, subprocess.Popen(["cat"], stdin=end, stdout=out) as reader:
        os.close(end)
        run.epochs(0.5, 0.4)
        run.epochs(0.3, late=7.0).epochs(0.2).end()
        assert reader.wait(30) == 0, "the run has ended, and with it what is read"

    assert got.read_text().split() == [
        "epoch,loss", "0,0.5", "1,0.4", "epoch,late,loss", "2,7.0,0.3", "3,NA,0.2",
    ]  # fmt: skip
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_fifo_without_a_reader_is_refused_and_does_not_hang(tmp_path):
    path = tmp_path / "log.csv"
    os.mkfifo(path)
    result = []

    def begin():
        try:
            Logged(path)
        except SaveError as error:
            result.append(str(error))

    thread = threading.Thread(target=begin, daemon=True)
    thread.start()
    thread.join(20)
    assert result and "no program reads" in result[0]


def test_a_reader_that_goes_away_is_said_and_training_goes_on(tmp_path):
    path = tmp_path / "log.csv"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    run = Logged(path).epochs(0.5)
    assert os.read(reader, 99) == b"epoch,loss\r\n0,0.5\r\n"
    os.close(reader)
    with pytest.warns(SaveWarning, match="epoch 2.*Broken pipe"):
        run.epochs(0.4)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    run.epochs(0.3).end()
    assert os.read(reader, 99) == b"1,0.4\r\n2,0.3\r\n"
    os.close(reader)


PRINTS = """
import os, sys
sys.path.insert(0, sys.argv[1])
from loops.log_runs import Logged
print("before", flush=True)
run = Logged("/dev/stdout").epochs(0.5)
print("between", flush=True)
run.epochs(0.4).end()
print("after", flush=True)
"""


@pytest.mark.parametrize("to", ["file", "pipe"])
def test_a_log_on_standard_output_stands_between_what_is_printed(tmp_path, to):
    """Where it is a file, too: a commit would leave what is printed in a file without a name."""
    command = [sys.executable, "-c", PRINTS, os.path.dirname(os.path.dirname(__file__))]
    if to == "pipe":
        out = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout
    else:
        with open(tmp_path / "out", "wb") as file:
            subprocess.run(command, stdout=file, check=True, timeout=120)
        out = (tmp_path / "out").read_bytes()

    assert out.split() == [b"before", b"epoch,loss", b"0,0.5", b"between", b"1,0.4", b"after"]


def test_a_block_device_and_a_socket_are_refused(tmp_path):
    bound_socket(tmp_path / "socket.csv")
    with pytest.raises(SaveError, match="a socket"):
        Logged(tmp_path / "socket.csv")
    try:
        os.mknod(tmp_path / "disk.csv", stat.S_IFBLK | 0o600, os.makedev(7, 250))
    except PermissionError:
        pytest.skip("only root makes devices")
    with pytest.raises(SaveError, match="a disk"):
        Logged(tmp_path / "disk.csv")


def test_a_pipe_in_the_place_of_a_log_in_mid_run_is_said(tmp_path):
    path = tmp_path / "log.csv"
    run = Logged(path).epochs(0.5)
    path.rename(tmp_path / "earlier.csv")
    os.mkfifo(path)
    with pytest.warns(SaveWarning, match="epoch 2"):
        run.epochs(0.4)
    path.unlink()
    (tmp_path / "earlier.csv").rename(path)
    run.epochs(0.3).end()
    assert [row["loss"] for row in rows(path)] == ["0.5", "0.4", "0.3"]
