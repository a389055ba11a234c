"""Whatever a Keras model holds is saved whole, comes back as it was, or is refused in time."""

import numpy as np
import pytest

import gan_runs
import keras
import peakhold
import peakhold.keras as pk
from kinds_of_keras import KERAS_KINDS, OF, Masked, reader, text_model
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


@pytest.mark.parametrize("held", gan_runs.HELD)
def test_a_gan_in_fit_is_killed_and_goes_on_to_the_same_bits(tmp_path, held):
    whole = gan_runs.process(tmp_path / "whole", held)
    assert gan_runs.process(tmp_path / "killed", held, 3) is None
    resumed = gan_runs.process(tmp_path / "killed", held)
    began = whole.pop("began at"), resumed.pop("began at")
    assert began[0] == 0 and began[1] in {2, 3}, began
    assert whole["updates"] == [gan_runs.EPOCHS * 2] * 2
    assert resumed == whole


def text_in_batches():
    """Text goes through the model; only TensorFlow's tensors hold any."""
    import tensorflow

    x, y = tensorflow.constant([["a b"], ["b"]]), np.ones((2, 1), "float32")
    return text_model(), tensorflow.data.Dataset.from_tensors((x, y)), None


def numbers_of_words():
    """The model's own layer makes the data; on any backend."""
    model = reader()
    x = keras.ops.convert_to_numpy(model.words(np.array([["a b"], ["b"]])))
    return model, np.asarray(x), np.ones((2, 1), "float32")


@pytest.mark.parametrize(
    "make",
    [numbers_of_words, *([text_in_batches] if keras.config.backend() == "tensorflow" else [])],
)
@pytest.mark.filterwarnings("ignore:.*shuffle=True", "error:.*had a build config")
def test_a_layer_that_never_says_built_is_no_reason_to_refuse(tmp_path, make):
    def train(also=()):
        keras.utils.set_random_seed(1)
        model, x, y = make()
        model.fit(x, y, epochs=4, verbose=0, callbacks=[pk.BackupAndRestore(tmp_path), *also])
        assert not all(layer.built for layer in model._flatten_layers())
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


@pytest.mark.skipif(keras.config.backend() != "torch", reason="modules are PyTorch's")
def test_what_wraps_a_model_is_known_by_its_type():
    import torch

    class Outer(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.module, self.head = model, torch.nn.Linear(1, 1)

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    outer = Outer(model)  # whose child is called as what data parallelism holds
    keeper = pk.EarlyStopping("m", mode="min", patience=3, restore_best_weights=True)
    loop = peakhold.CallbackList(keeper, outer, epochs=2, verbose=0)
    loop.on_train_begin()
    kept = [parameter.detach().clone() for parameter in outer.parameters()]
    for epoch, value in enumerate([0.1, 0.2]):
        loop.on_epoch_begin(epoch)
        loop.on_epoch_end(epoch, {"m": value})
        with torch.no_grad():
            for parameter in outer.parameters():
                parameter.add_(1)
    loop.on_train_end()
    assert all(a.equal(b) for a, b in zip(kept, outer.parameters(), strict=True))

    wrapped = torch.nn.DataParallel(torch.compile(model, backend="eager"))
    assert pk.host_for(wrapped).model is model
    assert pk.host_for(outer) is None
