"""What rank 0 decides is what all carry out; what is written is written once."""

import csv
import gc
import math
import os
import re

import numpy as np
import pytest

from peakhold import (
    BackupAndRestore,
    CSVLogger,
    EarlyStopping,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TensorBoard,
    TerminateOnNaN,
)
from peakhold.distributed import Mean
from peakhold.errors import AdviceWarning, SaveWarning, WorkerFailedError
from peakhold.testing import FakeHub
from workers.rig import attempted, together, train


def history(*values, name="val_loss"):
    return [{"loss": 1.0, name: value} for value in values]


# Rank 0's word counts


class Whimsical(EarlyStopping):
    """Its own metric, which each worker reads otherwise."""

    def get_monitor_value(self, logs):
        return logs["val_loss"] + self.offset

    offset = 0.0


def test_answers_of_a_users_code_are_rank_0s():
    def work(rank, channel):
        stopper = Whimsical("val_loss", patience=2)
        stopper.offset = float(rank * 100)
        return train([stopper], history(0.5, 0.6, 0.7, 0.8), channel=channel)

    first, second = together(2, work)

    assert first.epochs == second.epochs == [0, 1, 2]
    for ran in (first, second):
        assert ran.callbacks["Whimsical"].best == 0.5


def test_the_rates_of_a_schedule_are_rank_0s():
    def work(rank, channel):
        schedule = LearningRateScheduler(lambda epoch, rate: 0.5 / (epoch + 1 + 10 * rank))
        return train([schedule, EarlyStopping("val_loss")], history(3, 2, 1), channel=channel)

    first, second = together(2, work)

    assert second.rates == first.rates
    assert second.model.rate == first.model.rate == 0.5 / 3


def test_who_does_not_decide_carries_out():
    """The stop, the rate and the best weights are those that the mean of both asks for."""

    def work(rank, channel):
        # Rank 1 alone would stop after epoch 3, rank 0 alone never.
        values = [(5, 1), (4, 2), (3, 3), (6, 0.5), (7, 9), (8, 9), (9, 9)]
        callbacks = [
            ReduceLROnPlateau("val_loss", patience=1, factor=0.1),
            EarlyStopping("val_loss", patience=3, restore_best_weights=True),
        ]
        logs = history(*[each[rank] for each in values])
        return train(callbacks, logs, channel=channel)

    means = [3, 3, 3, 3.25]
    for ran in together(2, work):
        assert ran.epochs == [0, 1, 2, 3]
        assert [logs["val_loss"] for logs in ran.logs] == means
        assert ran.callbacks["EarlyStopping"].best_epoch == 0
        assert ran.model.value == 1.0  # of epoch 0
        assert ran.model.rate == pytest.approx(0.1 * 0.1**3)


# One file, one row, one line


def test_files_are_written_once(tmp_path, capfd):
    def work(rank, channel):
        callbacks = [
            EarlyStopping("val_loss", patience=9, verbose=1),
            ModelCheckpoint(
                f"{tmp_path}/m/best.safetensors",
                monitor="val_loss",
                save_best_only=True,
                verbose=1,
            ),
            CSVLogger(f"{tmp_path}/log.csv"),
            TensorBoard(f"{tmp_path}/curves", write_graph=False),
        ]
        return train(callbacks, history(0.5 - rank, 0.3 - rank, 0.4 - rank), channel=channel)

    first, second = together(2, work)

    said = capfd.readouterr().out
    assert said.count("Epoch 2: val_loss improved") == 1, said
    names = sorted(os.listdir(tmp_path / "m"))
    assert names == ["best.safetensors", "best.safetensors.peakhold.json"]
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    means = [0.0, (0.3 - 0.7) / 2, (0.4 - 0.6) / 2]
    assert [float(row["val_loss"]) for row in rows] == pytest.approx(means)
    curves = [path.parent.name for path in (tmp_path / "curves").rglob("*tfevents*")]
    assert sorted(curves) == ["train", "validation"]
    for ran in (first, second):
        saver = ran.callbacks["ModelCheckpoint"]
        assert saver.best == pytest.approx(-0.2)
        assert saver.best_epoch == 1
        assert saver.best_path == saver.latest_path == f"{tmp_path}/m/best.safetensors"


def test_each_worker_has_a_file_of_its_own_where_its_rank_is_in_the_name(tmp_path):
    def work(rank, channel):
        saver = ModelCheckpoint(f"{tmp_path}/m-{{worker}}-{{epoch}}.safetensors", keep_last=2)
        return train([saver], history(4, 3, 2, 1), channel=channel)

    ran = together(2, work)

    for rank, one in enumerate(ran):
        assert one.callbacks["ModelCheckpoint"].latest_path == f"{tmp_path}/m-{rank}-4.safetensors"
        mine = sorted(name for name in os.listdir(tmp_path) if re.match(rf"m-{rank}-\d\.s", name))
        assert mine == [f"m-{rank}-3.safetensors", f"m-{rank}-4.safetensors"]


def test_a_save_that_fails_on_rank_0_is_a_failed_one_for_all(tmp_path, monkeypatch):
    """What was passed over meanwhile is not the value to beat on any worker."""
    folder = tmp_path / "m"

    def break_it(ran, epoch):
        if epoch == 1 and folder.is_dir():
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
            folder.write_text("in the way")
        elif epoch == 2 and folder.is_file():
            folder.unlink()

    def work(rank, channel):
        saver = ModelCheckpoint(
            f"{folder}/m.safetensors", monitor="val_loss", save_best_only=True, background=False
        )
        return train(
            [saver],
            history(0.5, 0.1, 0.3),
            channel=channel,
            on_epoch=break_it if rank == 0 else None,
        )

    with pytest.warns(SaveWarning, match="epoch 2"):
        first, second = together(2, work)

    for ran in (first, second):
        saver = ran.callbacks["ModelCheckpoint"]
        assert (saver.best, saver.best_epoch) == (0.3, 2) or saver.best == 0.1
        assert saver.best == first.callbacks["ModelCheckpoint"].best
        assert saver.best_path == first.callbacks["ModelCheckpoint"].best_path


# What one worker has, all have


def test_weights_that_are_not_finite_on_one_worker_are_no_ones_best(tmp_path):
    def spoil(ran, epoch):
        if epoch == 1:
            ran.model.state["w"][0] = math.nan

    def work(rank, channel):
        callbacks = [
            EarlyStopping("val_loss", patience=5, restore_best_weights=True),
            ModelCheckpoint(f"{tmp_path}/m.safetensors", monitor="val_loss", save_best_only=True),
        ]
        return train(
            callbacks,
            history(0.5, 0.1, 0.3),
            channel=channel,
            on_epoch=spoil if rank == 1 else None,
        )

    with pytest.warns(SaveWarning, match="not finite"):
        ran = together(2, work)

    for one in ran:
        assert one.callbacks["EarlyStopping"].best_epoch == 2
        assert one.callbacks["ModelCheckpoint"].best == 0.3
        assert one.model.value == 3.0


def test_a_metric_of_one_rank_counts_for_all_and_is_said_once():
    def work(rank, channel):
        logs = [
            {"loss": 1.0, **({"val_loss": 1.0 - epoch} if rank == 0 else {})} for epoch in range(3)
        ]
        return train([EarlyStopping("val_loss", restore_best_weights=True)], logs, channel=channel)

    with pytest.warns(AdviceWarning, match="only rank 0 has logged 'val_loss'") as said:
        ran = together(2, work)

    assert len([one for one in said if "only rank 0" in str(one.message)]) == 1
    for one in ran:
        assert one.callbacks["EarlyStopping"].best == -1.0
        assert one.model.value == 3.0


def test_a_participant_of_one_worker_that_wants_to_stop_stops_all():
    """Its reason is everybody's."""

    def work(rank, channel):
        def stop(ran, epoch):
            if epoch == 1 and rank == 1:
                ran.callbacks["EarlyStopping"].session.stop("the queue is empty")

        return train(
            [EarlyStopping("val_loss")], history(5, 4, 3, 2), channel=channel, on_epoch=stop
        )

    for ran in together(2, work):
        assert ran.epochs == [0, 1]
        assert ran.callbacks["EarlyStopping"].session.stop_reasons == ["the queue is empty"]


def test_an_error_on_one_worker_ends_the_others_with_its_message():
    class Raises(EarlyStopping):
        def get_monitor_value(self, logs):
            raise KeyError("no such thing")

    def work(rank, channel):
        kind = Raises if rank == 1 else EarlyStopping
        kind.__name__ = "EarlyStopping"
        return train([kind("val_loss")], history(3, 2, 1), channel=channel)

    first, second = attempted(2, work)

    assert isinstance(second, KeyError), second
    assert isinstance(first, WorkerFailedError), first
    assert first.rank == 1
    assert "KeyError: 'no such thing'" in str(first)


# A backup


def test_a_backup_is_rank_0s_and_all_go_on_from_it(tmp_path):
    folder = tmp_path / "backup"

    class Killed(Exception):
        pass

    def work(rank, channel, *, killed):
        def kill(ran, epoch):
            if killed and epoch == 3:
                raise Killed

        callbacks = [
            EarlyStopping("val_loss", patience=4, restore_best_weights=True),
            CSVLogger(f"{tmp_path}/log.csv", append=True),
            BackupAndRestore(folder),
        ]
        ran = train(
            callbacks,
            history(*[v + rank for v in (5, 1, 4, 3, 2, 6, 7)]),
            channel=channel,
            on_epoch=kill,
        )
        return ran, callbacks[-1]

    found = attempted(2, lambda rank, channel: work(rank, channel, killed=True))
    assert [type(one) for one in found] == [Killed, Killed]
    del found  # with the frames of the run that was killed
    gc.collect()
    assert folder.is_dir()

    for ran, _ in together(2, lambda rank, channel: work(rank, channel, killed=False)):
        assert ran.epochs == [3, 4, 5]
        assert ran.callbacks["EarlyStopping"].best_epoch == 1
        assert ran.model.value == 2.0
    assert not folder.exists()
    with open(tmp_path / "log.csv", newline="") as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == [0, 1, 2, 3, 4, 5]


# Cost


def test_an_epoch_is_at_most_three_exchanges(tmp_path):
    """One to decide, one to commit, one for the rates of a schedule; however many workers."""
    rounds = {}

    def before(rank, name, key):
        if name == "set" and rank == 0 and key.endswith("/answer"):
            rounds[rank] = rounds.get(rank, 0) + 1

    def count(n_epochs):
        rounds.clear()

        def work(rank, channel):
            callbacks = [
                LearningRateScheduler(lambda epoch: 0.1),
                ReduceLROnPlateau("val_loss"),
                EarlyStopping("val_loss", restore_best_weights=True, patience=50),
                TerminateOnNaN(),
                CSVLogger(f"{tmp_path}/log.csv"),
                BackupAndRestore(tmp_path / "backup"),
            ]
            return train(callbacks, history(*range(n_epochs, 0, -1)), channel=channel)

        together(3, work, before=before)
        return rounds[0]

    assert count(9) - count(4) == 5 * 3


@pytest.mark.parametrize("size", [2, 64])
def test_keys_do_not_pile_up(size):
    hub = FakeHub(size)

    together(
        size,
        lambda rank, channel: train(
            [EarlyStopping("val_loss", patience=50)], history(*range(12, 0, -1)), channel=channel
        ),
        hub=hub,
    )

    # Signs of life, who has left, and answers of the last rounds.
    assert len(hub.values) <= 2 * size + 3, sorted(hub.values)


def test_a_mean_alone_is_a_number():
    """With one worker a mean is its value, whatever its weight."""
    ran = train(
        [EarlyStopping("val_loss", patience=1)],
        history(Mean(np.float32(0.5), 3), Mean(0.25, 1), Mean(0.75, 7)),
    )

    assert ran.epochs == [0, 1, 2]
    assert ran.callbacks["EarlyStopping"].best == 0.25
