"""A metric that nobody logs, in a loop of somebody's own, where nobody tells that it validates."""

import warnings

import numpy as np
import pytest

import peakhold
from peakhold.errors import MonitorNotFoundError, MonitorWarning

KINDS = {
    "EarlyStopping": lambda name, folder: peakhold.EarlyStopping(name, patience=3, mode="min"),
    "ReduceLROnPlateau": lambda name, folder: peakhold.ReduceLROnPlateau(name, mode="min"),
    "ModelCheckpoint": lambda name, folder: peakhold.ModelCheckpoint(
        folder / "best.safetensors", monitor=name, mode="min", save_best_only=True
    ),
}


def run(callback, logged, *, ends=True):
    params, rate = {"w": np.zeros(1)}, {"lr": 0.1}
    host = peakhold.LoopHost(
        get_state=lambda: params, set_state=params.update,
        get_learning_rate=lambda: rate["lr"], set_learning_rate=lambda new: rate.update(lr=new),
    )  # fmt: skip
    several = callback if isinstance(callback, list) else [callback]
    callbacks = peakhold.CallbackList(several, host=host, verbose=0)
    callbacks.on_train_begin()
    for epoch, logs in enumerate(logged):
        callbacks.on_epoch_begin(epoch)
        callbacks.on_epoch_end(epoch, dict(logs))
    if ends:
        callbacks.on_train_end()


def test_from_the_first_epoch_that_logs_another_of_them_it_is_an_error(tmp_path):
    for name, make in KINDS.items():
        logged = [{"loss": 1.0}, {"loss": 1.0}, {"loss": 1.0, "val_loss": 1.0}, {"loss": 1.0}]
        with warnings.catch_warnings(), pytest.raises(MonitorNotFoundError) as caught:
            warnings.simplefilter("error", MonitorWarning)  # one cause, one message
            # A checkpoint raises one event later, when its files are what they should be.
            run(make("val_los", tmp_path), logged)

        text = str(caught.value)
        assert f"got monitor='val_los' in {name}. Available metrics are: loss, val_loss" in text
        assert "\nHint: did you mean 'val_loss'?" in text


@pytest.mark.parametrize("named", ["val/los", "val.los"])
def test_whatever_stands_between_its_words(tmp_path, named):
    logs = {"loss": 1.0, named + "s": 1.0}
    with pytest.raises(MonitorNotFoundError, match=named + "s"):
        run(KINDS["EarlyStopping"](named, tmp_path), [{"loss": 1.0}, logs])


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_comes_every_other_epoch_is_not_missed(tmp_path, kind):
    logged = [{"loss": 1.0, "val_loss": 1.0}, {"loss": 1.0}, {"loss": 1.0, "val_f1": 1.0}]
    with warnings.catch_warnings():
        warnings.simplefilter("error", MonitorWarning)
        run(KINDS[kind]("val_loss", tmp_path), logged)


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_comes_late_is_not_missed(tmp_path, kind):
    """A loop may validate each so many epochs; nothing was mistyped."""
    logged = [*[{"loss": 1.0}] * 4, {"loss": 1.0, "val_loss": 1.0}, {"loss": 1.0}]
    with warnings.catch_warnings():
        warnings.simplefilter("error", MonitorWarning)
        run(KINDS[kind]("val_loss", tmp_path), logged)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_that_never_validates_is_told_before_it_ends(tmp_path, kind):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(KINDS[kind]("val_loss", tmp_path), [{"loss": 1.0}] * 9, ends=False)
        assert not [w for w in caught if issubclass(w.category, MonitorWarning)]
        run(KINDS[kind]("val_loss", tmp_path), [{"loss": 1.0}] * 12, ends=False)
        first = [w for w in caught if issubclass(w.category, MonitorWarning)]
        run(KINDS[kind]("val_loss", tmp_path), [{"loss": 1.0}] * 12)

    both = [w for w in caught if issubclass(w.category, MonitorWarning)]
    assert len(first) == 1 and len(both) == 2, "once in a run, at its end not again"
    assert "val_loss" in str(first[0].message)


@pytest.mark.parametrize("kind", KINDS)
def test_what_never_came_is_said_at_the_end_with_what_there_was(tmp_path, kind):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(KINDS[kind]("val_los", tmp_path), [{"loss": 1.0, "time": 3.0}] * 2)
    said = [str(w.message) for w in caught if issubclass(w.category, MonitorWarning)]

    assert said
    assert all("available" in text.lower() and "loss,time" in text for text in said), said


def test_one_typo_is_one_warning_whoever_looks_at_it(tmp_path):
    for logged in ([{"loss": 1.0}] * 3, [{"loss": 1.0}]):
        callbacks = [make("val_los", tmp_path) for make in KINDS.values()]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run(callbacks, logged)
        said = [str(w.message) for w in caught if issubclass(w.category, MonitorWarning)]

        (one,) = said
        words = "conditioned on metric `val_los` which is not available."
        metrics = "Available metrics are: loss,learning_rate."
        others = "The same holds for ReduceLROnPlateau and ModelCheckpoint."
        assert one == f"Early stopping {words} {metrics} {others}"


def test_and_one_error_from_the_epoch_that_tells(tmp_path):
    callbacks = [make("val_los", tmp_path) for make in KINDS.values()]
    with warnings.catch_warnings(record=True) as caught, pytest.raises(MonitorNotFoundError) as one:
        warnings.simplefilter("always")
        run(callbacks, [{"loss": 1.0, "val_loss": 1.0}] * 2)

    assert not [w for w in caught if issubclass(w.category, MonitorWarning)]
    assert one.value.__notes__ == ["The same holds for ReduceLROnPlateau."]


def test_two_typos_are_two(tmp_path):
    callbacks = [
        KINDS["EarlyStopping"]("val_los", tmp_path),
        KINDS["ReduceLROnPlateau"]("val_f1", tmp_path),
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(callbacks, [{"loss": 1.0}] * 2)
    said = [str(w.message) for w in caught if issubclass(w.category, MonitorWarning)]

    assert len(said) == 2 and not any("The same" in line for line in said)
