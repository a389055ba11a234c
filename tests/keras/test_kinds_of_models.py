"""Whatever a Keras model holds is saved whole, comes back as it was, or is refused in time."""

import numpy as np
import pytest

import keras
import peakhold.keras as pk
from kinds_of_keras import KERAS_KINDS, OF, Gan, Masked, text_model
from matrix_of_state import COLUMNS, check, shown


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("kind", KERAS_KINDS, ids=lambda kind: kind.name)
def test_it_is_exact_or_refused_in_time_and_the_page_says_which(kind, column):
    check(kind, column)


def test_the_page_has_these_models_and_no_others():
    assert list(shown()[0][OF]) == [kind.name for kind in KERAS_KINDS]


class Crash(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise ZeroDivisionError


class FittedGan(Gan):
    """Trained by `fit`: a step of its own, which only an eager backend takes as it is."""

    def train_step(self, data):
        super().train_on_batch(np.ones((1, 4)), None)
        return {"loss": keras.ops.sum(self.generator.weights[0])}


def fit_gan(folder, also=()):
    keras.utils.set_random_seed(1)
    model = FittedGan()
    model.compile()
    x = np.ones((8, 4), "float32")
    callbacks = [pk.BackupAndRestore(folder), *also]
    arguments = {"epochs": 4, "batch_size": 4, "shuffle": False, "verbose": 0}
    model.fit(x, x[:, :1], callbacks=callbacks, **arguments)
    optimizers = (model.first, model.others["second"])
    return model.get_weights(), [int(keras.ops.convert_to_numpy(o.iterations)) for o in optimizers]


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="its step is not a pure function")
def test_all_optimizers_of_a_gan_go_on(tmp_path):
    whole, steps = fit_gan(tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        fit_gan(tmp_path / "killed", [Crash()])
    resumed, resumed_steps = fit_gan(tmp_path / "killed")
    assert resumed_steps == steps == [8, 8]
    for one, other in zip(resumed, whole, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="text is TensorFlow's")
def test_a_layer_that_never_says_built_is_no_reason_to_refuse(tmp_path):
    import tensorflow

    def train(also=()):
        keras.utils.set_random_seed(1)
        model = text_model()
        x, y = tensorflow.constant([["a b"], ["b"]]), np.ones((2, 1), "float32")
        data = tensorflow.data.Dataset.from_tensors((x, y))
        model.fit(data, epochs=4, verbose=0, callbacks=[pk.BackupAndRestore(tmp_path), *also])
        return model.get_weights()

    with pytest.raises(ZeroDivisionError):
        train([Crash()])
    resumed = train()
    for one, other in zip(resumed, train(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_mask_of_infinity_is_no_reason_to_stop():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), Masked()])
    model.compile("sgd", "mse")
    x, y = np.ones((8, 4), "float32"), np.zeros((8, 3), "float32")
    keeper = pk.EarlyStopping("loss", patience=2, restore_best_weights=True)
    history = model.fit(x, y, epochs=6, verbose=0, callbacks=[keeper])
    assert len(history.epoch) == 6 and keeper.best_epoch == 5


def test_a_stop_because_weights_are_not_finite_says_so(capsys):
    class Spoil(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            bias = self.model.layers[0].bias
            bias.assign(keras.ops.full(bias.shape, np.nan))
            logs["m"] = 1.0 - epoch / 10

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    keeper = pk.EarlyStopping("m", mode="min", patience=2, restore_best_weights=True)
    x, y = np.ones((8, 4), "float32"), np.ones((8, 1), "float32")
    model.fit(x, y, epochs=6, verbose=2, callbacks=[Spoil(), keeper])
    assert keeper.stopped_epoch > 0
    assert "weights are not finite (" in capsys.readouterr().out
