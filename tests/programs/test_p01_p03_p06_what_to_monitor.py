"""P1, P3, P6: programs whose `monitor` is not what their authors think it is."""

import numpy as np
import pytest

import keras
from conftest import BACKEND
from keras_helpers import same
from peakhold.errors import AdviceWarning, DirectionUnknownError, MonitorNotFoundError
from peakhold.keras import EarlyStopping, ModelCheckpoint, ReduceLROnPlateau

of_no_framework = pytest.mark.torch_is_enough(
    "what is said of a name is Python's; when it can be said is looked at on every backend"
)

# TensorFlow builds metrics in the first batch: what they are called cannot be known before.
KNOWS_METRICS = BACKEND != "tensorflow"
N_BATCHES = 3  # of an epoch


class Adds(keras.callbacks.Callback):
    """It may log anything: with it, nobody knows before the first epoch has ended."""

    def on_epoch_end(self, epoch, logs=None):
        logs["mine"] = 1.0


@pytest.mark.filterwarnings("ignore::peakhold.errors.PeakholdWarning")
@pytest.mark.parametrize("validation", [{}, {"validation_split": 0.25}], ids=["train", "val"])
def test_p01_a_checkpoint_on_acc_where_accuracy_is_logged(
    xy, classifier, validation, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    model = classifier(metrics=["accuracy"])
    callbacks = [
        Adds(),
        ModelCheckpoint("best_model.h5", monitor="acc", save_best_only=True, mode="max"),
        EarlyStopping(monitor="accuracy", patience=3, mode="max"),
    ]
    with pytest.raises(ValueError) as caught:
        model.fit(*xy, epochs=10, callbacks=callbacks, verbose=0, **validation)

    assert isinstance(caught.value, MonitorNotFoundError)
    assert "monitor='acc' in ModelCheckpoint" in str(caught.value)
    assert {"accuracy", "loss"} <= set(caught.value.available)
    assert "did you mean 'accuracy'?" in str(caught.value)
    assert int(model.optimizer.iterations) == N_BATCHES, "before the second epoch"
    # The one file there is holds what was trained so far.
    (file,) = tmp_path.glob("*.h5")
    assert same(keras.models.load_model(file).get_weights(), model.get_weights())


@pytest.mark.skipif(not KNOWS_METRICS, reason="TensorFlow builds metrics in the first batch")
def test_p01_is_an_error_before_the_first_batch_where_metrics_are_known(
    xy, classifier, tmp_path, advice
):
    saver = ModelCheckpoint(tmp_path / "b.h5", monitor="acc", save_best_only=True, mode="max")
    model = classifier()
    with pytest.raises(MonitorNotFoundError, match="'acc'.*\n.*did you mean 'accuracy'?"):
        model.fit(*xy, epochs=2, callbacks=[saver], verbose=0)

    assert int(model.optimizer.iterations) == 0
    assert not list(tmp_path.iterdir()) and not advice(AdviceWarning)


def test_p01_with_the_right_name_saves_and_stops(xy, classifier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = classifier(optimizer=keras.optimizers.SGD(0.0))  # nothing will improve
    saver = ModelCheckpoint("best_model.h5", monitor="accuracy", save_best_only=True, mode="max")
    stopper = EarlyStopping(monitor="accuracy", patience=3, mode="max")
    history = model.fit(*xy, epochs=10, callbacks=[saver, stopper], verbose=0)

    assert len(history.epoch) == 4
    assert saver.best == max(history.history["accuracy"])
    assert same(keras.models.load_model("best_model.h5").get_weights(), model.get_weights())


def custom_metric(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred))


def stack(folder, monitor, **mode):
    return [
        EarlyStopping(monitor=monitor, patience=2, restore_best_weights=True, **mode),
        ReduceLROnPlateau(monitor=monitor, patience=1, **mode),
        ModelCheckpoint(folder / "best.keras", monitor=monitor, save_best_only=True, **mode),
    ]


@pytest.mark.parametrize("monitor", ["custom_metric", "val_custom_metric"])
@pytest.mark.filterwarnings("ignore::peakhold.errors.AdviceWarning")
def test_p03_a_function_as_metric_works_with_mode(xy, classifier, monitor, tmp_path):
    model = classifier(metrics=[custom_metric])
    stopper, _, saver = callbacks = stack(tmp_path, monitor, mode="min")
    history = model.fit(
        *xy, validation_split=0.25, epochs=3, batch_size=24, callbacks=callbacks, verbose=0
    )
    values = history.history[monitor]

    assert stopper.best == saver.best == min(values)
    assert stopper.best_epoch == values.index(min(values))


@pytest.mark.parametrize("which", range(3), ids=["stopper", "plateau", "saver"])
@pytest.mark.parametrize(
    "monitor", [pytest.param("custom_metric", marks=of_no_framework), "val_custom_metric"]
)
@pytest.mark.filterwarnings("ignore::peakhold.errors.AdviceWarning")
def test_p03_without_mode_asks_which_of_two_words(xy, classifier, monitor, which, tmp_path):
    model = classifier(metrics=[custom_metric])
    callback = stack(tmp_path, monitor)[which]
    with pytest.raises(DirectionUnknownError) as caught:
        model.fit(
            *xy, validation_split=0.25, epochs=3, batch_size=24, callbacks=[callback], verbose=0
        )

    assert f"monitor={monitor!r} in {type(callback).__name__}" in str(caught.value)
    assert "mode='max'" in str(caught.value)
    assert "mode='min'" in str(caught.value)
    assert int(model.optimizer.iterations) == (0 if KNOWS_METRICS else N_BATCHES)
    assert list(tmp_path.glob("*.keras")) == []


@pytest.mark.filterwarnings("ignore::peakhold.errors.AdviceWarning")
def test_p03_asks_before_the_first_batch_of_a_second_fit(xy, classifier, tmp_path):
    """By then TensorFlow knows the metrics, too."""
    model = classifier(metrics=[custom_metric])
    model.fit(*xy, epochs=1, verbose=0)
    with pytest.raises(DirectionUnknownError):
        model.fit(*xy, epochs=3, callbacks=stack(tmp_path, "custom_metric"), verbose=0)

    assert int(model.optimizer.iterations) == N_BATCHES


@of_no_framework
def test_p06_the_training_loss_is_watched_while_there_is_a_validation_loss(xy, classifier, advice):
    history = classifier().fit(
        *xy,
        validation_split=0.25,
        epochs=5,
        callbacks=[EarlyStopping(monitor="loss", patience=3)],
        verbose=0,
    )
    (text,) = advice(AdviceWarning)

    assert "'loss'" in text
    assert "monitor 'val_loss'" in text
    assert len(history.epoch) == 5, "a warning, no more"


@of_no_framework
@pytest.mark.parametrize(
    ("monitor", "validation"),
    [("loss", {}), ("val_loss", {"validation_split": 0.25})],
    ids=["loss-alone", "val_loss"],
)
def test_p06_nothing_is_said_where_nothing_is_wrong(xy, classifier, monitor, validation, advice):
    stopper = EarlyStopping(monitor=monitor, patience=3)
    classifier().fit(*xy, epochs=4, callbacks=[stopper], verbose=0, **validation)

    assert advice(UserWarning) == []
    assert np.isfinite(stopper.best)
