"""A save that was accepted is on disk, or somebody is told, though its run and its callback are gone.

Each loop here raises right after an epoch's save was handed over; then the callbacks are dropped.
"""

import gc
import os
import subprocess
import sys
import textwrap
import warnings
import weakref

import numpy as np
import pytest

from leftovers import check_nothing_is_left
from peakhold import BackupAndRestore, CallbackList, LoopHost, ModelCheckpoint
from peakhold.errors import SaveWarning
from peakhold.files import background
from peakhold.store import Store


@pytest.fixture(autouse=True)
def nothing_is_left_behind(tmp_path):
    yield
    gc.collect()
    check_nothing_is_left(tmp_path)


def raises_after_an_epoch(make, hold, *, epochs=1):
    """Run a loop that raises in the batch after; what can still be seen of its callback."""
    params = {"w": np.zeros(8)}
    host = LoopHost(get_state=lambda: params, set_state=params.update)
    callback = make()
    run = CallbackList(callback, host=host, epochs=9, verbose=0)
    run.on_train_begin()
    for epoch in range(epochs):
        run.on_epoch_begin(epoch)
        hold.close()
        params["w"] = params["w"] + 1
        run.on_epoch_end(epoch, {"loss": 1 / (epoch + 1)})
    gone = weakref.ref(callback)
    params["w"][:] = -1  # what is written is a copy
    raise ZeroDivisionError(gone)


def run_it(make, hold, **how):
    try:
        raises_after_an_epoch(make, hold, **how)
    except ZeroDivisionError as error:
        gone = error.args[0]
    gc.collect()
    assert gone() is None, "nobody holds the callback"


SETTINGS = [
    {},
    {"check_finite": False},
    {"keep_last": 2},
    {"check_finite": False, "keep_last": 2},
    {"check_finite": False, "keep_best": 2, "monitor": "loss"},
    {"save_best_only": True, "monitor": "loss"},
    {"save_best_only": True, "monitor": "loss", "check_finite": False},
    {"on_save_error": "raise"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_file_comes_though_its_callback_is_gone(settings, tmp_path, hold):
    path = str(tmp_path / "w{epoch}.safetensors")
    run_it(lambda: ModelCheckpoint(path, background=True, **settings), hold, epochs=2)
    hold.open()
    background.drain()

    for epoch in (1, 2):
        with open(path.format(epoch=epoch), "rb") as file:
            assert file.read()[-64:] == np.full(8, float(epoch)).tobytes()


@pytest.mark.parametrize("when", ["before it is written", "after it was written"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_save_that_fails_is_told_though_its_callback_is_gone(settings, when, tmp_path, hold):
    path = tmp_path / "w1.safetensors"
    saver = ModelCheckpoint(str(tmp_path / "w{epoch}.safetensors"), background=True, **settings)
    callbacks = [saver]
    del saver
    with pytest.raises(ZeroDivisionError):
        raises_after_an_epoch(lambda: callbacks[0], hold)
    path.mkdir()
    with pytest.warns(SaveWarning) as said:
        if when == "before it is written":
            callbacks.clear()
            gc.collect()
        hold.open()
        background.drain()
        callbacks.clear()
        gc.collect()

    (told,) = [str(one.message) for one in said]
    assert f"ModelCheckpoint could not save epoch 1 to {str(path)!r}" in told
    path.rmdir()


def test_a_state_that_is_not_finite_is_told_though_its_callback_is_gone(tmp_path, hold):
    def make():
        return ModelCheckpoint(str(tmp_path / "w{epoch}.safetensors"), background=True)

    params = {"w": np.zeros(8)}

    def loop():
        host = LoopHost(get_state=lambda: params, set_state=params.update)
        run = CallbackList(make(), host=host, epochs=9, verbose=0)
        run.on_train_begin()
        run.on_epoch_begin(0)
        hold.close()
        params["w"] = np.full(8, np.nan)
        run.on_epoch_end(0, {"loss": 1.0})

    with pytest.warns(SaveWarning, match="does not save epoch 1: w holds NaN or infinity"):
        loop()
        gc.collect()
        hold.open()
        background.drain()
    assert os.listdir(tmp_path) == []


def test_what_was_told_is_not_told_again(tmp_path, hold):
    """Neither what somebody has heard, nor what went well, nor what was taken back."""
    path = tmp_path / "w1.safetensors"
    path.mkdir()
    callbacks = [ModelCheckpoint(str(tmp_path / "w{epoch}.safetensors"), background=True)]
    with pytest.raises(ZeroDivisionError):
        raises_after_an_epoch(lambda: callbacks[0], hold, epochs=2)
    hold.open()
    with pytest.warns(SaveWarning, match="could not save epoch 1"):
        callbacks[0].wait()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        callbacks.clear()
        gc.collect()
    assert said == []
    assert (tmp_path / "w2.safetensors").exists()
    path.rmdir()


def test_a_backup_comes_though_its_callback_is_gone(tmp_path, hold):
    folder = tmp_path / "backup"
    run_it(lambda: BackupAndRestore(folder), hold)
    hold.open()
    background.drain()
    gc.collect()

    with Store(folder) as store:
        assert store.latest.epoch == 1
        (weights,) = store.load("latest")["weights"].values()
        assert np.array_equal(weights, np.ones(8))


def test_a_backup_that_fails_is_told_though_its_callback_is_gone(tmp_path, hold, monkeypatch):
    from peakhold.store import store as stores

    def refuses(*_):
        raise OSError(28, "No space left on device")

    folder = tmp_path / "backup"
    with pytest.warns(SaveWarning, match="No space left on device"):
        run_it(lambda: BackupAndRestore(folder), hold)
        monkeypatch.setattr(stores, "commit", refuses)
        hold.open()
        background.drain()
        gc.collect()


def test_a_checkpoint_comes_though_its_store_is_gone(tmp_path, hold):
    hold.close()
    state = {"w": np.ones(8)}
    Store(tmp_path / "store").save(3, {"model": state}, epoch=0)
    state["w"][:] = -1
    gc.collect()
    hold.open()
    background.drain()
    gc.collect()

    with Store(tmp_path / "store") as store:
        assert np.array_equal(store.load(3)["model"]["w"], np.ones(8))


def test_a_checkpoint_that_fails_is_told_though_its_store_is_gone(tmp_path, hold, monkeypatch):
    from peakhold.store import store as stores

    def refuses(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stores, "commit", refuses)
    hold.close()
    with pytest.warns(SaveWarning, match="step 3 failed: .*No space left on device"):
        Store(tmp_path / "store").save(3, {"model": {"w": np.ones(8)}})
        gc.collect()
        hold.open()
        background.drain()
        gc.collect()


PROGRAM = """
    import os, sys
    import numpy as np
    import threading
    from peakhold import CallbackList, LoopHost, ModelCheckpoint, BackupAndRestore
    from peakhold.files import background

    params = {{"w": np.zeros(8)}}
    host = LoopHost(get_state=lambda: params, set_state=params.update)
    saver = ModelCheckpoint(
        "w{{epoch}}.safetensors", background=True, check_finite=False, keep_last=2
    )
    run = CallbackList([saver, BackupAndRestore("backup")], host=host, epochs=9, verbose=0)
    run.on_train_begin()
    run.on_epoch_begin(0)
    gate = threading.Event()
    background.submit(gate.wait)
    threading.Timer(0.2, gate.set).start()
    params["w"] = params["w"] + 1
    run.on_epoch_end(0, {{"loss": 1.0}})
    {then}
"""


@pytest.mark.parametrize(
    "then",
    ["raise ZeroDivisionError", "sys.exit(3)", "del run, host, saver, params", "pass"],
)
@pytest.mark.parametrize("fails", [False, True])
def test_the_end_of_the_process_waits_for_it_and_tells(fails, then, tmp_path):
    if fails:
        (tmp_path / "w1.safetensors").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM.format(then=then))],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    told = "ModelCheckpoint could not save epoch 1 to 'w1.safetensors'" in done.stderr
    assert (tmp_path / "w1.safetensors").is_file() is not fails
    assert told is fails, done.stderr
    with Store(tmp_path / "backup") as store:
        assert store.latest.epoch == 1
    if fails:
        (tmp_path / "w1.safetensors").rmdir()
