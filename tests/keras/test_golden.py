"""Interrupted fits that earlier versions left are gone on with for ever; see `golden_runs`."""

import json
import shutil

import numpy as np
import pytest

import golden_runs


@pytest.mark.torch_is_enough("it wrote them; TensorFlow counts steps in another dtype")
@pytest.mark.parametrize("form", ["fit-1", "fit-2", "fit-3"])
def test_a_fit_that_was_interrupted_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, form):
    (tmp_path / "whole").mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    whole = golden_runs.fit()
    shutil.copytree(golden_runs.FOLDERS / form, tmp_path / "resumed")
    monkeypatch.chdir(tmp_path / "resumed")
    resumed = golden_runs.fit()

    for one, other in zip(resumed.pop("weights"), whole.pop("weights"), strict=True):
        # It was interrupted on another machine, and perhaps on another backend.
        np.testing.assert_allclose(one, other, rtol=1e-6)
    resumed.pop("log"), whole.pop("log")  # losses of that machine to the last digit
    assert json.dumps(resumed) == json.dumps(whole)
