"""Interrupted loops that earlier versions left are gone on with for ever; see `golden_runs`."""

import json
import math
import shutil

import numpy as np
import pytest

import golden_runs


def assert_same(got, expected):
    assert json.dumps({**got, "weights": None}) == json.dumps({**expected, "weights": None})
    for one, other in zip(got["weights"], expected["weights"], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("form", ["loop-1"])
def test_a_loop_that_was_interrupted_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, form):
    (tmp_path / "whole").mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    whole = golden_runs.loop()
    shutil.copytree(golden_runs.FOLDERS / form, tmp_path / "resumed")
    monkeypatch.chdir(tmp_path / "resumed")

    assert_same(golden_runs.loop(), whole)
    assert math.isinf(whole["watcher"][1])
