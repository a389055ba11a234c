"""Subclasses of the drop-ins take any name, and `fit` goes as if they had not."""

import os

import numpy as np
import pytest

import keras
from fake_slack import unused_port
from free_names import WAYS, check_any_name_is_free
from peakhold import keras as pk

pytestmark = pytest.mark.torch_is_enough("whose name is whose is said by Python")

MAKERS = {
    "BackupAndRestore": lambda cls, url: cls("backup", delete_checkpoint=False),
    "CSVLogger": lambda cls, url: cls("log.csv"),
    "EarlyStopping": lambda cls, url: cls("loss", patience=1, restore_best_weights=True),
    "LearningRateScheduler": lambda cls, url: cls(lambda epoch, rate: rate / 2),
    "ModelCheckpoint": lambda cls, url: cls("{epoch}.keras", "loss", save_best_only=True),
    "ReduceLROnPlateau": lambda cls, url: cls("loss", patience=1),
    "RemoteMonitor": lambda cls, url: cls(f"http://127.0.0.1:{unused_port()}"),
    "RunRecord": lambda cls, url: cls("record"),
    "SlackAlert": lambda cls, url: cls(url, when="loss > 0", on="stop", monitor="loss"),
    "SwapEMAWeights": lambda cls, url: cls(swap_on_epoch=True),
    "TensorBoard": lambda cls, url: cls("logs"),
    "TerminateOnNaN": lambda cls, url: cls(),
}


def trained(callback):
    """Two epochs: what came of them."""
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones", name="dense")],
        name="model",
    )
    model.compile(keras.optimizers.Adam(0.1, use_ema=True), "mse")
    ones = np.ones((4, 1))
    history = model.fit(
        ones, 3 * ones, batch_size=2, epochs=2, shuffle=False, verbose=0, callbacks=[callback]
    )
    if isinstance(callback, pk.SlackAlert):
        assert callback.flush()
    weights = [array.tolist() for array in model.get_weights()]
    files = sorted(name for _, _, names in os.walk(".") for name in names if "tfevents" not in name)
    return history.history, weights, files, callback.state_dict()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.filterwarnings("ignore::peakhold.errors.PeakholdWarning")
def test_a_subclass_takes_any_name(name, way, tmp_path, monkeypatch):
    cls = getattr(pk, name)
    check_any_name_is_free(cls, MAKERS[name], trained, way, tmp_path, monkeypatch)
