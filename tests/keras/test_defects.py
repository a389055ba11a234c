"""Right where Keras is wrong: each test passes with Peakhold's class and fails with Keras's own.

The ids are rows of the list of defects that "Differences from Keras" in the docs is made of. Every
argument is one that Keras accepts, and what fails there is the behaviour: the assertion, or the
error that Keras dies of.
"""

import csv
import http.server
import json
import math
import os
import pickle
import signal
import sys
import threading

import numpy as np
import pytest

import keras
import peakhold.keras as ours
from conftest import BACKEND
from event_reader import opened, steps
from keras_helpers import Curve, Recorder, data, epoch_of, fit, model, same, saved_weights
from peakhold.files import background

of_no_framework = pytest.mark.torch_is_enough(
    "it is wrong in Keras's Python, which all backends share"
)

stock = keras.callbacks
needs_pool = pytest.mark.skipif(
    BACKEND == "tensorflow", reason="Keras dispatches in threads only where the backend allows it"
)


def defect(row, raises=AssertionError):
    """Run a test with our classes, and with Keras's, where it must fail in the way of `row`."""
    return pytest.mark.parametrize(
        "lib",
        [
            pytest.param(ours, id=f"{row}-peakhold"),
            pytest.param(
                stock,
                id=f"{row}-keras",
                marks=pytest.mark.xfail(strict=True, raises=raises, reason=row),
            ),
        ],
    )


# ModelCheckpoint


@of_no_framework
@defect("K-M1")
def test_an_epoch_without_validation_never_replaces_the_best(lib, tmp_path):
    path, recorder, net = tmp_path / "best.weights.h5", Recorder(), model()
    curve = Curve(only_if_there=True, val_loss=[None, 0.1, None, 0.5, None, 0.6])
    saver = lib.ModelCheckpoint(
        path, monitor="val_loss", mode="min", save_best_only=True, save_weights_only=True
    )
    fit(net, [curve, saver, recorder], 6, validation_freq=2)

    assert epoch_of(saved_weights(path), recorder) == 1


@of_no_framework
@defect("K-M2", raises=TypeError)
def test_the_best_is_saved_by_batches(lib, tmp_path):
    saver = lib.ModelCheckpoint(
        tmp_path / "b.keras", monitor="loss", mode="min", save_best_only=True, save_freq=1
    )
    fit(model(), [saver], 2)

    assert (tmp_path / "b.keras").exists()


@of_no_framework
@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
@defect("K-M3")
def test_a_save_that_breaks_in_the_middle_leaves_the_old_file(lib, suffix, tmp_path):
    """The file system says "no" to the second save; what Keras writes in place is gone by then."""
    path, recorder = tmp_path / f"m{suffix}", Recorder()

    class Breaks(keras.layers.Dense):
        """A layer whose state cannot be written in the second epoch."""

        broken = False

        def save_own_variables(self, store):
            super().save_own_variables(store)
            if Breaks.broken:
                raise OSError(28, "No space left on device")

        @property
        def weights(self):  # what the legacy format reads
            if Breaks.broken and self._in_save():
                raise OSError(28, "No space left on device")
            return super().weights

        @staticmethod
        def _in_save():
            import sys

            frame = sys._getframe()
            while frame is not None and frame.f_code.co_name != "save_weights_to_hdf5_group":
                frame = frame.f_back
            return frame is not None

    net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), Breaks(1)])
    net.compile("sgd", "mse")
    breaker = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: setattr(Breaks, "broken", epoch == 1)
    )
    saver = lib.ModelCheckpoint(path, save_weights_only=suffix == ".weights.h5")
    try:
        with pytest.warns() if lib is ours else _nothing():
            fit(net, [recorder, breaker, saver], 2)
    except OSError:
        pass
    Breaks.broken = False

    fresh = keras.models.clone_model(net)
    try:
        fresh.load_weights(path)
    except Exception as error:
        loaded = error
    else:
        loaded = epoch_of(fresh.get_weights(), recorder)

    assert loaded == 0
    assert len(recorder.weights) == 2, "training went on"


@of_no_framework
@defect("K-M4")
@pytest.mark.parametrize("first", [math.nan, math.inf, -math.inf])
@pytest.mark.filterwarnings("ignore::peakhold.errors.MonitorWarning")
def test_a_first_value_that_is_no_number_does_not_freeze_best(lib, first, tmp_path):
    # Infinity in the other direction loses by itself, in Keras, too: mirror the metric.
    sign = -1.0 if first == math.inf else 1.0
    path, recorder = tmp_path / "m.weights.h5", Recorder()
    saver = lib.ModelCheckpoint(
        path,
        monitor="m",
        mode="max" if first == math.inf else "min",
        save_best_only=True,
        save_weights_only=True,
    )
    fit(model(), [Curve(m=[first, sign * 0.5, sign * 0.4]), saver, recorder], 3)

    assert epoch_of(saved_weights(path), recorder) == 2
    assert saver.best == sign * 0.4


@of_no_framework
@defect("K-M5", raises=KeyError)
def test_a_name_whose_metric_is_missing_does_not_end_training(lib, tmp_path):
    fit(
        model(),
        [lib.ModelCheckpoint(tmp_path / "w{epoch}_{val_loss:.4f}.keras")],
        2,
        validation_freq=2,
    )

    assert len(list(tmp_path.glob("w*.keras"))) == 2


@of_no_framework
@defect("K-M7", raises=TypeError)
def test_only_some_files_are_kept(lib, tmp_path):
    saver = lib.ModelCheckpoint(
        tmp_path / "w{epoch}.keras", "m", mode="min", keep_last=1, keep_best=1
    )
    fit(model(), [Curve(m=[0.5, 0.1, 0.4, 0.3]), saver], 4)

    assert sorted(p.name for p in tmp_path.glob("w*.keras")) == ["w2.keras", "w4.keras"]


@of_no_framework
@defect("K-M8")
def test_the_last_state_is_saved_when_batches_do_not_divide(lib, tmp_path):
    path, net = tmp_path / "last.weights.h5", model()
    fit(net, [lib.ModelCheckpoint(path, save_weights_only=True, save_freq=3)], 2)  # 8 batches

    assert same(saved_weights(path), net.get_weights())


@of_no_framework
@defect("K-M9")
def test_a_weights_file_for_a_whole_model_is_refused_at_once(lib):
    try:
        lib.ModelCheckpoint("x.weights.h5")
        refused = False
    except ValueError:
        refused = True

    assert refused


@of_no_framework
@defect("K-M10")
def test_a_file_tells_which_epoch_it_is_and_how_good(lib, tmp_path):
    saver = lib.ModelCheckpoint(tmp_path / "w{epoch}.keras", monitor="val_loss")
    fit(model(), [Curve(val_loss=[0.5, 0.4]), saver], 2)
    notes = [
        json.loads(line)
        for path in tmp_path.glob("*.json")
        for line in path.read_text().splitlines()
    ]
    told = {
        note["name"]: (note["epoch"], note["metrics"]["val_loss"])
        for note in notes
        if "name" in note
    }

    assert told == {"w1.keras": (0, 0.5), "w2.keras": (1, 0.4)}


@defect("K-M11")
def test_training_goes_on_while_a_file_is_written(lib, tmp_path):
    """The writer begins when the second epoch has trained, which Keras's class makes wait."""
    path, begin, seen = tmp_path / "m.keras", threading.Event(), []

    class Trains(stock.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(path.exists())

        def on_epoch_end(self, epoch, logs=None):
            begin.set() if epoch == 1 else None

    background.submit(lambda: begin.wait(60))
    fit(model(), [Trains(), lib.ModelCheckpoint(path)], 2)

    assert seen and not any(seen)
    assert path.exists()


# EarlyStopping, ReduceLROnPlateau, schedules, NaN


@of_no_framework
@defect("K-E1")
@pytest.mark.filterwarnings("ignore::peakhold.errors.MonitorWarning")
def test_a_first_nan_neither_stops_nor_is_restored(lib):
    recorder, net = Recorder(), model()
    values = [math.nan, 0.5, 0.4, 0.3, 0.2, 0.1]
    stopper = lib.EarlyStopping("val_loss", patience=3, restore_best_weights=True)
    plateau = lib.ReduceLROnPlateau("val_loss", patience=2, factor=0.5)
    fit(net, [Curve(val_loss=values), plateau, stopper, recorder], 6)

    assert len(recorder.weights) == 6
    assert epoch_of(net.get_weights(), recorder) == 5
    assert float(net.optimizer.learning_rate) == pytest.approx(0.01)


@defect("K-E2")
def test_the_optimizer_can_be_restored_with_the_weights(lib):
    net, recorder, iterations = model("adam"), Recorder(), []
    stopper = lib.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    stopper.restore_optimizer = True
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: iterations.append(int(net.optimizer.iterations))
    )
    fit(net, [Curve(val_loss=[0.5, 0.1, 0.2, 0.3]), watch, stopper, recorder], 8)

    assert epoch_of(net.get_weights(), recorder) == 1
    assert int(net.optimizer.iterations) == iterations[1]


@defect("K-E3")
def test_the_average_of_the_best_epoch_is_the_result_with_ema(lib):
    net = model(keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.5))
    averages = {}

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            averages[epoch] = [
                np.array(v) for v in self.model.optimizer._model_variables_moving_average
            ]

    stopper = lib.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    fit(net, [Curve(val_loss=[0.5, 0.1, 0.2, 0.3]), Watch(), stopper], 8)

    assert same([np.array(v) for v in net.trainable_variables], averages[1])


@of_no_framework
@defect("K-E17", raises=TypeError)
def test_several_metrics_can_be_waited_for(lib):
    stopper = lib.EarlyStopping(["a", "b"], mode="max", patience=2)
    history = fit(
        model(),
        [Curve(a=[0.5, 0.8, 0.7, 0.7, 0.7, 0.7], b=[0.1, 0.2, 0.3, 0.2, 0.2, 0.2]), stopper],
        6,
    )

    assert history.epoch[-1] == 4


@defect("K-E4")
def test_ctrl_c_restores_the_best_weights(lib):
    net, recorder, ended = model(), Recorder(), []

    class Hand(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.epoch == 3 and batch == 1:
                os.kill(os.getpid(), signal.SIGINT)

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_end(self, logs=None):
            ended.append(True)

    before = signal.getsignal(signal.SIGINT)
    stopper = lib.EarlyStopping("val_loss", patience=9, restore_best_weights=True)
    interrupted = False
    try:
        fit(net, [Curve(val_loss=[0.5, 0.1, 0.2, 0.0, 0.3]), Hand(), stopper, recorder], 8)
    except KeyboardInterrupt:
        interrupted = True

    assert interrupted
    assert epoch_of(net.get_weights(), recorder) == 1, "the broken epoch 3 never becomes best"
    assert ended == [True]
    assert signal.getsignal(signal.SIGINT) is before


@defect("K-E6", raises=ValueError)
@pytest.mark.parametrize(
    "monitor",
    [
        "val_left_mae",
        *(pytest.param(n, marks=of_no_framework) for n in ("val_right_loss", "left_accuracy")),
    ],
)
def test_the_direction_of_an_output_of_many_is_known(lib, monitor):
    x, y = data()
    inputs = keras.Input((3,))
    outputs = {name: keras.layers.Dense(1, name=name)(inputs) for name in ("left", "right")}
    net = keras.Model(inputs, outputs)
    net.compile(
        "sgd",
        loss={"left": "mse", "right": "mse"},
        metrics={"left": ["mae", "accuracy"], "right": ["mae"]},
    )
    both = {"left": y, "right": y}
    stopper = lib.EarlyStopping(monitor, patience=1)
    net.fit(x, both, validation_data=(x, both), epochs=2, callbacks=[stopper], verbose=0)

    up = monitor.endswith("accuracy")
    assert stopper.monitor_op == (keras.ops.greater if up else keras.ops.less)


@defect("K-E7")
@pytest.mark.parametrize("name", ["EarlyStopping", "ReduceLROnPlateau"])
@pytest.mark.filterwarnings("ignore")
def test_a_metric_that_nobody_logs_is_named_after_the_first_epoch(lib, name):
    recorder, message = Recorder(), ""
    callback = getattr(lib, name)(monitor="val_meen_absolute_error", mode="min", patience=2)
    try:
        fit(
            model(metrics=["mean_absolute_error"]),
            [recorder, callback],
            5,
        )
    except ValueError as error:
        message = str(error)

    assert len(recorder.weights) == 1
    assert "did you mean 'val_mean_absolute_error'?" in message


@defect("K-E7")
@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_whose_metric_nobody_logs_says_so_before_the_second_epoch(lib, tmp_path):
    recorder, message = Recorder(), ""
    saver = lib.ModelCheckpoint(
        tmp_path / "m.keras", monitor="val_acc", mode="max", save_best_only=True
    )
    try:
        fit(model(metrics=["accuracy"]), [saver, recorder], 5)
    except ValueError as error:
        message = str(error)

    assert len(recorder.weights) == 1
    assert "did you mean 'val_accuracy'?" in message
    assert (tmp_path / "m.keras").exists()


@of_no_framework
@defect("K-E9")
def test_a_baseline_that_is_not_reached_within_patience_stops(lib):
    stopper = lib.EarlyStopping("val_loss", patience=3, baseline=0.5)
    history = fit(model(), [Curve(val_loss=[0.9, 0.85, 0.8, 0.75, 0.7, 0.71]), stopper], 8)

    assert len(history.epoch) == 3


@of_no_framework
@defect("K-E10")
def test_min_delta_reads_as_it_was_written(lib):
    stopper = lib.EarlyStopping("val_loss", min_delta=0.1, patience=5)
    fit(model(), [stopper], 2)

    assert stopper.min_delta == 0.1


@of_no_framework
@defect("K-E11")
@pytest.mark.filterwarnings("ignore::peakhold.errors.PeakholdWarning")
def test_a_second_fit_saves_its_own_best_and_loses_nothing(lib, tmp_path):
    path, first, second = tmp_path / "best.keras", Recorder(), Recorder()
    saver = lib.ModelCheckpoint(path, monitor="val_loss", save_best_only=True)
    fit(model(), [Curve(val_loss=[0.2, 0.1]), saver, first], 2)
    fit(model(), [Curve(val_loss=[0.9, 0.8]), saver, second], 2)
    everything = [saved_weights(p) for p in tmp_path.rglob("*.keras")]

    assert epoch_of(saved_weights(path), second) == 1
    assert any(epoch_of(weights, first) == 1 for weights in everything)


@defect("K-E12")
def test_a_learning_rate_schedule_is_refused_before_the_first_epoch(lib):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    recorder, error = Recorder(), None
    try:
        fit(
            model(keras.optimizers.SGD(schedule)),
            [Curve(val_loss=[0.5] * 5), lib.ReduceLROnPlateau(patience=2), recorder],
            5,
        )
    except TypeError as caught:
        error = caught

    assert "LearningRateSchedule" in str(error)
    assert len(recorder.weights) == 0


@of_no_framework
@defect("K-E13")
def test_a_type_error_inside_a_schedule_is_shown(lib):
    def schedule(epoch, lr):
        return lr * None

    message = ""
    try:
        fit(model(), [lib.LearningRateScheduler(schedule)], 1)
    except TypeError as error:
        message = str(error)

    assert "NoneType" in message


@defect("K-E13", raises=ValueError)
def test_a_schedule_may_return_an_int(lib):
    net = model()
    fit(net, [lib.LearningRateScheduler(lambda epoch: 1 if epoch == 0 else 0)], 1)

    assert float(net.optimizer.learning_rate) == 1.0


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::peakhold.errors.PeakholdWarning")
@pytest.mark.parametrize(
    ("best_only", "guarded"),
    [
        pytest.param(True, True, id="best-with-guard"),
        pytest.param(False, False, id="every-alone"),
        pytest.param(True, False, id="best-alone", marks=of_no_framework),
        pytest.param(False, True, id="every-with-guard", marks=of_no_framework),
    ],
)
@defect("K-E14")
def test_weights_that_are_no_numbers_never_replace_a_good_file(lib, best_only, guarded, tmp_path):
    """The last batch of an epoch makes the weights infinite; the loss was computed before."""
    path, recorder = tmp_path / "last.weights.h5", Recorder()
    net = model(keras.optimizers.SGD(1e-6))

    class Explodes(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                self.model.optimizer.learning_rate = 3e38

    x, y = data()
    guard = [lib.TerminateOnNaN()] if guarded else []
    saver = lib.ModelCheckpoint(
        path, monitor="loss", mode="min", save_best_only=best_only, save_weights_only=True
    )
    net.fit(
        x, y * 1000, batch_size=32, epochs=3, verbose=0,
        callbacks=[Explodes(), saver, *guard, recorder],
    )  # fmt: skip
    if (
        not math.isfinite(recorder.logs[2]["loss"])
        or recorder.logs[2]["loss"] >= recorder.logs[1]["loss"]
    ):
        pytest.fail("the scenario: a finite loss, and the best so far")
    if all(np.isfinite(w).all() for w in recorder.weights[2]):
        pytest.fail("the scenario: infinite weights")

    assert epoch_of(saved_weights(path), recorder) == 1


# CSVLogger


def rows(path, separator=","):
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter=separator))


@of_no_framework
@defect("K-C1")
def test_other_metrics_in_an_appended_log_find_their_columns(lib, tmp_path):
    path = tmp_path / "log.csv"
    fit(model(metrics=[]), [lib.CSVLogger(path)], 1)
    fit(model(metrics=["mae"]), [lib.CSVLogger(path, append=True)], 1)
    first, second = rows(path)

    assert None not in second
    assert second["mae"] == repr(float(second["mae"]))
    assert float(second["val_loss"]) != float(second["mae"])
    assert first["mae"] == "NA"


@of_no_framework
@defect("K-C2")
def test_a_metric_that_appears_later_gets_a_column(lib, tmp_path):
    path = tmp_path / "log.csv"

    class Late(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch:
                logs["late"] = 7.0

    fit(model(), [Late(), lib.CSVLogger(path)], 2)

    assert [row.get("late") for row in rows(path)] == ["NA", "7.0"]


@of_no_framework
@defect("K-C4")
@pytest.mark.filterwarnings("ignore::peakhold.errors.SaveWarning")
def test_a_torn_last_line_does_not_swallow_the_next_row(lib, tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b"epoch,loss,mae,val_loss,val_mae\r\n0,0.5,0.5,0.5,0.5\r\n1,0.41")
    fit(model(), [lib.CSVLogger(path, append=True)], 1)
    epochs = [row["epoch"] for row in rows(path)]

    assert epochs == ["0", "0"]
    assert all(None not in row and None not in row.values() for row in rows(path))


@of_no_framework
@defect("K-C5")
def test_no_validation_column_without_validation(lib, tmp_path):
    path = tmp_path / "log.csv"
    fit(model(), [lib.CSVLogger(path)], 1, validation_data=None)

    assert list(rows(path)[0]) == ["epoch", "loss", "mae"]


@of_no_framework
@defect("K-C6")
def test_the_learning_rate_is_logged_wherever_its_callback_stands(lib, tmp_path):
    path = tmp_path / "log.csv"
    plateau = lib.ReduceLROnPlateau("val_loss", patience=1, factor=0.5)
    curve = Curve(val_loss=[0.5, 0.5, 0.5])
    fit(model(), [curve, lib.CSVLogger(path), plateau], 3)

    rates = [float(row.get("learning_rate", "nan")) for row in rows(path)]

    assert rates == pytest.approx([0.01, 0.01, 0.005])


@of_no_framework
@defect("K-C7", raises=FileNotFoundError)
def test_the_folder_of_a_log_is_made(lib, tmp_path):
    fit(model(), [lib.CSVLogger(tmp_path / "new" / "log.csv")], 1)

    assert len(rows(tmp_path / "new" / "log.csv")) == 1


@defect("K-C7", raises=TypeError)
def test_a_tensor_is_logged_as_its_number(lib, tmp_path):
    logger = lib.CSVLogger(tmp_path / "log.csv")
    logger.on_train_begin()
    logger.on_epoch_end(0, {"loss": keras.ops.convert_to_tensor(0.5)})
    logger.on_train_end()

    assert rows(tmp_path / "log.csv") == [{"epoch": "0", "loss": "0.5"}]


@of_no_framework
@defect("K-C7", raises=(TypeError, AttributeError))
def test_a_log_can_be_written_without_train_begin(lib, tmp_path):
    lib.CSVLogger(tmp_path / "log.csv").on_epoch_end(0, {"loss": 0.5})

    assert rows(tmp_path / "log.csv") == [{"epoch": "0", "loss": "0.5"}]


# TensorBoard


@defect("K-T1")
def test_the_steps_of_batches_go_on_in_the_next_fit(lib, tmp_path):
    net = model()
    for first in (0, 1):
        board = lib.TensorBoard(str(tmp_path), update_freq=1)
        fit(net, [board], first + 1, initial_epoch=first)

    assert steps(opened(tmp_path / "train"), "batch_loss") == [1, 2, 3, 4, 5, 6, 7, 8]


@defect("K-T2", raises=ImportError)
def test_a_board_needs_no_tensorflow(lib, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow.summary", None)  # as where it is not installed
    fit(model(), [lib.TensorBoard(str(tmp_path))], 1)

    assert (tmp_path / "train").exists()


@of_no_framework
@defect("K-T3")
def test_a_board_that_writes_epochs_has_no_batch_hook(lib, tmp_path):
    board = lib.TensorBoard(str(tmp_path))
    for phase in ("train", "test", "predict"):
        assert keras.src.utils.python_utils.is_default(getattr(board, f"on_{phase}_batch_end"))


@defect("K-T4", raises=AttributeError)
def test_a_board_takes_an_evaluation_without_logs(lib, tmp_path):
    board = lib.TensorBoard(str(tmp_path))
    board.set_model(model())
    board.on_test_begin()
    board.on_test_end()

    assert board.log_dir == str(tmp_path)


@of_no_framework
@defect("K-D5", raises=TypeError)
def test_a_used_board_can_be_pickled(lib, tmp_path):
    board = lib.TensorBoard(str(tmp_path), update_freq=1)
    fit(model(), [board], 1)

    assert pickle.loads(pickle.dumps(board)).log_dir == str(tmp_path)


# RemoteMonitor, SwapEMAWeights


@of_no_framework
@defect("K-T5")
def test_a_server_that_hangs_does_not_hold_training_up(lib):
    pytest.importorskip("requests")  # Keras's class needs it
    trained, answers = threading.Event(), []

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            answers.append(trained.wait(3))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    class Note(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                trained.set()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monitor = lib.RemoteMonitor(f"http://127.0.0.1:{server.server_port}")
        fit(model(), [monitor, Note()], 2)
        server.shutdown()
        thread.join()

    assert answers == [True, True]


def _averaging():
    return model(keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.5))


def _average(net):
    averages = net.optimizer._model_variables_moving_average
    return [np.array(keras.ops.convert_to_numpy(v)) for v in averages]


@defect("K-E18")
def test_after_predict_the_raw_weights_are_in_the_model(lib):
    net = _averaging()
    for _ in range(3):
        net.train_on_batch(*data())
    raw = net.get_weights()
    net.predict(data()[0], verbose=0, callbacks=[lib.SwapEMAWeights()])

    assert same(net.get_weights(), raw)


@defect("K-E18")
def test_after_an_early_stop_the_average_is_the_result(lib):
    net, averages = _averaging(), []

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

        def on_train_batch_end(self, batch, logs=None):
            averages.append(_average(self.model))

    fit(net, [lib.SwapEMAWeights(swap_on_epoch=True), Stop()], 8)

    assert same(net.get_weights(), averages[-1])


# Dispatch and loops by hand


@defect("K-D1")
def test_a_callback_that_needs_no_batch_has_no_batch_hook(lib, tmp_path):
    callbacks = [
        lib.EarlyStopping("val_loss"),
        lib.ModelCheckpoint(tmp_path / "m.keras"),
        lib.ReduceLROnPlateau(),
        lib.CSVLogger(tmp_path / "log.csv"),
        lib.LearningRateScheduler(lambda epoch: 0.1),
    ]
    hooks = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
    busy = [
        (type(c).__name__, hook)
        for c in callbacks
        for hook in hooks
        if not getattr(getattr(c, hook), "_is_default", False)
    ]

    assert busy == []


@needs_pool
@defect("K-D2")
@pytest.mark.parametrize("wrap", [lambda cb: cb, lambda cb: {"only": cb}], ids=["bare", "dict"])
def test_a_callback_without_a_list_runs_in_the_training_thread(lib, wrap):
    class Watch(lib.Callback):
        seen = None

        def on_train_batch_end(self, batch, logs=None):
            self.seen = (self.seen or []) + [(batch, threading.current_thread())]

    watch = Watch()
    fit(model(), wrap(watch), 1)

    assert watch.seen == [(batch, threading.main_thread()) for batch in range(4)]


@of_no_framework
@needs_pool
@defect("K-D3", raises=AttributeError)
def test_callbacks_may_be_nested(lib):
    first, second, net = Recorder(), Recorder(), model()
    fit(net, lib.CallbackList([[first], second], add_history=True, model=net), 1)

    assert first.weights.keys() == second.weights.keys()


@defect("K-D4")
def test_a_second_loop_is_not_stopped_by_the_flag_of_the_first(lib):
    net, ran = model(), []
    for _ in range(2):
        stopper = lib.EarlyStopping("loss", mode="min", patience=1)
        callbacks = lib.CallbackList([stopper], model=net, epochs=5, verbose=0)
        callbacks.on_train_begin()
        n = 0
        for epoch, loss in enumerate([0.5, 0.6, 0.7, 0.8]):
            if net.stop_training:
                break
            callbacks.on_epoch_begin(epoch)
            callbacks.on_epoch_end(epoch, {"loss": keras.ops.convert_to_tensor(loss)})
            n += 1
        callbacks.on_train_end()
        ran.append(n)

    assert ran == [2, 2]


@of_no_framework
@defect("K-D4", raises=AttributeError)
def test_early_stopping_works_without_a_model(lib):
    stopper = lib.EarlyStopping("loss", mode="min", patience=1)
    stopper.on_train_begin()
    for epoch, loss in enumerate([0.5, 0.6]):
        stopper.on_epoch_end(epoch, {"loss": loss})

    assert stopper.stopped_epoch == 1


@of_no_framework
@defect("K-D5")
def test_a_pickled_callback_leaves_its_model_at_home(lib):
    stopper = lib.EarlyStopping("val_loss", patience=2)
    fit(model(units=512), [stopper], 1)

    assert len(pickle.dumps(stopper)) < 2000


@of_no_framework
@defect("K-D5", raises=TypeError)
def test_a_used_logger_can_be_pickled(lib, tmp_path):
    logger = lib.CSVLogger(tmp_path / "log.csv")
    fit(model(), [logger], 1)
    again = pickle.loads(pickle.dumps(logger))

    assert again.filename == logger.filename


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False
