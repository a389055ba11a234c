"""Subclasses that override or call Keras's own hooks: honoured where Keras calls them, and as it does."""

import copy
import os
import pickle
import threading

import numpy as np
import pytest

import keras
import peakhold
from keras_helpers import Curve, Recorder, epoch_of, fit, model, saved_weights
from peakhold import keras as pk
from peakhold._core.policies.checkpoint import ASKED
from peakhold.errors import (
    AdviceWarning,
    ExtraMissingError,
    HostError,
    InvalidArgumentError,
    MonitorNotFoundError,
    MonitorWarning,
)
from peakhold.keras import tf_summary
from peakhold.runtime import listening

pytestmark = [
    pytest.mark.filterwarnings("error::peakhold.errors.PeakholdWarning"),
    pytest.mark.torch_is_enough("which method is called, and with what, is Python's"),
]

BOTH = pytest.mark.parametrize("of", [keras.callbacks, pk], ids=["keras", "peakhold"])
LOSSES = [0.5, 0.4, 0.6, 0.3]


def trained(callback, *others, epochs=4, **arguments):
    """A fit whose losses are known."""
    curve, recorder = Curve(val_loss=LOSSES), Recorder()
    history = fit(model(), [curve, recorder, callback, *others], epochs, **arguments)
    return history, recorder


# _save_model


@BOTH
@pytest.mark.parametrize("best_only", [False, True])
def test_save_model_is_called_when_a_save_is_due_and_the_file_is_there_after_super(
    of, best_only, tmp_path
):
    seen = []

    class Uploading(of.ModelCheckpoint):
        def _save_model(self, epoch, batch, logs):
            super()._save_model(epoch=epoch, batch=batch, logs=logs)
            path = self._get_file_path(epoch, batch, logs)
            held = epoch_of(saved_weights(path), recorder)
            thread = threading.current_thread() is threading.main_thread()
            seen.append((epoch, batch, logs["val_loss"], held, thread, best_only and self.best))

    recorder = Recorder()
    saver = Uploading(tmp_path / "m.keras", save_best_only=best_only)
    fit(model(), [Curve(val_loss=LOSSES), recorder, saver], 4)

    best, held = (0.5, 0.4, 0.4, 0.3), (0, 1, 1, 3)
    assert seen == [
        (i, None, LOSSES[i], held[i] if best_only else i, True, best_only and best[i])
        for i in range(4)
    ]


@BOTH
def test_batches_that_save_are_the_same_ones(of, tmp_path):
    seen = []

    class Counting(of.ModelCheckpoint):
        def _save_model(self, epoch, batch, logs):
            seen.append((epoch, batch))
            super()._save_model(epoch, batch, logs)

    fit(model(), [Counting(tmp_path / "{epoch}-{batch}.weights.h5", save_weights_only=True,
                           save_freq=3)], 3)  # fmt: skip

    # Four batches an epoch: twelve in all, so that nothing is left for the end.
    assert seen == [(0, 2), (1, 1), (2, 0), (2, 3)]
    files = {name for name in os.listdir(tmp_path) if name.endswith(".h5")}
    assert files == {"1-3.weights.h5", "2-2.weights.h5", "3-1.weights.h5", "3-4.weights.h5"}


def test_one_that_does_not_go_on_to_super_saves_nothing_of_ours(tmp_path):
    class Own(pk.ModelCheckpoint):
        def _save_model(self, epoch, batch, logs):
            self.model.save_weights(tmp_path / f"own-{epoch}.weights.h5")

    saver = Own(tmp_path / "m.keras")
    trained(saver, epochs=2)

    assert sorted(os.listdir(tmp_path)) == ["own-0.weights.h5", "own-1.weights.h5"]
    assert saver.latest_path is None


def test_an_error_of_the_users_own_code_is_raised(tmp_path):
    class Broken(pk.ModelCheckpoint):
        def _save_model(self, epoch, batch, logs):
            super()._save_model(epoch, batch, logs)
            raise ConnectionError("no bucket")

    saver = Broken(tmp_path / "m.keras")
    with pytest.raises(ConnectionError, match="no bucket"):
        trained(saver)
    assert os.path.exists(saver.latest_path)


@BOTH
def test_a_users_code_calls_it_whenever_it_wants(of, tmp_path):
    """As public programs do, that save every so often by their own clock."""
    seen = []

    class Own(of.ModelCheckpoint):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            if batch == 2:
                self._save_model(epoch=self._current_epoch, batch=None, logs=logs)
                seen.append(sorted(os.listdir(tmp_path / "files")))

    saver = Own(tmp_path / "files" / "{epoch}.keras", save_freq=10**9)
    (tmp_path / "files").mkdir()
    _, recorder = trained(saver, epochs=2)
    seen = [[name for name in names if "peakhold" not in name] for names in seen]

    assert seen == [["1.keras"], ["1.keras", "2.keras"]]
    assert epoch_of(saved_weights(tmp_path / "files" / "1.keras"), recorder) is None  # in mid-epoch


@pytest.mark.parametrize("background", [None, True])
def test_it_may_be_called_on_the_class_as_it_is_and_the_file_is_there(background, tmp_path):
    saver = pk.ModelCheckpoint(tmp_path / "{epoch}.keras", save_freq=10**9, background=background)
    there = []

    class Asking(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            saver._save_model(epoch=epoch, batch=None, logs=logs)
            there.append(os.path.exists(tmp_path / f"{epoch + 1}.keras"))

    trained(saver, Asking(), epochs=2)

    assert there == [True, True]


def test_before_a_run_it_says_what_to_do(tmp_path):
    saver = pk.ModelCheckpoint(tmp_path / "m.keras")

    with pytest.raises(HostError, match=r"_save_model.*\nHint: call it while training runs"):
        saver._save_model(epoch=0, batch=None, logs={})
    with pytest.raises(AttributeError):
        _ = saver._current_epoch


def test_what_disk_refuses_is_a_warning_and_training_goes_on(tmp_path, monkeypatch):
    class Uploading(pk.ModelCheckpoint):
        def _save_model(self, epoch, batch, logs):
            super()._save_model(epoch, batch, logs)

    saver = Uploading(tmp_path / "{epoch}" / "m.keras")

    class Blocking(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                (tmp_path / "2").write_text("a file where a folder should be")

    with pytest.warns(peakhold.errors.SaveWarning, match="could not|not save|m.keras"):
        trained(saver, Blocking(), epochs=3)
    assert os.path.exists(tmp_path / "3" / "m.keras") and saver.latest_path.endswith("3/m.keras")


# _get_file_path


@BOTH
def test_the_path_that_a_subclass_gives_is_the_file_s(of, tmp_path):
    class Renaming(of.ModelCheckpoint):
        def _get_file_path(self, epoch, batch, logs):
            path = super()._get_file_path(epoch, batch, logs)
            return path.replace(".keras", f"_loss{logs['val_loss']:.1f}.keras")

    _, recorder = trained(Renaming(str(tmp_path / "e{epoch}.keras"), save_best_only=True))
    found = {name for name in os.listdir(tmp_path) if name.endswith(".keras")}

    assert found == {"e1_loss0.5.keras", "e2_loss0.4.keras", "e4_loss0.3.keras"}
    assert epoch_of(saved_weights(tmp_path / "e4_loss0.3.keras"), recorder) == 3


def test_best_path_is_that_path_and_its_folder_is_made(tmp_path):
    class Elsewhere(pk.ModelCheckpoint):
        def _get_file_path(self, epoch, batch, logs):
            return tmp_path / f"epoch-{epoch}" / "m.keras"  # a path is as good as a string

    saver = Elsewhere(tmp_path / "m.keras", save_best_only=True)
    trained(saver)

    assert saver.best_path == saver.latest_path == str(tmp_path / "epoch-3" / "m.keras")
    assert os.path.exists(saver.best_path)


@pytest.mark.parametrize("path", ["m.h5", "m", None, 3, b"m.keras"])
def test_a_path_of_another_kind_is_an_error_that_says_so(path, tmp_path):
    class Wrong(pk.ModelCheckpoint):
        def _get_file_path(self, epoch, batch, logs):
            return path

    with pytest.raises(InvalidArgumentError, match=r"ends in \.keras.*\nHint: Wrong\._get_file"):
        trained(Wrong(tmp_path / "m.keras"), epochs=1)


def test_keep_last_counts_files_whose_names_match_and_deletes_no_other(tmp_path):
    class Renaming(pk.ModelCheckpoint):
        def _get_file_path(self, epoch, batch, logs):
            path = super()._get_file_path(epoch, batch, logs)
            return path if epoch % 2 else str(tmp_path / f"mine-{epoch}.keras")

    trained(Renaming(tmp_path / "e{epoch}.keras", keep_last=1))
    found = {name for name in os.listdir(tmp_path) if name.endswith(".keras")}

    assert found == {"mine-0.keras", "mine-2.keras", "e4.keras"}


# _should_save_model


@BOTH
def test_whether_a_file_is_worth_it_may_be_said_by_a_subclass(of, tmp_path):
    asked = []

    class Late(of.ModelCheckpoint):
        def _should_save_model(self, epoch, batch, logs, filepath):
            asked.append((epoch, batch, os.path.basename(filepath)))
            better = super()._should_save_model(epoch, batch, logs, filepath)
            return better and epoch >= 1

    trained(Late(tmp_path / "{epoch}.keras", save_best_only=True))
    found = {name for name in os.listdir(tmp_path) if name.endswith(".keras")}

    assert asked == [(i, None, f"{i + 1}.keras") for i in range(4)]
    assert found == {"2.keras", "4.keras"}


@BOTH
def test_or_by_it_alone_whatever_is_monitored(of, tmp_path):
    class Own(of.ModelCheckpoint):
        def _should_save_model(self, epoch, batch, logs, filepath):
            return logs["loss"] + epoch > 1

    saver = Own(tmp_path / "{epoch}.keras", monitor="val_loss", save_best_only=True)
    fit(model(), [Curve(loss=[0.5, 0.4, 0.6, 0.3]), saver], 4, validation_data=None)
    found = {name for name in os.listdir(tmp_path) if name.endswith(".keras")}

    assert found == {"2.keras", "3.keras", "4.keras"}


def test_a_metric_that_is_missing_is_still_heard_of_where_super_is_asked(tmp_path):
    class Asking(pk.ModelCheckpoint):
        def _should_save_model(self, epoch, batch, logs, filepath):
            return super()._should_save_model(epoch, batch, logs, filepath)

    saver = Asking(tmp_path / "m.keras", monitor="val_los", mode="min", save_best_only=True)
    with pytest.raises(MonitorNotFoundError, match="val_los"):
        trained(saver)


def test_a_question_changes_nothing(tmp_path, capsys):
    saver = pk.ModelCheckpoint(tmp_path / "m.keras", save_best_only=True, verbose=1)
    answers = []

    class Asking(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            before = saver.state_dict()
            answers.append(saver._should_save_model(epoch, None, {"val_loss": 0.45}, "m.keras"))
            assert saver.state_dict() == before

    fit(model(), [Curve(val_loss=LOSSES), saver, Asking()], 4)

    assert answers == [True, False, False, False]


# _is_improvement


@BOTH
@pytest.mark.parametrize("name", ["EarlyStopping", "ModelCheckpoint", "ReduceLROnPlateau"])
def test_a_subclass_compares_and_is_asked_what_keras_asks(of, name, tmp_path):
    asked = []
    arguments = {
        "EarlyStopping": {"patience": 3, "baseline": 0.45},
        "ModelCheckpoint": {"filepath": tmp_path / "{epoch}.keras", "save_best_only": True},
        "ReduceLROnPlateau": {"patience": 1},
    }

    class TenPercent(getattr(of, name)):
        def _is_improvement(self, monitor_value, reference_value):
            asked.append((float(monitor_value), reference_value))
            return reference_value is None or monitor_value < 0.9 * reference_value

    callback = TenPercent(**arguments[name])
    losses = [0.5, 0.46, 0.4, 0.39, 0.38]
    history = fit(model(), [Curve(val_loss=losses), callback], 5)

    assert callback.best == 0.4
    if name == "EarlyStopping":
        first = [(0.5, None), (0.5, 0.45), (0.46, 0.5), (0.4, 0.5), (0.4, 0.45)]
        assert asked == [*first, (0.39, 0.4), (0.38, 0.4)]
        assert callback.wait == 2
    else:
        assert asked == [(0.5, None), (0.46, 0.5), (0.4, 0.5), (0.39, 0.4), (0.38, 0.4)]
    if name == "ReduceLROnPlateau":
        rates = history.history["learning_rate"]
        assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001])
    if name == "ModelCheckpoint":
        found = {name for name in os.listdir(tmp_path) if name.endswith(".keras")}
        assert found == {"1.keras", "3.keras"}


def test_nobody_is_asked_of_a_value_that_is_not_finite_and_it_is_never_best():
    class Careless(pk.EarlyStopping):
        def _is_improvement(self, monitor_value, reference_value):
            assert np.isfinite(monitor_value)
            return reference_value is None or monitor_value < reference_value

    stopper = Careless("val_loss", patience=9)
    with pytest.warns(MonitorWarning, match="never count as best"):
        fit(model(), [Curve(val_loss=[np.nan, 0.5, np.inf, 0.4]), stopper], 4)

    assert (stopper.best, stopper.best_epoch) == (0.4, 3)


def test_super_compares_by_mode_and_min_delta():
    told = []

    class Asking(pk.EarlyStopping):
        def _is_improvement(self, monitor_value, reference_value):
            told.append(super()._is_improvement(monitor_value, reference_value))
            return told[-1]

    trained(Asking("val_loss", min_delta=0.15, patience=9))

    assert told == [True, False, False, True]


def test_of_several_metrics_each_is_compared_and_super_knows_which():
    told = []

    class Asking(pk.EarlyStopping):
        def _is_improvement(self, monitor_value, reference_value):
            told.append(super()._is_improvement(monitor_value, reference_value))
            return told[-1]

    stopper = Asking(["val_loss", "val_score"], mode=["min", "max"], patience=9)
    fit(model(), [Curve(val_loss=[0.5, 0.4], val_score=[0.5, 0.4]), stopper], 2)

    assert told == [True, True, True, False]


# _set_monitor_op, monitor_op


@BOTH
def test_the_comparison_is_set_once_at_the_end_of_the_first_epoch(of):
    called = []

    class Own(of.EarlyStopping):
        def _set_monitor_op(self):
            called.append(self.monitor_op)
            self.monitor_op = np.greater

    stopper = Own("val_oddity", patience=2)
    curve = Curve(val_oddity=[0.1, 0.3, 0.2, 0.2, 0.2])
    fit(model(), [curve, stopper], 5)
    assert (stopper.best, stopper.stopped_epoch) == (0.3, 3)
    fit(model(), [curve, stopper], 2)

    assert called == [None]


def test_super_finds_it_by_mode_and_by_name():
    class Own(pk.ReduceLROnPlateau):
        def _set_monitor_op(self):
            super()._set_monitor_op()

    up, down = Own("val_oddity", mode="max"), Own("val_loss")
    fit(model(), [Curve(val_oddity=[0.1, 0.2], val_loss=[0.2, 0.1]), up, down], 2)

    assert (up.best, down.best) == (0.2, 0.1)
    assert (up.monitor_op, down.monitor_op) == (keras.ops.greater, keras.ops.less)


def tenth(value, best):
    return value < 0.9 * best


def ten_percent(self):
    self.monitor_op = tenth


HOW = {
    "on an instance": lambda cls, *args, **named: _with_op(cls(*args, **named)),
    "in _set_monitor_op": lambda cls, *args, **named: type(
        cls.__name__, (cls,), {"_set_monitor_op": ten_percent, "__module__": "users"}
    )(*args, **named),
}


def _with_op(callback):
    callback.monitor_op = tenth
    return callback


@BOTH
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("monitor", ["val_loss", "val_oddity"])  # nothing tells of the second
def test_a_comparison_of_ones_own_is_the_policy_s(of, how, monitor, tmp_path):
    make, values = HOW[how], [0.5, 0.46, 0.4, 0.39, 0.3]
    stopper = make(of.EarlyStopping, monitor, patience=9)
    plateau = make(of.ReduceLROnPlateau, monitor, patience=1)
    saver = make(of.ModelCheckpoint, tmp_path / "{epoch}.keras", monitor, save_best_only=True)
    curve = Curve(**{"val_loss": [0.1] * 5, monitor: values})
    history = fit(model(), [curve, stopper, plateau, saver], 5)
    found = {name for name in os.listdir(tmp_path) if name.endswith(".keras")}

    assert (stopper.best, plateau.best, saver.best) == (0.3, 0.3, 0.3)
    assert (stopper.best_epoch, stopper.wait, stopper.monitor_op) == (4, 0, tenth)
    assert history.history["learning_rate"] == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001])
    assert found == {"1.keras", "3.keras", "5.keras"}


@BOTH
def test_it_is_asked_of_the_baseline_too_and_super_compares_by_it(of):
    told = []

    class Asking(of.EarlyStopping):
        def _is_improvement(self, monitor_value, reference_value):
            told.append(super()._is_improvement(monitor_value, reference_value))
            return told[-1]

    asking = Asking("val_loss", patience=9)
    plain = of.EarlyStopping("val_loss", patience=3, baseline=0.4)
    asking.monitor_op = plain.monitor_op = tenth
    fit(model(), [Curve(val_loss=[0.5, 0.4, 0.39, 0.38]), asking, plain], 4)

    assert told == [True, True, False]
    assert plain.stopped_epoch == 2  # 0.39 is below the baseline, and no tenth below it


@BOTH
def test_it_may_be_set_in_mid_run_and_taken_back(of, tmp_path):
    saver = of.ModelCheckpoint(tmp_path / "{epoch}.keras", "val_loss", save_best_only=True)
    stopper = of.EarlyStopping("val_loss", patience=9)

    class Setting(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch in {1, 3}:
                op = tenth if epoch == 1 else keras.ops.less
                stopper.monitor_op = saver.monitor_op = op

    bests = []
    watching = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: bests.append((stopper.best, saver.best))
    )
    curve = Curve(val_loss=[0.5, 0.46, 0.4, 0.39])
    fit(model(), [Setting(), curve, stopper, saver, watching], 4)

    assert bests == [(0.5, 0.5), (0.5, 0.5), (0.4, 0.4), (0.39, 0.39)]


def test_min_delta_is_a_margin_on_the_side_that_mode_or_the_name_tells():
    """Keras turns its sign for its own `less` alone: there a margin would be none."""
    told = {}
    for monitor, arguments in {
        "val_loss": {}, "val_oddity": {"mode": "min"}, "val_score": {"mode": "max"}, "val_what": {}
    }.items():  # fmt: skip
        given = told.setdefault(monitor, [])

        def own(value, best, given=given):
            given.append((round(value, 3), best))
            return False

        stopper = pk.EarlyStopping(monitor, min_delta=0.1, patience=9, **arguments)
        stopper.monitor_op = own
        fit(model(), [Curve(**{"val_loss": [0.9] * 2, monitor: [0.5, 0.4]}), stopper], 2)

    below, above = (0.5, 0.5), (0.3, 0.5)
    assert told == {"val_loss": [below], "val_oddity": [below], "val_score": [above],
                    "val_what": [above]}  # fmt: skip


def test_nan_is_asked_of_nobody_and_is_still_a_check():
    stopper = pk.EarlyStopping("val_oddity", patience=2)
    stopper.monitor_op = tenth
    with pytest.warns(MonitorWarning, match="never count as best"):
        fit(model(), [Curve(val_oddity=[np.nan, 0.5, np.nan, np.inf, 0.1]), stopper], 5)

    assert (stopper.best, stopper.stopped_epoch) == (0.5, 3)


def test_of_several_metrics_each_may_have_its_own():
    stopper = pk.EarlyStopping(["val_loss", "val_oddity"], patience=9)
    stopper.monitor_op = [tenth, np.greater]
    curve = Curve(val_loss=[0.5, 0.46], val_oddity=[0.5, 0.51])
    fit(model(), [curve, stopper], 2)
    first, second = stopper._peakhold_stopping.policy.each(stopper._peakhold_stopping.state)

    assert (first.best, second.best) == (0.5, 0.51)
    assert stopper.monitor_op == [tenth, keras.ops.greater]


def test_what_no_one_can_call_is_no_comparison():
    stopper = pk.EarlyStopping("loss")

    with pytest.raises(InvalidArgumentError, match=r"got monitor_op='less'.\nHint: pass mode"):
        stopper.monitor_op = "less"


# get_monitor_value


@BOTH
def test_a_derived_metric_is_its_own_callbacks_and_nobody_elses(of):
    class Both(of.EarlyStopping):
        def get_monitor_value(self, logs):
            return 0.5 * (logs["val_loss"] + logs["val_mae"])

    both = Both("val_loss", patience=1, restore_best_weights=True)
    plain = of.EarlyStopping("val_loss", patience=9)
    curve, recorder = Curve(val_loss=[0.5, 0.4, 0.3], val_mae=[0.5, 0.4, 0.9]), Recorder()
    net = model()
    history = fit(net, [curve, recorder, both, plain], 5)

    assert (both.best, both.stopped_epoch, plain.best) == (0.4, 2, 0.3)
    assert epoch_of(net.get_weights(), recorder) == 1
    assert history.history["val_loss"] == [0.5, 0.4, 0.3]


def test_a_name_that_is_in_no_log_is_not_called_missing(capsys):
    class Derived(pk.EarlyStopping):
        def get_monitor_value(self, logs):
            return None if logs["val_loss"] == 0.6 else logs["val_loss"] * 2

    stopper = Derived("val_los", mode="min", patience=9)  # one letter from a name that is there
    trained(stopper)

    assert (stopper.best, stopper.wait) == (0.6, 0)


def test_where_super_finds_none_it_says_so_in_keras_s_words():
    class Passing(pk.EarlyStopping):
        def get_monitor_value(self, logs):
            return super().get_monitor_value(logs)

    with pytest.warns(MonitorWarning, match="conditioned on metric `val_typo` which is not avail"):
        trained(Passing("val_typo", mode="min", patience=9))


def test_what_is_no_number_is_an_error():
    class Wrong(pk.EarlyStopping):
        def get_monitor_value(self, logs):
            return np.zeros(2)

    with pytest.raises(peakhold.errors.NotAScalarError):
        trained(Wrong("val_loss", patience=9))


# All of them


class Altered(pk.ModelCheckpoint):
    def _save_model(self, epoch, batch, logs):
        super()._save_model(epoch, batch, logs)


class Own(pk.EarlyStopping):
    def _is_improvement(self, monitor_value, reference_value):
        return reference_value is None or monitor_value < reference_value


def test_whoever_overrides_one_is_a_segment_of_its_own_and_saves_in_the_foreground(tmp_path):
    saver = Altered(tmp_path / "m.keras", background=True)
    stopper, others = Own("val_loss", patience=9), [pk.TerminateOnNaN(), pk.CSVLogger("log.csv")]
    segments = []

    class Looking(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            mine = saver.session.segments
            segments.extend(len(mine.of(one).callbacks) for one in (*others, saver, stopper))

    os.chdir(tmp_path)
    fit(model(), [*others, saver, stopper, Looking()], 1)

    assert segments == [2, 2, 1, 1]
    assert not saver._peakhold_saving._writer.placement.in_background


@pytest.mark.parametrize("name", ["_save_model", "get_monitor_value"])
def test_a_method_that_is_set_on_the_object_counts_as_well(name, tmp_path):
    called = []
    callback = (
        pk.ModelCheckpoint(tmp_path / "m.keras")
        if name == "_save_model"
        else pk.EarlyStopping("val_loss", patience=9)
    )

    def own(*args, **named):
        called.append(name)

    setattr(callback, name, own)
    trained(callback, epochs=2)

    assert called == [name] * 2


def test_answers_are_recorded_with_the_moment_so_that_a_replay_needs_no_users_code(tmp_path):
    """The suite takes every step of this run again, too, by what is recorded alone."""
    told = []
    stopper, saver = Own("val_loss", patience=9), Altered(tmp_path / "m.keras", save_best_only=True)
    plateau = _with_op(pk.ReduceLROnPlateau("val_loss", patience=4))
    with listening.listening(told.append):
        trained(stopper, saver, plateau)
    answers, by_op = (
        [
            answer
            for one in told
            for question, answer in one.moment.answers.items()
            if question.endswith("val_loss improves") and name in question
        ]
        for name in ("EarlyStopping", "ReduceLROnPlateau")
    )
    asked = [
        trace
        for one in told
        for traces in one.traces.values()
        for trace in traces
        if ASKED in trace.moment.answers
    ]

    assert answers == by_op == [True, True, False, True]
    assert [trace.decisions[0].word for trace in asked] == ["save", "save", "skip", "save"]


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))]
)  # noqa: S301
def test_copies_are_asked_as_well(again, tmp_path):
    used = Altered(tmp_path / "m.keras", save_best_only=True)
    trained(used)
    saver, stopper = again(used), again(Own("val_loss", patience=9))
    trained(saver, stopper)

    assert (saver.best, stopper.best) == (0.3, 0.3)


def test_a_plateau_is_reset_by_its_name_in_keras():
    class Restarting(pk.ReduceLROnPlateau):
        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch, logs)
            if epoch == 2:
                self._reset()

    plateau = Restarting("val_loss", patience=2)
    fit(model(), [Curve(val_loss=[0.1, 0.2, 0.3, 0.4]), plateau], 4)

    assert (plateau.best, plateau.wait) == (0.3, 1)


# What is ignored, and said


def test_what_keras_would_call_and_ours_does_not_is_said_once_before_the_first_batch(tmp_path):
    class Odd(pk.ModelCheckpoint):
        def _should_save_on_batch(self, batch):
            return True

    class Watching(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            before.append(len(said()))

    def said():
        return [str(one.message) for one in caught if one.category is AdviceWarning]

    before = []
    with pytest.warns(AdviceWarning) as caught:
        trained(Odd(tmp_path / "m.keras"), Watching(), epochs=2)
    (one,) = said()

    assert "test_overrides" in one and "Odd overrides '_should_save_on_batch'" in one
    assert "\nHint: pass save_freq" in one
    assert before[0] == 1


def test_a_users_own_name_is_none_of_keras_s(tmp_path):
    class Fine(pk.ModelCheckpoint):
        def _check_counts(self):
            raise AssertionError

        def _log_weights(self):  # a name of another class of Keras's
            raise AssertionError

    trained(Fine(tmp_path / "m.keras"), epochs=1)


def test_what_is_adapted_is_told_as_well(tmp_path):
    class Neutral(peakhold.ModelCheckpoint):
        def _should_save_on_batch(self, batch):
            return True

    with pytest.warns(AdviceWarning, match="Neutral overrides '_should_save_on_batch'"):
        trained(pk.adapt(Neutral(tmp_path / "m.keras")), epochs=1)


# TensorBoard's writers


def test_without_tensorflow_a_writer_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(tf_summary, "loaded", lambda: None)
    monkeypatch.setattr(tf_summary, "is_loaded", lambda: False)
    board = pk.TensorBoard(tmp_path)

    for name in ("_train_writer", "_val_writer"):
        with pytest.raises(ExtraMissingError, match=rf"{name}.*not installed.\nHint: pip install"):
            getattr(board, name)
    with pytest.raises(AttributeError, match=r"not loaded.\nHint: import tensorflow"):
        _ = board.summary
