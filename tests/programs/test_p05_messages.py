"""P5: the messages that people grep for, letter for letter, and against Keras's own classes."""

import numpy as np
import pytest

import keras
import peakhold.keras as ours
from keras_helpers import Curve

of_no_framework = pytest.mark.torch_is_enough(
    "the words are Python's; numbers in them are looked at on every backend"
)

N = 18
ACCURACY = [*np.linspace(0.5, 0.88, 14), 0.87, 0.89, 0.89, 0.1]
LOSS = [0.9, 0.452, *[0.46] * (N - 2)]


def run(lib, build, xy, folder, capsys, callbacks, epochs=N, curves=None):
    """What a fit with these callbacks prints; `verbose=0` leaves only what they say."""
    capsys.readouterr()
    keras.utils.set_random_seed(7)
    model = build()
    model.fit(
        *xy,
        epochs=epochs,
        batch_size=96,
        callbacks=[Curve(**(curves or {})), *callbacks(lib, folder)],
        verbose=0,
    )
    return capsys.readouterr().out.replace(str(folder), "<folder>")


def both(build, xy, tmp_path, capsys, callbacks, **arguments):
    texts = []
    for lib in (ours, keras.callbacks):
        folder = tmp_path / lib.__name__
        folder.mkdir(parents=True)
        texts.append(run(lib, build, xy, folder, capsys, callbacks, **arguments))
    return texts


def last_of_each_file(lines):
    return {line.split()[-1]: line for line in lines}


def assert_told_alike(mine, keras_own, *, background):
    """All is the same; but what is written in the background is "finished" at a later event."""
    if background:
        finished, keras_finished = (
            [line for line in text.splitlines() if "finished" in line] for text in (mine, keras_own)
        )
        # A fixed name may be written once for several epochs; what it holds in the end is said.
        assert set(finished) <= set(keras_finished)
        assert last_of_each_file(finished) == last_of_each_file(keras_finished)
        for line in finished:
            begun = line.replace("finished saving", "saving")
            assert mine.index(begun.split(": ")[1]) < mine.index(line)
        mine, keras_own = (
            [line for line in text.splitlines() if line and "finished" not in line]
            for text in (mine, keras_own)
        )
    assert mine == keras_own


@pytest.mark.parametrize(
    ("suffix", "background"),
    [
        ("keras", True),
        *(pytest.param(*one, marks=of_no_framework)
          for one in [("keras", False), ("h5", True), ("h5", False)]),
    ],
)  # fmt: skip
def test_the_whole_output_is_that_of_keras(xy, classifier, suffix, background, tmp_path, capsys):
    def callbacks(lib, folder):
        more = {"background": background} if lib is ours else {}
        return [
            lib.ReduceLROnPlateau("val_loss", factor=0.2, patience=10, verbose=1),
            lib.EarlyStopping("val_loss", patience=15, restore_best_weights=True, verbose=1),
            lib.ModelCheckpoint(
                f"{folder}/best.{suffix}",
                monitor="val_accuracy", mode="max", save_best_only=True, verbose=1, **more,
            ),
            lib.ModelCheckpoint(
                f"{folder}/loss.{suffix}",
                monitor="val_loss", mode="min", save_best_only=True, verbose=1, **more,
            ),
        ]  # fmt: skip

    mine, keras_own = both(
        classifier, xy, tmp_path, capsys, callbacks,
        curves={"val_accuracy": ACCURACY, "val_loss": LOSS},
    )  # fmt: skip

    assert_told_alike(mine, keras_own, background=background)
    for line in (
        "\nEpoch 1: val_accuracy improved from None to 0.50000, saving model to <folder>/best.",
        "\nEpoch 16: val_accuracy improved from 0.88000 to 0.89000, saving model to <folder>/best.",
        "\nEpoch 16: finished saving model to <folder>/best.",
        "\nEpoch 15: val_loss did not improve from 0.45200\n",
        "\nEpoch 12: ReduceLROnPlateau reducing learning rate to 0.0002000000",
        "\nRestoring model weights from the end of the best epoch: 2.\n",
        "\nEpoch 17: early stopping\n",
    ):
        assert line in mine


@of_no_framework
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"save_weights_only": True},
        {"save_freq": 2},
        {"save_best_only": True, "monitor": "val_loss", "initial_value_threshold": 0.5},
    ],
    ids=["every", "weights", "batches", "threshold"],
)
@pytest.mark.parametrize("background", [True, False])
def test_each_save_is_told_as_keras_tells_it(
    xy, classifier, arguments, background, tmp_path, capsys
):
    suffix = "weights.h5" if "save_weights_only" in arguments else "keras"

    def callbacks(lib, folder):
        more = {"background": background} if lib is ours else {}
        name = f"{folder}/m_{{epoch:02d}}.{suffix}"
        return [lib.ModelCheckpoint(name, verbose=1, **arguments, **more)]

    mine, keras_own = both(
        classifier, xy, tmp_path, capsys, callbacks, epochs=4, curves={"val_loss": [0.6, 0.4, 0.4, 0.1]}
    )  # fmt: skip

    assert_told_alike(mine, keras_own, background=background)
    assert "saving model to <folder>/m_0" in mine


@of_no_framework
def test_a_short_run_is_told_as_keras_tells_it(xy, classifier, tmp_path, capsys):
    """`Epoch 4: early stopping`, and the restored epoch, also when nothing stopped the run."""

    def callbacks(lib, folder):
        return [lib.EarlyStopping("val_loss", patience=2, restore_best_weights=True, verbose=1)]

    for losses, expected in (
        ([0.5, 0.4, 0.6, 0.6], "Epoch 4: early stopping\n"),
        ([0.5, 0.4, 0.6], ""),
    ):
        mine, keras_own = both(
            classifier, xy, tmp_path / str(len(losses)), capsys, callbacks,
            epochs=len(losses), curves={"val_loss": losses},
        )  # fmt: skip

        assert mine == keras_own
        assert mine == expected + "Restoring model weights from the end of the best epoch: 2.\n"


def test_rates_and_bad_losses_are_told_as_keras_tells_them(xy, classifier, tmp_path, capsys):
    def callbacks(lib, folder):
        return [
            lib.LearningRateScheduler(lambda epoch, lr: lr / 2, verbose=1),
            lib.TerminateOnNaN(),
        ]

    x, y = xy
    y = np.where(np.arange(len(y))[:, None] == 0, np.nan, y)
    mine, keras_own = both(
        lambda: classifier(loss="mse"), (x, y), tmp_path, capsys, callbacks, epochs=3
    )

    assert mine == keras_own
    assert "\nEpoch 1: LearningRateScheduler setting learning rate to 0.0005" in mine
    assert "Batch 0: Invalid loss, terminating training\n" in mine


@of_no_framework
def test_nothing_is_told_with_verbose_0(xy, classifier, tmp_path, capsys):
    def callbacks(lib, folder):
        return [
            lib.ReduceLROnPlateau("val_loss", patience=1),
            lib.EarlyStopping("val_loss", patience=2, restore_best_weights=True),
            lib.ModelCheckpoint(f"{folder}/best.keras", save_best_only=True),
        ]

    text = run(
        ours, classifier, xy, tmp_path, capsys, callbacks,
        epochs=4, curves={"val_loss": [0.5, 0.4, 0.6, 0.6]},
    )  # fmt: skip

    assert text == ""
