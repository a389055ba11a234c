"""`peakhold.keras.CallbackList` in a loop of several workers: what Keras's own would lose."""

import pytest

from peakhold import LoopHost
from peakhold.distributed import Mean
from peakhold.testing import FakeHub, run_workers

keras = pytest.importorskip("keras")


def test_a_weighted_mean_arrives_with_its_weight():
    from peakhold import keras as ours

    class Looks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.seen = dict(logs)

    def work(rank):
        stops, looks = ours.EarlyStopping("val_loss", patience=3), Looks()
        run = ours.CallbackList(
            [stops, looks], host=LoopHost(), workers=hub.channel(rank), epochs=1, verbose=0
        )
        run.on_train_begin()
        run.on_epoch_begin(0)
        run.on_epoch_end(0, {"loss": 1, "val_loss": Mean(float(rank), weight=[3, 1][rank])})
        run.on_train_end()
        return stops.best, looks.seen["val_loss"], looks.seen["loss"]

    hub = FakeHub(2)
    assert run_workers(2, work) == [(0.25, 0.25, 1.0)] * 2
