"""Interrupted loops that earlier versions left are gone on with for ever; see `golden_runs`."""

import json
import math
import shutil

import numpy as np
import pytest

import golden_runs
from peakhold.store import Reader, drain


def assert_same(got, expected):
    assert json.dumps({**got, "weights": None}) == json.dumps({**expected, "weights": None})
    for one, other in zip(got["weights"], expected["weights"], strict=True):
        np.testing.assert_array_equal(one, other)


FORMS = ["loop-1", "loop-2", "loop-3"]


@pytest.mark.parametrize("form", FORMS)
def test_a_loop_that_was_interrupted_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, form):
    (tmp_path / "whole").mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    whole = golden_runs.loop()
    shutil.copytree(golden_runs.FOLDERS / form, tmp_path / "resumed")
    monkeypatch.chdir(tmp_path / "resumed")

    assert_same(golden_runs.loop(), whole)
    assert math.isinf(whole["watcher"][1])


@pytest.mark.parametrize("form", FORMS)
def test_what_a_backup_refers_to_stays_whoever_wrote_it(tmp_path, monkeypatch, form):
    """The best weights are in an old backup; the newest says so as today, those before as then."""
    shutil.copytree(golden_runs.FOLDERS / form, tmp_path / "resumed")
    monkeypatch.chdir(tmp_path / "resumed")
    before = Reader("backup").load("latest").entry
    with pytest.raises(golden_runs.Interrupted):
        golden_runs.loop(interrupted=6)
    drain()
    entries = Reader("backup").list()

    assert [entry.step for entry in entries] == [2, 5, 6]
    assert (entries[-1].metrics, entries[-1].refers_to) == ({}, (2,))
    assert before.metrics == ({"refers_to_step_0": 2.0} if form == "loop-1" else {})
    whole = tmp_path / "whole"
    whole.mkdir()
    resumed = golden_runs.loop()
    monkeypatch.chdir(whole)
    assert_same(resumed, golden_runs.loop())
