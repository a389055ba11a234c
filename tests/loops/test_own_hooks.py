"""Subclasses with Keras's hooks, in loops without Keras: the same rules."""

import os

import numpy as np
import pytest

import peakhold
from peakhold import CallbackList, LoopHost

pytestmark = pytest.mark.filterwarnings("error::peakhold.errors.PeakholdWarning")


def looped(*callbacks, losses=(0.5, 0.4, 0.6, 0.3), name="loss"):
    """One epoch for each loss, as far as nobody stops; the state holds the epoch's number."""
    params, rates = {"w": np.zeros(2)}, [0.1]
    host = LoopHost(
        get_state=lambda: params,
        set_state=params.update,
        get_learning_rate=lambda: rates[-1],
        set_learning_rate=rates.append,
    )
    run = CallbackList(list(callbacks), host=host, verbose=0, epochs=len(losses))
    run.on_train_begin()
    for epoch, loss in enumerate(losses):
        run.on_epoch_begin(epoch)
        params["w"] = np.full(2, float(epoch))
        run.on_epoch_end(epoch, {name: loss})
        if run.stop_training:
            break
    run.on_train_end()
    return params["w"][0], rates


def test_a_checkpoint_uploads_what_super_has_saved(tmp_path):
    uploaded = []

    class Uploading(peakhold.ModelCheckpoint):
        def _save_model(self, epoch, batch, logs):
            super()._save_model(epoch, batch, logs)
            path = self._get_file_path(epoch, batch, logs)
            uploaded.append((epoch, batch, os.path.exists(path), self.best))

    looped(Uploading(tmp_path / "m.safetensors", "loss", save_best_only=True))

    assert uploaded == [(0, None, True, 0.5), (1, None, True, 0.4), (2, None, True, 0.4),
                        (3, None, True, 0.3)]  # fmt: skip


def test_a_checkpoint_names_its_files_and_says_what_is_worth_one(tmp_path):
    class Named(peakhold.ModelCheckpoint):
        def _get_file_path(self, epoch, batch, logs):
            return str(tmp_path / f"loss-{logs['loss']}.safetensors")

        def _should_save_model(self, epoch, batch, logs, filepath):
            return logs["loss"] < 0.45 and filepath.endswith("safetensors")

    saver = Named(tmp_path / "m.safetensors", "loss", save_best_only=True)
    looped(saver)
    found = sorted(name for name in os.listdir(tmp_path) if name.endswith("safetensors"))

    assert found == ["loss-0.3.safetensors", "loss-0.4.safetensors"]
    assert saver.best == 0.3


def test_a_save_of_the_loops_own_is_there_when_it_returns(tmp_path):
    class Timed(peakhold.ModelCheckpoint):
        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch, logs)
            if epoch == 2:
                self._save_model(epoch=self._current_epoch, batch=None, logs=logs)
                there.append(os.path.exists(tmp_path / "3.safetensors"))

    there = []
    looped(Timed(tmp_path / "{epoch}.safetensors", "loss", save_freq=10**9))

    assert there == [True]


def test_the_three_compare_as_a_subclass_says(tmp_path):
    def halves(self, monitor_value, reference_value):
        return reference_value is None or monitor_value < reference_value / 2

    def own(cls):
        return type(cls.__name__, (cls,), {"_is_improvement": halves, "__module__": "users"})

    stopper = own(peakhold.EarlyStopping)("loss", patience=3)
    plateau = own(peakhold.ReduceLROnPlateau)("loss", patience=2)
    saver = own(peakhold.ModelCheckpoint)(
        tmp_path / "{epoch}.safetensors", "loss", save_best_only=True
    )
    _, rates = looped(stopper, plateau, saver, losses=(0.9, 0.8, 0.4, 0.3, 0.25, 0.21, 0.1))

    assert (stopper.best, plateau.best, saver.best) == (0.4, 0.4, 0.4)
    assert stopper.stopped_epoch == 5
    assert rates == pytest.approx([0.1, 0.01])
    assert sorted(name for name in os.listdir(tmp_path) if name.endswith("tensors")) == [
        "1.safetensors", "3.safetensors"
    ]  # fmt: skip


def test_a_derived_metric_and_a_comparison_of_ones_own():
    class Derived(peakhold.EarlyStopping):
        def get_monitor_value(self, logs):
            return logs["loss"] * 2

        def _set_monitor_op(self):
            self.monitor_op = np.greater

    stopper = Derived("nobody logs it", patience=2, restore_best_weights=True)
    epoch, _ = looped(stopper)

    assert (stopper.best, epoch) == (1.2, 2)


def test_a_comparison_of_ones_own_counts_as_it_does_in_fit(tmp_path):
    def halves(value, best):
        return value < best / 2

    stopper = peakhold.EarlyStopping("oddity", patience=3)
    plateau = peakhold.ReduceLROnPlateau("oddity", patience=2)
    saver = peakhold.ModelCheckpoint(
        tmp_path / "{epoch}.safetensors", "oddity", save_best_only=True, background=True
    )
    for one in (stopper, plateau, saver):
        one.monitor_op = halves
    losses = (0.9, 0.8, 0.4, 0.3, 0.25, 0.21, 0.1)
    _, rates = looped(stopper, plateau, saver, losses=losses, name="oddity")

    assert (stopper.best, plateau.best, saver.best) == (0.4, 0.4, 0.4)
    assert stopper.stopped_epoch == 5
    assert rates == pytest.approx([0.1, 0.01])
    assert os.path.exists(tmp_path / "3.safetensors")
    assert not saver._peakhold_saving._writer.placement.in_background


def test_without_a_list_hooks_by_hand_ask_as_well():
    class Own(peakhold.EarlyStopping):
        def _is_improvement(self, monitor_value, reference_value):
            return True

    stopper = Own("loss", patience=1)
    for epoch in range(3):
        stopper.on_epoch_end(epoch, {"loss": float(epoch)})

    assert (stopper.best, stopper.best_epoch, stopper.wait) == (2.0, 2, 0)
