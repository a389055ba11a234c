"""Processes that the environment speaks of, and no group: said where they write one path (E12)."""

import json
import warnings

import pytest

from peakhold import CSVLogger, EarlyStopping, ModelCheckpoint
from peakhold.distributed import alone
from peakhold.errors import AdviceWarning
from workers.rig import together, train

LOGS = [{"loss": 1.0, "val_loss": 0.5}]
CLUSTER = json.dumps(
    {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
)
ENVIRONMENTS = [
    ("WORLD_SIZE", "4", 4),
    ("SLURM_STEP_NUM_TASKS", "2", 2),
    ("OMPI_COMM_WORLD_SIZE", "8", 8),
    ("TF_CONFIG", CLUSTER, 2),
]


def callbacks(path, name="m"):
    return [
        EarlyStopping("val_loss", patience=1, restore_best_weights=True),
        ModelCheckpoint(f"{path}/{name}.safetensors", save_best_only=True),
    ]


@pytest.mark.parametrize(("variable", "value", "n"), ENVIRONMENTS)
def test_processes_without_a_group_that_write_one_path(variable, value, n, tmp_path, monkeypatch):
    monkeypatch.setenv(variable, value)

    with pytest.warns(
        AdviceWarning, match=rf"{variable}={n} says that this is one of {n} "
    ) as said:
        train([*callbacks(tmp_path), CSVLogger(f"{tmp_path}/log.csv")], LOGS, epochs=9)

    paths = [one for one in said if "E12" in str(one.message)]
    assert len(paths) == 2
    assert "put {worker} into the name" in str(paths[0].message)


@pytest.mark.parametrize(("variable", "value"), [
    ("WORLD_SIZE", "1"), ("WORLD_SIZE", "many"), ("TF_CONFIG", "{"), ("TF_CONFIG", "[1]"),
    ("TF_CONFIG", '{"cluster": {"worker": ["a:1"]}}'), ("TF_CONFIG", '{"cluster": null}'),
])  # fmt: skip
def test_one_process_hears_nothing(variable, value, tmp_path, monkeypatch):
    monkeypatch.setenv(variable, value)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(callbacks(tmp_path), LOGS, epochs=9)


def test_a_group_that_is_there_is_no_stranger(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        together(2, lambda rank, one: train(callbacks(tmp_path), LOGS, channel=one, epochs=9))
        with alone():
            train(callbacks(tmp_path, "alone"), LOGS, epochs=9)
        train(callbacks(tmp_path, "m-{worker}"), LOGS, epochs=9)
