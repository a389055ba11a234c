"""What is written of a run in a list of one's own, and what becomes of it."""

import gc
import os

import numpy as np
import pytest

import peakhold
from peakhold import (
    BackupAndRestore,
    CallbackList,
    EarlyStopping,
    LoopHost,
    RunRecord,
    TerminateOnNaN,
)
from peakhold.errors import InvalidArgumentError, MonitorNotFoundError, RunOwnedError
from peakhold.ledger import RunFolder, read_events
from run_programs import moments_of


class PowerCut(Exception):  # noqa: N818 - it is none
    """What ends a loop without any hook."""


class Logging(peakhold.Callback):
    """A user's own, between two of ours."""

    def on_epoch_end(self, epoch, logs=None):
        logs["mine"] = 2.0 * epoch


def train(callbacks, losses=(0.5, 0.4, 0.3, 0.2), *, cut=None, epochs=None):
    """A loop over scripted losses; it ends without any hook in the epoch `cut`."""
    params = {"w": np.zeros(2)}
    host = LoopHost(get_state=lambda: params, set_state=params.update)
    epochs = epochs or len(losses)
    run = CallbackList(callbacks, host=host, epochs=epochs, verbose=0)
    run.on_train_begin()
    for epoch in range(run.initial_epoch, epochs):
        run.on_epoch_begin(epoch)
        params["w"] = params["w"] + 1
        if epoch == cut:
            raise PowerCut
        run.on_train_batch_end(0, {"loss": losses[epoch]})
        run.on_epoch_end(epoch, {"loss": losses[epoch]})
        if run.stop_training:
            break
    run.on_train_end()


def made(folder):
    """One of each segment: a user's own callback stands between."""
    return [
        EarlyStopping("loss", patience=3),
        Logging(),
        RunRecord(folder / "run", settings={"batch": 8, "api_key": "T0pS3cret"}),
        EarlyStopping("mine", mode="max", patience=3),
        BackupAndRestore(folder / "run" / "checkpoints"),
    ]


def kinds(folder):
    """The kinds of events that are no moments."""
    events = read_events(RunFolder(folder).events)
    return [event["kind"] for event in events if event["kind"] != "moment"]


def without_steps(folder):
    """What readers see; a loop whose optimizer is unknown counts its steps in each process anew."""
    return [({**at, "step": 0}, decided) for at, decided in moments_of(folder / "events.jsonl")]


def test_a_run_that_was_interrupted_leaves_the_record_of_an_unbroken_one(tmp_path):
    train(made(tmp_path / "whole"))
    for cut in (0, 2, 3):
        with pytest.raises(PowerCut):
            train(made(tmp_path / "cut"), cut=cut)
        gc.collect()  # the list is gone, and it is seen that the run is
        folder = RunFolder(tmp_path / "cut" / "run")
        assert folder.status().word == "interrupted"
        assert kinds(folder.path)[-1] == "interrupted"
    train(made(tmp_path / "cut"))

    whole, cut = (tmp_path / name / "run" for name in ("whole", "cut"))
    assert without_steps(cut) == without_steps(whole)
    assert RunFolder(cut).history().history == RunFolder(whole).history().history
    assert RunFolder(cut).history().history["mine"] == [0.0, 2.0, 4.0, 6.0]
    assert str(RunFolder(cut).status()) == "ended: all epochs were run"
    assert kinds(cut)[-2:] == ["goes_on", "end"]
    about = RunFolder(cut).about()
    assert about["settings"]["batch"] == 8 and about["settings"]["epochs"] == 4
    assert "RunRecord" in about["settings"]["callbacks"]
    assert b"T0pS3cret" not in b"".join(p.read_bytes() for p in cut.iterdir() if p.is_file())


def test_a_run_that_follows_in_the_same_folder_is_read_by_itself(tmp_path):
    train([RunRecord(tmp_path)])
    first = (tmp_path / "events.jsonl").read_bytes()
    train([RunRecord(tmp_path)], [0.9, 0.8])

    assert (tmp_path / "events.jsonl").read_bytes().startswith(first)
    assert kinds(tmp_path) == ["start", "end", "start", "end"]
    assert RunFolder(tmp_path).history().history == {"loss": [0.9, 0.8]}


def test_a_run_that_follows_and_is_killed_in_its_first_epoch_begins_again(tmp_path):
    for cut in (None, 0, None):
        try:
            train(made(tmp_path), [0.9, 0.8, 0.7], cut=cut)
        except PowerCut:
            assert cut == 0

    assert kinds(tmp_path / "run") == ["start", "end", "goes_on", "start", "end"]
    assert RunFolder(tmp_path / "run").history().history["loss"] == [0.9, 0.8, 0.7]


def test_a_state_that_is_not_finite_is_no_end_if_there_is_a_backup(tmp_path):
    losses = [0.5, float("nan"), 0.4]
    alone, kept = tmp_path / "alone", tmp_path / "kept"
    train([RunRecord(alone), TerminateOnNaN()], losses)
    train([RunRecord(kept), TerminateOnNaN(), BackupAndRestore(kept / "checkpoints")], losses)

    assert kinds(alone)[-1] == "end" and kinds(kept)[-1] == "interrupted"
    assert RunFolder(alone).status().word == "ended"
    assert RunFolder(kept).status().word == "interrupted"


def test_one_run_at_a_time_writes_there(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.own(), pytest.raises(RunOwnedError, match=f"process {os.getpid()} on "):
        train([RunRecord(tmp_path)])
    train([RunRecord(tmp_path)])


def test_what_cannot_work_leaves_nothing_that_looks_like_a_run(tmp_path):
    class Host(LoopHost):
        def metric_names(self):
            return ["loss"]

        def runs_fit(self):
            return True

    callbacks = CallbackList(
        [RunRecord(tmp_path), EarlyStopping("val_los")],
        host=Host(get_state=dict, set_state=dict),
        epochs=1,
        verbose=0,
    )
    with pytest.raises(MonitorNotFoundError):
        callbacks.on_train_begin()
    del callbacks
    gc.collect()

    assert str(RunFolder(tmp_path).status()) == "empty"
    assert RunFolder(tmp_path).numbered() == []


@pytest.mark.parametrize(
    "state", [{"offset": -1}, {"offset": 1.0}, {"begun": 1}, {"within_epoch": None}, {"class": "x"}]
)
def test_a_state_that_is_none_is_refused(tmp_path, state):
    record = RunRecord(tmp_path)
    record.load_state_dict(record.state_dict())
    with pytest.raises(InvalidArgumentError):
        record.load_state_dict({**record.state_dict(), **state})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"folder": __file__}, "the path of a folder, not of a file"),
        ({"folder": ""}, "got folder=''"),
        ({"folder": "run", "settings": [1]}, r"a dict of plain values, got settings=\[1\]"),
    ],
)
def test_what_is_wrong_is_said_at_once(arguments, expected):
    with pytest.raises(InvalidArgumentError, match=expected):
        RunRecord(**arguments)
