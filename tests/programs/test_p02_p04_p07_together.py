"""P2, P4, P7: stopping, saving and lowering the rate, side by side."""

import itertools

import pytest

import keras
from keras_helpers import Curve, Recorder, epoch_of, saved_weights
from peakhold.errors import AdviceWarning
from peakhold.keras import EarlyStopping, ModelCheckpoint, ReduceLROnPlateau

of_no_framework = pytest.mark.torch_is_enough(
    "orders and words are Python's; what is saved and restored is looked at on every backend"
)


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(order, marks=of_no_framework if order[0] else [])
        for order in itertools.permutations(range(3))
    ],
)
def test_p02_file_and_model_hold_an_early_best_in_any_order(
    xy, classifier, order, tmp_path, capsys, summary
):
    path, model, recorder = tmp_path / "best.keras", classifier(), Recorder()
    callbacks = [
        EarlyStopping("val_loss", patience=1, restore_best_weights=True),
        ModelCheckpoint(path, monitor="val_loss", save_best_only=True),
        recorder,  # the user's own, between ours or not
    ]
    history = model.fit(
        *xy,
        validation_split=0.25,
        epochs=10,
        callbacks=[Curve(val_loss=[0.5, 0.3, 0.4]), *(callbacks[i] for i in order)],
    )
    why, best, saved = summary()

    assert len(history.epoch) == 3
    assert epoch_of(model.get_weights(), recorder) == 1
    assert epoch_of(saved_weights(path), recorder) == 1
    assert "after epoch 3 of 10" in why
    assert "no improvement for 1 epoch" in why
    assert "best val_loss 0.30000 at epoch 2" in best
    assert "restored to the model" in best
    assert str(path) in best
    assert "ended 7 epochs early" in saved


@of_no_framework
def test_p02_a_checkpoint_that_saved_nothing_says_so_and_why(xy, classifier, tmp_path, summary):
    path = tmp_path / "best.keras"
    saver = ModelCheckpoint(
        path, monitor="val_loss", save_best_only=True, initial_value_threshold=1e-9
    )
    classifier().fit(*xy, validation_split=0.25, epochs=2, callbacks=[saver])
    _, best, _ = summary()

    assert not path.exists()
    assert f"ModelCheckpoint saved nothing to {str(path)!r}" in best
    assert "val_loss" in best.partition("nothing to")[2]
    assert "1e-09" in best


@of_no_framework
@pytest.mark.filterwarnings("ignore::peakhold.errors.PeakholdWarning")
def test_p02_a_checkpoint_whose_metric_is_never_finite_says_so(xy, classifier, tmp_path, summary):
    saver = ModelCheckpoint(tmp_path / "b.keras", monitor="val_loss", save_best_only=True)
    nan = Curve(val_loss=[float("nan")] * 2)
    classifier().fit(*xy, validation_split=0.25, epochs=2, callbacks=[nan, saver])
    _, best, _ = summary()

    assert saver.best is None
    assert "saved nothing" in best
    assert "not a finite number" in best


def pair(path):
    return [
        EarlyStopping("val_loss", patience=5, restore_best_weights=True, verbose=1),
        ModelCheckpoint(path, monitor="val_accuracy", mode="max", save_best_only=True, verbose=1),
    ]


def test_p04_the_pair_on_different_metrics(xy, classifier, tmp_path, advice, summary):
    path, model, recorder = tmp_path / "best.keras", classifier(), Recorder()
    curve = Curve(
        val_loss=[0.6, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
        val_accuracy=[0.5, 0.6, 0.6, 0.8, 0.7, 0.7, 0.7, 0.7],
    )
    history = model.fit(
        *xy, validation_split=0.25, epochs=20, callbacks=[curve, *pair(path), recorder]
    )
    _, best, _ = summary()

    assert len(history.epoch) == 7
    assert epoch_of(model.get_weights(), recorder) == 1
    assert epoch_of(saved_weights(path), recorder) == 3
    assert advice(AdviceWarning) == [], "common and legitimate"
    assert "best val_loss 0.40000 at epoch 2" in best
    assert "best val_accuracy 0.80000 at epoch 4" in best
    assert best.endswith("so the best epochs differ.")


@of_no_framework
@pytest.mark.filterwarnings("ignore::peakhold.errors.AdviceWarning")
def test_p04_nothing_differs_when_the_epochs_are_the_same(xy, classifier, tmp_path, summary):
    curve = Curve(val_loss=[0.6, 0.4, 0.5], val_accuracy=[0.5, 0.8, 0.7])
    classifier().fit(
        *xy, validation_split=0.25, epochs=3, callbacks=[curve, *pair(tmp_path / "best.keras")]
    )
    _, best, _ = summary()

    assert "val_loss 0.40000 at epoch 2" in best
    assert "val_accuracy 0.80000 at epoch 2" in best
    assert "best epochs differ" not in best


def trio(path, *, plateau=3, stopping=8):
    return [
        ReduceLROnPlateau("val_loss", factor=0.2, patience=plateau, min_lr=1e-6, verbose=1),
        EarlyStopping("val_loss", patience=stopping, restore_best_weights=True),
        ModelCheckpoint(path, monitor="val_accuracy", save_best_only=True),
    ]


def test_p07_the_trio_lowers_the_rate_then_stops(xy, classifier, tmp_path, advice):
    path, model, recorder = tmp_path / "best.keras", classifier(), Recorder()
    curve = Curve(val_loss=[0.6, 0.4, *[0.5] * 20], val_accuracy=[0.5, 0.6, 0.9, *[0.7] * 20])
    plateau, stopper, saver = trio(path)
    history = model.fit(
        *xy,
        validation_split=0.25,
        epochs=20,
        callbacks=[curve, plateau, stopper, saver, recorder],
        verbose=0,
    )

    assert history.history["learning_rate"] == pytest.approx(
        [1e-3] * 5 + [2e-4] * 3 + [4e-5] * 2, rel=1e-5
    )
    assert stopper.stopped_epoch == 9
    assert epoch_of(model.get_weights(), recorder) == 1
    assert epoch_of(saved_weights(path), recorder) == 2
    assert saver.monitor_op is keras.ops.greater, (
        "no mode: accuracy is known to be the larger the better"
    )
    assert advice(AdviceWarning) == []


@pytest.mark.filterwarnings("ignore::peakhold.errors.AdviceWarning")
def test_p07_no_rate_goes_below_min_lr(xy, classifier, tmp_path):
    model = classifier(optimizer=keras.optimizers.Adam(2e-6))
    curve = Curve(val_loss=[0.5] * 12)
    model.fit(
        *xy,
        validation_split=0.25,
        epochs=12,
        callbacks=[curve, *trio(tmp_path / "b.keras", stopping=20)],
        verbose=0,
    )

    assert float(model.optimizer.learning_rate) == pytest.approx(1e-6)


@of_no_framework
@pytest.mark.parametrize(("plateau", "stopping", "order"), [(8, 8, 1), (10, 3, -1)])
def test_p07_a_rate_that_never_gets_its_chance_is_warned_about(
    xy, classifier, plateau, stopping, order, tmp_path, advice
):
    callbacks = trio(tmp_path / "b.keras", plateau=plateau, stopping=stopping)[::order]
    classifier().fit(*xy, validation_split=0.25, epochs=12, callbacks=callbacks, verbose=0)
    (text,) = advice(AdviceWarning)

    assert "before a lower rate can help" in text
    assert f"patience={plateau}" in text
