"""Arguments as people compute them: what has a meaning with Keras's class has it with ours."""

import operator

import numpy as np
import pytest

import keras
from keras_helpers import fit, model
from peakhold import keras as pk

pytestmark = pytest.mark.torch_is_enough("what an argument means is said by Python")

LIBRARIES = (keras.callbacks, pk)
LOSSES = (0.5, 0.4, 0.45, 0.41, 0.42, 0.43, 0.44, 0.39, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)


def compiled():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    return model


def told(callback, losses=LOSSES):
    """A run in which a loss is as given: the rates of its epochs, and where it stopped."""
    model = compiled()
    callbacks = keras.callbacks.CallbackList(
        [callback], model=model, epochs=len(losses), verbose=0, steps=1
    )
    model.stop_training = False
    callbacks.on_train_begin()
    rates = []
    for epoch, loss in enumerate(losses):
        callbacks.on_epoch_begin(epoch)
        callbacks.on_epoch_end(epoch, {"loss": loss})
        rates.append(round(float(model.optimizer.learning_rate), 6))
        if model.stop_training:
            break
    callbacks.on_train_end()
    return rates


@pytest.mark.parametrize("patience", [np.inf, np.float32(5), np.int64(2), 2.5, 2.0, 0, 0.5])
@pytest.mark.parametrize("name", ["EarlyStopping", "ReduceLROnPlateau"])
def test_a_patience_is_any_number(name, patience):
    theirs, ours = (told(getattr(lib, name)("loss", patience=patience)) for lib in LIBRARIES)

    assert ours == theirs
    assert getattr(pk, name)("loss", patience=patience).patience == patience


@pytest.mark.parametrize("start", [2, 2.0, np.int32(3)])
def test_a_first_epoch_is_any_whole_number(start):
    arguments = {"patience": 1, "start_from_epoch": start}
    theirs, ours = (told(lib.EarlyStopping("loss", **arguments)) for lib in LIBRARIES)

    assert ours == theirs


@pytest.mark.parametrize("cooldown", [2, 2.5, np.float32(3), np.inf])
def test_a_cooldown_is_any_number(cooldown):
    arguments = {"patience": 1, "cooldown": cooldown, "factor": 0.5}
    theirs, ours = (told(lib.ReduceLROnPlateau("loss", **arguments)) for lib in LIBRARIES)

    assert ours == theirs and len(set(ours)) > 1


def test_a_cooldown_for_ever_comes_back_from_its_state():
    plateau = pk.ReduceLROnPlateau("loss", patience=1, cooldown=np.inf)
    told(plateau)
    fresh = pk.ReduceLROnPlateau("loss", patience=1, cooldown=np.inf)
    fresh.load_state_dict(plateau.state_dict())

    assert fresh.cooldown_counter == np.inf


@pytest.mark.parametrize(("verbose", "means"), [(None, 0), ("auto", 1), (True, 1), (np.int8(1), 1)])
@pytest.mark.parametrize("name", ["EarlyStopping", "ReduceLROnPlateau", "ModelCheckpoint"])
def test_verbose_is_what_people_pass_to_fit(name, verbose, means):
    required = {"filepath": "m.keras"} if name == "ModelCheckpoint" else {}

    assert getattr(pk, name)(**required, verbose=verbose).verbose == means


@pytest.mark.parametrize("name", ["histogram_freq", "embeddings_freq"])
@pytest.mark.parametrize(("given", "means"), [(True, 1), (False, 0), (np.int64(2), 2), (3.0, 3)])
def test_how_often_is_yes_or_a_number(name, given, means):
    assert getattr(pk.TensorBoard("logs", **{name: given}), name) == means


@pytest.mark.parametrize(
    "schedule",
    [[0.4, 0.3, 0.2].__getitem__, {0: 0.4, 1: 0.3, 2: 0.2}.__getitem__, {0: 0.4}.get],
    ids=["list", "dict", "with a default"],
)
def test_a_schedule_may_be_a_builtin_without_a_signature(schedule):
    theirs, ours = (told(lib.LearningRateScheduler(schedule), (0.5,) * 3) for lib in LIBRARIES)

    assert ours == theirs


@pytest.mark.parametrize("patience", [np.inf, 2.5])
def test_who_waits_for_ever_means_it_and_no_advice_is_given(patience, recwarn):
    callbacks = keras.callbacks.CallbackList(
        [pk.ReduceLROnPlateau("loss", patience=patience), pk.EarlyStopping("loss", patience=4)],
        model=compiled(), epochs=9, verbose=0,
    )  # fmt: skip
    callbacks.on_train_begin()

    assert not [one for one in recwarn if "patience" in str(one.message)]


@pytest.mark.parametrize(
    ("mode", "meant"), [("maximum", "max"), ("MIN", "min"), ("minimize", "min"), ("up", None)]
)
def test_an_unknown_mode_warns_in_the_words_of_keras_and_says_what_was_meant(mode, meant):
    hint = "" if meant is None else f" Hint: did you mean '{meant}'?"
    for name in ("EarlyStopping", "ReduceLROnPlateau"):
        words = f"{name} mode '{mode}' is unknown, fallback to auto mode."
        with pytest.warns(UserWarning, match="fallback to auto") as caught:
            assert getattr(pk, name)("val_loss", mode=mode).mode == "auto"

        assert [str(one.message) for one in caught] == [words + hint]


@pytest.mark.parametrize(
    "op", [np.less, np.greater, operator.lt, operator.gt, keras.ops.less, None]
)
@pytest.mark.parametrize("name", ["EarlyStopping", "ReduceLROnPlateau"])
def test_the_comparison_can_be_set_as_keras_s_can(name, op):
    def run(library):
        callback = getattr(library, name)("loss", patience=2)
        callback.monitor_op = op
        return told(callback)

    theirs, ours = map(run, LIBRARIES)

    assert ours == theirs


def test_a_comparison_that_was_set_ranks_files_too():
    saver = pk.ModelCheckpoint("m.keras", monitor="score", save_best_only=True)
    saver.monitor_op = np.greater

    assert saver.mode == "max" and saver.monitor_op is keras.ops.greater


def test_several_metrics_have_a_comparison_each():
    stopper = pk.EarlyStopping(["a", "b"])
    stopper.monitor_op = [np.less, np.greater]

    assert stopper.mode == ["min", "max"]


@pytest.mark.parametrize(
    ("name", "value"), [("patience", 9), ("min_delta", 0.2), ("baseline", 0.1)]
)
def test_what_is_set_in_mid_run_counts_from_there(name, value):
    def run(library):
        stopper = library.EarlyStopping("loss", patience=3, mode="min")

        class Sets(type(stopper)):
            def on_epoch_begin(self, epoch, logs=None):
                super().on_epoch_begin(epoch, logs)
                if epoch == 3:
                    setattr(
                        self, name, -value if name == "min_delta" and library is not pk else value
                    )

        stopper = Sets("loss", patience=3, mode="min")
        return told(stopper)

    theirs, ours = map(run, LIBRARIES)

    assert ours == theirs


@pytest.mark.parametrize("best", [0.42, np.float32(0.42), None])
def test_a_best_that_was_set_before_fit_must_be_beaten(best, tmp_path):
    def run(library, folder):
        saver = library.ModelCheckpoint(
            tmp_path / folder / "{epoch}.weights.h5", monitor="loss", save_best_only=True,
            save_weights_only=True, mode="min",
        )  # fmt: skip
        saver.best = best
        model = compiled()
        ones = np.ones((2, 1))
        model.fit(ones, ones, epochs=8, verbose=0, callbacks=[Losses(), saver])
        return sorted(path.name for path in (tmp_path / folder).glob("*.h5")), saver.best

    theirs, ours = (run(library, folder) for library, folder in zip(LIBRARIES, "ab", strict=True))

    assert ours == theirs
    assert len(ours[0]) == (3 if best is None else 2)


class Losses(keras.callbacks.Callback):
    """Says what the loss of each epoch was; 0.39 is in the last."""

    def on_epoch_end(self, epoch, logs=None):
        logs["loss"] = LOSSES[epoch]


@pytest.mark.parametrize("name", ["EarlyStopping", "ReduceLROnPlateau"])
def test_a_best_that_was_set_before_fit_is_reset_as_keras_does(name):
    def run(library):
        callback = getattr(library, name)("loss", patience=2)
        callback.best, callback.wait = 0.01, 7
        return told(callback)

    theirs, ours = map(run, LIBRARIES)

    assert ours == theirs


def test_a_best_that_was_set_in_a_fit_is_not_that_of_the_next(tmp_path):
    saver = pk.ModelCheckpoint(tmp_path / "best.keras", monitor="loss", save_best_only=True)

    class Sets(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            saver.best = 0.01

    ones = np.ones((2, 1))
    compiled().fit(ones, ones, epochs=2, verbose=0, callbacks=[Sets(), Losses(), saver])
    assert not (tmp_path / "best.keras").exists()
    compiled().fit(ones, ones, epochs=2, verbose=0, callbacks=[Losses(), saver])
    assert saver.best == 0.4


def test_a_fit_counts_from_0_whatever_its_list_was_told():
    def listed(net, first_epoch):
        stopper = pk.EarlyStopping("val_loss", patience=2)
        return pk.CallbackList([stopper], True, model=net, first_epoch=first_epoch)

    net = model()
    with pytest.raises(ValueError, match=r"expected 0 in fit.*, got first_epoch=1\.\nHint: leave"):
        fit(net, listed(net, 1), 3)
    fit(net, listed(net, 0), 3)
