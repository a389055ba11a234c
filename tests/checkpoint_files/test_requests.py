"""What is handed from hand to hand."""

import math
from types import SimpleNamespace

import pytest

from checkpoint_files.organs import Model
from peakhold._core.numbers import numbers_to_json
from peakhold.checkpoint_files.requests import SaveOutcome, about_to_be_saved
from peakhold.checkpoint_files.writer import bad_now


def test_what_the_sidecar_will_say():
    logs = {"loss": math.nan, "val_loss": 0.5, "auc": math.inf}
    saved = about_to_be_saved(3, 7, logs, monitor="val_loss", mode="min", run_id="r", versions={})
    words = {"auc": "Infinity", "loss": "NaN", "val_loss": 0.5}
    assert numbers_to_json(saved.metrics) == words
    assert (saved.epoch, saved.batch, saved.value, saved.finite) == (3, 7, 0.5, False)
    for metrics in ({}, {"m": math.nan}, {"m": math.inf}):
        saved = about_to_be_saved(3, None, metrics, monitor="m", mode=None, run_id="r", versions={})
        assert (saved.value, saved.finite) == (None, True)


def test_variables_are_looked_at_only_if_they_could_forbid_a_save(tmp_path):
    model = Model(tmp_path)
    request = model.request(0, exempt=frozenset({"mask"}))
    host = SimpleNamespace(nonfinite=lambda: frozenset({"mask", "w"}))
    assert bad_now(request, host) == {"w"}
    host.nonfinite = lambda: pytest.fail("nobody asked")
    assert bad_now(model.request(0, exempt=None), host) == frozenset()


@pytest.mark.parametrize(
    ("keep_last", "exempt", "must"),
    [(None, None, False), (1, None, True), (1, frozenset(), False), (None, frozenset(), False)],
)
def test_retention_must_know_of_bad_states_that_nothing_refuses(tmp_path, keep_last, exempt, must):
    request = Model(tmp_path).request(0, keep_last=keep_last, exempt=exempt)
    assert request.must_know_whether_finite is must
    assert request.found(finite=True).saved.finite
    assert not request.found(finite=False).found(finite=True).saved.finite


def test_committed_is_what_neither_the_disk_nor_its_state_refused(tmp_path):
    request = Model(tmp_path).request(0)
    assert SaveOutcome(request, aside="a", again=True, trouble="b").committed
    assert not SaveOutcome(request, bad=frozenset({"w"})).committed
    assert not SaveOutcome(request, error=OSError()).committed
