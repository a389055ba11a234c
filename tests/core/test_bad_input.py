"""Every constructor: bad input gets `expected …, got name=value.` and a hint."""

import math
import re

import pytest

import peakhold
from peakhold.errors import InvalidArgumentError

CASES = [
    ("EarlyStopping", {"patience": -1}),
    ("EarlyStopping", {"patience": math.nan}),
    ("EarlyStopping", {"patience": -0.5}),
    ("EarlyStopping", {"patience": "3"}),
    ("EarlyStopping", {"patience": True}),
    ("EarlyStopping", {"patience": None}),
    ("EarlyStopping", {"min_delta": math.nan}),
    ("EarlyStopping", {"min_delta": "0.1"}),
    ("EarlyStopping", {"min_delta": peakhold.Relative(math.nan)}),
    ("EarlyStopping", {"monitor": 3}),
    ("EarlyStopping", {"monitor": None}),
    ("EarlyStopping", {"monitor": ""}),
    ("EarlyStopping", {"monitor": []}),
    ("EarlyStopping", {"monitor": ["val_loss", 3]}),
    ("EarlyStopping", {"monitor": ["val_loss", "val_loss"]}),
    ("EarlyStopping", {"mode": ["min", "max"]}),
    ("EarlyStopping", {"baseline": [0.5, 0.6]}),
    ("EarlyStopping", {"require": "both"}),
    ("EarlyStopping", {"memory_budget": 0}),
    ("EarlyStopping", {"baseline": math.nan}),
    ("EarlyStopping", {"baseline": "good"}),
    ("EarlyStopping", {"start_from_epoch": -1}),
    ("EarlyStopping", {"verbose": "yes"}),
    ("ReduceLROnPlateau", {"factor": 1}),
    ("ReduceLROnPlateau", {"factor": 1.5}),
    ("ReduceLROnPlateau", {"factor": -0.1}),
    ("ReduceLROnPlateau", {"factor": math.nan}),
    ("ReduceLROnPlateau", {"patience": -1}),
    ("ReduceLROnPlateau", {"patience": None}),
    ("ReduceLROnPlateau", {"cooldown": -1}),
    ("ReduceLROnPlateau", {"cooldown": math.nan}),
    ("TensorBoard", {"histogram_freq": -1}),
    ("TensorBoard", {"embeddings_freq": 0.5}),
    ("ReduceLROnPlateau", {"min_lr": -1e-3}),
    ("ReduceLROnPlateau", {"min_lr": math.inf}),
    ("ReduceLROnPlateau", {"min_delta": math.inf}),
    ("ModelCheckpoint", {"filepath": ""}),
    ("ModelCheckpoint", {"filepath": None}),
    ("ModelCheckpoint", {"filepath": 3}),
    ("ModelCheckpoint", {"filepath": b"m.h5"}),
    ("ModelCheckpoint", {"filepath": "gs://bucket/m.keras"}),
    ("ModelCheckpoint", {"filepath": "m_{epoch.real}.safetensors"}),
    ("ModelCheckpoint", {"filepath": "m_{epoch.safetensors"}),
    ("ModelCheckpoint", {"filepath": "m_{}.safetensors"}),
    ("ModelCheckpoint", {"save_freq": 0}),
    ("ModelCheckpoint", {"save_freq": -5}),
    ("ModelCheckpoint", {"save_freq": "batch"}),
    ("ModelCheckpoint", {"save_freq": 1.5}),
    ("ModelCheckpoint", {"save_freq": True}),
    ("ModelCheckpoint", {"initial_value_threshold": math.nan}),
    ("ModelCheckpoint", {"initial_value_threshold": "0.9"}),
    ("ModelCheckpoint", {"on_save_error": "ignore"}),
    ("ModelCheckpoint", {"buffers": "rank1"}),
    ("ModelCheckpoint", {"monitor": 1}),
    ("CSVLogger", {"filename": ""}),
    ("CSVLogger", {"filename": None}),
    ("CSVLogger", {"separator": ""}),
    ("CSVLogger", {"separator": ", "}),
    ("CSVLogger", {"separator": 1}),
    ("CSVLogger", {"separator": "\n"}),
    ("LearningRateScheduler", {"schedule": 0.1}),
    ("CallbackList", {"callbacks": [peakhold.EarlyStopping]}),
    ("CallbackList", {"callbacks": ["EarlyStopping"]}),
]
REQUIRED = {"ModelCheckpoint": {"filepath": "m.safetensors"}, "CSVLogger": {"filename": "l.csv"}}


@pytest.mark.parametrize(("name", "bad"), CASES, ids=lambda case: str(case)[:60])
def test_bad_input_is_refused_with_the_value_and_what_to_do(name, bad):
    with pytest.raises(InvalidArgumentError) as caught:
        getattr(peakhold, name)(**{**REQUIRED.get(name, {}), **bad})
    ((argument, _),) = bad.items()
    first = str(caught.value).splitlines()[0]

    assert re.match(r"expected .*, got \w+=.*\.$", first)
    assert caught.value.argument == argument
    assert f"got {argument}=" in first
    if argument not in {"separator", "baseline", "initial_value_threshold", "min_lr"}:
        assert "\nHint: " in str(caught.value)


@pytest.mark.parametrize("cls", ["ModelCheckpoint", "CSVLogger"])
def test_a_folder_is_no_file(cls, tmp_path):
    with pytest.raises(InvalidArgumentError, match="Hint: pass"):
        getattr(peakhold, cls)(tmp_path)


def test_an_unknown_mode_warns_in_the_words_of_keras_and_means_auto():
    with pytest.warns(
        UserWarning, match="^EarlyStopping mode 'up' is unknown, fallback to auto mode.$"
    ):
        stopper = peakhold.EarlyStopping(mode="up")

    assert stopper.mode == "auto"


def test_numbers_of_other_types_are_numbers():
    import numpy as np

    stopper = peakhold.EarlyStopping(patience=np.int64(3), min_delta=np.float32(0.5), baseline=1)

    assert (stopper.patience, stopper.min_delta, stopper.baseline) == (3, 0.5, 1.0)
    assert peakhold.EarlyStopping(patience=5.0).patience == 5
    assert peakhold.EarlyStopping(min_delta=-0.1).min_delta == 0.1
