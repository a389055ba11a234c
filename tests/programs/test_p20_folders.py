"""P20: where the checkpoint goes does not exist, is no folder, cannot be written, is full."""

import json
import os
import subprocess
import sys

import pytest

import keras
from keras_helpers import Recorder, epoch_of, saved_weights
from peakhold.errors import InvalidArgumentError, SaveError
from peakhold.keras import CSVLogger, ModelCheckpoint

of_no_framework = pytest.mark.torch_is_enough(
    "what a disk refuses is refused to Python; the files themselves are looked at on every backend"
)


@of_no_framework
def test_a_missing_folder_is_made(xy, classifier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = classifier()
    savers = [
        ModelCheckpoint("models/new/best.keras", monitor="loss", save_best_only=True),
        ModelCheckpoint("by_epoch/{epoch:02d}/w.weights.h5", save_weights_only=True),
    ]
    model.fit(*xy, epochs=2, callbacks=[*savers, CSVLogger("logs/train.csv")], verbose=0)

    assert keras.models.load_model("models/new/best.keras").count_params() == model.count_params()
    assert sorted(os.listdir("by_epoch")) == ["01", "02"]
    assert os.path.isfile("by_epoch/02/w.weights.h5")
    assert os.path.isfile("logs/train.csv")


def unwritable(tmp_path):
    """A folder that this user cannot write to: the superuser may write to any but the kernel's."""
    if os.geteuid() == 0:
        return "/sys/checkpoints"
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    return str(folder)


@of_no_framework
@pytest.mark.parametrize("kind", ["checkpoint", "log"])
@pytest.mark.parametrize("where", ["under a file", "unwritable"], ids=["file", "unwritable"])
def test_what_cannot_be_written_is_an_error_before_the_first_batch(
    xy, classifier, kind, where, tmp_path
):
    (tmp_path / "file.txt").write_text("mine")
    folder = str(tmp_path / "file.txt") if where == "under a file" else unwritable(tmp_path)
    if kind == "checkpoint":
        callback = ModelCheckpoint(f"{folder}/best_{{epoch}}.keras")
    else:
        callback = CSVLogger(f"{folder}/train.csv")
    model = classifier()
    with pytest.raises(SaveError) as caught:
        model.fit(*xy, epochs=2, callbacks=[callback], verbose=0)

    assert isinstance(caught.value, OSError)
    assert folder in str(caught.value)
    reasons = (
        ("Not a directory", "File exists", "is no folder")
        if where == "under a file"
        else ("not permitted", "Permission denied", "Read-only")
    )
    assert any(reason in str(caught.value) for reason in reasons)
    assert int(model.optimizer.iterations) == 0
    assert (tmp_path / "file.txt").read_text() == "mine"


@of_no_framework
def test_a_folder_instead_of_a_file_is_refused_at_construction(tmp_path):
    for kind in (ModelCheckpoint, CSVLogger):
        with pytest.raises(InvalidArgumentError) as caught:
            kind(str(tmp_path))

        assert repr(str(tmp_path)) in str(caught.value)


@of_no_framework
def test_a_name_that_becomes_a_folder_is_told_and_training_goes_on(xy, classifier, tmp_path):
    (tmp_path / "w_2.keras").mkdir()
    recorder = Recorder()
    with pytest.warns(UserWarning, match=r"could not save epoch 2 to .*w_2\.keras.*directory"):
        classifier().fit(
            *xy,
            epochs=3,
            callbacks=[ModelCheckpoint(tmp_path / "w_{epoch}.keras"), recorder],
            verbose=0,
        )

    assert len(recorder.weights) == 3
    assert epoch_of(saved_weights(tmp_path / "w_3.keras"), recorder) == 2


# A disk that fills up. In a process of its own, for a limit on file sizes holds for all it writes.

PROGRAM = """
import json, os, resource, warnings
if os.environ["KERAS_BACKEND"] == "torch":
    import torch
import keras
import numpy as np
from peakhold.keras import ModelCheckpoint

x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
y = x.sum(axis=1, keepdims=True)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(64), keras.layers.Dense(1)])
model.compile("sgd", "mse")
{fill}
savers = [
    ModelCheckpoint("last.keras"),
    ModelCheckpoint("last.h5"),
    ModelCheckpoint("last.weights.h5", save_weights_only=True),
    ModelCheckpoint("best.keras", monitor="loss", mode="min", save_best_only=True, verbose=1),
]
kept = {{}}


class Watch(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            kept["weights"] = self.model.get_weights()
            fill()
        if epoch == 3:
            free()


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    history = model.fit(x, y, epochs={epochs}, callbacks=[*savers, Watch()], verbose=0)


def same(path):
    if path.endswith(".weights.h5"):
        fresh = keras.models.clone_model(model)
        fresh.load_weights(path)
    else:
        fresh = keras.models.load_model(path, compile=False)
    return all(map(np.array_equal, fresh.get_weights(), kept["weights"]))


def refused(model):
    # The error of a fit that must not begin, and how many batches it trained.
    model.compile("sgd", "mse")
    try:
        model.fit(x, y, epochs=1, callbacks=[ModelCheckpoint("never.keras")], verbose=0)
    except OSError as error:
        return type(error).__name__, str(error), int(model.optimizer.iterations)


before = {{saver.filepath: same(saver.filepath) for saver in savers}}
refusals = {refusals}
print("RESULT" + json.dumps({{
    "refusals": refusals,
    "epochs": history.epoch,
    "old file": before,
    "said": [str(w.message) for w in caught if w.category.__name__ == "SaveWarning"],
    "best": savers[-1].best,
    "losses": history.history["loss"],
    "left": sorted(name for name in os.listdir(".") if "tmp" in name),
}}))
"""

LIMIT = """
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
def fill():
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
def free():
    pass
"""


def result_of(ran):
    lines = [line for line in ran.stdout.splitlines() if line.startswith("RESULT")]
    assert ran.returncode == 0, ran.stderr
    return json.loads(lines[0].removeprefix("RESULT"))


@of_no_framework
@pytest.mark.skipif(sys.platform == "win32", reason="no limits on the size of files there")
def test_a_disk_that_fills_up_keeps_the_old_file_and_training_goes_on(script):
    result = result_of(script(PROGRAM.format(fill=LIMIT, epochs=4, refusals=None)))

    assert result["epochs"] == [0, 1, 2, 3]
    assert result["old file"] == dict.fromkeys(
        ["last.keras", "last.h5", "last.weights.h5", "best.keras"], True
    )
    for name in result["old file"]:
        for epoch in (3, 4):
            assert any(
                f"epoch {epoch} to '{name}'" in text and "File too large" in text
                for text in result["said"]
            )
    assert all("training goes on" in text for text in result["said"])
    assert result["losses"][3] < result["losses"][1], "there was something better to save"
    assert result["best"] == result["losses"][1], "a failed save never moves best"
    assert result["left"] == []


def can_mount():
    if sys.platform != "linux":
        return False
    try:
        return (
            subprocess.run(
                ["unshare", "-Urm", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"],
                capture_output=True,
            ).returncode
            == 0
        )
    except FileNotFoundError:
        return False


small_disk = pytest.mark.skipif(not can_mount(), reason="no file system of its own to be had here")
# What is written stays in the mount's own name space and goes with it.
ON_SMALL_DISK = ("unshare", "-Urm", "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs disk && cd disk && "$0" "$@"')  # fmt: skip

FILL = """
def fill():
    with open("filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
def free():
    os.unlink("filler")
"""


REFUSALS = """{
    "too small": refused(keras.Sequential([keras.Input((4,)), keras.layers.Dense(200_000)])),
    "full": (fill(), refused(keras.models.clone_model(model)))[1],
}"""


@of_no_framework
@small_disk
def test_a_file_system_of_its_own(script, tmp_path):
    """It fills up and is cleared: saving resumes. It is full, or too small: nothing begins."""
    (tmp_path / "disk").mkdir()
    program = PROGRAM.format(fill=FILL, epochs=6, refusals=REFUSALS)
    result = result_of(script(program, *ON_SMALL_DISK))

    assert result["epochs"] == list(range(6))
    assert not any(result["old file"].values()), "replaced once there was space again"
    assert {text.partition(" to ")[0].rpartition(" ")[2] for text in result["said"]} == {"3", "4"}
    assert all("No space left on device" in text for text in result["said"])
    assert result["best"] == min(result["losses"])
    assert result["left"] == []
    for kind, text, iterations in result["refusals"].values():
        assert kind == "SaveError"
        assert "path='/" in text
        assert iterations == 0
    assert "bytes and" in result["refusals"]["too small"][1]
    assert (
        "No space left" in result["refusals"]["full"][1]
        or "0 are free" in result["refusals"]["full"][1]
    )
