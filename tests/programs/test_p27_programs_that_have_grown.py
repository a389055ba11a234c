"""P27: programs that have grown for years, run with Keras's callbacks and, one import swapped, with ours.

They ask `isinstance`, keep things under plain names, pass what they have computed, and set attributes
before and in mid-run. What they come to is the same.
"""

import numpy as np
import pytest

import keras
import peakhold.keras

CURVE = [0.9, 0.7, 0.6, 0.65, 0.64, 0.5, 0.55, 0.56, 0.57, 0.58, 0.59, 0.6, 0.61, 0.62]


class Curve(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = CURVE[epoch]


def train(*callbacks, epochs=len(CURVE), verbose=0):
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x = np.ones((8, 2))
    history = model.fit(
        x, x[:, :1], epochs=epochs, verbose=verbose, callbacks=[Curve(), *callbacks]
    )
    rate = round(float(model.optimizer.learning_rate), 9)
    return {"epochs": history.epoch, "rate": rate}


def a_search_adds_what_it_does_not_find(lib, here):
    """As AutoKeras does: a stopping, and a plateau, unless there is one."""
    callbacks = [
        lib.EarlyStopping("val_loss", patience=6),
        lib.ReduceLROnPlateau("val_loss", patience=3),
    ]
    if not any(isinstance(one, keras.callbacks.EarlyStopping) for one in callbacks):
        callbacks.append(lib.EarlyStopping("val_loss", patience=1))
    if not any(isinstance(one, keras.callbacks.ReduceLROnPlateau) for one in callbacks):
        callbacks.append(lib.ReduceLROnPlateau("val_loss", patience=1))
    return train(*callbacks) | {"n": len(callbacks)}


def a_subclass_keeps_things_under_plain_names(lib, here):
    class Tracker(lib.EarlyStopping):
        def __init__(self, host, **arguments):
            super().__init__(**arguments)
            self.host, self.session, self.name = host, "s-1", "tracker"
            self._name, self._history, self._rows, self._saves = "t", [], {}, 0
            self.run, self.policy, self.link = None, "mine", "http://x"

        def _check(self, epoch):
            self._history.append((self.host, epoch))

        def on_epoch_end(self, epoch, logs=None):
            self._check(epoch)
            self._rows[epoch] = logs["val_loss"]
            super().on_epoch_end(epoch, logs)

    tracker = Tracker("localhost", monitor="val_loss", patience=3)
    return train(tracker) | {
        "history": tracker._history, "rows": tracker._rows, "host": tracker.host,
        "wait": tracker.wait, "stopped": tracker.stopped_epoch,
    }  # fmt: skip


def a_checkpoint_with_a_method_called_save(lib, here):
    class Saver(lib.ModelCheckpoint):
        saves = 0

        def _save(self):
            self.saves += 1

        def _reset(self, why):
            self.why = why

        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            self._save()
            self._reset("epoch")

    saver = Saver(here / "best.keras", monitor="val_loss", save_best_only=True)
    return train(saver) | {"saves": saver.saves, "best": saver.best, "why": saver.why}


def computed(lib, patience, here):
    stopper = lib.EarlyStopping("val_loss", patience=patience, verbose=None or 0)
    return train(stopper) | {"wait": stopper.wait, "stopped": stopper.stopped_epoch}


def a_patience_of_numpy(lib, here):
    return computed(lib, np.float32(3), here)


def half_a_patience(lib, here):
    return computed(lib, 2.5, here)


def patience_for_ever(lib, here):
    return computed(lib, np.inf, here)


def rates_out_of_a_list(lib, here):
    rates = [0.4, 0.3, 0.2]
    return train(lib.LearningRateScheduler(rates.__getitem__), epochs=3)


def a_mode_in_full(lib, here):
    with pytest.warns(UserWarning, match="mode 'minimum' is unknown, fallback to auto mode"):
        stopper = lib.EarlyStopping("val_loss", mode="minimum", patience=3)
    return train(stopper) | {"best": stopper.best}


def a_best_from_last_week(lib, here):
    saver = lib.ModelCheckpoint(here / "best.keras", monitor="val_loss", save_best_only=True)
    saver.best = 0.55
    seen = []

    class Looks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((here / "best.keras").exists())

    return train(saver, Looks()) | {"best": saver.best, "seen": seen}


def a_comparison_that_is_set(lib, here):
    stopper = lib.EarlyStopping("val_loss", patience=3)
    stopper.monitor_op = np.less
    return train(stopper) | {"best": stopper.best, "wait": stopper.wait}


def more_patience_in_mid_run(lib, here):
    stopper = lib.EarlyStopping("val_loss", patience=2)

    class Patient(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                stopper.patience = 5

    return train(Patient(), stopper) | {"stopped": stopper.stopped_epoch}


PROGRAMS = [
    a_search_adds_what_it_does_not_find, a_subclass_keeps_things_under_plain_names,
    a_checkpoint_with_a_method_called_save, a_patience_of_numpy, half_a_patience,
    patience_for_ever, rates_out_of_a_list, a_mode_in_full, a_best_from_last_week,
    a_comparison_that_is_set, more_patience_in_mid_run,
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_p27_it_comes_to_the_same(program, tmp_path):
    outcomes = []
    for lib in (keras.callbacks, peakhold.keras):
        here = tmp_path / lib.__name__
        here.mkdir()
        outcomes.append(program(lib, here))

    theirs, ours = outcomes
    assert ours == theirs
