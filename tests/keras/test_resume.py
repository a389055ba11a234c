"""A run that is interrupted and started again decides, and ends, as one that was not."""

import copy
import json
import os
import pathlib
import pickle
import random

import numpy as np
import pytest

import keras
import peakhold.keras as pk
import resume_runs
from conftest import BACKEND
from peakhold.errors import BackupMismatchError, CheckpointDamagedError, CheckpointDamagedWarning
from resume_runs import CURVE, KINDS, Counter, build, callbacks, data, start

LASTING = {"calls"}


class Crash(keras.callbacks.Callback):
    """Raises at one moment."""

    def __init__(self, hook, epoch, batch=None):
        super().__init__()
        self.at, self.epoch = (hook, epoch, batch), 0

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

    def reached(self, hook, batch=None):
        if self.at == (hook, self.epoch, batch):
            raise ZeroDivisionError

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.reached("epoch begin")

    def on_train_batch_end(self, batch, logs=None):
        self.reached("batch", batch)

    def on_test_begin(self, logs=None):
        self.reached("test")

    def on_epoch_end(self, epoch, logs=None):
        self.reached("epoch end")


def crash(folder, kind="scripted", *moment, **arguments):
    with pytest.raises(ZeroDivisionError):
        start(folder, kind, also=[Crash(*moment)], **arguments)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """What each kind of run leaves if nothing happens."""
    return {kind: start(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def test_the_unbroken_run_is_the_one_of_the_research(unbroken):
    result = unbroken["scripted"]

    assert result["stopped"][:3] == [8, 2, 0.20]
    assert result["best epoch of the file"] == 2
    assert result["best file"] == result["weights"]
    assert result["epochs"] == list(range(9))
    rates = [float(line.split(",")[4]) for line in result["csv"].splitlines()[1:]]
    assert rates.index(min(rates)) == 8  # cut at the end of 7
    assert not result["backup"]
    assert result["leftovers"] == []


MOMENTS = [
    ("epoch begin", 1),
    ("batch", 5, 1),
    ("test", 7),
    ("epoch end", 5),
    ("epoch end", 7),
    ("epoch end", 8),
]


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_changes_nothing(tmp_path, unbroken, kind, moment):
    crash(tmp_path, kind, *moment)

    assert start(tmp_path, kind, seed=2) == unbroken[kind]
