"""`python -m peakhold.demo` as people run it: in a process of its own, in a folder of its own."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

import keras
from conftest import BACKEND
from peakhold.demo import data as demo_data
from peakhold.demo import run as demo

ENVIRONMENT = {**os.environ, "KERAS_BACKEND": BACKEND, "PYTHONUNBUFFERED": "1"}
COMMAND = [sys.executable, "-m", "peakhold.demo"]


def run(folder, *options):
    return subprocess.run(
        [*COMMAND, *options],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def best_of_run_1(out):
    return (out / "best.keras").read_bytes(), (out / "metrics.csv").read_bytes()


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory):
    """A folder, and the run in it."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, run(folder)


def test_every_claim_holds(demonstrated):
    _, first = demonstrated
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    assert "FAILED" not in first.stdout
    assert first.stdout.count("\n  ok  ") == 11
    assert "oneDNN" not in first.stderr, "TensorFlow's chatter hides our lines"
    assert "Warning" not in first.stderr, "no advice is due, and nothing went wrong"
    assert "peakhold.silence" not in first.stdout, "nor a notice"
    assert "\n  tensorboard --logdir peakhold-demo/tensorboard\n" in first.stdout
    assert "\n  [peakhold-demo 1, run " in first.stdout


@pytest.mark.torch_is_enough("names of runs, and what is said of a claim, are Python's")
def test_a_second_run_gets_names_of_its_own_and_says_which_claims_fail(demonstrated):
    """Three epochs are too few for two of the claims: the demo must say so, and lose nothing."""
    folder, _ = demonstrated
    out = folder / "peakhold-demo"
    kept = best_of_run_1(out)

    second = run(folder, "--epochs", "3", "--seed", "1")

    assert second.returncode == 1
    assert "the learning rate was 0.003 from the first epoch to the last" in second.stderr
    assert "training ran all 3 epochs" in second.stdout
    assert best_of_run_1(out) == kept
    assert (out / "run-2" / "best.keras").exists()
    boards = sorted(p.name for p in (out / "run-2" / "tensorboard").iterdir())
    assert boards == ["train", "validation"]


@pytest.mark.torch_is_enough(
    "what the demo does about it is Python's; test_defects and test_resume interrupt every backend"
)
def test_ctrl_c_leaves_a_whole_file_and_the_same_line_goes_on(tmp_path):
    with subprocess.Popen(
        [*COMMAND, "--out", "here"],
        cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("Epoch 4/"):
                process.send_signal(signal.SIGINT)
    text = "".join(said)

    assert process.returncode == 130, text
    assert "Restoring model weights from the end of the best epoch" in text
    assert "Traceback" not in text
    keras.models.load_model(tmp_path / "here" / "best.keras")

    again = run(tmp_path, "--out", "here")

    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert "goes on with epoch 4 of 100" in again.stdout
    assert again.stdout.count("\n  ok  ") == 11
    assert not (tmp_path / "here" / "run-2").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--data", "missing.npz"], "got 'missing.npz'"),
        (["--out", "a_file"], "expected the path of a folder, not of a file, got run_dir='a_file'"),
    ],
)
def test_what_cannot_begin_is_one_sentence(options, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").touch()

    assert demo.main(options) == 2

    assert expected in capsys.readouterr().err


def _trained(folder, epochs=3):
    images = demo.load("digits", None, limit=300, seed=0)
    trained = demo.train(images, folder, epochs)
    return images, trained


def _failed(claims):
    return [claim.otherwise for claim in claims if not claim.holds]


@pytest.mark.torch_is_enough("a check compares what the other test has on every backend")
def test_the_demo_notices_a_model_a_file_or_a_log_that_is_not_of_the_best_epoch(tmp_path, capfd):
    """Its checks are no decoration: each lie below is found."""
    images, trained = _trained(tmp_path)
    rows = demo.read_log(trained.log)
    assert _failed(demo.check_best(rows, trained, images)) == []

    weights = trained.model.get_weights()
    trained.model.set_weights([w * 0.5 for w in weights])
    lost = _failed(demo.check_best(rows, trained, images))
    assert any("the model in memory has val_loss" in text for text in lost)
    assert any("have different weights" in text for text in lost)
    trained.model.set_weights(weights)

    wrong = [{**row, "val_accuracy": "1.0" if row is rows[0] else "0.1"} for row in rows]
    assert any(
        "best is epoch 1" in text for text in _failed(demo.check_best(wrong, trained, images))
    )
    assert any("holds the epochs 0, 2" in t for t in _failed(demo.check_log(rows[::2], trained)))

    assert _failed(demo.check_production(rows, trained)) == []
    assert any("epochs [0, 1, 2]" in t for t in _failed(demo.check_production(rows[:2], trained)))
    silent = dataclasses.replace(trained, messages=[])
    assert any("was 'nothing'" in text for text in _failed(demo.check_production(rows, silent)))
    trained.backup.mkdir()
    assert any("is still there" in text for text in _failed(demo.check_production(rows, trained)))

    other = demo.build(images.train[0].shape[1:], 10)
    other.save(pathlib.Path(trained.saver.best_path))
    lost = _failed(demo.check_best(rows, trained, images))
    assert any("have different weights" in text for text in lost)
    assert demo.report(demo.check_best(rows, trained, images)) is False
    assert "FAILED" in capfd.readouterr().out


def test_images_come_from_a_file_too_scaled_and_one_hot(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "grey.npz",
        x_train=rng.integers(0, 256, (50, 12, 10), dtype="uint8"),
        y_train=np.arange(50) % 3,
        x_test=rng.integers(0, 256, (9, 12, 10), dtype="uint8"),
        y_test=np.arange(9) % 3,
    )

    images = demo.load("digits", tmp_path / "grey.npz", limit=40, seed=0)

    shapes = {field.name: getattr(images, field.name) for field in dataclasses.fields(images)}
    assert [shapes[part][0].shape for part in ("train", "validation", "test")] == [
        (32, 12, 10, 1), (8, 12, 10, 1), (9, 12, 10, 1),
    ]  # fmt: skip
    assert images.test[1].tolist() == np.eye(3)[np.arange(9) % 3].tolist()
    assert images.train[0].max() <= 1.0


@pytest.mark.parametrize("content", [{"x_train": np.zeros((5, 8, 8))}, {"x": np.zeros(3)}])
def test_a_file_that_holds_something_else_is_named(content, tmp_path):
    np.savez(tmp_path / "odd.npz", **content)

    with pytest.raises(demo.DemoError, match=r"expected an \.npz with x_train.*odd\.npz"):
        demo_data.from_file(tmp_path / "odd.npz")
