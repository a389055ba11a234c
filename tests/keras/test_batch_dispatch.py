"""Where no callback looks at batches, Keras's thread pool is not asked; where one does, nothing is lost."""

import threading

import pytest

import keras
import peakhold.keras as pk
from conftest import BACKEND
from event_reader import opened, steps
from keras_helpers import fit, model

pytestmark = pytest.mark.skipif(
    BACKEND == "tensorflow", reason="Keras dispatches nothing in threads there"
)
N_BATCHES = 4  # 32 rows, 8 at a time


class Pool(keras.callbacks.Callback):
    """Counts what Keras hands to its thread pool."""

    def set_model(self, model):
        super().set_model(model)
        self.n_handed_over = 0

    def watch(self, driver):
        dispatch = driver._async_dispatch

        def counted(*args):
            self.n_handed_over += 1
            dispatch(*args)

        driver._async_dispatch = counted


def driven_fit(callbacks, **arguments):
    """How many hooks the pool was given in one epoch of `fit`."""
    pool, net = Pool(), model()
    driver = keras.callbacks.CallbackList(
        [pool, *callbacks], add_history=True, model=net, epochs=1, verbose=0, steps=N_BATCHES
    )
    pool.watch(driver)
    fit(net, driver, 1, **arguments)
    return pool.n_handed_over


def test_batches_that_nobody_looks_at_cost_no_thread(tmp_path):
    four = [
        pk.EarlyStopping(), pk.ModelCheckpoint(tmp_path / "m.keras"), pk.ReduceLROnPlateau(),
        pk.CSVLogger(tmp_path / "log.csv"),
    ]  # fmt: skip

    assert driven_fit([]) == 2 * N_BATCHES  # Keras's own way: training and validation
    assert driven_fit(four) == 0


class Counter(keras.callbacks.Callback):
    """A user's callback that sees batches."""

    n_train = n_test = 0

    def count_train(self, batch, logs=None):
        self.n_train += 1

    def count_test(self, batch, logs=None):
        self.n_test += 1


class AsyncSafe(Counter):
    async_safe = True
    on_train_batch_end, on_test_batch_end = Counter.count_train, Counter.count_test


class OldStyle(Counter):
    async_safe = True
    on_batch_end, on_test_batch_end = Counter.count_train, Counter.count_test


class BoundLate(Counter):
    def on_train_begin(self, logs=None):
        self.on_train_batch_end, self.on_test_batch_end = self.count_train, self.count_test


@pytest.mark.parametrize("kind", [AsyncSafe, OldStyle, BoundLate])
def test_a_callback_that_looks_at_batches_sees_them_all(kind):
    counter = kind()
    fit(model(), [pk.EarlyStopping(), counter], 1)

    assert (counter.n_train, counter.n_test) == (N_BATCHES, N_BATCHES)


def test_a_board_costs_the_batches_that_it_does_not_write_nothing(tmp_path, monkeypatch):
    """No value of theirs is read from the device; those that are due are written, in this thread."""
    from keras.src.utils import python_utils

    pythonify, read = python_utils.pythonify_logs, []

    def reading(logs):
        if logs and not isinstance(next(iter(logs.values())), float):
            read.append(threading.current_thread())
        return pythonify(logs)

    monkeypatch.setattr(python_utils, "pythonify_logs", reading)
    board = pk.TensorBoard(tmp_path, update_freq=6)
    threads = []
    boarding = board._peakhold_link.participant
    record = boarding._record_batch

    def recording(logs):
        threads.append(threading.get_ident())
        record(logs)

    monkeypatch.setattr(boarding, "_record_batch", recording)
    net = model()
    fit(net, [board], 4, validation_data=None)

    assert steps(opened(tmp_path / "train"), "batch_loss") == [6, 12]
    assert set(threads) == {threading.get_ident()}
    assert len(read) <= 2 + 4 + 1  # the two batches, the ends of epochs, and of training


def test_a_board_beside_a_progress_bar_and_beside_a_users_hook(tmp_path, capsys):
    for name, others, verbose in [("bar", [], 1), ("users", [Sees()], 0)]:
        fit(model(), [pk.TensorBoard(tmp_path / name, update_freq=3), *others], 3, verbose=verbose)
        train = opened(tmp_path / name / "train")

        assert steps(train, "batch_loss") == [3, 6, 9, 12]
        assert steps(train, "epoch_loss") == [0, 1, 2]
        assert all(cb.batches == [0, 1, 2, 3] * 3 for cb in others)
    assert "4/4" in capsys.readouterr().out


class Sees(keras.callbacks.Callback):
    """A user's callback that sees batches."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(batch)


def test_a_list_of_a_users_own_calls_a_board_in_this_thread(tmp_path):
    class Own(keras.callbacks.CallbackList):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)

    net = model()
    board = pk.TensorBoard(tmp_path, update_freq=3)
    fit(net, Own([board], add_history=True, model=net, epochs=3, verbose=0, steps=N_BATCHES), 3)

    assert steps(opened(tmp_path / "train"), "batch_loss") == [3, 6, 9, 12]
