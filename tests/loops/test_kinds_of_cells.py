"""Whatever a loop logs: the short way to a row of the CSV writes what the long one does."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import peakhold

NUMBERS = st.one_of(st.floats(), st.integers(), st.booleans())
ARRAYS = st.lists(st.floats(width=32), max_size=3)
VALUES = st.one_of(
    NUMBERS,
    st.none(),
    st.text(st.sampled_from('0aN ,;\t"\r\n\x00é'), max_size=4),
    NUMBERS.map(np.asarray),
    st.floats().map(np.float64),
    ARRAYS.map(lambda values: np.array(values, np.float32)),
    ARRAYS.map(torch.tensor),
    ARRAYS,
)
ROWS = st.lists(st.fixed_dictionaries({"a": VALUES, "b": VALUES}), min_size=2, max_size=4)


def written(rows, separator, *, short):
    with tempfile.TemporaryDirectory() as folder:
        logger = peakhold.CSVLogger(f"{folder}/log.csv", separator)
        writing = logger._peakhold_link.participant
        ways = []
        if short:
            add_known = writing._add_known
            writing._add_known = lambda row: ways.append(add_known(row)) or ways[-1]
        else:
            writing._add_known = lambda row: False
        run = peakhold.CallbackList(logger, verbose=0)
        run.on_train_begin()
        for epoch, row in enumerate(rows):
            run.on_epoch_begin(epoch)
            run.on_epoch_end(epoch, dict(row))
        run.on_train_end()
        return Path(f"{folder}/log.csv").read_bytes(), ways


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from([",", ";", "\t"]))
def test_a_row_is_the_same_by_the_short_way_and_by_the_long_one(rows, separator):
    content, ways = written(rows, separator, short=True)

    assert ways == [False] + [True] * (len(rows) - 1)
    assert content == written(rows, separator, short=False)[0]


@pytest.mark.parametrize("value", [0.5, "a,b", "", None, np.float32(0.1), [1, 2], float("nan")])
def test_so_are_these(value):
    rows = [{"a": value, "b": 1.0}] * 2

    assert written(rows, ",", short=True)[0] == written(rows, ",", short=False)[0]
