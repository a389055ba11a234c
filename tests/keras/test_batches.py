"""`Batches`: every row once in each epoch, whatever the size, on every backend and with workers."""

import copy
import json
import math
import pickle
import random
import warnings

import numpy as np
import pytest

import keras
from conftest import BACKEND
from keras_helpers import same
from peakhold.errors import HostError, InvalidArgumentError
from peakhold.keras import Batches, Callback

of_no_framework = pytest.mark.torch_is_enough("how many rows a batch has is Python's")

N = 20


class Sum(keras.losses.Loss):
    """Minus the sum of the outputs: with rate 1, a step adds each of its rows to the kernel."""

    def __init__(self):
        super().__init__(reduction="sum")

    def call(self, y_true, y_pred):
        return -y_pred


def counter(*, built=True):
    """A model whose kernel holds how often it was trained on each row of `np.eye(N)`."""
    layers = [keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")]
    net = keras.Sequential([keras.Input((N,)), *layers] if built else layers)
    net.compile(keras.optimizers.SGD(1.0), Sum())
    return net


def rows(batch_size, *, weights=None, **arguments):
    return Batches(np.eye(N), np.zeros((N, 1)), weights, batch_size, **arguments)


class Sizes(Callback):
    """Sets the size for each epoch, and notes what was trained on."""

    def __init__(self, batches, sizes, hook="on_epoch_begin"):
        super().__init__()
        self.batches, self.sizes, self.hook = batches, sizes, hook
        self.n_steps, self.seen, self.steps = [], [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.before = self.model.get_weights()[0] if self.model.built else np.zeros((N, 1))
        self.n_steps.append(0)
        if self.hook == "on_epoch_begin":
            self.batches.batch_size = self.sizes[epoch]

    def on_train_batch_end(self, batch, logs=None):
        if self.hook == "on_train_batch_end" and len(self.n_steps) in range(1, len(self.sizes)):
            self.batches.batch_size = self.sizes[len(self.n_steps)]
        self.n_steps[-1] += 1

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append((self.model.get_weights()[0] - self.before)[:, 0])
        self.steps.append(self.params["steps"])
        if self.hook == "on_epoch_end" and epoch + 1 < len(self.sizes):
            self.batches.batch_size = self.sizes[epoch + 1]


SIZES = [4, 4, 8, 16, 3]  # longer, then shorter epochs, and ones with a rest
STEPS = [5, 5, 3, 2, 7]


HOOKS = ["on_epoch_begin", "on_train_batch_end", "on_epoch_end"]


@pytest.mark.parametrize(
    ("hook", "workers", "built"),
    [
        # All of them on one backend, every two on each.
        pytest.param(
            hook, workers, built, marks=of_no_framework if (i + workers + built) % 2 else []
        )
        for i, hook in enumerate(HOOKS)
        for workers in (0, 1, 2)
        for built in (True, False)
    ],
)
def test_each_epoch_trains_once_on_every_row(hook, workers, built):
    batches = rows(4, workers=workers)
    sizes = Sizes(batches, SIZES, hook)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # Keras: "Your input ran out of data"
        counter(built=built).fit(batches, epochs=5, verbose=0, callbacks=[sizes])

    assert sizes.n_steps == STEPS
    assert sizes.steps == STEPS
    for seen in sizes.seen:
        assert np.array_equal(seen, np.ones(N))


def test_processes_make_the_batches_too():
    batches = rows(4, workers=1, use_multiprocessing=True)
    sizes = Sizes(batches, [4, 8])
    counter().fit(batches, epochs=2, verbose=0, callbacks=[sizes])

    assert sizes.n_steps == [5, 3]
    assert all(np.array_equal(seen, np.ones(N)) for seen in sizes.seen)


def test_keras_alone_trains_on_a_part_of_the_data():
    """What the class is for: a longer epoch is cut short without a word."""

    class Plain(keras.utils.PyDataset):
        size = 10

        def __len__(self):
            return math.ceil(N / self.size)

        def __getitem__(self, index):
            part = slice(index * self.size, (index + 1) * self.size)
            return np.eye(N)[part], np.zeros((N, 1))[part]

    data, net = Plain(), counter()
    watch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: setattr(data, "size", 10 if epoch == 0 else 5)
    )
    net.fit(data, epochs=2, verbose=0, callbacks=[watch], shuffle=False)

    assert net.get_weights()[0].sum() == N + N / 2


def test_weights_go_with_their_rows():
    weights = np.arange(N, dtype="float32")
    batches = rows(6, weights=weights)
    sizes = Sizes(batches, [6, 12])
    counter().fit(batches, epochs=2, verbose=0, callbacks=[sizes])

    assert all(np.allclose(seen, weights, atol=1e-5) for seen in sizes.seen)


def test_several_inputs_and_class_weights():
    a, b = np.arange(8.0)[:, None], np.arange(8.0)[:, None] * 2
    for x in ({"a": a, "b": b}, (a, b), [a, b]):
        batches = Batches(x, np.arange(8), batch_size=3, seed=1)
        for inputs, y in batches:
            first, second = inputs.values() if isinstance(inputs, dict) else inputs
            assert np.array_equal(first[:, 0], y)
            assert np.array_equal(second[:, 0], 2 * y)
    labels = (np.arange(N) % 2)[:, None].astype("float32")
    batches = Batches(np.eye(N), labels, batch_size=7)
    net = counter()
    net.fit(batches, class_weight={0: 1.0, 1: 3.0}, verbose=0)

    assert np.allclose(net.get_weights()[0], 1 + 2 * labels)


def test_without_a_shuffle_it_trains_as_fit_on_the_arrays_does():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N, 3)), rng.normal(size=(N, 1))

    def train(*data, **arguments):
        keras.utils.set_random_seed(1)
        net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        net.compile("adam", "mse")
        fitted = net.fit(*data, epochs=3, shuffle=False, verbose=0, **arguments)
        return fitted.history["loss"], net.get_weights()

    plain, ours = train(x, y, batch_size=6), train(Batches(x, y, batch_size=6, shuffle=False))

    assert plain[0] == ours[0]
    assert same(plain[1], ours[1])


@pytest.mark.skipif(BACKEND == "torch", reason="Keras refuses it there")
def test_steps_per_execution():
    net, batches = counter(), rows(5)
    net.compile(keras.optimizers.SGD(1.0), Sum(), steps_per_execution=2)
    sizes = Sizes(batches, [5, 10])
    net.fit(batches, epochs=2, verbose=0, callbacks=[sizes])

    assert all(np.array_equal(seen, np.ones(N)) for seen in sizes.seen)


def test_validation_in_batches_leaves_the_steps_of_training_alone():
    batches, validation = rows(4), rows(3, shuffle=False)
    sizes = Sizes(batches, [4, 8])
    counter().fit(batches, epochs=2, verbose=0, callbacks=[sizes], validation_data=validation)

    assert sizes.steps == [5, 3]


def test_the_progress_bar_knows_the_length(capsys):
    batches = rows(4)
    counter().fit(batches, epochs=2, verbose=2, callbacks=[Sizes(batches, [4, 10])])

    printed = capsys.readouterr().out
    assert "5/5" in printed
    assert "2/2" in printed


def test_the_order_is_one_of_its_own_in_each_epoch_and_the_same_with_the_same_seed():
    def orders(**arguments):
        batches, orders = rows(N, **arguments), []
        for _ in range(3):
            orders.append(batches[0][0].argmax(axis=1).tolist())
            batches.on_epoch_begin()
            batches.on_epoch_end()
        return orders

    first = orders(seed=5)
    assert len({tuple(order) for order in first}) == 3
    assert all(sorted(order) == list(range(N)) for order in first)
    assert orders(seed=5) == first != orders(seed=6)
    keras.utils.set_random_seed(3)
    drawn = orders()
    keras.utils.set_random_seed(3)
    assert orders() == drawn
    assert orders(shuffle=False) == [list(range(N))] * 3


def _train(net, batches, sizes, first, last, saved, python_random=None):
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: saved.setdefault(
            epoch, (net.get_weights(), json.dumps(batches.state_dict()), random.getstate())
        )
    )
    if python_random is not None:  # `fit` itself shuffles the batches by it
        keep.on_train_begin = lambda logs=None: random.setstate(python_random)
    control = Sizes(batches, sizes, "on_epoch_end")
    net.fit(batches, initial_epoch=first, epochs=last, verbose=0, callbacks=[control, keep])


def test_a_run_that_goes_on_from_its_state_trains_the_same():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N, 3)), rng.normal(size=(N, 1))
    sizes = [4, 4, 4, 8, 8, 16]

    def network():
        net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        net.compile(keras.optimizers.SGD(0.1), "mse")
        return net

    whole, net = {}, network()
    start = net.get_weights()
    _train(net, Batches(x, y, batch_size=4), sizes, 0, 6, whole)
    for epoch in (1, 2, 4):
        weights, state, python_random = whole[epoch]
        again, batches = network(), Batches(x, y, batch_size=99)
        again.set_weights(weights)
        batches.load_state_dict(json.loads(state))
        assert batches.batch_size == sizes[epoch + 1]
        _train(again, batches, sizes, epoch + 1, 6, {}, python_random)

        assert same(again.get_weights(), net.get_weights())
    assert not same(start, net.get_weights())


def test_a_state_from_the_middle_of_an_epoch_repeats_that_epoch():
    batches = rows(4)
    batches.on_epoch_begin()
    batches.on_epoch_end()
    batches.on_epoch_begin()
    batches.batch_size = 8
    inside = [batch[0] for batch in batches]
    other = rows(99)
    other.load_state_dict(json.loads(json.dumps(batches.state_dict())))

    assert same([batch[0] for batch in other], inside)
    other.on_epoch_begin()
    other.on_epoch_end()
    assert len(other) == 3


def test_a_fit_that_broke_leaves_nothing_behind():
    class Break(Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError("broken")

    batches = rows(4, workers=2)
    with pytest.raises(RuntimeError, match="broken"):
        counter().fit(batches, verbose=0, callbacks=[Break()])
    batches.batch_size = 10
    sizes = Sizes(batches, [10, 5])
    counter().fit(batches, epochs=2, verbose=0, callbacks=[sizes])

    assert sizes.n_steps == [2, 4]
    assert all(np.array_equal(seen, np.ones(N)) for seen in sizes.seen)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"y": np.zeros(3)}, "x"),
        ({"y": None, "sample_weight": np.zeros(N)}, "y"),
        ({"x": np.zeros((0, 3)), "y": np.zeros(0)}, "x"),
        ({"x": 3.0}, "x"),
    ],
)
def test_arguments_that_cannot_mean_anything(arguments, name):
    with pytest.raises(InvalidArgumentError) as caught:
        Batches(**{"x": np.eye(N), "y": np.zeros(N), **arguments})

    assert caught.value.argument == name


def test_a_size_below_one_is_refused_and_changes_nothing():
    batches = rows(4)
    with pytest.raises(InvalidArgumentError):
        batches.batch_size = 0

    assert batches.batch_size == 4
    with pytest.raises(InvalidArgumentError):
        batches.load_state_dict({"class": "EarlyStopping"})


def test_an_epoch_is_a_whole_pass():
    with pytest.raises(InvalidArgumentError, match="steps_per_epoch=2"):
        counter().fit(rows(4), steps_per_epoch=2, epochs=2, verbose=0)


def test_a_keras_that_works_otherwise_gets_an_error_and_no_shorter_epoch():
    class Adapter:
        def __init__(self, batches):
            self.py_dataset = batches

        def on_epoch_begin(self):
            self.py_dataset.on_epoch_begin()

    batches = rows(4)
    adapter = Adapter(batches)
    adapter.on_epoch_begin()
    batches.on_epoch_end()
    adapter.on_epoch_begin()
    batches.on_epoch_end()
    batches.batch_size = 2

    with pytest.raises(HostError, match="expected a version of Keras"):
        adapter.on_epoch_begin()


def test_it_can_be_copied_and_pickled():
    batches = rows(4, seed=1)

    for other in (copy.deepcopy(batches), pickle.loads(pickle.dumps(batches))):
        assert same([batch[0] for batch in other], [batch[0] for batch in batches])
