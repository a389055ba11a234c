"""A run that goes on in a folder: readers hold one value a step, and nothing that counts is lost."""

import os
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

import peakhold
from event_reader import files, multiplexed, opened, raw_events, series, steps, tags
from peakhold.errors import HostError, InvalidArgumentError, SaveError, SaveWarning
from peakhold.tensorboard import TRAIN, VALIDATION, EventWriter, RunFolders, crc32c, left_by
from tensorboard_server import Server

N_BATCHES = 10


def run(folder, epochs, *, start=0, stop_after=None, offset=0.0, ends=True):
    """Writes what the callback writes; values tell which run they are of, by `offset`."""
    folders = RunFolders(str(folder))
    folders.go_on_from(start, start * N_BATCHES)
    train = folders.of(TRAIN)
    if not folders.holds(TRAIN, "keras"):
        train.keras_model("keras", "{}")
    for epoch in range(start, epochs):
        for batch in range(N_BATCHES):
            step = epoch * N_BATCHES + batch + 1
            folders.of(TRAIN).scalar("batch_loss", step + offset, step)
            if step == stop_after:
                folders.flush()
                return folders
        done = (epoch + 1) * N_BATCHES
        folders.of(VALIDATION).scalar("evaluation_loss_vs_iterations", done + offset, done)
        folders.of(TRAIN).scalar("epoch_loss", epoch + offset, epoch)
        folders.of(VALIDATION).scalar("epoch_loss", epoch + offset, epoch)
        folders.of(TRAIN).histogram("dense/kernel/histogram", [epoch, 1.0], epoch)
        folders.flush()
    if ends:
        folders.end()
    return folders


def expected(tag, epochs, switch, offset):
    """The line of a run that was cut at an epoch and gone on with by another, in its values."""
    by_epoch = tag == "epoch_loss"
    axis = range(epochs) if by_epoch else range(1, epochs * N_BATCHES + 1)
    if tag.startswith("evaluation"):
        axis = range(N_BATCHES, epochs * N_BATCHES + 1, N_BATCHES)
    limit = switch if by_epoch else switch * N_BATCHES + 1
    return [(step, step + (offset if step >= limit else 0.0)) for step in axis]


@pytest.mark.parametrize("stop_after", [None, 25, 31, 40, 47])
def test_one_value_a_step_after_a_resume(stop_after, tmp_path):
    """Killed anywhere; gone on with from epoch 2, the last one that was backed up."""
    killed = run(tmp_path, 5, stop_after=stop_after, ends=False)
    run(tmp_path, 6, start=2, offset=0.5)
    reader = multiplexed(tmp_path)

    for name, tag in [
        ("train", "batch_loss"),
        ("train", "epoch_loss"),
        ("validation", "epoch_loss"),
        ("validation", "evaluation_loss_vs_iterations"),
    ]:
        assert series(reader.GetAccumulator(name), tag) == expected(tag, 6, 2, 0.5), (name, tag)
    train = reader.GetAccumulator("train")
    assert steps(train, "keras") == [0]
    assert steps(train, "dense/kernel/histogram") == [0, 1, 2, 3, 4, 5]
    killed.close()


def test_a_reader_that_was_open_all_the_time_sees_the_same(tmp_path):
    run(tmp_path, 4, ends=False).close()
    reader = opened(tmp_path / "train")
    assert len(steps(reader, "batch_loss")) == 4 * N_BATCHES
    run(tmp_path, 6, start=2, offset=0.5)
    reader.Reload()

    assert series(reader, "batch_loss") == expected("batch_loss", 6, 2, 0.5)
    assert series(reader, "epoch_loss") == expected("epoch_loss", 6, 2, 0.5)


def test_killed_again_and_again(tmp_path):
    for start, stop_after in [(0, 23), (1, 38), (3, 39), (3, 52)]:
        run(tmp_path, 9, start=start, stop_after=stop_after, offset=start / 16).close()
    run(tmp_path, 6, start=4, offset=0.5)
    train = opened(tmp_path / "train")

    assert [step for step, _ in series(train, "batch_loss")] == list(range(1, 61))
    offsets = [value - step for step, value in series(train, "batch_loss")]
    assert offsets == [0.0] * 10 + [1 / 16] * 20 + [3 / 16] * 10 + [0.5] * 20
    assert steps(train, "epoch_loss") == [0, 1, 2, 3, 4, 5]


def test_a_run_that_goes_on_where_the_last_one_ended_takes_nothing_back(tmp_path):
    run(tmp_path, 3)
    run(tmp_path, 6, start=3)

    assert steps(opened(tmp_path / "train"), "epoch_loss") == [0, 1, 2, 3, 4, 5]
    assert not any(event.session_log.status == 1 for event in raw_events(tmp_path / "train"))


def test_a_run_that_was_killed_in_its_first_epoch_and_begun_again(tmp_path):
    run(tmp_path, 4, stop_after=7).close()
    run(tmp_path, 2, offset=0.5)

    train = opened(tmp_path / "train")
    assert series(train, "batch_loss") == [(s, s + 0.5) for s in range(1, 21)]
    assert steps(train, "keras") == [0]


def test_a_new_run_in_the_folder_of_one_that_ended_is_drawn_over_it(tmp_path):
    """As with Keras: nothing of a run that ended is hidden."""
    run(tmp_path, 2)
    run(tmp_path, 3, offset=0.5)

    assert steps(opened(tmp_path / "train"), "epoch_loss") == [0, 1, 0, 1, 2]


def test_files_of_others_are_not_taken_for_an_unfinished_run(tmp_path):
    tf = pytest.importorskip("tensorflow")
    writer = tf.summary.create_file_writer(str(tmp_path / "train"))
    with writer.as_default(0):
        tf.summary.scalar("epoch_loss", 0.25)
    writer.close()
    run(tmp_path, 2)

    assert steps(opened(tmp_path / "train"), "epoch_loss") == [0, 0, 1]


def test_their_files_are_understood_when_a_run_goes_on(tmp_path):
    tf = pytest.importorskip("tensorflow")
    writer = tf.summary.create_file_writer(str(tmp_path / "train"))
    for epoch in range(4):
        with writer.as_default(epoch):
            tf.summary.scalar("epoch_loss", epoch)
    writer.close()
    run(tmp_path, 4, start=2, offset=0.5)

    assert series(opened(tmp_path / "train"), "epoch_loss") == [(0, 0), (1, 1), (2, 2.5), (3, 3.5)]


def record_of(content, size=None):
    """A record, with a length of one's choice and its right checksum."""
    length = struct.pack("<Q", len(content) if size is None else size)
    return length + crc32c.mask(crc32c.update(crc32c.START, length)) + content + b"\0" * 4


DAMAGE = {
    "nothing": b"",
    "nuls": b"\0" * 40,
    "ones": b"\xff" * 40,
    "no event file": b"no event file",
    "an exbibyte": record_of(b"", 1 << 60),
    "more than there is memory": record_of(b"\0" * 20, (1 << 64) - 5),
    "a number without an end": record_of(b"\x10" + b"\xff" * 30),
    "the largest step": record_of(b"\x10" + b"\xff" * 9 + b"\x01"),
    "a step of more than 64 bits": record_of(b"\x10" + b"\xff" * 9 + b"\x7f"),
    "a tag that is no text": record_of(b"\x2a\x06\x0a\x04\x0a\x02\xff\xfe"),
    "a summary in a summary": record_of(b"\x2a\x05" * 3_000),
    "a status that is text": record_of(b"\x3a\x03\x0a\x01\x01"),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_in_the_folder_stops_nothing(damage, tmp_path):
    os.makedirs(tmp_path / "train")
    (tmp_path / "train" / "events.out.tfevents.1700000000.x").write_bytes(DAMAGE[damage])
    (tmp_path / "train" / "events.out.tfevents.1700000001.x").mkdir()
    os.mkfifo(tmp_path / "train" / "events.out.tfevents.1700000002.x")
    loop = tmp_path / "train" / "events.out.tfevents.1700000003.x"
    loop.symlink_to(loop.name)
    run(tmp_path, 3, start=1)

    assert left_by(str(tmp_path / "train")).unfinished is False
    for name in os.listdir(
        tmp_path / "train"
    ):  # TensorBoard itself waits, or dies, of some of them
        if name.endswith(".x") and name != loop.name:
            path = tmp_path / "train" / name
            path.rmdir() if path.is_dir() else path.unlink()
    os.unlink(loop)
    assert steps(opened(tmp_path / "train"), "epoch_loss") == [1, 2]


@pytest.mark.parametrize("fast", ["true", "false"])
def test_a_server_of_tensorboard_shows_one_line(fast, tmp_path):
    """Its two ways of reading: its data server, and the reader of the tests above."""
    for module in ("tensorboard", *(["tensorboard_data_server"] if fast == "true" else [])):
        pytest.importorskip(module)
    run(tmp_path, 5, stop_after=47, ends=False).close()
    run(tmp_path, 6, start=2, offset=0.5)
    lines = {}
    with Server(tmp_path, load_fast=fast) as server:
        for name, tag in [("train", "batch_loss"), ("validation", "epoch_loss")]:
            for _ in range(600):  # it loads while it serves
                points = server.get("plugin/scalars/scalars", run=name, tag=tag) or []
                lines[tag] = [(step, value) for _, step, value in points]
                if len(lines[tag]) >= (60 if tag == "batch_loss" else 6):
                    break
                time.sleep(0.1)

    for tag, line in lines.items():
        assert line == expected(tag, 6, 2, 0.5)
    assert lines.keys() == {"batch_loss", "epoch_loss"}


# The callback in a loop


def loop(board, epochs, *, start=0, model=None, optimizer=None, **params):
    callbacks = peakhold.CallbackList(
        board, model, optimizer=optimizer, verbose=0, epochs=epochs, steps=4, **params
    )
    callbacks.on_train_begin()
    for epoch in range(start, epochs):
        callbacks.on_epoch_begin(epoch)
        for batch in range(4):
            callbacks.on_train_batch_begin(batch)
            callbacks.on_train_batch_end(batch, {"loss": np.float32(batch)})
        callbacks.on_test_begin()
        callbacks.on_test_end({"loss": 0.25})
        callbacks.on_epoch_end(epoch, {"loss": 0.5, "val_loss": 0.25, "note": "no number"})
    callbacks.on_train_end()


def test_a_plain_loop(tmp_path):
    board = peakhold.TensorBoard(tmp_path, update_freq=2, write_steps_per_second=True)
    loop(board, 3)
    reader = multiplexed(tmp_path)
    train, validation = reader.GetAccumulator("train"), reader.GetAccumulator("validation")

    assert tags(train) == {
        "batch_loss", "batch_steps_per_second", "epoch_loss", "epoch_steps_per_second",
    }  # fmt: skip
    assert series(train, "batch_loss") == [(s, float((s - 1) % 4)) for s in range(2, 13, 2)]
    assert series(train, "epoch_loss") == [(0, 0.5), (1, 0.5), (2, 0.5)]
    assert series(validation, "epoch_loss") == [(0, 0.25), (1, 0.25), (2, 0.25)]
    assert steps(validation, "evaluation_loss_vs_iterations") == [4, 8, 12]
    assert all(value > 0 for _, value in series(train, "epoch_steps_per_second"))


def test_a_loop_that_goes_on_counts_on(tmp_path):
    """By the number of steps it was told, or by the state of the callback."""
    board = peakhold.TensorBoard(tmp_path, update_freq=1)
    loop(board, 2)
    state = board.state_dict()
    assert state["steps"] == 8
    loop(peakhold.TensorBoard(tmp_path, update_freq=1), 3, start=2)
    again = peakhold.TensorBoard(tmp_path / "state", update_freq=1)
    again.load_state_dict(state)
    loop(again, 3, start=2)

    assert steps(opened(tmp_path / "train"), "batch_loss") == list(range(1, 13))
    assert steps(opened(tmp_path / "state" / "train"), "batch_loss") == list(range(9, 13))


def test_a_batch_has_no_hook_that_nobody_needs(tmp_path):
    """K-T3."""
    from peakhold.runtime.callback import is_no_op

    hooks = ("on_train_batch_begin", "on_train_batch_end", "on_batch_end", "on_test_batch_end")
    assert all(is_no_op(peakhold.TensorBoard(tmp_path), hook) for hook in hooks)
    assert not is_no_op(peakhold.TensorBoard(tmp_path, update_freq=9), "on_train_batch_end")


def test_weights_of_any_loop_are_shown(tmp_path):
    weights = {"dense": {"kernel": np.arange(6.0).reshape(2, 3), "bias": np.zeros(3)}}
    host = peakhold.LoopHost(get_state=lambda: weights, set_state=weights.update)
    board = peakhold.TensorBoard(tmp_path, histogram_freq=2, write_images=True)
    loop(board, 4, host=host)
    reader = opened(tmp_path / "train")

    assert steps(reader, "dense.kernel/histogram") == steps(reader, "dense.bias/image") == [0, 2]
    table = reader.Tensors("dense.kernel/histogram")[0].tensor_proto
    assert np.frombuffer(table.tensor_content).reshape(-1, 3)[:, 2].sum() == 6


def test_a_killed_loop_and_its_restart(tmp_path):
    code = (
        "import os, signal, sys\n"
        "sys.path[:0] = sys.argv[2].split(os.pathsep)\n"
        "import peakhold\n"
        "board = peakhold.TensorBoard(sys.argv[1], update_freq=1)\n"
        "run = peakhold.CallbackList(board, verbose=0, epochs=9, steps=4)\n"
        "start, die = int(sys.argv[3]), int(sys.argv[4])\n"
        "run.on_train_begin()\n"
        "for epoch in range(start, 6):\n"
        "    run.on_epoch_begin(epoch)\n"
        "    for batch in range(4):\n"
        "        run.on_train_batch_end(batch, {'loss': epoch})\n"
        "        if epoch * 4 + batch == die:\n"
        # or nothing of this epoch would be there to supersede
        "            board._peakhold_link.participant._folders.flush()\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "    run.on_epoch_end(epoch, {'loss': epoch, 'val_loss': epoch})\n"
        "run.on_train_end()\n"
    )
    path = os.pathsep.join(sys.path)
    for start, die, status in [(0, 13, -signal.SIGKILL), (2, 20, -signal.SIGKILL), (3, 99, 0)]:
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), path, str(start), str(die)], check=False
        )
        assert done.returncode == status
    reader = multiplexed(tmp_path)

    assert steps(reader.GetAccumulator("train"), "batch_loss") == list(range(1, 25))
    assert steps(reader.GetAccumulator("train"), "epoch_loss") == list(range(6))
    assert steps(reader.GetAccumulator("validation"), "epoch_loss") == list(range(6))
    assert len(files(tmp_path / "train")) == 3


# What goes wrong


def test_a_folder_that_cannot_be_written_is_an_error_before_training(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(SaveError, match="folder"):
        loop(peakhold.TensorBoard(tmp_path / "file"), 1)


def test_a_disk_that_refuses_is_said_once_and_ends_no_training(tmp_path, monkeypatch):
    board = peakhold.TensorBoard(tmp_path, update_freq=1)
    full = [True]
    flush = EventWriter.flush

    def refuse(writer, **arguments):
        if full[0]:
            raise OSError(28, "No space left on device")
        flush(writer, **arguments)

    monkeypatch.setattr(EventWriter, "flush", refuse)
    with pytest.warns(SaveWarning, match="No space left") as caught:
        loop(board, 2)
    full[0] = False

    assert sum(issubclass(w.category, SaveWarning) for w in caught) == 1
    assert steps(opened(tmp_path / "train"), "batch_loss") == list(range(1, 9))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("log_dir", ""), ("log_dir", 3), ("histogram_freq", -1), ("histogram_freq", "often"),
        ("update_freq", 0), ("update_freq", "batches"), ("update_freq", True),
        ("embeddings_freq", -2), ("profile_batch", -1), ("profile_batch", (3, 2)),
        ("profile_batch", "a,b"), ("profile_batch", (1, 2, 3)), ("profile_batch", None),
    ],
)  # fmt: skip
def test_an_argument_that_means_nothing_is_refused(argument, value):
    with pytest.raises(InvalidArgumentError, match=argument):
        peakhold.TensorBoard(**{argument: value})


@pytest.mark.parametrize(
    ("given", "kept"), [(0, (0, 0)), (5, (5, 5)), ((2, 4), (2, 4)), ("2,4", (2, 4)), ("3", (3, 3))]
)
def test_batches_to_profile_may_be_written_as_in_keras(given, kept):
    assert peakhold.TensorBoard("logs", profile_batch=given).profile_batch == kept


def test_a_loop_is_told_that_there_is_no_profiler(tmp_path):
    with pytest.raises(HostError, match=r"torch\.profiler"):
        loop(peakhold.TensorBoard(tmp_path, profile_batch=2), 1)
