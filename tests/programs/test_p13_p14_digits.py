"""P13, P14: the tutorial's network on real digits, by real training."""

import numpy as np
import pytest
import sklearn.datasets

import keras
from keras_helpers import Recorder, epoch_of
from peakhold.errors import AdviceWarning
from peakhold.keras import EarlyStopping, ModelCheckpoint

of_no_framework = pytest.mark.torch_is_enough("what is said is Python's")

layers = keras.layers


@pytest.fixture(scope="module")
def digits():
    x, y = sklearn.datasets.load_digits(return_X_y=True)
    x = (x / 16).astype("float32").reshape(-1, 8, 8, 1)
    y = keras.utils.to_categorical(y, 10)
    order = np.random.default_rng(1).permutation(len(x))
    train, test = order[:900], order[900:1400]
    return x[train], y[train], x[test], y[test]


def network():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.25),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(0.01), loss="categorical_crossentropy", metrics=["accuracy"]
    )
    return model


@pytest.mark.parametrize(
    "suffix",
    [
        "keras",
        pytest.param("h5", marks=pytest.mark.torch_is_enough("a format is no matter of epochs")),
    ],
)
def test_p13_the_loaded_file_and_the_restored_model_are_the_best_epoch(
    digits, suffix, tmp_path, advice
):
    x_train, y_train, x_test, y_test = digits
    path = tmp_path / f"best.{suffix}"
    model, recorder = network(), Recorder()
    checkpoint = ModelCheckpoint(path, monitor="val_accuracy", save_best_only=True)
    stopping = EarlyStopping(monitor="val_accuracy", patience=3, restore_best_weights=True)
    history = model.fit(
        x_train,
        y_train,
        validation_split=0.2,
        epochs=20,
        batch_size=64,
        callbacks=[checkpoint, stopping, recorder],
        verbose=0,
    )
    values = history.history["val_accuracy"]
    best = values.index(max(values))
    restored = model.evaluate(x_test, y_test, verbose=0)
    loaded = keras.models.load_model(path).evaluate(x_test, y_test, verbose=0)

    assert loaded == pytest.approx(restored, rel=1e-6)
    assert restored[1] > 0.8, "it has learned"
    assert epoch_of(model.get_weights(), recorder) == best
    assert (stopping.best, stopping.best_epoch) == (values[best], best)
    assert (checkpoint.best, checkpoint.best_epoch) == (values[best], best)
    assert checkpoint.best_path == str(path)
    assert len(values) == min(20, best + 1 + 3)
    assert advice(AdviceWarning) == []


def test_p14_the_last_weights_are_left_in_the_model_and_it_is_said(
    digits, tmp_path, capsys, advice
):
    x_train, y_train, x_test, y_test = digits
    path = tmp_path / "best.keras"
    model, recorder = network(), Recorder()
    checkpoint = ModelCheckpoint(path, monitor="val_accuracy", save_best_only=True)
    stopping = EarlyStopping(monitor="val_accuracy", patience=2, restore_best_weights=False)
    model.fit(
        x_train[:400],
        y_train[:400],
        validation_split=0.2,
        epochs=20,
        batch_size=64,
        callbacks=[checkpoint, stopping, recorder],
    )
    lines = capsys.readouterr().out.splitlines()
    told = [line for line in lines if "restore_best_weights=True" in line]
    (best,) = [line for line in lines if line.startswith("Peakhold: best")]

    assert stopping.stopped_epoch > stopping.best_epoch
    assert epoch_of(model.get_weights(), recorder) == stopping.stopped_epoch
    (notice,) = told  # once, before training
    assert "last epoch's weights" in notice
    assert repr(str(path)) in notice
    assert lines.index(notice) < lines.index(best)
    assert "the model does not hold" in best
    assert str(path) in best
    assert advice(AdviceWarning) == [], "a notice, no warning"
    # What it says to do gives the best.
    model = keras.models.load_model(path)
    assert epoch_of(model.get_weights(), recorder) == stopping.best_epoch
    assert model.evaluate(x_test, y_test, verbose=0)[1] > 0.5


@of_no_framework
@pytest.mark.parametrize(
    "case", ["restores", "quiet", "no stopping"], ids=["restores", "quiet", "no-stopping"]
)
def test_p14_the_notice_comes_only_where_it_helps(xy, classifier, case, tmp_path, capsys):
    callbacks = [ModelCheckpoint(tmp_path / "b.keras", save_best_only=True)]
    if case != "no stopping":
        callbacks.append(EarlyStopping(patience=1, restore_best_weights=case == "restores"))
    verbose = 0 if case == "quiet" else 1
    classifier().fit(*xy, validation_split=0.25, epochs=2, callbacks=callbacks, verbose=verbose)

    assert "restore_best_weights" not in capsys.readouterr().out
