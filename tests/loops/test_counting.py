"""Loops that count their epochs from 1, and loops that begin where a resume does not go on."""

import csv
import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file

import peakhold
from event_reader import opened, steps
from peakhold.errors import HostError, InvalidArgumentError


class Loop:
    """A loop of NumPy; `counts_from` 0 or 1, its metric by the number of the epoch from 1."""

    def __init__(self, callbacks, *, counts_from=1, epochs=6, verbose=1, **arguments):
        self.params = {"w": np.zeros(2)}
        self.at = {}
        self.host = peakhold.LoopHost(get_state=lambda: self.params, set_state=self.params.update)
        self.first, self.epochs = counts_from, epochs
        self.list = peakhold.CallbackList(
            callbacks, host=self.host, epochs=epochs, verbose=verbose, **arguments
        )

    def run(self, values, *, start=None, crash_in=None, begins=True):
        start = self.first if start is None else start
        self.list.on_train_begin()
        for epoch in range(start, self.first + self.epochs):
            if begins:
                self.list.on_epoch_begin(epoch)
            if epoch == crash_in:
                raise ZeroDivisionError
            self.params["w"] = self.params["w"] + epoch + 1 - self.first
            self.at[epoch] = self.params["w"].copy()
            self.list.on_epoch_end(epoch, {"val_loss": values[epoch - self.first]})
            if self.list.stop_training:
                break
        self.list.on_train_end()
        return self


VALUES = [0.5, 0.3, 0.4, 0.45, 0.5, 0.6]


def callbacks_in(folder):
    return {
        "stopping": peakhold.EarlyStopping(
            "val_loss", patience=3, restore_best_weights=True, verbose=1
        ),
        "saving": peakhold.ModelCheckpoint(
            str(folder / "w_{epoch}.safetensors"),
            monitor="val_loss",
            save_best_only=True,
            verbose=1,
        ),
        "log": peakhold.CSVLogger(folder / "log.csv"),
        "alert": peakhold.ReduceLROnPlateau("val_loss"),
    }


def epochs_in(path):
    with open(path, newline="") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("said", [None, 1])
@pytest.mark.parametrize("begins", [True, False], ids=["all hooks", "ends only"])
def test_numbers_are_as_the_loop_counts_them(tmp_path, capsys, said, begins):
    callbacks = callbacks_in(tmp_path)
    del callbacks["alert"]
    loop = Loop(callbacks, first_epoch=said).run(VALUES, begins=begins)
    text = capsys.readouterr().out

    stopping, saving = callbacks["stopping"], callbacks["saving"]
    assert (stopping.best_epoch, stopping.stopped_epoch, saving.best_epoch) == (2, 5, 2)
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == [
        "w_1.safetensors", "w_2.safetensors",
    ]  # fmt: skip
    assert epochs_in(tmp_path / "log.csv") == [1, 2, 3, 4, 5]
    assert np.array_equal(loop.params["w"], loop.at[2])
    assert "Epoch 5: early stopping\n" in text
    assert "from the end of the best epoch: 2.\n" in text
    assert "Epoch 2: val_loss improved from 0.50000 to 0.30000" in text
    assert "Epoch 3: val_loss did not improve" in text
    assert "training ended after epoch 5 of 6: " in text
    assert "best val_loss 0.30000 at epoch 2, " in text
    assert "5 epochs took" in text and "ended 1 epoch early" in text
    stopping.explain()
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["epoch", "1", "2", "3", "4", "5"]


def test_the_sidecar_says_the_epoch_as_the_loop_counts(tmp_path):
    saving = peakhold.ModelCheckpoint(
        tmp_path / "best.safetensors", monitor="val_loss", save_best_only=True
    )
    Loop(saving).run(VALUES)
    lines = (tmp_path / "best.safetensors.peakhold.json").read_text().splitlines()

    assert json.loads(lines[-1])["epoch"] == 2


def test_a_loop_that_runs_to_its_end_says_so(capsys):
    Loop(peakhold.EarlyStopping("val_loss", patience=9)).run(VALUES)
    text = capsys.readouterr().out

    assert "training ended after epoch 6 of 6: all epochs were run.\n" in text
    assert "early" not in text.split("took")[1]


def test_a_patience_counts_epochs_and_says_so():
    stopping = peakhold.EarlyStopping("val_loss", patience=2, baseline=0.1)
    Loop(stopping).run(VALUES)

    assert stopping.stopped_epoch == 2
    assert stopping._peakhold_link.participant.run.stop_reasons == [
        "val_loss: the baseline 0.1 was not reached within 2 epochs (EarlyStopping)"
    ]


def test_a_second_run_of_the_program_is_not_a_resume(tmp_path, capsys):
    """Worse than the first one: it still saves, and its best is its own."""
    for values in (VALUES, [value + 1 for value in VALUES]):
        callbacks = callbacks_in(tmp_path)
        del callbacks["alert"]
        loop = Loop(callbacks).run(values)

    assert callbacks["saving"].best == pytest.approx(1.3)
    assert callbacks["saving"].best_path == str(tmp_path / "w_2.safetensors")
    assert np.array_equal(load_file(tmp_path / "w_2.safetensors")["w"], loop.at[2])
    assert "best val_loss 1.30000 at epoch 2" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["objects", "list"])
def test_the_same_objects_in_a_second_loop_start_afresh(kind):
    stopping = peakhold.EarlyStopping("val_loss", patience=3)
    loop = Loop(stopping, verbose=0)
    loop.run(VALUES)
    if kind == "objects":
        loop = Loop(stopping, verbose=0)
    loop.run([value + 1 for value in VALUES])

    assert (stopping.best, stopping.best_epoch) == (pytest.approx(1.3), 2)


def test_a_loop_that_counts_from_0_and_goes_on_with_epoch_1_goes_on():
    """What these objects saw ended with epoch 0; and what is said outright counts."""
    stopping = peakhold.EarlyStopping("val_loss", patience=3)
    Loop(stopping, counts_from=0, epochs=1, verbose=0).run(VALUES)
    Loop(stopping, counts_from=0, epochs=3, verbose=0).run([0, 0.7, 0.8], start=1)
    assert stopping.best == 0.5

    saving = peakhold.ModelCheckpoint("best.safetensors", monitor="val_loss", save_best_only=True)
    assert saving.best is None


def test_first_epoch_0_says_that_epoch_1_is_the_second(tmp_path, capsys):
    for start in (0, 1):
        saving = peakhold.ModelCheckpoint(
            tmp_path / "best.safetensors", monitor="val_loss", save_best_only=True
        )
        Loop(saving, counts_from=0, epochs=3, first_epoch=0).run([0.2, 0.7, 0.8], start=start)

    assert saving.best == pytest.approx(0.2), "of the file that the first run has left"
    assert "after epoch 3 of 3" in capsys.readouterr().out


def test_first_epoch_1_says_that_epoch_4_goes_on(tmp_path, capsys):
    log = tmp_path / "log.csv"
    for start in (1, 4):
        saving = peakhold.ModelCheckpoint(
            tmp_path / "best.safetensors", monitor="val_loss", save_best_only=True
        )
        logger = peakhold.CSVLogger(log, append=True)
        values = [0.2, *[0.7] * 5]
        loop = Loop([saving, logger], epochs=3 if start == 1 else 6, first_epoch=1)
        loop.run(values, start=start)

    assert saving.best == pytest.approx(0.2)
    assert epochs_in(log) == [1, 2, 3, 4, 5, 6]
    assert "after epoch 6 of 6: all epochs were run" in capsys.readouterr().out


@pytest.mark.parametrize("bad", [2, -1, True, "1", 1.5])
def test_first_epoch_is_0_or_1(bad):
    with pytest.raises(InvalidArgumentError, match=r"expected 0 or 1.*got first_epoch=") as caught:
        peakhold.CallbackList(first_epoch=bad)

    assert "\nHint: " in str(caught.value)


def test_tensorboard_shows_a_second_run_beside_the_first(tmp_path):
    """A run that goes on takes back what lies beyond its beginning; this one begins."""
    for _ in range(2):
        Loop(peakhold.TensorBoard(tmp_path), epochs=3, verbose=0).run(VALUES)

    assert steps(opened(tmp_path / "validation"), "epoch_loss") == [1, 2, 3, 1, 2, 3]


# With a backup


@pytest.mark.parametrize("said", [None, 1])
@pytest.mark.parametrize("crash_in", [1, 2, 4])
def test_a_resume_goes_on_with_the_next_number(tmp_path, capsys, said, crash_in):
    def train(folder, crash_in=None):
        folder.mkdir(exist_ok=True)
        backup = peakhold.BackupAndRestore(folder / "backup")
        logger = peakhold.CSVLogger(folder / "log.csv")
        saving = peakhold.ModelCheckpoint(str(folder / "w_{epoch}.safetensors"))
        loop = Loop([backup, logger, saving], first_epoch=said)
        return loop, backup, crash_in

    def run(loop, backup, crash_in):
        loop.list.on_train_begin()
        begun = []
        for epoch in range(max(loop.list.initial_epoch, 1), 7):
            begun.append(epoch)
            loop.list.on_epoch_begin(epoch)
            if epoch == crash_in:
                raise ZeroDivisionError
            loop.params["w"] = loop.params["w"] + epoch
            loop.list.on_epoch_end(epoch, {"loss": 1 / epoch})
        loop.list.on_train_end()
        return begun

    whole, backup, _ = train(tmp_path / "a")
    run(whole, backup, None)
    with pytest.raises(ZeroDivisionError):
        run(*train(tmp_path / "b", crash_in))
    capsys.readouterr()
    loop, backup, _ = train(tmp_path / "b")
    begun = run(loop, backup, None)
    text = capsys.readouterr().out

    assert begun == list(range(crash_in, 7))
    assert backup.initial_epoch == crash_in
    assert np.array_equal(loop.params["w"], whole.params["w"])
    assert (tmp_path / "a" / "log.csv").read_text() == (tmp_path / "b" / "log.csv").read_text()
    assert epochs_in(tmp_path / "b" / "log.csv") == [1, 2, 3, 4, 5, 6]
    assert sorted(p.name for p in (tmp_path / "b").glob("w_*.safetensors")) == [
        f"w_{n}.safetensors" for n in range(1, 7)
    ]
    assert (f"goes on with epoch {crash_in} of 6" in text) == (crash_in > 1)
    assert not (tmp_path / "b" / "backup").exists()


def test_initial_epoch_of_a_fresh_run_is_what_the_loop_calls_its_first(tmp_path):
    for first, known in ((None, 0), (0, 0), (1, 1)):
        backup = peakhold.BackupAndRestore(tmp_path / str(first))
        loop = Loop(backup, first_epoch=first, verbose=0)
        loop.list.on_train_begin()
        assert (loop.list.initial_epoch, backup.initial_epoch) == (known, known)
    assert peakhold.CallbackList([], first_epoch=1).initial_epoch == 1


def test_initial_epoch_is_not_known_before_the_backup_was_read(tmp_path):
    callbacks = peakhold.CallbackList(peakhold.BackupAndRestore(tmp_path / "b"))
    with pytest.raises(HostError, match=r"after on_train_begin\(\)") as caught:
        _ = callbacks.initial_epoch

    assert "\nHint: " in str(caught.value)


def broken_off(folder, **arguments):
    """A run of 6 epochs that dies in its fourth; returns what the next one is made of."""

    def made():
        return Loop(peakhold.BackupAndRestore(folder / "b"), counts_from=0, **arguments)

    with pytest.raises(ZeroDivisionError):
        made().run(VALUES, crash_in=3)
    return made


def test_a_backup_that_counts_otherwise_is_refused(tmp_path):
    broken_off(tmp_path)
    with pytest.raises(InvalidArgumentError, match="a loop that counts from 0.*first_epoch=1"):
        Loop(peakhold.BackupAndRestore(tmp_path / "b"), first_epoch=1).list.on_train_begin()


@pytest.mark.parametrize("begins", [True, False], ids=["all hooks", "ends only"])
def test_a_loop_that_begins_anew_after_a_resume_is_an_error_at_its_first_hook(tmp_path, begins):
    made = broken_off(tmp_path, verbose=0)
    loop = made()
    with pytest.raises(InvalidArgumentError) as caught:
        loop.run(VALUES, begins=begins)

    assert len(loop.at) == (0 if begins else 1)
    assert str(caught.value) == (
        f"expected epoch=3, with which the run in {str(tmp_path / 'b')!r} goes on, got epoch=0.\n"
        "Hint: for epoch in range(callbacks.initial_epoch, N), or delete that folder to train anew."
    )
    again = made()
    again.run(VALUES, start=3)
    assert again.params["w"].tolist() == [21.0, 21.0], "the backup was left as it was"


def test_one_that_skips_an_epoch_too(tmp_path):
    made = broken_off(tmp_path, verbose=0)
    with pytest.raises(InvalidArgumentError, match=r"expected epoch=3, .* got epoch=4"):
        made().run(VALUES, start=4)


def test_the_hint_counts_as_the_loop_does(tmp_path):
    backup = peakhold.BackupAndRestore
    with pytest.raises(ZeroDivisionError):
        Loop(backup(tmp_path / "b"), verbose=0).run(VALUES, crash_in=3)
    with pytest.raises(
        InvalidArgumentError, match=r"initial_epoch, N \+ 1\), with .*first_epoch=1"
    ):
        Loop(backup(tmp_path / "b"), verbose=0).run(VALUES)


def test_a_run_that_was_over_begins_no_epoch(tmp_path):
    class Dies(peakhold.Callback):
        def on_train_end(self, logs=None):
            os.rmdir(tmp_path / "no such folder")

    made = [peakhold.BackupAndRestore(tmp_path / "b"), Dies()]
    loop = Loop(made[::-1], counts_from=0, verbose=0)
    loop.list.on_train_begin()
    for epoch in range(6):
        loop.list.on_epoch_begin(epoch)
        loop.list.on_epoch_end(epoch, {"loss": 1.0})
    with pytest.raises(FileNotFoundError):
        loop.list.on_train_end()

    with pytest.raises(InvalidArgumentError, match="expected no further epoch"):
        Loop(peakhold.BackupAndRestore(tmp_path / "b"), counts_from=0, verbose=0).run(VALUES)


@pytest.mark.parametrize("save_freq", ["epoch", 2])
def test_what_was_trained_before_the_first_hook_is_not_undone(tmp_path, save_freq):
    """A loop that calls only ends of epochs, or only ends of batches."""

    def made():
        loop = Loop(
            peakhold.BackupAndRestore(tmp_path / "b", save_freq=save_freq), counts_from=0, verbose=0
        )
        loop.list.on_train_begin()
        return loop

    def train(loop, n):
        for step in range(n):
            loop.params["w"] = loop.params["w"] + 1
            if save_freq == "epoch":
                loop.list.on_epoch_end(step + loop.list.initial_epoch, {"loss": 1.0})
            else:
                loop.list.on_train_batch_end(step, {"loss": 1.0})

    train(made(), 4)  # and dies
    loop = made()
    assert loop.params["w"].tolist() == [4.0, 4.0]
    train(loop, 2)
    loop.list.on_train_end()

    assert loop.params["w"].tolist() == [6.0, 6.0]


def test_a_subclass_that_saves_by_itself_tells_of_epochs_by_their_number(tmp_path, capsys):
    class Own(peakhold.ModelCheckpoint):
        def _save_model(self, epoch, batch, logs):
            super()._save_model(epoch, batch, logs)

    saving = Own(tmp_path / "w.safetensors", monitor="val_loss", save_best_only=True, verbose=1)
    Loop(saving, counts_from=1, epochs=3).run([0.5, 0.3, 0.4])
    told = capsys.readouterr().out

    assert "Epoch 3: val_loss did not improve from 0.3" in told
    assert "Epoch 4" not in told
