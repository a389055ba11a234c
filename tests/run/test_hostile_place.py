"""A checkpoint whose place is not one of ours: an error that names it, never a bare KeyError."""

import copy
import os
import shutil

import numpy as np
import pytest

from peakhold import Every, Run
from peakhold.backup.interrupted import Interrupted
from peakhold.errors import CheckpointDamagedError, InvalidArgumentError

VALUES = [None, -1, 2**70, "x", [], {}, {"a": 1}, float("nan"), True, np.zeros(2)]


def train(folder, cut=None, data=(1.0, 2.0, 3.0, 4.0)):
    with Run(folder, state={"w": np.zeros(2)}, verbose=0, save_every=Every(batches=1)) as run:
        for epoch in run.epochs(3):
            for index, x in enumerate(run.batches([*data])):
                run.state = {"w": run.state["w"] + x}
                run.log(loss=x)
                if (epoch, index) == cut:
                    raise RuntimeError
    return run


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed") / "run"
    with pytest.raises(RuntimeError):
        train(folder, (1, 2))
    return folder


def fields():
    for name in ("format", "step", "step_at_epoch", "epoch", "data_epoch", "logged", "running",
                 "rates", "program", "ends", "ledger"):  # fmt: skip
        yield (name,)
    for name in ("name", "n_batches", "means", "source"):
        yield "running", name
    for name in ("kind", "batch", "epoch", "own", "described"):
        yield "running", "source", name


@pytest.mark.parametrize("path", [*fields()], ids="/".join)
def test_each_field_with_each_value_is_an_error_of_ours_or_goes_on(
    killed, tmp_path, path, monkeypatch
):
    original = Interrupted.__init__
    for number, value in enumerate(VALUES):

        def changed(self, parts, *args, value=value, **kwargs):
            original(self, parts, *args, **kwargs)
            place = self.state["place"] = copy.deepcopy(self.state["place"])
            for name in path[:-1]:
                place = place[name]
            place[path[-1]] = value

        monkeypatch.setattr(Interrupted, "__init__", changed)
        folder = tmp_path / str(number)
        shutil.copytree(killed, folder)
        try:
            train(folder)
        except (CheckpointDamagedError, InvalidArgumentError):
            continue


def test_a_run_s_folder_may_be_moved_and_goes_on(killed, tmp_path, recwarn):
    whole = train(tmp_path / "whole")
    folder = tmp_path / "elsewhere" / "moved"
    shutil.copytree(killed, folder)
    run = train(folder)
    assert not [str(one.message) for one in recwarn]
    assert run.state["w"].tolist() == whole.state["w"].tolist()
    assert run.history == whole.history
    rows = [(tmp_path / "whole" / "metrics.csv").read_text(), (folder / "metrics.csv").read_text()]
    assert rows[0] == rows[1]
    assert str(tmp_path) not in (folder / "events.jsonl").read_text()
    assert os.path.isdir(killed)
