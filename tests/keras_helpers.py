"""Small models, scripted metrics, and what a user's own callback would look at."""

import threading

import numpy as np

import keras


def data(n=32, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype("float32")
    return x, (x @ np.array([[1.0], [-2.0], [0.5]], "float32") + 0.1).astype("float32")


def model(optimizer="sgd", metrics=("mae",), *, units=4):
    net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units), keras.layers.Dense(1)])
    net.compile(optimizer=optimizer, loss="mse", metrics=list(metrics))
    return net


def fit(net, callbacks, epochs, **arguments):
    x, y = data()
    arguments = {"batch_size": 8, "verbose": 0, "validation_data": (x, y), **arguments}
    return net.fit(x, y, epochs=epochs, callbacks=callbacks, **arguments)


class Curve(keras.callbacks.Callback):
    """A user's callback that puts values into the logs; first in the list, so that all see them."""

    def __init__(self, only_if_there=False, **curves):
        super().__init__()
        self.curves, self.only_if_there = curves, only_if_there

    def on_epoch_end(self, epoch, logs=None):
        for name, values in self.curves.items():
            if epoch < len(values) and not (self.only_if_there and name not in logs):
                logs[name] = values[epoch]


class Recorder(keras.callbacks.Callback):
    """A user's callback that remembers the weights of each epoch."""

    def __init__(self):
        super().__init__()
        self.weights, self.logs = {}, {}

    def on_epoch_end(self, epoch, logs=None):
        self.weights[epoch] = self.model.get_weights()
        self.logs[epoch] = dict(logs)


def same(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a, b) for a, b in zip(one, other, strict=True)
    )


def epoch_of(weights, recorder):
    """The epoch (from 0) whose weights these are; None if of none."""
    return next((e for e, w in recorder.weights.items() if same(w, weights)), None)


def saved_weights(path, net=None):
    if str(path).endswith(".weights.h5"):
        fresh = net or model()
        fresh.load_weights(path)
        return fresh.get_weights()
    return keras.models.load_model(path).get_weights()


def in_two_threads(work):
    """Run `work("a")` and `work("b")` in threads; returns what they raised.

    At the same time on PyTorch only: Keras's own global state is not made for that on the others.
    """
    errors = []

    def run(name):
        try:
            work(name)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
        if keras.backend.backend() != "torch":
            thread.join()
    for thread in threads:
        thread.join()
    return errors
