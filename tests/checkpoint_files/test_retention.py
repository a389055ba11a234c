"""Which files may go; the rules themselves are in `core/test_keep_files.py`."""

import os

import pytest

from checkpoint_files.organs import Model
from peakhold._core.policies.keep import KeepEvery, KeepLast
from peakhold.checkpoint_files.retention import files_to_delete
from peakhold.files.sidecar import infos_of


def saved(model, *values, **more):
    return {n: model.request(n, value, **more).saved for n, value in enumerate(values)}


def test_without_a_policy_nothing_goes(tmp_path):
    assert files_to_delete(saved(Model(tmp_path), 3, 2, 1), None) == []
    assert files_to_delete({}, KeepLast(1)) == []


def test_any_policy_of_the_store_will_do(tmp_path):
    files = saved(Model(tmp_path), *[1.0] * 6)
    assert files_to_delete(files, KeepLast(2)) == [0, 1, 2, 3]
    assert files_to_delete(files, KeepEvery(epochs=3)) == [1, 2, 4]
    assert files_to_delete(files, KeepLast(2) | KeepEvery(epochs=3)) == [1, 2]


def test_what_a_policy_sees_of_a_file(tmp_path):
    first, second = infos_of(list(saved(Model(tmp_path), 0.5, None).values()))
    assert (first.commit, first.epoch, dict(first.metrics)) == (1, 0, {"loss": 0.5})
    assert (second.commit, second.epoch, dict(second.metrics)) == (2, 1, {})
    assert first.is_finite and second.is_finite


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ({"keep_last": 2}, "34"),
        ({"keep_best": 2}, "124"),
        ({"keep_last": 1, "keep_best": 1}, "14"),
        ({}, "01234"),
    ],
)
def test_a_save_deletes_what_need_not_stay(tmp_path, rules, left):
    model = Model(tmp_path)
    for epoch, value in enumerate([0.5, 0.2, 0.3, 0.6, 0.7]):
        assert model.save(epoch, value, **rules).trouble is None
    names = sorted(n for n in os.listdir(tmp_path) if n.endswith(".safetensors"))
    assert names == [f"w_{n}.safetensors" for n in left]
