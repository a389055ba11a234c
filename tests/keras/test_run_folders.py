"""One reader for the folder of a run, whoever wrote it; and what older versions wrote is gone on with."""

import gc
import os
import shutil

import numpy as np
import pytest

import golden_runs
from golden_runs import CURVE, INTERRUPTED, N_EPOCHS
from peakhold import Run
from peakhold.keras import production_callbacks
from peakhold.ledger import RunFolder, read_events
from peakhold.store import Reader, drain

pytestmark = pytest.mark.torch_is_enough("what is read is files; the golden ones are torch's")


def by_run():
    """A loop that an exception ends."""
    state = {"w": np.zeros(2)}
    with Run(
        "run", state=state, monitor="val_loss", patience=6, save_every="epoch", verbose=0
    ) as run:
        for epoch in run.epochs(N_EPOCHS):
            if epoch == INTERRUPTED:
                raise golden_runs.Interrupted
            run.log(val_loss=CURVE[epoch])


def by_production_callbacks():
    """A fit that an exception ends."""
    golden_runs.production(interrupted=INTERRUPTED)


def by_an_older_version():
    """The same, with the names that there were: it was the second of its folder."""
    shutil.copytree(golden_runs.FOLDERS / "production-1" / "run", "run")
    raise golden_runs.Interrupted


@pytest.mark.parametrize("write", [by_run, by_production_callbacks, by_an_older_version])
def test_one_reader_reads_what_each_has_written(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(golden_runs.Interrupted):
        write()
    gc.collect()  # the fit is gone, and that it is, is seen
    drain()
    folder = RunFolder("run")

    assert folder.status().word == "interrupted"
    past = folder.history()
    assert past.epoch == [*range(INTERRUPTED)]
    assert past.history["val_loss"] == [*CURVE[:INTERRUPTED]]
    newest = folder.numbered()[-1]
    assert newest.is_unfinished and {"best", "log", "backup"} <= newest.kinds
    assert Reader(newest.backup).latest.epoch == INTERRUPTED
    if write is by_an_older_version:
        assert newest.number == 2 and folder.about() is None
        return
    assert newest.number == 1 and folder.about()["settings"]["patience"] == 6
    events = list(read_events(folder.events))
    assert [events[0]["kind"], events[-1]["kind"]] == ["start", "interrupted"]
    assert events[-1]["reason"]
    assert {"run.json", "events.jsonl", "heartbeat", "checkpoints", "metrics.csv"} <= {
        *os.listdir("run")
    }


def test_a_run_that_an_older_version_began_ends_as_if_it_had_not_been_interrupted(
    tmp_path, monkeypatch
):
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    whole = golden_runs.production()
    monkeypatch.chdir(tmp_path / "resumed")
    shutil.copytree(golden_runs.FOLDERS / "production-1" / "run", "run")
    first = {name: (tmp_path / "resumed/run" / name).read_bytes() for name in os.listdir("run")
             if "-1." in name}  # fmt: skip

    resumed = golden_runs.production()

    for one, other in zip(resumed.pop("weights"), whole.pop("weights"), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)  # it began on another machine
    assert resumed == whole
    assert sorted(name for name in os.listdir("run") if not name.endswith(".json")) == [
        "best-1.keras", "best-2.keras", "log-1.csv", "log-2.csv",
    ]  # fmt: skip
    assert {name: (tmp_path / "resumed/run" / name).read_bytes() for name in first} == first
    folder = RunFolder("run")
    assert folder.status().word == "ended"
    assert folder.history().history["val_loss"] == [*CURVE]
    assert "'run/run-3/metrics.csv'" in repr(production_callbacks("run"))
