"""A copy of a callback that has trained: what happens to it does not happen to the original."""

import copy
import dataclasses
from types import FunctionType

import numpy as np
import pytest

import peakhold
from peakhold import CallbackList, LoopHost

FOREVER = (bool, int, float, complex, str, bytes, type, FunctionType, type(None))
MAKE = {
    "BackupAndRestore": lambda folder: {"backup_dir": folder / "backup"},
    "CSVLogger": lambda folder: {"filename": folder / "log.csv"},
    "EarlyStopping": lambda folder: {"monitor": "loss", "patience": 3, "restore_best_weights": True},
    "ModelCheckpoint": lambda folder: {
        "filepath": folder / "{epoch}.safetensors", "monitor": "loss", "keep_best": 1,
    },
    "TensorBoard": lambda folder: {"log_dir": folder / "logs"},
    "TerminateOnNaN": lambda folder: {},
}  # fmt: skip


def changes(value):
    if isinstance(value, (tuple, frozenset)):
        return any(map(changes, value))
    if dataclasses.is_dataclass(value):
        return not type(value).__dataclass_params__.frozen
    return not isinstance(value, FOREVER)


def participant(callback):
    return callback._peakhold_link.participant


def trained(callback):
    params = {"w": np.zeros(3)}
    host = LoopHost(get_state=lambda: params, set_state=params.update)
    run = CallbackList([callback], host=host, verbose=0)
    run.on_train_begin()
    for epoch in range(3):
        run.on_epoch_begin(epoch)
        run.on_epoch_end(epoch, {"loss": 1.0 / (epoch + 1)})
    return run


@pytest.mark.parametrize("at_the_end", [False, True])
@pytest.mark.parametrize("name", MAKE)
def test_a_copy_shares_nothing_that_changes(name, at_the_end, tmp_path):
    callback = getattr(peakhold, name)(**MAKE[name](tmp_path))
    run = trained(callback)
    if at_the_end:
        run.on_train_end()
    twin = vars(participant(copy.copy(callback)))
    shared = {
        key
        for key, value in vars(participant(callback)).items()
        if twin.get(key) is value and changes(value)
    }

    # The best weights: nobody writes to them, and who copies it holds them, too.
    assert shared - {"_best"} == set()
    if not at_the_end:
        run.on_train_end()


def test_a_copy_has_no_saves_of_the_original_to_tell_of(tmp_path):
    checkpoint = peakhold.ModelCheckpoint(tmp_path / "{epoch}.safetensors", background=True)
    run = trained(checkpoint)
    assert not participant(checkpoint)._writer.queue.is_empty
    twin = participant(copy.copy(checkpoint))

    assert twin._writer.queue.is_empty
    run.on_train_end()
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
