"""P25: subclasses that people have written against Keras's own hooks, with one import line swapped."""

import os
import shutil

import numpy as np
import pytest

import event_reader
import keras
from keras_helpers import Curve, Recorder, epoch_of, saved_weights
from peakhold import keras as ours

of_no_framework = pytest.mark.torch_is_enough("which hook of a subclass is called is Python's")

BOTH = pytest.mark.parametrize("of", [keras.callbacks, ours], ids=["keras", "peakhold"])


def files(folder, suffix=".keras"):
    return sorted(name for name in os.listdir(folder) if name.endswith(suffix))


def train(classifier, xy, callbacks, **arguments):
    arguments = {"epochs": 4, "validation_split": 0.25, "verbose": 0, **arguments}
    model = classifier()
    return model, model.fit(*xy, callbacks=callbacks, **arguments)


@of_no_framework
@BOTH
def test_p25_a_checkpoint_that_uploads_what_it_has_saved(of, xy, classifier, tmp_path):
    """As in training jobs on rented machines: each file goes to a bucket as soon as it is there."""

    class UploadingCheckpoint(of.ModelCheckpoint):
        def __init__(self, filepath, bucket, **kwargs):
            super().__init__(filepath, **kwargs)
            self.bucket = bucket
            self.uploaded = {}

        def _save_model(self, epoch, batch, logs):
            super()._save_model(epoch, batch, logs)
            filepath = self._get_file_path(epoch, batch, logs)
            if os.path.exists(filepath) and os.path.getmtime(filepath) != self.uploaded.get(
                filepath
            ):
                shutil.copy(filepath, os.path.join(self.bucket, f"{epoch}-model.keras"))
                self.uploaded[filepath] = os.path.getmtime(filepath)

    bucket, recorder = tmp_path / "bucket", Recorder()
    bucket.mkdir()
    saver = UploadingCheckpoint(
        str(tmp_path / "m.keras"), bucket, monitor="val_loss", save_best_only=True
    )
    curve = Curve(val_loss=[0.5, 0.4, 0.6, 0.3])
    train(classifier, xy, [curve, recorder, saver])

    assert files(bucket) == ["0-model.keras", "1-model.keras", "3-model.keras"]
    held = [epoch_of(saved_weights(bucket / name), recorder) for name in files(bucket)]
    assert held == [0, 1, 3]
    assert saver.best == 0.3


@of_no_framework
@BOTH
def test_p25_a_checkpoint_that_names_its_files_itself(of, xy, classifier, tmp_path):
    class NamedCheckpoint(of.ModelCheckpoint):
        def _get_file_path(self, epoch, batch, logs):
            file_path = super()._get_file_path(epoch, batch, logs)
            head, tail = os.path.splitext(file_path)
            return f"{head}_trial7_{100 * logs['val_accuracy']:.0f}{tail}"

    recorder, curve = Recorder(), Curve(val_accuracy=[0.5, 0.75, 0.7, 0.9])
    saver = NamedCheckpoint(
        str(tmp_path / "model_{epoch:02d}.keras"), monitor="val_accuracy", save_best_only=True
    )
    train(classifier, xy, [curve, recorder, saver])
    found = files(tmp_path)

    assert found == [
        "model_01_trial7_50.keras", "model_02_trial7_75.keras", "model_04_trial7_90.keras"
    ]  # fmt: skip
    assert [epoch_of(saved_weights(tmp_path / name), recorder) for name in found] == [0, 1, 3]


@of_no_framework
@BOTH
def test_p25_a_stop_on_the_mean_of_two_metrics(of, xy, classifier):
    class MeanStopping(of.EarlyStopping):
        def get_monitor_value(self, logs):
            logs = logs or {}
            return 0.5 * (logs["val_loss"] + logs["val_mae"])

    stopper = MeanStopping(
        monitor="val_loss", mode="min", patience=2, restore_best_weights=True, verbose=0
    )
    recorder = Recorder()
    curve = Curve(val_loss=[0.5, 0.4, 0.3, 0.2, 0.1], val_mae=[0.5, 0.4, 0.9, 0.9, 0.9])
    model, history = train(classifier, xy, [curve, recorder, stopper], epochs=9)

    assert history.epoch == [0, 1, 2, 3]
    assert (stopper.best, stopper.stopped_epoch) == (0.4, 3)
    assert epoch_of(model.get_weights(), recorder) == 1


@of_no_framework
@BOTH
def test_p25_a_checkpoint_that_saves_every_so_many_seconds_by_its_own_clock(
    of, xy, classifier, tmp_path
):
    class TimedCheckpoint(of.ModelCheckpoint):
        def __init__(self, filepath, every_seconds, clock, **kwargs):
            super().__init__(filepath, save_freq=10**9, **kwargs)
            self.every_seconds, self.clock = every_seconds, clock
            self.last_save = clock()

        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            if self.clock() - self.last_save >= self.every_seconds:
                self._save_model(epoch=self._current_epoch, batch=batch, logs=logs)
                self.last_save = self.clock()

    class Clock(keras.callbacks.Callback):
        """Ten seconds a batch."""

        now = 0

        def on_train_batch_begin(self, batch, logs=None):
            self.now += 10

    clock = Clock()
    saver = TimedCheckpoint(str(tmp_path / "{epoch}-{batch}.keras"), 40, lambda: clock.now)
    train(classifier, xy, [clock, saver], epochs=3, batch_size=24)  # three batches an epoch

    # Beside those, ours saves the last state at the end, where nothing else holds it.
    asked = ["2-1.keras", "3-2.keras"]
    assert files(tmp_path) == (asked if of is keras.callbacks else [*asked, "3-3.keras"])


class Pictures:
    """What such programs add: a scalar of their own in each epoch, and a picture."""

    def on_epoch_end(self, epoch, logs=None):
        import tensorflow as tf

        super().on_epoch_end(epoch, logs)
        with self._train_writer.as_default():
            tf.summary.scalar("gap", logs["val_loss"] - logs["loss"], step=epoch)
        with self._val_writer.as_default():
            picture = np.full((1, 4, 4, 1), epoch / 4, "float32")
            tf.summary.image("picture", picture, step=epoch)


@BOTH
def test_p25_a_board_that_writes_scalars_and_pictures_of_its_own(of, xy, classifier, tmp_path):
    pytest.importorskip("tensorflow")

    class Board(Pictures, of.TensorBoard):
        pass

    curve = Curve(loss=[0.5, 0.4, 0.3], val_loss=[0.75, 0.5, 0.5])
    board = Board(str(tmp_path))
    train(classifier, xy, [curve, board], epochs=3)
    readers = event_reader.multiplexed(str(tmp_path))
    training, validation = (readers.GetAccumulator(kind) for kind in ("train", "validation"))

    def line(reader, tag):
        steps, values = zip(*event_reader.series(reader, tag), strict=True)
        assert steps == (0, 1, 2)
        return values

    assert line(training, "gap") == pytest.approx([0.25, 0.1, 0.2])
    assert line(training, "epoch_loss") == pytest.approx([0.5, 0.4, 0.3])
    assert line(validation, "epoch_loss") == pytest.approx([0.75, 0.5, 0.5])
    assert event_reader.steps(validation, "picture") == [0, 1, 2]


def test_p25_that_boards_files_grow_one_at_a_time_and_are_closed(xy, classifier, tmp_path):
    """What is added to an older file, once there is a newer one, is lost to who watches."""
    pytest.importorskip("tensorflow")

    class Board(Pictures, ours.TensorBoard):
        pass

    class Sizes(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            sizes.append({name: os.path.getsize(tmp_path / "train" / name) for name in
                          os.listdir(tmp_path / "train")})  # fmt: skip

    sizes, board = [], Board(str(tmp_path))
    model, _ = train(classifier, xy, [board, Sizes()], epochs=3)
    oldest = min(sizes[0])

    assert len({each[oldest] for each in sizes}) == 1, "ours, until the first scalar of theirs"
    assert all(set(each) == set(sizes[0]) for each in sizes)
    assert board._writers == {}
    model.fit(*xy, validation_split=0.25, epochs=2, verbose=0, callbacks=[board])
    readers = event_reader.multiplexed(str(tmp_path))
    assert event_reader.steps(readers.GetAccumulator("train"), "gap")[-2:] == [0, 1]
