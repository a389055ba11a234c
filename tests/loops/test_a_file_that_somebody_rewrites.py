"""A file of this run's that somebody rewrites is replaced like our own, and that is said once."""

import os
import pathlib

import numpy as np

from peakhold import Callback, CallbackList, LoopHost, ModelCheckpoint


class Rewrites(Callback):
    """A user's: writes the model's file anew, as to add what a server needs."""

    def __init__(self, path):
        super().__init__()
        self.path = pathlib.Path(path)

    def on_epoch_end(self, epoch, logs=None):
        if self.path.exists():
            self.path.write_bytes(self.path.read_bytes() + b" ")


def test_it_is_said_once_and_nothing_is_set_aside(tmp_path, capsys):
    params, path = {"w": np.zeros(3)}, tmp_path / "best.safetensors"
    saver = ModelCheckpoint(path, "loss", save_best_only=True)
    callbacks = CallbackList(
        [saver, Rewrites(path)], host=LoopHost(get_state=lambda: params, set_state=params.update)
    )
    callbacks.on_train_begin()
    for epoch, loss in enumerate((0.5, 0.4, 0.3, 0.2, 0.1)):
        callbacks.on_epoch_begin(epoch)
        params["w"] = params["w"] + 1
        callbacks.on_epoch_end(epoch, {"loss": loss})
        saver.wait()
    callbacks.on_train_end()
    said = capsys.readouterr().out
    assert said.count(f"{path} was changed by another program since this run saved it") == 1
    assert sorted(os.listdir(tmp_path)) == ["best.safetensors", "best.safetensors.peakhold.json"]
