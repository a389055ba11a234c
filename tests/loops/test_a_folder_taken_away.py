"""Somebody deletes, moves or replaces the folder in mid-run: what comes next is there, or it is said.

And it is said once, whatever is written: checkpoints, backups, logs, events, a store.
"""

import os
import shutil
import warnings

import numpy as np
import pytest

from leftovers import check_nothing_is_left
from peakhold import (
    BackupAndRestore,
    CallbackList,
    CSVLogger,
    EarlyStopping,
    LoopHost,
    ModelCheckpoint,
    TensorBoard,
)
from peakhold.errors import CheckpointNotFoundError, SaveError, SaveWarning
from peakhold.files import background
from peakhold.store import Store
from peakhold.tensorboard.records import event_files, read_records

EPOCHS = 6


@pytest.fixture(autouse=True)
def nothing_is_left_behind(tmp_path):
    yield
    check_nothing_is_left(tmp_path)


def deleted(folder):
    shutil.rmtree(folder)


def moved(folder):
    os.rename(folder, f"{folder}-away")


def replaced(folder):
    moved(folder)
    os.mkdir(folder)


def gone_and_a_file_there(folder):
    moved(folder)
    with open(folder, "w") as file:
        file.write("mine")


WAYS = [deleted, moved, replaced]


class Loop:
    """An epoch adds 1 to each weight."""

    def __init__(self, *callbacks, verbose=0):
        self.params = {"w": np.zeros(8)}
        self.host = LoopHost(get_state=lambda: self.params, set_state=self.params.update)
        self.run = CallbackList(list(callbacks), host=self.host, epochs=EPOCHS, verbose=verbose)
        self.run.on_train_begin()

    def epochs(self, *epochs, loss=lambda epoch: 1 / (epoch + 1)):
        for epoch in epochs:
            self.run.on_epoch_begin(epoch)
            self.params["w"] = self.params["w"] + 1
            self.run.on_epoch_end(epoch, {"loss": loss(epoch)})
            background.drain()  # each epoch's file before the next strikes


# What is there afterwards


def backup(folder, strike):
    loop = Loop(callback := BackupAndRestore(folder))
    loop.epochs(0, 1, 2)
    strike(folder)
    loop.epochs(3, 4)  # and is killed
    callback._peakhold_link.participant._kept.folder.close()

    going_on = Loop(again := BackupAndRestore(folder))
    going_on.run.on_epoch_begin(again._peakhold_link.participant.initial_epoch)
    assert again._peakhold_link.participant.initial_epoch == 5
    assert np.array_equal(going_on.params["w"], np.full(8, 5.0))
    going_on.run.on_epoch_end(5, {"loss": 0.1})
    going_on.run.on_train_end()


def checkpoints(folder, strike):
    loop = Loop(ModelCheckpoint(f"{folder}/w{{epoch}}.safetensors"))
    loop.epochs(0, 1, 2)
    strike(folder)
    loop.epochs(3, 4)
    loop.run.on_train_end()

    assert sorted(os.listdir(folder))[:2] == ["w4.safetensors", "w5.safetensors"]


def best(folder, strike):
    path = f"{folder}/best.safetensors"
    loop = Loop(ModelCheckpoint(path, "loss", save_best_only=True, background=True))
    loop.epochs(0, 1, 2)
    strike(folder)
    loop.epochs(3)
    loop.run.on_train_end()

    with open(path, "rb") as file:
        assert file.read()[-64:] == np.full(8, 4.0).tobytes()


def log(folder, strike):
    loop = Loop(CSVLogger(f"{folder}/log.csv"))
    loop.epochs(0, 1, 2)
    strike(folder)
    loop.epochs(3, 4)
    loop.run.on_train_end()

    with open(f"{folder}/log.csv") as file:
        rows = file.read().splitlines()
    assert rows[0] == "epoch,loss"
    assert [row.split(",")[0] for row in rows[1:]] == ["3", "4"]


def events(folder, strike):
    loop = Loop(TensorBoard(folder))
    loop.epochs(0, 1, 2)
    strike(folder)
    loop.epochs(3, 4)
    loop.run.on_train_end()

    train = f"{folder}/train"
    (name,) = event_files(train)
    records = [content for _, content in read_records(f"{train}/{name}")]
    assert b"brain.Event" in records[0]
    assert sum(b"epoch_loss" in record for record in records) == 2


def store(folder, strike):
    with Store(folder) as checkpoints:
        for step in range(5):
            if step == 3:
                strike(folder)
            entry = checkpoints.save(step, {"model": {"w": np.full(3, step)}}).result()
            assert entry.path.is_dir(), "a checkpoint is where it says"
        assert [entry.step for entry in checkpoints.list()] == [3, 4]
        assert [entry.commit for entry in checkpoints.list()] == [4, 5]
        assert checkpoints.load(4)["model"]["w"].tolist() == [4, 4, 4]


@pytest.mark.parametrize("strike", WAYS)
@pytest.mark.parametrize(
    ("writes", "times"),
    [(backup, 1), (log, 1), (events, 1), (store, 1), (checkpoints, 0), (best, 0)],
)
def test_what_comes_next_is_there_and_it_is_said_once(writes, times, strike, tmp_path):
    """Of files that stand for themselves nothing needs to be said."""
    folder = str(tmp_path / "out")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        writes(folder, strike)

    assert len(said) == times, [str(one.message) for one in said]


def test_a_best_file_that_is_gone_is_not_said_to_be_there(tmp_path, capsys):
    folder = str(tmp_path / "out")
    loop = Loop(
        ModelCheckpoint(f"{folder}/best.safetensors", "loss", save_best_only=True), verbose=1
    )
    loop.epochs(0, 1)
    deleted(folder)
    loop.epochs(2, loss=lambda _: 9.0)
    loop.run.on_train_end()

    said = capsys.readouterr().out
    assert f"{folder}/best.safetensors" in said
    assert "not there any more" in said


# Where the folder cannot be made anew


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: BackupAndRestore(folder),
        lambda folder: TensorBoard(folder),
        lambda folder: ModelCheckpoint(f"{folder}/b.safetensors", "loss", save_best_only=True),
        lambda folder: CSVLogger(f"{folder}/log.csv"),
    ],
    ids=["backup", "events", "best", "log"],
)
def test_where_a_file_has_its_place_that_is_said_and_it_goes_on_when_it_is_gone(make, tmp_path):
    folder = str(tmp_path / "out")
    loop = Loop(make(folder))
    with pytest.warns(SaveWarning) as said:
        loop.epochs(0, 1)
        gone_and_a_file_there(folder)
        loop.epochs(2, 3)
        with open(folder) as file:
            assert file.read() == "mine", "what is somebody's stays"
        os.unlink(folder)
        loop.epochs(4, 5)
    there = [name for _, _, names in os.walk(folder) for name in names]
    loop.run.on_train_end()

    assert there
    texts = dict.fromkeys(str(one.message) for one in said)
    assert any("directory" in text or "no folder" in text for text in texts), texts
    assert len(texts) <= 3, texts


def test_a_store_says_what_to_do_and_saves_when_that_is_done(tmp_path):
    folder = str(tmp_path / "out")
    checkpoints = Store(folder)
    checkpoints.save(1, {"model": {"x": 1}}).result()
    gone_and_a_file_there(folder)
    with pytest.raises(SaveError, match="move away what stands there"):
        checkpoints.save(2, {"model": {"x": 2}}).result()
    os.unlink(folder)
    assert checkpoints.save(3, {"model": {"x": 3}}).result().path.is_dir()
    with pytest.warns(SaveWarning, match="deleted, moved or replaced"):
        checkpoints.close()


def test_two_stores_never_write_to_one_folder(tmp_path):
    """The path may mean the folder of another store meanwhile: that one owns it."""
    first, other = str(tmp_path / "first"), str(tmp_path / "other")
    with Store(first) as mine, Store(other) as theirs:
        theirs.save(7, {"model": {"x": 7}}).result()
        moved(first)
        os.symlink(other, first)
        with pytest.raises(Exception, match=f"process {os.getpid()}"):
            mine.save(1, {"model": {"x": 1}}).result()
        assert [entry.step for entry in theirs.list()] == [7]


def test_numbers_go_on_beyond_what_lies_in_the_folder_that_is_there_now(tmp_path):
    folder, other = str(tmp_path / "out"), str(tmp_path / "other")
    with Store(other) as theirs:
        for step in range(9):
            theirs.save(step, {"model": {"x": step}}).result()
    with Store(folder) as mine:
        mine.save(1, {"model": {"x": 1}}).result()
        moved(folder)
        os.rename(other, folder)
        assert mine.save(2, {"model": {"x": 20}}).result().commit == 10
        assert mine.latest.revision == 2
        with pytest.warns(SaveWarning, match="deleted, moved or replaced"):
            mine.wait()


@pytest.mark.parametrize("strike", WAYS)
def test_a_backup_refers_to_nothing_that_was_deleted(strike, tmp_path):
    """The best weights are written anew, though the backup before had them."""
    folder = str(tmp_path / "out")

    def callbacks():
        return EarlyStopping("loss", patience=9, restore_best_weights=True), BackupAndRestore(
            folder
        )

    def loss(epoch):
        return 0.1 if epoch == 1 else 1.0

    loop = Loop(*(parts := callbacks()))
    loop.epochs(0, 1, 2, loss=loss)
    strike(folder)
    with pytest.warns(SaveWarning, match="deleted, moved or replaced"):
        loop.epochs(3, 4, loss=loss)
    parts[1]._peakhold_link.participant._kept.folder.close()

    going_on = Loop(*callbacks())
    going_on.epochs(5, loss=loss)
    going_on.run.on_train_end()
    assert np.array_equal(going_on.params["w"], np.full(8, 2.0)), "of epoch 2, the best"


# Best weights on disk


def spilled(loop):
    return loop.run.callbacks[0]._peakhold_link.participant._spill.folder


def stopping():
    return EarlyStopping("loss", patience=9, restore_best_weights=True, memory_budget=10)


def test_the_next_best_is_kept_though_the_folder_was_cleared(tmp_path):
    loop = Loop(stopping())
    loop.epochs(0, 1)
    deleted(spilled(loop))
    with pytest.warns(SaveWarning, match="deleted, moved or replaced"):
        loop.epochs(2)
    loop.epochs(3, loss=lambda _: 9.0)
    loop.run.on_train_end()

    assert np.array_equal(loop.params["w"], np.full(8, 3.0))


def test_a_best_that_was_cleared_away_is_missed_in_words(tmp_path):
    loop = Loop(stopping())
    loop.epochs(0, 1)
    deleted(spilled(loop))
    with pytest.raises(CheckpointNotFoundError) as missed:
        loop.run.on_train_end()

    assert "Set TMPDIR to a folder that nobody clears" in missed.value.__notes__[0]
