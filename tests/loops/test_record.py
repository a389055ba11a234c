"""The record of epochs in a backup: what comes back is what was logged, at the same cost each time."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch

import golden_record
from peakhold.backup.record import Packer, unpack
from peakhold.host.resume import EpochRecord
from peakhold.store import Reader, Store


def kept(tmp_path, packed):
    """What a backup gives back."""
    with Store(tmp_path / "store") as store:
        pending = store.save(1, {"s": {"passed": packed}}, immutable=True)
        return unpack(store.load(pending.result())["s"]["passed"])


def shown(values):
    """With its type, and NaN as a word."""
    return [
        (type(v).__name__, v.dtype.name, v.shape, v.tobytes()) if hasattr(v, "dtype") else repr(v)
        for v in values
    ]


def assert_same(got, expected):
    assert (got.epochs, list(got.metrics)) == (expected.epochs, list(expected.metrics))
    for key, values in expected.metrics.items():
        assert shown(got.metrics[key]) == shown(values), key


@pytest.mark.parametrize("form", ["record-1", "record-2"])
def test_a_record_of_each_form_is_read_for_ever(form):
    packed = Reader(golden_record.FOLDERS / form).load()["train_state"]["passed"]

    assert_same(unpack(packed), golden_record.record())


def test_what_comes_back_is_what_was_logged(tmp_path):
    assert_same(kept(tmp_path, Packer().pack(golden_record.record())), golden_record.record())


VALUES = [
    0.5,
    math.nan,
    3,
    True,
    None,
    "word",
    2**80,
    -0.0,
    np.float32(2),
    np.arange(2),
    np.zeros((2, 2)),
]


@pytest.mark.parametrize("first", range(len(VALUES)))
def test_a_record_that_goes_on_is_what_one_would_be_that_is_packed_at_once(tmp_path, first):
    """Values of any kind after those of any other; each pack stays what it was."""
    for others in itertools.product(range(len(VALUES)), repeat=2):
        values = [VALUES[first], VALUES[first], *(VALUES[n] for n in others), VALUES[first]]
        packer, packs = Packer(), []
        for n in range(1, len(values) + 1):
            passed = EpochRecord(
                list(range(n)), {"m": values[:n], **({"late": [n]} if n > 2 else {})}
            )
            packs.append(packer.pack(passed))
        for n, packed in enumerate(packs, 1):
            assert shown(unpack(packed).metrics["m"]) == shown(values[:n]), values
            assert unpack(packed).epochs == list(range(n))
            at_once = Packer().pack(EpochRecord(list(range(n)), {"m": values[:n]}))
            assert repr(packed["metrics"]["m"]) == repr(at_once["metrics"]["m"])


def test_what_grew_beyond_its_memory_leaves_what_was_given(tmp_path):
    packer, passed = Packer(), EpochRecord([], {"a": [], "b": []})
    packs = []
    for n in range(100):
        passed.epochs.append(n)
        passed.metrics["a"].append(n / 3)
        passed.metrics["b"].append(n if n % 2 else n / 7)
        packs.append(packer.pack(passed))

    for n, packed in enumerate(packs, 1):
        found = unpack(packed)
        assert found.metrics == {key: values[:n] for key, values in passed.metrics.items()}
    assert_same(kept(tmp_path, packs[-1]), passed)


def test_a_record_that_was_changed_is_packed_as_it_is():
    packer = Packer()
    passed = EpochRecord([0, 1, 2], {"a": [1.0, 2.0, 3.0], "b": [np.zeros(2), np.ones(2), "x"]})
    packer.pack(passed)
    passed.metrics["a"][1] = 7.0
    passed.metrics["b"][0] = np.full(2, 5)
    assert_same(unpack(packer.pack(passed)), passed)
    shorter = EpochRecord([0], {"a": [1.0], "c": [1]})
    assert_same(unpack(packer.pack(shorter)), shorter)


def test_an_array_that_is_changed_later_was_logged_as_it_was():
    packer, sums = Packer(), np.zeros(2)
    packer.pack(EpochRecord([0], {"sums": [sums]}))
    sums += 1
    packed = packer.pack(EpochRecord([0, 1], {"sums": [sums, sums.copy()]}))

    assert unpack(packed).metrics["sums"][0].tolist() == [0, 0]


def test_a_tensor_and_what_is_no_number_are_as_before():
    packed = Packer().pack(EpochRecord([0], {"t": [torch.tensor(2.0)], "o": [object], "e": []}))
    found = unpack(packed)

    assert found.metrics["t"] == [2.0] and found.metrics["e"] == []
    assert found.metrics["o"] == [repr(object)]


def test_after_an_interrupt_in_the_middle_no_value_is_there_twice(monkeypatch):
    packer, passed = Packer(), EpochRecord([0, 1], {"a": [1.0, 2]})
    with monkeypatch.context() as patched:
        patched.setattr(
            "peakhold.backup.record._line", lambda value: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            packer.pack(passed)

    assert_same(unpack(packer.pack(passed)), passed)


@pytest.mark.parametrize("make", [float, lambda n: n if n % 2 else n / 7, np.float32],
                         ids=["floats", "of two kinds", "of NumPy"])  # fmt: skip
def test_one_more_epoch_costs_the_same_after_ten_and_after_two_thousand(make):
    packer, passed, calls = Packer(), EpochRecord([], {"m": []}), 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    costs = {}
    for n in range(2001):
        passed.epochs.append(n)
        passed.metrics["m"].append(make(n))
        calls = 0
        sys.setprofile(count)
        try:
            packer.pack(passed)
        finally:
            sys.setprofile(None)
        costs[n] = calls
    assert costs[2000] <= costs[11] * 1.2
