"""Our drop-ins are instances of Keras's classes, and nothing of those is reached from ours."""

import copy
import json
import pickle
import subprocess
import sys

import pytest

import keras
import peakhold
from peakhold import keras as pk

pytestmark = pytest.mark.torch_is_enough("bases of classes are Python's")

MAKERS = {
    "BackupAndRestore": lambda cls: cls("backup"),
    "CSVLogger": lambda cls: cls("log.csv"),
    "EarlyStopping": lambda cls: cls("loss"),
    "LearningRateScheduler": lambda cls: cls(float),
    "ModelCheckpoint": lambda cls: cls("m.keras"),
    "ReduceLROnPlateau": lambda cls: cls("loss"),
    "RemoteMonitor": lambda cls: cls(),
    "SwapEMAWeights": lambda cls: cls(),
    "TensorBoard": lambda cls: cls("logs"),
    "TerminateOnNaN": lambda cls: cls(),
}
NEUTRAL = sorted(MAKERS.keys() - {"SwapEMAWeights"})
OF_EVERY_CALLBACK = keras.callbacks.Callback


def theirs_of(name):
    """Keras's class, and its own bases below the one of every callback."""
    mro = getattr(keras.callbacks, name).__mro__
    return mro[: mro.index(OF_EVERY_CALLBACK)]


def test_every_class_that_both_have_is_listed():
    both = {
        name
        for name, cls in vars(keras.callbacks).items()
        if isinstance(cls, type)
        and issubclass(getattr(pk, name, object), peakhold.Callback)
        and name not in {"Callback", "CallbackList"}
    }

    assert both == set(MAKERS)


@pytest.mark.parametrize("name", MAKERS)
def test_a_drop_in_is_an_instance_of_keras_s_class(name):
    callback = MAKERS[name](getattr(pk, name))
    others = [cls for other in MAKERS.keys() - {name} for cls in theirs_of(other)[:1]]

    assert isinstance(callback, theirs_of(name))
    assert not isinstance(callback, tuple(others))
    assert not isinstance(callback, tuple(getattr(pk, other) for other in MAKERS.keys() - {name}))


@pytest.mark.parametrize("name", NEUTRAL)
def test_a_neutral_one_is_not_and_what_adapt_makes_of_its_subclass_is(name):
    neutral = getattr(peakhold, name)
    mine = type("Mine", (neutral,), {})
    callback = MAKERS[name](mine)
    adapted = pk.adapt(callback)

    assert not isinstance(callback, OF_EVERY_CALLBACK)
    assert isinstance(adapted, (mine, getattr(pk, name))) and isinstance(adapted, mine)
    assert isinstance(adapted, getattr(keras.callbacks, name))


@pytest.mark.parametrize("name", MAKERS)
def test_nothing_that_keras_s_class_defines_is_reached(name):
    cls = getattr(pk, name)
    callback = MAKERS[name](cls)
    lent = 0
    for lender in theirs_of(name):
        for defined in vars(lender):
            owner = next(base for base in cls.__mro__ if defined in vars(base))
            if defined not in {"__module__", "__doc__", "__slotnames__"}:  # the last is of pickle
                assert owner not in theirs_of(name), defined
                lent += 1
            if not hasattr(callback, defined):
                assert defined not in dir(callback)
                with pytest.raises(AttributeError, match=rf"{defined}.*\nHint: "):
                    getattr(callback, defined)
    assert lent


@pytest.mark.parametrize("name", MAKERS)
def test_a_name_of_keras_s_class_is_free_for_whoever_sets_it(name):
    callback = MAKERS[name](getattr(pk, name))
    for lender in theirs_of(name):
        for defined in vars(lender):
            if defined.startswith("_") and not defined.startswith("__"):
                if not hasattr(callback, defined):
                    setattr(callback, defined, "mine")
                    assert getattr(callback, defined) == "mine" and defined in dir(callback)


@pytest.mark.parametrize("name", MAKERS)
def test_no_constructor_of_keras_s_runs_and_that_of_a_mixin_does(name, monkeypatch):
    for lender in theirs_of(name):
        monkeypatch.setattr(lender, "__init__", lambda self, *a, **k: pytest.fail("Keras's ran"))
    ran = []

    class Mixin(OF_EVERY_CALLBACK):
        def __init__(self):
            super().__init__()
            ran.append(self)
            self.mixed = True

    both = MAKERS[name](type("Both", (getattr(pk, name), Mixin), {}))

    assert both.mixed and ran == [both]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))]
)  # noqa: S301
def test_it_is_copied_and_pickled(name, again):
    callback = MAKERS[name](getattr(pk, name))
    if name == "LearningRateScheduler":
        assert again(callback).schedule is float

    assert isinstance(again(callback), theirs_of(name))


@pytest.mark.parametrize("name", MAKERS)
def test_batch_hooks_that_do_nothing_are_still_no_ops(name):
    callback = MAKERS[name](getattr(pk, name))
    looks = {"TensorBoard", "TerminateOnNaN"}
    for hook in ("on_train_batch_begin", "on_train_batch_end", "on_test_batch_end", "on_batch_end"):
        if name not in looks:
            assert getattr(getattr(callback, hook), "_is_default", False), hook


def test_reading_what_a_callback_shows_imports_no_framework():
    done = subprocess.run(
        [sys.executable, "-c", _READ], capture_output=True, text=True, check=True, timeout=300
    )

    assert json.loads(done.stdout.splitlines()[-1]) == []


_READ = """
import json, sys, torch, keras, peakhold.keras as pk
before = set(sys.modules)
board = pk.TensorBoard("logs")
for name in dir(board):
    try:
        getattr(board, name)
    except AttributeError:
        pass
new = {one.split(".")[0] for one in set(sys.modules) - before}
print(json.dumps(sorted(new & {"tensorflow", "jax"})))
"""


def test_whoever_looks_for_an_early_stopping_finds_ours():
    """As AutoKeras does: it adds its own where there is none."""
    given = [pk.EarlyStopping("loss", patience=9)]
    if not any(isinstance(one, keras.callbacks.EarlyStopping) for one in given):
        given.append(keras.callbacks.EarlyStopping("loss", patience=1))

    assert len(given) == 1
