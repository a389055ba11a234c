"""A pytest plugin that puts Peakhold's classes in the place of Keras's before its tests are collected.

Keras's tests look classes up in three places: `keras.callbacks.X`, `keras.src.callbacks.X` and the
module that defines X. All three are patched. What was constructed is counted and written as JSON, so
that a patch that misses shows.
"""

import collections
import json
import os
import sys
import types

if os.environ.get("KERAS_BACKEND") == "torch":
    import torch  # before TensorFlow, which Keras imports where it is installed
elif os.environ.get("KERAS_BACKEND") == "tensorflow":
    import tensorflow as tf

    # As in `conftest.py`: rewriting the graph of each small model makes none of them faster.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

import pytest

import keras
import peakhold
import peakhold.keras as ours

MODULES = {
    "BackupAndRestore": "backup_and_restore",
    "Callback": "callback",
    "CallbackList": "callback_list",
    "EarlyStopping": "early_stopping",
    "ModelCheckpoint": "model_checkpoint",
    "ReduceLROnPlateau": "reduce_lr_on_plateau",
    "CSVLogger": "csv_logger",
    "TensorBoard": "tensorboard",
    "TerminateOnNaN": "terminate_on_nan",
    "LearningRateScheduler": "learning_rate_scheduler",
    "RemoteMonitor": "remote_monitor",
    "SwapEMAWeights": "swap_ema_weights",
    "ProgbarLogger": "progbar_logger",
    "LambdaCallback": "lambda_callback",
    "History": "history",
}
constructed = collections.Counter()


def _counting(cls):
    original = cls.__init__

    def __init__(self, *args, **kwargs):
        constructed[type(self).__name__ if type(self) is cls else cls.__name__] += 1
        original(self, *args, **kwargs)

    cls.__init__ = __init__


def _swap():
    src = sys.modules["keras.src.callbacks"]
    for name, module in MODULES.items():
        cls = getattr(ours, name)
        if cls.__module__.startswith("peakhold."):
            _counting(cls)
        setattr(src, name, cls)
        setattr(keras.callbacks, name, cls)
        setattr(sys.modules[f"keras.src.callbacks.{module}"], name, cls)


def _conftest_of_keras():
    """`remote_monitor_test` imports one name from the conftest of Keras's repository."""
    module = types.ModuleType("conftest")
    module.skip_if_backend = lambda backend, reason: pytest.mark.skipif(
        keras.backend.backend() == backend, reason=reason
    )
    sys.modules["conftest"] = module


def pytest_configure(config):
    for marker in ("requires_trainable_backend", "multi_device"):
        config.addinivalue_line("markers", f"{marker}: of Keras's own suite")
    _conftest_of_keras()
    _swap()


COMPILED = "test_swap_ema_weights_on_epoch"
"""Of three tests that compile their model on PyTorch, for a minute: the one that swaps and saves."""


@pytest.fixture(autouse=True)
def _one_model_is_compiled(request, monkeypatch):
    """The others are trained as they are, which is what `fit` does there unless it is asked."""
    if keras.backend.backend() == "torch" and request.node.name != COMPILED:
        monkeypatch.setattr(torch, "compile", lambda function: function)


BEGUN_ANEW = "test_best_case_step"
"""It counts the steps of an epoch that is begun anew on later weights, which `exact=False` asks for."""


@pytest.fixture(autouse=True)
def _an_epoch_is_begun_anew(request, monkeypatch):
    if request.node.name == BEGUN_ANEW:
        monkeypatch.setitem(peakhold.BackupAndRestore.__init__.__kwdefaults__, "exact", False)


def pytest_sessionfinish(session):
    with open(os.environ["PEAKHOLD_CONSTRUCTED"], "w") as file:
        json.dump(dict(constructed), file)
