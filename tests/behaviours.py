"""What every callback does on every host: one suite, run by each host's own test file.

A rig drives real training on one host: `run(callbacks, curves, epochs)` trains, and puts scripted
values into the logs where a test needs a curve of its own choosing.
"""

import contextlib
import copy
import csv
import json
import math
import os
import pathlib
import pickle

import numpy as np
import pytest
import xxhash

import event_reader
from peakhold import AtEnd, Every
from peakhold.errors import (
    DirectionUnknownError,
    HostError,
    InvalidArgumentError,
    MonitorNotFoundError,
    MonitorWarning,
    NotAScalarError,
    SaveError,
    SaveWarning,
)
from sidecar_lines import entries_of

nan = math.nan


def same(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a, b) for a, b in zip(one, other, strict=True)
    )


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def sidecar_of(path):
    """`name -> entry` for the files that are proved by their checksum; reads with no code of ours."""
    folder, proved = os.path.dirname(path), {}
    for note in os.listdir(folder):
        if note.endswith(".peakhold.json"):
            for name, entries in entries_of(pathlib.Path(folder, note)).items():
                with (
                    contextlib.suppress(FileNotFoundError),
                    open(os.path.join(folder, name), "rb") as file,
                ):
                    digest = xxhash.xxh3_128(file.read()).hexdigest()
                    proved |= {name: e for e in entries if e["checksum"] == digest}
    return proved


class Behaviours:
    """Subclasses give `rig`: a fixture that returns a fresh rig for a folder."""

    # Stopping and restoring

    def test_training_stops_and_the_best_weights_come_back(self, rig):
        stopper = rig.lib.EarlyStopping("m", mode="min", patience=2, restore_best_weights=True)
        rig.run([stopper], {"m": [0.5, 0.3, 0.4, 0.4, 0.1]}, 9)

        assert rig.epochs_run == [0, 1, 2, 3]
        assert (stopper.stopped_epoch, stopper.best_epoch, stopper.best) == (3, 1, 0.3)
        assert same(rig.weights(), rig.at[1])

    def test_the_best_weights_come_back_after_the_last_epoch_too(self, rig):
        stopper = rig.lib.EarlyStopping("m", mode="max", patience=9, restore_best_weights=True)
        rig.run([stopper], {"m": [0.5, 0.9, 0.4]}, 3)

        assert same(rig.weights(), rig.at[1])

    def test_without_restoring_the_last_weights_stay(self, rig):
        rig.run([rig.lib.EarlyStopping("m", mode="min", patience=1)], {"m": [0.3, 0.4]}, 9)

        assert same(rig.weights(), rig.at[1])

    def test_a_metric_that_is_no_number_once_changes_nothing(self, rig):
        stopper = rig.lib.EarlyStopping("m", mode="min", patience=3, restore_best_weights=True)
        with pytest.warns(MonitorWarning, match="m is nan at epoch 1"):
            rig.run([stopper], {"m": [nan, 0.5, nan, 0.4, 0.6]}, 5)

        assert rig.epochs_run == [0, 1, 2, 3, 4]
        assert same(rig.weights(), rig.at[3])

    def test_weights_that_are_not_finite_are_never_the_best(self, rig):
        stopper = rig.lib.EarlyStopping("m", mode="min", patience=9, restore_best_weights=True)
        rig.run([stopper], {"m": [0.5, 0.4, 0.1]}, 3, explode_at=2)

        assert not all(np.isfinite(w).all() for w in rig.at[2])
        assert same(rig.weights(), rig.at[1])
        assert stopper.best == 0.4

    def test_restore_best_works_after_an_exception(self, rig):
        stopper = rig.lib.EarlyStopping("m", mode="min", patience=9, restore_best_weights=True)
        with pytest.raises(ZeroDivisionError):
            rig.run([stopper], {"m": [0.5, 0.1, 0.4]}, 5, raise_at=3)
        stopper.restore_best()

        assert same(rig.weights(), rig.at[1])

    def test_the_table_says_what_was_decided_and_why(self, rig, capsys):
        stopper = rig.lib.EarlyStopping("m", mode="min", patience=1)
        rig.run([stopper], {"m": [0.5, 0.25, 0.5]}, 5)
        capsys.readouterr()
        stopper.explain()
        head, *table = capsys.readouterr().out.splitlines()

        assert head.split() == ["epoch", "m", "best", "wait", "decision", "reason"]
        assert [line.split()[:4] for line in table] == [
            ["1", "0.5", "0.5", "0"], ["2", "0.25", "0.25", "0"], ["3", "0.5", "0.25", "1"],
        ]  # fmt: skip
        assert table[2].split(maxsplit=4)[4] == "stop         no improvement for 1 epoch"

    def test_several_metrics_are_waited_for_each_by_itself(self, rig):
        stopper = rig.lib.EarlyStopping(
            ["m", "n"], mode=["min", "max"], patience=2, restore_best_weights=True
        )
        curves = {"m": [0.5, 0.3, 0.4, 0.4, 0.4, 0.4], "n": [0.1, 0.2, 0.3, 0.2, 0.2, 0.2]}
        rig.run([stopper], curves, 9)

        assert rig.epochs_run == [0, 1, 2, 3, 4]
        assert same(rig.weights(), rig.at[1])

    @pytest.mark.parametrize("missing", [False, True])
    def test_patience_in_steps_is_patience_in_epochs_of_as_many(self, rig, missing):
        """An epoch has 4 steps; one that does not log the metric takes its steps, too."""
        curve = {"m": [0.5, 0.3, None if missing else 0.4, 0.4, 0.4, 0.4]}
        stopper = rig.lib.EarlyStopping("m", mode="min", patience=rig.lib.Steps(8))
        plateau = rig.lib.ReduceLROnPlateau("m", mode="min", patience=rig.lib.Steps(8), factor=0.5)
        rig.run([stopper, plateau], curve, 9)

        assert rig.epochs_run == [0, 1, 2, 3]
        assert rig.rate() == pytest.approx(rig.first_rate / 2)

    # Learning rate

    def test_the_rate_is_lowered_and_logged_as_it_was(self, rig):
        plateau = rig.lib.ReduceLROnPlateau("m", mode="min", factor=0.5, patience=1)
        rig.run([plateau], {"m": [0.5, 0.5, 0.5, 0.1]}, 4)
        rate = rig.first_rate

        assert rig.rate() == pytest.approx(rate / 4)
        assert [logs["learning_rate"] for logs in rig.logs] == pytest.approx(
            [rate, rate, rate / 2, rate / 4]
        )

    def test_a_scheduler_sets_the_rate_of_each_epoch(self, rig):
        rig.run([rig.lib.LearningRateScheduler(lambda epoch, lr: lr / 2)], {}, 3)

        assert [logs["learning_rate"] for logs in rig.logs] == pytest.approx(
            [rig.first_rate / 2, rig.first_rate / 4, rig.first_rate / 8]
        )

    def test_the_guard_ends_training_on_a_loss_that_is_no_number(self, rig):
        rig.run([rig.lib.TerminateOnNaN()], {}, 5, loss_nan_at=1)

        assert rig.epochs_run == [0, 1]

    # Files

    def test_the_best_file_is_the_best_epoch_and_its_sidecar_is_true(self, rig, tmp_path):
        path = str(tmp_path / f"new/best{rig.suffix}")
        saver = rig.saver(path, monitor="m", mode="min", save_best_only=True)
        rig.run([saver], {"m": [0.5, 0.3, 0.4]}, 3)
        entry = sidecar_of(path)[os.path.basename(path)]

        assert same(rig.load(path), rig.at[1])
        assert (entry["epoch"], entry["value"], entry["monitor"], entry["mode"]) == (
            1,
            0.3,
            "m",
            "min",
        )
        assert (saver.best, saver.best_path, saver.latest_path) == (0.3, path, path)

    def test_a_sidecar_keeps_metrics_that_are_no_numbers_and_ranks_none_of_them(
        self, rig, tmp_path
    ):
        nan, inf = float("nan"), float("inf")
        path = str(tmp_path / f"w{{epoch}}{rig.suffix}")
        saver = rig.saver(path, monitor="m", mode="min", keep_best=1)
        rig.run([saver], {"m": [0.5, nan, -inf, 0.7], "n": [inf, nan, 1.0, -inf]}, 4)
        noted = {
            entry["epoch"]: (entry["value"], entry["metrics"]["m"], entry["metrics"]["n"])
            for entry in sidecar_of(path).values()
        }

        # The best of those that have a value, and the newest.
        assert noted == {0: (0.5, 0.5, "Infinity"), 3: (0.7, 0.7, "-Infinity")}
        every = rig.saver(str(tmp_path / f"all{{epoch}}{rig.suffix}"), monitor="m", mode="min")
        rig.run([every], {"m": [nan, -inf]}, 2)
        values = [
            (entry["value"], entry["metrics"]["m"])
            for name, entry in sorted(sidecar_of(path).items())
            if name.startswith("all")
        ]
        assert values == [(None, "NaN"), (None, "-Infinity")]

    def test_each_epoch_has_its_file_counted_from_one(self, rig, tmp_path):
        path = str(tmp_path / f"w{{epoch:02d}}_{{m:.1f}}{rig.suffix}")
        saver = rig.saver(path, monitor="m")
        rig.run([saver], {"m": [0.5, 0.3]}, 2)

        assert same(rig.load(str(tmp_path / f"w01_0.5{rig.suffix}")), rig.at[0])
        assert same(rig.load(str(tmp_path / f"w02_0.3{rig.suffix}")), rig.at[1])
        assert saver.latest_path.endswith(f"w02_0.3{rig.suffix}")

    def test_batches_count_over_epochs_and_the_last_state_is_saved(self, rig, tmp_path):
        saver = rig.saver(str(tmp_path / f"{{epoch}}-{{batch}}{rig.suffix}"), save_freq=3)
        rig.run([saver], {}, 2)  # 4 batches an epoch
        saved = sorted(p.name.removesuffix(rig.suffix) for p in tmp_path.glob(f"*{rig.suffix}"))

        assert saved == ["1-3", "2-2", "2-4"]
        assert same(rig.load(str(tmp_path / f"2-4{rig.suffix}")), rig.at[1])

    @pytest.mark.parametrize(
        ("when", "saved"),
        [
            (Every(epochs=2), ["2", "4", "5"]),
            (Every(batches=8), ["2-4", "4-4", "5-4"]),
            (Every(seconds=1e-9), None),
            (Every(seconds=1e9), ["5-4"]),
            (AtEnd(), ["5"]),
        ],
        ids=str,
    )
    def test_when_to_save_can_be_asked_for(self, rig, tmp_path, when, saved):
        """What the last save does not hold is saved at the end, once."""
        counts = when != AtEnd() and when.epochs is None
        name = "{epoch}-{batch}" if counts else "{epoch}"
        rig.run([rig.saver(str(tmp_path / f"{name}{rig.suffix}"), save_freq=when)], {}, 5)
        found = sorted(p.name.removesuffix(rig.suffix) for p in tmp_path.glob(f"*{rig.suffix}"))

        if saved is None:  # after each batch; 4 an epoch
            saved = sorted(f"{epoch}-{batch}" for epoch in range(1, 6) for batch in range(1, 5))
        assert found == saved

    def test_the_newest_and_the_best_files_are_kept(self, rig, tmp_path):
        template = str(tmp_path / f"{{epoch}}{rig.suffix}")
        (tmp_path / f"mine{rig.suffix}").write_bytes(b"mine")
        saver = rig.saver(template, monitor="m", mode="min", keep_last=2, keep_best=1)
        rig.run([saver], {"m": [0.5, 0.1, 0.4, 0.3, 0.2, 0.6]}, 6)
        found = sorted(p.name.removesuffix(rig.suffix) for p in tmp_path.glob(f"*{rig.suffix}"))

        assert found == ["2", "5", "6", "mine"]
        assert same(rig.load(template.format(epoch=2)), rig.at[1])

    @pytest.mark.parametrize("argument", ["keep_last", "keep_best"])
    def test_one_name_is_one_file(self, rig, tmp_path, argument):
        with pytest.raises(InvalidArgumentError, match="a filepath with placeholders"):
            rig.saver(str(tmp_path / f"best{rig.suffix}"), **{argument: 2})

    def test_a_users_callback_saves_now(self, rig, tmp_path):
        path = str(tmp_path / f"{{epoch}}{rig.suffix}")
        saver = rig.saver(path, save_freq=AtEnd())

        class SavesFirst(rig.lib.Callback):
            def on_epoch_end(self, epoch, logs=None):
                if epoch == 0:
                    saver.save_now(logs)

        rig.run([SavesFirst(), saver], {}, 3)

        assert same(rig.load(path.format(epoch=1)), rig.at[0])
        assert same(rig.load(path.format(epoch=3)), rig.at[2])
        assert len(list(tmp_path.glob(f"*{rig.suffix}"))) == 2

    def test_there_is_nothing_to_save_before_a_run(self, rig, tmp_path):
        with pytest.raises(HostError, match="a run that has begun"):
            rig.saver(str(tmp_path / f"best{rig.suffix}")).save_now()

    def test_a_replayed_epoch_replaces_its_own_file_and_no_other(self, rig, tmp_path):
        """The file is newer than the backup that a run goes on from: its epoch is trained again."""
        path = str(tmp_path / f"best{rig.suffix}")

        def saver():
            return rig.saver(path, monitor="m", mode="min", save_best_only=True)

        rig.run([saver()], {"m": [0.5, 0.2]}, 2)
        rig.run([saver()], {"m": [0, 0.2]}, 2, start=1)
        assert same(rig.load(path), rig.at[1]), "the same value, as it is now"
        before = rig.load(path)
        rig.run([saver()], {"m": [0, 0.3, 0.2]}, 3, start=1)
        assert same(rig.load(path), before), "worse, and another epoch's"

    def test_what_is_not_finite_replaces_nothing(self, rig, tmp_path):
        path = str(tmp_path / f"last{rig.suffix}")
        with pytest.warns(SaveWarning, match="holds NaN or infinity"):
            rig.run([rig.saver(path)], {}, 3, explode_at=2)

        assert same(rig.load(path), rig.at[1])

    def test_what_is_not_finite_may_be_asked_for(self, rig, tmp_path):
        path = str(tmp_path / f"last{rig.suffix}")
        rig.run([rig.saver(path, check_finite=False)], {}, 3, explode_at=2)

        assert not all(np.isfinite(w).all() for w in rig.load(path))

    def test_a_failed_save_is_said_and_changes_nothing(self, rig, tmp_path):
        """A folder stands where the second file should go."""
        template = str(tmp_path / f"w{{epoch}}{rig.suffix}")
        os.mkdir(template.format(epoch=2))
        saver = rig.saver(template, monitor="m", mode="min", save_best_only=True)
        with pytest.warns(SaveWarning, match="training goes on"):
            rig.run([saver], {"m": [0.5, 0.3, 0.4]}, 3)

        assert rig.epochs_run == [0, 1, 2]
        assert saver.best == 0.4, "0.3 was never committed"
        assert saver.best_path == template.format(epoch=3)
        assert [p.name for p in tmp_path.iterdir() if "tmp" in p.name] == []

    def test_a_failed_save_may_end_training(self, rig, tmp_path):
        template = str(tmp_path / f"w{{epoch}}{rig.suffix}")
        os.mkdir(template.format(epoch=2))
        with pytest.raises(SaveError):
            rig.run([rig.saver(template, on_save_error="raise")], {}, 3)

    def test_a_fresh_run_keeps_the_earlier_best_aside(self, rig, tmp_path, capsys):
        path = str(tmp_path / f"best{rig.suffix}")
        kept = str(tmp_path / "previous" / f"best{rig.suffix}")
        first = {}
        for number, curve in enumerate([[0.5, 0.2], [0.9, 0.8], [0.3, 0.4], [0.1, 0.6]]):
            saver = rig.saver(path, monitor="m", mode="min", save_best_only=True)
            rig.run([saver], {"m": curve}, 2)
            first[number] = rig.load(path)
        out = capsys.readouterr().out
        names = {p.name for p in tmp_path.glob(f"*{rig.suffix}")}

        assert names == {os.path.basename(path)}
        assert os.listdir(os.path.dirname(kept)) == [os.path.basename(kept)]
        assert same(rig.load(kept), first[0]), "0.2 is better than 0.8 and 0.3"
        assert sidecar_of(path)[os.path.basename(path)]["value"] == 0.1
        assert out.count("was there before this run") == 1, "0.8 and 0.3 gave way to 0.2, unsaid"

    def test_a_file_of_somebody_else_is_never_lost(self, rig, tmp_path):
        path = tmp_path / f"best{rig.suffix}"
        path.write_bytes(b"mine")
        for curve in ([0.5], [0.4]):
            rig.run(
                [rig.saver(str(path), monitor="m", mode="min", save_best_only=True)],
                {"m": curve},
                1,
            )
        rig.run(
            [rig.saver(str(path), monitor="m", mode="min", save_best_only=True,
                       initial_value_threshold=0.35)],
            {"m": [0.3]}, 1,
        )  # fmt: skip

        assert b"mine" in [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]

    def test_a_resumed_run_goes_on_from_the_best_file(self, rig, tmp_path):
        path = str(tmp_path / f"best{rig.suffix}")

        def saver():
            return rig.saver(path, monitor="m", mode="min", save_best_only=True)

        rig.run([saver()], {"m": [0.5, 0.2]}, 2)
        best = rig.load(path)
        again = saver()
        rig.run([again], {"m": [0, 0, 0.4, 0.3]}, 4, start=2)

        assert same(rig.load(path), best)
        assert (again.best, again.best_path) == (0.2, path)
        rig.run([saver()], {"m": [0, 0, 0, 0, 0.1]}, 5, start=4)
        assert sidecar_of(path)[os.path.basename(path)]["value"] == 0.1
        assert list(tmp_path.glob("previous/*")) == []

    def test_a_resumed_run_believes_no_sidecar_without_its_file(self, rig, tmp_path):
        path = tmp_path / f"best{rig.suffix}"
        rig.run(
            [rig.saver(str(path), monitor="m", mode="min", save_best_only=True)], {"m": [0.2]}, 1
        )
        path.write_bytes(path.read_bytes() + b"changed")
        saver = rig.saver(str(path), monitor="m", mode="min", save_best_only=True)
        rig.run([saver], {"m": [0, 0.9]}, 2, start=1)

        assert saver.best == 0.9
        assert [p.read_bytes()[-7:] for p in tmp_path.glob("previous/*")] == [b"changed"]

    def test_a_damaged_sidecar_costs_no_file(self, rig, tmp_path):
        path = tmp_path / f"best{rig.suffix}"
        rig.run([rig.saver(str(path))], {}, 1)
        before = path.read_bytes()
        (tmp_path / f"best{rig.suffix}.peakhold.json").write_text('{"format": 1, "files": [')
        rig.run([rig.saver(str(path))], {}, 1)

        assert before in [p.read_bytes() for p in tmp_path.glob("previous/*")]
        assert os.path.basename(path) in sidecar_of(str(path))

    def test_a_folder_that_cannot_be_made_is_an_error_before_the_first_batch(self, rig, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(SaveError, match="expected a folder that can be written"):
            rig.run([rig.saver(str(tmp_path / f"file/m{rig.suffix}"))], {}, 2)

        assert rig.batches_run == 0

    def test_what_a_killed_writer_left_is_swept(self, rig, tmp_path):
        left = tmp_path / f".best{rig.suffix}.0123.peakhold-tmp"
        left.write_bytes(b"half")
        rig.run([rig.saver(str(tmp_path / f"best{rig.suffix}"))], {}, 1)

        assert not left.exists()

    def test_every_epoch_has_its_row(self, rig, tmp_path):
        path = tmp_path / "new" / "log.csv"
        rig.run([rig.lib.CSVLogger(path)], {"m": [0.5, None, 0.25], "late": [None, None, 7.0]}, 3)
        table = rows(path)

        assert [row["epoch"] for row in table] == ["0", "1", "2"]
        assert [row["m"] for row in table] == ["0.5", "NA", "0.25"]
        assert [row["late"] for row in table] == ["NA", "NA", "7.0"]
        assert "learning_rate" not in table[0]
        assert list(table[0]) == ["epoch", *sorted(list(table[0])[1:])]

    def test_the_rate_that_a_users_callback_sets_gets_a_column(self, rig, tmp_path):
        path = tmp_path / "log.csv"
        rig.run([rig.rate_setter({2: 0.125}), rig.lib.CSVLogger(path)], {}, 4)
        rates = [float(row["learning_rate"]) for row in rows(path)]

        assert rates == pytest.approx([rig.first_rate, rig.first_rate, 0.125, 0.125])

    def test_an_appended_log_keeps_its_rows(self, rig, tmp_path):
        path = tmp_path / "log.csv"
        rig.run([rig.lib.CSVLogger(path, separator=",")], {"a": [1.0, 1.0]}, 2)
        rig.run([rig.lib.CSVLogger(path, append=True)], {"b": [2.0]}, 1)
        table = rows(path)

        assert [(row["epoch"], row["a"], row["b"]) for row in table] == [
            ("0", "1.0", "NA"), ("1", "1.0", "NA"), ("0", "NA", "2.0"),
        ]  # fmt: skip

    def test_a_log_that_is_no_log_is_refused_before_the_first_batch(self, rig, tmp_path):
        path = tmp_path / "notes.txt"
        path.write_text("my notes;\n")
        with pytest.raises(SaveError, match="first column is 'epoch'"):
            rig.run([rig.lib.CSVLogger(path, append=True)], {}, 1)

        assert (rig.batches_run, path.read_text()) == (0, "my notes;\n")

    def test_the_old_log_stays_until_there_is_a_new_row(self, rig, tmp_path):
        path = tmp_path / "log.csv"
        path.write_text("epoch,loss\r\n0,0.5\r\n")
        with pytest.raises(ZeroDivisionError):
            rig.run([rig.lib.CSVLogger(path)], {}, 3, raise_at=0)

        assert path.read_bytes().startswith(b"epoch,loss")

    # Who is told when

    def test_a_direction_that_nothing_tells_is_asked_for(self, rig):
        with pytest.raises(DirectionUnknownError, match="mode='max'") as caught:
            rig.run([rig.lib.EarlyStopping("m", patience=1)], {"m": [0.5, 0.4]}, 3)

        assert caught.value.monitor == "m"
        assert rig.epochs_run in ([], [0])

    def test_an_unused_monitor_troubles_nobody(self, rig, tmp_path, recwarn):
        path = str(tmp_path / f"m{rig.suffix}")
        rig.run([rig.saver(path, monitor="val_nothing")], {}, 2)

        assert [w for w in recwarn if "nothing" in str(w.message)] == []
        assert same(rig.load(path), rig.at[1])

    @pytest.mark.filterwarnings("ignore::peakhold.errors.AdviceWarning")
    @pytest.mark.parametrize("name", ["EarlyStopping", "ReduceLROnPlateau"])
    def test_a_metric_that_nobody_logs_is_named(self, rig, name):
        callback = getattr(rig.lib, name)(monitor="los", mode="min", patience=2)
        with pytest.raises(MonitorNotFoundError, match="did you mean 'loss'") as caught:
            rig.run([callback], {}, 5)

        assert rig.epochs_run in ([], [0])
        assert "loss" in caught.value.available

    def test_an_array_is_no_number_but_one_element_is(self, rig):
        stopper = rig.lib.EarlyStopping("m", mode="min", patience=9)
        rig.run([stopper], {"m": [np.array([0.5]), np.array(0.25)]}, 2)
        assert stopper.best == 0.25

        with pytest.raises(NotAScalarError, match="average='macro'"):
            rig.run([rig.lib.EarlyStopping("m", mode="min", patience=9)], {"m": [np.ones(3)]}, 1)

    # Order, copies, state

    def test_no_result_depends_on_the_order_in_the_list(self, rig, tmp_path):
        results = set()
        for number, order in enumerate(rig.orders):
            folder = tmp_path / str(number)
            parts = [
                rig.lib.EarlyStopping(
                    "m", mode="min", patience=3, restore_best_weights=True, restore_optimizer=True
                ),
                rig.saver(str(folder / f"last{rig.suffix}")),
                rig.lib.ReduceLROnPlateau("m", mode="min", factor=0.5, patience=1),
                rig.lib.CSVLogger(folder / "log.csv"),
            ]
            rig.rebuild()
            rig.run([parts[i] for i in order], {"m": [0.5, 0.5, 0.4, 0.5, 0.5, 0.5]}, 9)
            results.add(
                (
                    tuple(rig.epochs_run),
                    (folder / "log.csv").read_bytes(),
                    rig.fingerprint(rig.weights()),
                    rig.rate(),
                    rig.file_fingerprint(str(folder / f"last{rig.suffix}")),
                    json.dumps([json.dumps(part.state_dict(), sort_keys=True) for part in parts]),
                )
            )

        assert len(results) == 1

    @pytest.mark.parametrize("how", [copy.deepcopy, lambda cb: pickle.loads(pickle.dumps(cb))])
    def test_an_unused_callback_can_be_copied_and_pickled(self, rig, how, tmp_path):
        path = str(tmp_path / f"m{rig.suffix}")
        callbacks = [
            rig.lib.EarlyStopping("m", mode="min", patience=1, restore_best_weights=True),
            rig.saver(path, save_freq=3),
            rig.lib.ReduceLROnPlateau("m", mode="min", patience=1),
            rig.lib.CSVLogger(tmp_path / "log.csv"),
            rig.lib.TerminateOnNaN(),
        ]
        rig.run([how(callback) for callback in callbacks], {"m": [0.1, 0.2, 0.3]}, 9)

        assert rig.epochs_run == [0, 1]
        assert same(rig.weights(), rig.at[0])
        assert os.path.exists(path)
        assert len(rows(tmp_path / "log.csv")) == 2
        assert callbacks[0].best is None, "the original knows nothing of it"

    def test_what_is_set_on_a_copy_is_not_set_on_the_original(self, rig):
        stopper = rig.lib.EarlyStopping("m", mode="min")
        twin = copy.copy(stopper)
        twin.mode, twin.min_delta = "max", 1.0

        assert (stopper.mode, stopper.min_delta) == ("min", 0.0)
        assert (twin.mode, twin.min_delta) == ("max", 1.0)

    def test_a_used_callback_can_be_pickled_and_carries_no_model(self, rig):
        stopper = rig.lib.EarlyStopping("m", mode="min", patience=1)
        rig.run([stopper], {"m": [0.1, 0.2]}, 9)
        again = pickle.loads(pickle.dumps(stopper))

        assert again.model is None
        assert (again.best, again.stopped_epoch) == (0.1, 1)

    @pytest.mark.parametrize("cut", [1, 2, 3, 4])
    def test_a_state_through_json_changes_no_later_decision(self, rig, cut):
        curve = {"m": [0.5, 0.4, 0.45, 0.44, 0.43, 0.42, 0.41]}

        def callbacks():
            return [
                rig.lib.EarlyStopping("m", mode="min", patience=4),
                rig.lib.ReduceLROnPlateau("m", mode="min", patience=2, factor=0.5, cooldown=1),
            ]

        whole = callbacks()
        rig.run(whole, curve, 9)
        epochs, rate = rig.epochs_run, rig.rate()
        rig.rebuild()
        first = callbacks()
        rig.run(first, curve, cut)
        states = json.loads(json.dumps([cb.state_dict() for cb in first], allow_nan=False))
        second = callbacks()
        for callback, state in zip(second, states, strict=True):
            callback.load_state_dict(state)
        rig.run(second, curve, 9, start=cut)

        assert rig.epochs_run[-1] == epochs[-1]
        assert rig.rate() == rate
        assert second[0].state_dict() == whole[0].state_dict()
        assert second[1].state_dict() == whole[1].state_dict()

    def test_a_state_of_something_else_is_refused(self, rig):
        state = rig.lib.EarlyStopping("a").state_dict()

        with pytest.raises(ValueError, match="expected the state of"):
            rig.lib.EarlyStopping("b").load_state_dict(state)
        with pytest.raises(ValueError, match="expected the state of"):
            rig.lib.ReduceLROnPlateau("a").load_state_dict(state)

    def test_a_second_fit_starts_afresh_and_a_later_epoch_goes_on(self, rig):
        stopper = rig.lib.EarlyStopping("m", mode="min", patience=3)
        rig.run([stopper], {"m": [0.1, 0.2]}, 2)
        rig.run([stopper], {"m": [0.9, 0.8]}, 2)
        assert (stopper.best, stopper.wait) == (0.8, 0)

        rig.run([stopper], {"m": [0, 0, 0.85, 0.85, 0.85]}, 9, start=2)
        assert (stopper.best, stopper.stopped_epoch) == (0.8, 4)

        rig.run([stopper], {"m": [0] * 5 + [0.85, 0.7, 0.9]}, 8, start=5)
        assert (stopper.best, stopper.wait) == (0.7, 1), "the wait that stopped is served"

    # TensorBoard

    def test_a_board_holds_every_epoch_and_a_run_that_goes_on_draws_one_line(self, rig, tmp_path):
        board = rig.lib.TensorBoard(tmp_path, histogram_freq=2)
        rig.run([board], {"val_m": [0.5, 0.25, 0.75, 0.5]}, 4)
        rig.run([board], {"val_m": [0.5, 0.25, 0.0, 0.125, 1.0]}, 5, start=2)
        validation, train = (event_reader.opened(tmp_path / run) for run in ("validation", "train"))

        expected = [(0, 0.5), (1, 0.25), (2, 0.0), (3, 0.125), (4, 1.0)]
        assert event_reader.series(validation, "epoch_m") == expected
        assert event_reader.steps(train, "epoch_loss") == [0, 1, 2, 3, 4]
        assert event_reader.series(train, "epoch_learning_rate")[-1][1] == np.float32(rig.rate())
        weights = [tag for tag in event_reader.tags(train) if tag.endswith("/histogram")]
        assert len(weights) == len(rig.weights()) or len(weights) == len(
            rig.fingerprint(rig.weights())
        )
        assert all(event_reader.steps(train, tag) == [0, 2, 4] for tag in weights)

    def test_a_board_writes_the_batches_that_are_due(self, rig, tmp_path):
        board = rig.lib.TensorBoard(tmp_path, update_freq=3)
        rig.run([board], {}, 3)

        batches = event_reader.steps(event_reader.opened(tmp_path / "train"), "batch_loss")
        assert batches == [3, 6, 9, 12]

    def test_an_exception_in_training_loses_nothing_that_a_board_was_given(self, rig, tmp_path):
        board = rig.lib.TensorBoard(tmp_path, update_freq=1)
        with contextlib.suppress(ZeroDivisionError):
            rig.run([board], {}, 4, raise_at=2)
        rig.run([board], {}, 3)
        train = event_reader.opened(tmp_path / "train")

        assert event_reader.steps(train, "epoch_loss") == [0, 1, 2]
        assert copy.deepcopy(board).log_dir == pickle.loads(pickle.dumps(board)).log_dir

    # Words

    def test_three_lines_say_why_what_and_how_much(self, rig, capsys, tmp_path):
        path = str(tmp_path / f"best{rig.suffix}")
        rig.run(
            [
                rig.lib.EarlyStopping("m", mode="min", patience=2, restore_best_weights=True),
                rig.saver(path, monitor="m", mode="min", save_best_only=True),
            ],
            {"m": [0.5, 0.25, 0.4, 0.4]},
            10,
            verbose=2,
        )
        lines = [
            line for line in capsys.readouterr().out.splitlines() if line.startswith("Peakhold")
        ]

        assert lines[0] == (
            "Peakhold: training ended after epoch 4 of 10: m: no improvement for 2 epochs "
            "(EarlyStopping)."
        )
        assert lines[1] == (
            f"Peakhold: best m 0.25000 at epoch 2, restored to the model, saved in {path}."
        )
        assert lines[2].startswith("Peakhold: 4 epochs took ")
        assert "; ended 6 epochs early, about " in lines[2]
        assert len(lines) == 3

    def test_a_checkpoint_that_saved_nothing_says_so_and_why(self, rig, capsys, tmp_path):
        path = str(tmp_path / f"best{rig.suffix}")
        rig.run(
            [rig.saver(path, monitor="m", mode="min", save_best_only=True, initial_value_threshold=0.1)],
            {"m": [0.5]}, 1, verbose=2,
        )  # fmt: skip
        out = capsys.readouterr().out

        assert f"ModelCheckpoint saved nothing to {path!r}: m did not improve from 0.1" in out

    def test_a_quiet_run_prints_nothing(self, rig, capsys, tmp_path):
        rig.run(
            [
                rig.lib.EarlyStopping("m", mode="min", patience=1),
                rig.saver(str(tmp_path / f"m{rig.suffix}")),
                rig.lib.ReduceLROnPlateau("m", mode="min", patience=1),
                rig.lib.CSVLogger(tmp_path / "log.csv"),
            ],
            {"m": [0.1, 0.2, 0.3]},
            5,
            verbose=0,
        )

        assert capsys.readouterr().out == ""
