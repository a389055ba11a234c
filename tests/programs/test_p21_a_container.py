"""P21: a container. Code copied into an image, `python train.py`, checkpoints under `/models`.

What is under `/models` is there afterwards if it is a volume, and gone with the container if not.
The script is PID 1 itself, as tutorials have it.
"""

import pathlib

import pytest

import containers

pytestmark = [
    containers.needs_containers(),
    pytest.mark.torch_is_enough("which framework trains does not matter to a mount"),
]

DOCKERFILE = """
FROM python:3.11-slim
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY train.py .
ENTRYPOINT ["python", "train.py"]
"""

PROGRAM = """
import os, sys
import keras
import numpy as np
from peakhold.keras import BackupAndRestore, EarlyStopping, ModelCheckpoint

for folder in ("/models", "models"):
    print("found in", folder, *sorted(os.listdir(folder)) if os.path.isdir(folder) else [])
keras.utils.set_random_seed(1)
x = np.random.default_rng(0).normal(size=(640, 4)).astype("float32")
y = x.sum(axis=1, keepdims=True)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(1)])
model.compile("adam", "mse")


class Say(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        print("begins epoch", epoch, flush=True)
        open("/models/trains", "w").close()


model.fit(
    x, y, validation_split=0.2, epochs=int(sys.argv[1]), batch_size=4, verbose=0,
    callbacks=[
        ModelCheckpoint("/models/best.keras", save_best_only=True),  # on the volume
        ModelCheckpoint("models/best.keras", save_best_only=True),   # on the container's own layer
        EarlyStopping(patience=50, restore_best_weights=True),
        BackupAndRestore("/models/backup", save_freq=False),
        Say(),
    ],
)
"""


@pytest.fixture
def image(tmp_path):
    app, layer = tmp_path / "app", tmp_path / "layer"
    app.mkdir()
    layer.mkdir()
    (app / "Dockerfile").write_text(DOCKERFILE)
    (app / "requirements.txt").write_text("keras\ntorch\n")
    (app / "train.py").write_text(PROGRAM)
    made = containers.Image(app / "Dockerfile", app, layer)
    made.environment["KERAS_BACKEND"] = "torch"
    return made


def said(container, word):
    """What stands behind a word in the first line that begins with it."""
    found = [line for line in container.said.splitlines() if line.startswith(word)]
    assert found, container.said
    return found[0].split()[len(word.split()) :]


def test_docker_stop_leaves_a_checkpoint_on_the_volume_and_the_next_container_goes_on(
    image, tmp_path
):
    models = tmp_path / "models"
    models.mkdir()
    with image.start([(models, "/models")], ["10000"]) as container:
        own = pathlib.Path(f"/proc/{container.init}/root/app/models/best.keras")
        container.until(lambda: (models / "best.keras").exists() and own.exists())
        assert own.exists()
        assert container.stop() == 143, container.said
    warned = [line for line in container.said.splitlines() if "AdviceWarning" in line]
    assert [("/app/models" in line, "E10" in line) for line in warned] == [(True, True)], warned
    assert any((models / "backup").glob("step-*"))
    assert not list((image.layer / "app").rglob("best.keras"))

    (models / "trains").unlink()
    with image.start([(models, "/models")], ["10000"]) as container:
        container.until(lambda: (models / "trains").exists())
        assert container.stop() == 143, container.said
    assert "best.keras" in said(container, "found in /models")
    assert said(container, "found in models") == []
    assert int(said(container, "begins epoch")[0]) > 0
