"""One fault in `fit` and in a loop over the same Keras model: each hint names what its reader has.

What is said in any test is looked at by `placing.py`; here each hint that has two forms is brought
about in both places, and that of the loop is followed.
"""

import pytest

import keras
import peakhold
import peakhold.keras as pk
from keras_helpers import fit
from peakhold.errors import PeakholdError
from placing import FORBIDDEN, place_of

pytestmark = pytest.mark.torch_is_enough("whom a hint is for hangs on no backend")


def built(optimizer=None):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    if optimizer is not None:
        model.compile(optimizer, "mse")
    return model


def in_fit(callback, optimizer, **arguments):
    fit(built(optimizer), [callback], 2, **arguments)


def in_loop(callback, optimizer, lists=pk.CallbackList):
    more = {} if optimizer is None else {"optimizer": optimizer}
    callbacks = lists([callback], model=built(), epochs=2, verbose=0, **more)
    callbacks.on_train_begin()
    for epoch in range(2):
        callbacks.on_epoch_begin(epoch)
        callbacks.on_epoch_end(epoch, {"loss": 1.0, "val_loss": 1.0})
    callbacks.on_train_end()


def sgd():
    return keras.optimizers.SGD(0.1)


FAULTS = {  # by name: how it comes about, what a fit is told, what a loop is told
    "nobody watches the gradients": (
        lambda folder: pk.TensorBoard(folder / "t", write_gradients=True), sgd,
        "from peakhold.keras import watch_gradients, and model.compile(watch_gradients(optimizer), ...).",
        ("from peakhold.keras import watch_gradients, and CallbackList(..., "
        "optimizer=watch_gradients(optimizer)), and make each step with that optimizer."),
    ),
    "nobody averages": (
        lambda folder: pk.SwapEMAWeights(), sgd,
        "compile the model with such as keras.optimizers.Adam(use_ema=True), or leave SwapEMAWeights out.",
        "train with such as keras.optimizers.Adam(use_ema=True), or leave SwapEMAWeights out.",
    ),
    "nobody logs it": (
        lambda folder: pk.EarlyStopping("f1", mode="max"), sgd,
        ("monitor one of these, or add the metric to `compile` (a callback of yours that logs it "
        "stands before this one)."),
        "monitor one of these, or put the metric into the logs of `on_epoch_end(epoch, logs)`.",
    ),
    "no validation logs it": (
        lambda folder: pk.EarlyStopping("val_f1", mode="max"), sgd,
        "pass validation_data or validation_split to fit, or monitor a training metric.",
        "monitor one of these, or put the metric into the logs of `on_epoch_end(epoch, logs)`.",
    ),
    "there is no optimizer": (
        lambda folder: pk.ReduceLROnPlateau("loss"), lambda: None,
        None,  # Keras says it before we are asked
        "pass CallbackList(..., optimizer=optimizer).",
    ),
}  # fmt: skip


def hint_of(run, *arguments, **more):
    with pytest.raises(PeakholdError) as caught:
        run(*arguments, **more)
    return str(caught.value).partition("\nHint: ")[2]


@pytest.mark.parametrize("fault", [name for name, told in FAULTS.items() if told[2] is not None])
def test_in_fit_it_names_what_fit_has(fault, tmp_path):
    make, optimizer, told, _ = FAULTS[fault]
    more = {"validation_data": None} if fault == "no validation logs it" else {}

    assert hint_of(in_fit, make(tmp_path), optimizer(), **more) == told


@pytest.mark.parametrize("lists", [pk.CallbackList, peakhold.CallbackList])
@pytest.mark.parametrize("fault", FAULTS)
def test_in_a_loop_it_names_what_a_loop_has(fault, lists, tmp_path):
    make, optimizer, _, told = FAULTS[fault]

    assert hint_of(in_loop, make(tmp_path), optimizer(), lists) == told


def test_a_loop_that_does_as_it_is_told_runs(tmp_path):
    board = pk.TensorBoard(tmp_path, write_gradients=True)
    in_loop(board, pk.watch_gradients(sgd()))
    in_loop(pk.SwapEMAWeights(), keras.optimizers.Adam(use_ema=True))
    in_loop(pk.ReduceLROnPlateau("loss"), sgd())


def test_what_speaks_of_another_place_is_found():
    """The look that every test has (`placing.py`)."""
    seen = []

    class Looks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            import sys

            seen.append(place_of(sys._getframe()))

    in_fit(Looks(), sgd())
    in_loop(Looks(), sgd())

    assert seen == ["fit"] * 2 + ["loop"] * 2
    assert FORBIDDEN["loop"].search("add the metric to `compile`")
    assert FORBIDDEN["loop"].search("pass validation_data to fit.")
    assert not FORBIDDEN["loop"].search("an offset that does not fit its shape")
    assert FORBIDDEN["fit"].search("pass CallbackList(..., optimizer=optimizer).")
