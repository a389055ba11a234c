"""Keras 2's `fit` in processes: killed and started again, and under MultiWorkerMirroredStrategy."""

import pathlib

import pytest

from workers.forked import Ground
from workers.one_run import lines_of

FILES = [
    "backup", "best.keras", "best.keras.peakhold.json", "best.weights.h5",
    "best.weights.h5.peakhold.json", "log.csv",
]  # fmt: skip


@pytest.fixture(scope="module")
def ground():
    one = Ground(["tf_keras", "tf_keras_programs"], {"KERAS_BACKEND": "tensorflow"})
    yield one
    one.close()


def folders(tmp_path):
    for name in ("unbroken", "broken"):
        (tmp_path / name).mkdir()
    return tmp_path / "unbroken", tmp_path / "broken"


@pytest.mark.parametrize("legacy", [False, True])
def test_a_killed_fit_goes_on_to_the_same_bits(ground, tmp_path, legacy):
    """Arrays that `fit` shuffles, dropout, batch normalization, and both kinds of optimizer."""
    unbroken, broken = folders(tmp_path)
    (whole,) = ground.results("tf_keras_programs", "alone", 1, [str(unbroken), 5, None, legacy])

    (killed,) = ground.run("tf_keras_programs", "alone", 1, [str(broken), 5, 3, legacy])
    assert killed.status == -9
    (again,) = ground.results("tf_keras_programs", "alone", 1, [str(broken), 5, None, legacy])

    assert whole["files"] == FILES
    assert whole["of_file"] == pytest.approx(whole["best"], rel=1e-6)
    assert again == whole
    assert lines_of(broken / "log.csv") == lines_of(unbroken / "log.csv")


def test_fit_of_two_workers_is_one_run(ground, tmp_path):
    """One decision, one file, one CSV; killed, it goes on from the backup to the same end."""
    unbroken, broken = folders(tmp_path)
    zero, one = ground.results("tf_keras_programs", "workers", 2, [str(unbroken), 5])

    assert zero["statistics"] != one["statistics"]
    shared = ("ran", "history", "best", "best_epoch", "stopped_epoch", "rate", "weights", "files")
    assert [zero[name] for name in shared] == [one[name] for name in shared]
    assert zero["files"] == FILES
    rows = lines_of(unbroken / "log.csv")
    assert [row.split(",")[0] for row in rows[1:]] == [str(epoch) for epoch in zero["ran"]]
    assert zero["best"] == min(zero["history"]["val_loss"])
    # What is restored is in the file, with the statistics of the worker that wrote it.
    assert zero["of_file"] == [
        *zero["weights"][:4], *zero["statistics"], *zero["weights"][4:],
    ]  # fmt: skip

    killed = ground.run("tf_keras_programs", "workers", 2, [str(broken), 5, 2])
    assert [one.status for one in killed] == [-9, -9]
    again = ground.results("tf_keras_programs", "workers", 2, [str(broken), 5])

    assert again == [zero, one]
    assert lines_of(broken / "log.csv") == rows


def test_the_program_of_the_docs_is_one_run_in_two_processes(ground, tmp_path):
    page = pathlib.Path(__file__).parents[2] / "docs" / "how-to" / "tf-keras.md"
    zero, one = ground.results("tf_programs", "page", 2, [str(page), str(tmp_path)])

    assert zero == one
    best, best_epoch, stopped_epoch = zero
    assert best < 0.3
    assert 0 < best_epoch < stopped_epoch
    assert len(lines_of(tmp_path / "m" / "log.csv")) == stopped_epoch + 2
