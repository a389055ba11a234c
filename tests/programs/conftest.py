"""What the programs train on: a small problem with two classes, and the model of a first tutorial."""

import os
import pathlib
import subprocess
import sys
import warnings

import numpy as np
import pytest


def pytest_collection_modifyitems(items):
    """Programs that people have are right unless a test says what is wrong: a false alarm fails."""
    for item in items:
        if pathlib.Path(__file__).parent in item.path.parents:
            error = pytest.mark.filterwarnings("error::peakhold.errors.AdviceWarning")
            item.add_marker(error, append=False)  # a mark of the test itself is the stronger one


@pytest.fixture
def xy():
    """Points inside and outside of a circle."""
    rng = np.random.default_rng(3)
    x = rng.uniform(-1, 1, size=(96, 2)).astype("float32")
    return x, ((x**2).sum(axis=1) < 0.6).astype("float32")[:, None]


@pytest.fixture
def classifier():
    """Builds and compiles the model; arguments as for `compile`."""
    import keras

    def build(**arguments):
        net = keras.Sequential(
            [
                keras.Input((2,)),
                keras.layers.Dense(8, activation="relu"),
                keras.layers.Dense(1, activation="sigmoid"),
            ]
        )
        net.compile(
            **{
                "optimizer": "adam",
                "loss": "binary_crossentropy",
                "metrics": ["accuracy"],
                **arguments,
            }
        )
        return net

    return build


@pytest.fixture
def advice():
    """What `warnings` said, by category: `advice(AdviceWarning)` lists the texts."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield lambda category: [str(w.message) for w in caught if issubclass(w.category, category)]


@pytest.fixture
def script(tmp_path):
    """Runs a program in a process of its own, in a folder of its own, on the same backend."""

    def run(source, *before):
        path = tmp_path / "program.py"
        path.write_text(source)
        environment = {**os.environ, "PYTHONWARNINGS": "always", "TF_CPP_MIN_LOG_LEVEL": "2"}
        return subprocess.run(
            [*before, sys.executable, str(path)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def notices(text):
    """The lines that Peakhold printed, without the progress bar's."""
    return [line for line in text.splitlines() if line.startswith("Peakhold: ")]


@pytest.fixture
def summary(capsys):
    """The three lines at the end of the last `fit`."""
    return lambda: notices(capsys.readouterr().out)[-3:]
