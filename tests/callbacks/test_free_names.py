"""Subclasses of the callbacks for loops take any name, and train as if they had not."""

import os

import numpy as np
import pytest

import peakhold
from fake_slack import unused_port
from free_names import WAYS, check_any_name_is_free

MAKERS = {
    "BackupAndRestore": lambda cls, url: cls("backup", delete_checkpoint=False),
    "CSVLogger": lambda cls, url: cls("log.csv"),
    "EarlyStopping": lambda cls, url: cls("loss", patience=1, restore_best_weights=True),
    "LearningRateScheduler": lambda cls, url: cls(lambda epoch, rate: rate / 2),
    "ModelCheckpoint": lambda cls, url: cls("{epoch}.safetensors", "loss", save_best_only=True),
    "ReduceLROnPlateau": lambda cls, url: cls("loss", patience=1),
    "RemoteMonitor": lambda cls, url: cls(f"http://127.0.0.1:{unused_port()}"),
    "RunRecord": lambda cls, url: cls("record"),
    "SlackAlert": lambda cls, url: cls(url, when="loss > 0", on="stop", monitor="loss"),
    "TensorBoard": lambda cls, url: cls("logs"),
    "TerminateOnNaN": lambda cls, url: cls(),
}


def trained(callback):
    """Two epochs, the second no better: what came of it."""
    weights, rates = {"w": np.zeros(2)}, [0.1]
    host = peakhold.LoopHost(
        get_state=lambda: weights,
        set_state=weights.update,
        get_learning_rate=lambda: rates[-1],
        set_learning_rate=rates.append,
    )
    run = peakhold.CallbackList([callback], host=host, verbose=0, epochs=2)
    run.on_train_begin()
    for epoch in range(run.initial_epoch, 2):
        run.on_epoch_begin(epoch)
        weights["w"] = weights["w"] + 1
        for batch in range(2):
            run.on_train_batch_begin(batch)
            run.on_train_batch_end(batch, {"loss": 0.5})
        run.on_epoch_end(epoch, {"loss": 0.5})
    stops = run.stop_training
    run.on_train_end()
    if isinstance(callback, peakhold.SlackAlert):
        assert callback.flush()
    files = sorted(name for _, _, names in os.walk(".") for name in names if "tfevents" not in name)
    return stops, weights["w"].tolist(), rates, files, callback.state_dict()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.filterwarnings("ignore::peakhold.errors.PeakholdWarning")
def test_a_subclass_takes_any_name(name, way, tmp_path, monkeypatch):
    cls = getattr(peakhold, name)
    check_any_name_is_free(cls, MAKERS[name], trained, way, tmp_path, monkeypatch)
