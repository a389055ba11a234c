"""What only Keras has: its list, its threads, its optimizers, its signals."""

import copy
import os
import pickle
import signal
import threading
import warnings

import numpy as np
import pytest

import keras
import peakhold
import peakhold.keras as pk
from conftest import BACKEND
from keras_helpers import Curve, Recorder, data, epoch_of, fit, model, same, saved_weights
from peakhold.errors import (
    HostError,
    MonitorNotFoundError,
    NeutralCallbackError,
    PeakholdWarning,
    SaveWarning,
)

of_no_framework = pytest.mark.torch_is_enough(
    "who is called, what is caught and what a file is named is Python's"
)

DROP_INS = [
    "EarlyStopping", "ModelCheckpoint", "ReduceLROnPlateau", "CSVLogger", "TerminateOnNaN",
    "LearningRateScheduler", "BackupAndRestore",
]  # fmt: skip
ARGUMENTS = {
    "BackupAndRestore": ["backup"],
    "ModelCheckpoint": ["m.keras"],
    "CSVLogger": ["l.csv"],
    "LearningRateScheduler": [lambda epoch: 0.1],
}


@of_no_framework
@pytest.mark.parametrize("name", DROP_INS)
def test_a_drop_in_is_both_things_at_once_and_has_keras_arguments(name):
    import inspect

    ours, theirs = getattr(pk, name), getattr(keras.callbacks, name)
    mine = list(inspect.signature(ours).parameters.values())
    keras_own = list(inspect.signature(theirs).parameters.values())
    positional = [p for p in mine if p.kind is not p.KEYWORD_ONLY]

    assert issubclass(ours, getattr(peakhold, name))
    assert issubclass(ours, keras.callbacks.Callback)
    assert [(p.name, p.default, p.kind) for p in positional] == [
        (p.name, p.default, p.kind) for p in keras_own
    ]
    assert ours.__doc__ == getattr(peakhold, name).__doc__


@of_no_framework
@pytest.mark.parametrize("name", DROP_INS)
def test_a_neutral_one_given_to_fit_says_where_to_import_it_from(name):
    callback = getattr(peakhold, name)(*ARGUMENTS.get(name, []))
    with pytest.raises(NeutralCallbackError, match=f"from peakhold.keras import {name}"):
        fit(model(), [callback], 1)


class Mine(peakhold.Callback):
    """A user's callback for loops."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_epoch_end(self, epoch, logs=None):
        self.losses.append(logs["loss"])
        self.optimizer = self.model.optimizer

    def state_dict(self):
        return {"losses": self.losses}


def test_a_users_neutral_callback_is_told_about_adapt_and_works_with_it():
    with pytest.raises(NeutralCallbackError, match=r"peakhold.keras.adapt\(callback\)"):
        fit(model(), [Mine()], 1)
    mine, net = Mine(), model()
    adapted = pk.adapt(mine)
    fit(net, [adapted], 2)

    assert isinstance(adapted, Mine)
    assert isinstance(adapted, keras.callbacks.Callback)
    assert len(mine.losses) == 2
    assert mine.optimizer is net.optimizer
    assert adapted.state_dict() == {"losses": mine.losses}
    adapted.optimizer = None
    assert pickle.loads(pickle.dumps(adapted)).losses == mine.losses
    assert copy.deepcopy(adapted).losses == mine.losses


@of_no_framework
def test_adapt_gives_our_own_their_drop_in_and_leaves_keras_alone():
    neutral = peakhold.EarlyStopping("loss", patience=3)
    history = keras.callbacks.History()

    assert type(pk.adapt(neutral)) is pk.EarlyStopping
    assert pk.adapt(neutral).patience == 3
    assert pk.adapt(history) is history
    with pytest.raises(ValueError, match="expected a callback"):
        pk.adapt("EarlyStopping")


@of_no_framework
def test_our_list_adapts_what_it_is_given_in_fit():
    stopper, net = peakhold.EarlyStopping("m", mode="min", patience=1), model()
    history = fit(
        net, pk.CallbackList([Curve(m=[1, 2, 3]), [stopper]], add_history=True, model=net), 5
    )

    assert len(history.epoch) == 2
    assert stopper.stopped_epoch == 1, "state is shared with what was passed"


# Whose a callback is


class UsersHistory(keras.callbacks.History):
    """A user's subclass may do anything."""


@of_no_framework
def test_keras_own_callbacks_are_known_by_their_classes():
    from peakhold.host.finding import traits_of
    from peakhold.keras.host.own_callbacks import stateless_base

    known = {
        name: traits_of(object.__new__(cls))
        for name, cls in vars(keras.callbacks).items()
        if isinstance(cls, type)
    }

    assert len(known) > 10 and None not in known.values()
    assert {n for n, t in known.items() if t.silent} == {"History", "ProgbarLogger"}
    assert {n for n, t in known.items() if t.logs_rate} == {
        "LearningRateScheduler", "ReduceLROnPlateau"
    }  # fmt: skip
    assert not {"BackupAndRestore", "CSVLogger", "EarlyStopping", "ModelCheckpoint"} & {
        n for n in known if stateless_base(object.__new__(getattr(keras.callbacks, n))) is not None
    }
    for other in (UsersHistory(), pk.EarlyStopping(), pk.Callback(), Curve(m=[1]), object()):
        assert traits_of(other) is None


# Threads


@pytest.mark.skipif(BACKEND == "tensorflow", reason="Keras dispatches nothing in threads there")
@pytest.mark.parametrize("verbose", [0, 1])
def test_asynchronous_dispatch_stays_on(verbose, tmp_path):
    """With Keras's own progress bar, too, which is what `fit` does unless it is told otherwise."""
    lists = []

    class Spy(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            import sys

            lists.append(sys._getframe(1).f_locals["self"])

    callbacks = [
        Spy(), pk.EarlyStopping(patience=3), pk.ModelCheckpoint(tmp_path / "m.keras"),
        pk.ReduceLROnPlateau(), pk.CSVLogger(tmp_path / "l.csv"),
    ]  # fmt: skip
    fit(model(), callbacks, 1, verbose=verbose)

    assert lists[0]._async_train


@of_no_framework
def test_two_fits_in_threads_do_not_disturb_each_other(tmp_path, capsys):
    """Ctrl-C cannot be caught outside the main thread: that is said, once for each fit."""
    stoppers, errors = {}, []

    def train(name, curve):
        try:
            stoppers[name] = pk.EarlyStopping(
                "m", mode="min", patience=1, restore_best_weights=True
            )
            saver = pk.ModelCheckpoint(tmp_path / f"{name}.weights.h5", save_weights_only=True)
            fit(model(), [Curve(m=curve), stoppers[name], saver], 5, verbose=2)
        except Exception as error:
            errors.append(error)

    threads = [
        threading.Thread(target=train, args=("a", [1, 2, 3])),
        threading.Thread(target=train, args=("b", [3, 2, 1, 2])),
    ]
    for thread in threads:  # Keras's own global state is not made for fits at the same time
        thread.start()
        thread.join()

    assert errors == []
    assert (stoppers["a"].stopped_epoch, stoppers["b"].stopped_epoch) == (1, 3)
    assert capsys.readouterr().out.count("Ctrl-C cannot be caught") == 2


# Ctrl-C


class Presses(keras.callbacks.Callback):
    """A hand on the keyboard."""

    def __init__(self, *moments):
        super().__init__()
        self.moments = list(moments)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) in self.moments:
            os.kill(os.getpid(), signal.SIGINT)

    def on_test_batch_end(self, batch, logs=None):
        if (self.epoch, "test") in self.moments and batch == 0:
            os.kill(os.getpid(), signal.SIGINT)


@of_no_framework
def test_the_second_ctrl_c_ends_at_once():
    recorder, ended = Recorder(), []
    before = signal.getsignal(signal.SIGINT)
    tail = keras.callbacks.LambdaCallback(on_train_end=lambda logs: ended.append(1))

    class Twice(Presses):
        def on_train_batch_end(self, batch, logs=None):
            if (self.epoch, batch) in self.moments:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(model(), [Twice((1, 0)), pk.EarlyStopping(patience=3), recorder, tail], 5)

    assert list(recorder.weights) == [0], "no hook of the broken epoch ran"
    assert ended == []
    assert signal.getsignal(signal.SIGINT) is before


def test_an_epoch_that_was_whole_when_ctrl_c_came_counts():
    net, recorder = model(), Recorder()
    stopper = pk.EarlyStopping("m", mode="min", patience=9, restore_best_weights=True)
    with pytest.raises(KeyboardInterrupt):
        fit(net, [Curve(m=[0.5, 0.4, 0.3, 0.2]), Presses((2, "test")), stopper, recorder], 9)

    assert (stopper.best, stopper.best_epoch) == (0.3, 2)
    assert epoch_of(net.get_weights(), recorder) == 2


@of_no_framework
def test_ctrl_c_between_epochs_breaks_none_of_them(tmp_path):
    recorder, path = Recorder(), tmp_path / "last.weights.h5"

    class Between(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                os.kill(os.getpid(), signal.SIGINT)

    saver = pk.ModelCheckpoint(path, save_weights_only=True)
    with pytest.raises(KeyboardInterrupt):
        fit(model(), [Between(), saver, recorder], 9)

    assert epoch_of(saved_weights(path), recorder) == 1


@of_no_framework
def test_ctrl_c_before_the_first_epoch_leaves_one_broken_epoch(tmp_path):
    class Early(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            os.kill(os.getpid(), signal.SIGINT)

    saver = pk.ModelCheckpoint(tmp_path / "last.keras")
    with pytest.raises(KeyboardInterrupt):
        fit(model(), [saver, Early()], 9)

    assert os.listdir(tmp_path) == []


def test_a_broken_epoch_is_neither_saved_nor_logged(tmp_path):
    recorder, path = Recorder(), tmp_path / "last.weights.h5"
    with pytest.raises(KeyboardInterrupt):
        fit(
            model(),
            [
                Presses((2, 1)),
                pk.ModelCheckpoint(path, save_weights_only=True),
                pk.CSVLogger(tmp_path / "log.csv"),
                recorder,
            ],
            9,
        )

    assert epoch_of(saved_weights(path), recorder) == 1
    assert (tmp_path / "log.csv").read_text().splitlines()[-1].startswith("1,")


@of_no_framework
def test_a_handler_that_a_broken_fit_left_steps_aside():
    class Breaks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise ZeroDivisionError

    before = signal.getsignal(signal.SIGINT)
    stopper = pk.EarlyStopping(patience=3)
    with pytest.raises(ZeroDivisionError):
        fit(model(), [Breaks(), stopper], 3)
    assert signal.getsignal(signal.SIGINT) is not before, "no hook ran that could take it away"

    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass

    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(ZeroDivisionError):
        fit(model(), [Breaks(), stopper], 3)
    fit(model(), [stopper], 3)
    assert signal.getsignal(signal.SIGINT) is before, "the next fit saw through it"


@of_no_framework
def test_a_user_who_ignores_sigint_is_left_alone():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        recorder = Recorder()
        fit(model(), [Presses((0, 0)), pk.EarlyStopping(patience=3), recorder], 2)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)

    assert list(recorder.weights) == [0, 1]


# Users' callbacks and subclasses


@of_no_framework
def test_a_users_callback_after_ours_finds_the_file_of_its_epoch(tmp_path):
    """Order means what it means in Keras: an uploader behind the checkpoint, a plateau behind it."""
    uploaded, recorder, net = {}, Recorder(), model()
    path = tmp_path / "last.weights.h5"

    class Upload(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            uploaded[epoch] = saved_weights(path)

    plateau = pk.ReduceLROnPlateau("m", mode="min", patience=1, factor=0.5)
    saver = pk.ModelCheckpoint(path, save_weights_only=True)
    fit(net, [Curve(m=[1, 1, 1]), saver, Upload(), plateau, recorder], 3)

    assert all(same(uploaded[epoch], recorder.weights[epoch]) for epoch in range(3))


@of_no_framework
def test_a_users_subclass_of_a_drop_in_works_as_it_does_of_keras(tmp_path):
    seen = []

    class Mine(pk.ModelCheckpoint):
        def on_epoch_end(self, epoch, logs=None):
            before = os.path.exists(self.filepath)
            super().on_epoch_end(epoch, logs)
            seen.append((before, os.path.exists(self.filepath)))

    class Loud(pk.EarlyStopping):
        def on_train_end(self, logs=None):
            super().on_train_end(logs)
            seen.append(epoch_of(self.model.get_weights(), recorder))

    recorder = Recorder()
    stopper = Loud("m", mode="min", patience=9, restore_best_weights=True)
    fit(model(), [Curve(m=[1, 0, 2]), recorder, stopper, Mine(tmp_path / "m.keras")], 1 + 2)

    assert seen == [(False, True), (True, True), (True, True), 1]


@of_no_framework
def test_a_metric_that_a_users_callback_adds_can_be_monitored():
    stopper = pk.EarlyStopping("val_f1", patience=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PeakholdWarning)
        history = fit(model(), [Curve(val_f1=[0.5, 0.4]), stopper], 5)

    assert len(history.epoch) == 2


@of_no_framework
def test_an_early_stopping_that_reads_its_own_value():
    class Sum(pk.EarlyStopping):
        def get_monitor_value(self, logs):
            return logs["a"] + logs["b"]

    stopper = Sum("a", mode="min", patience=1)
    history = fit(model(), [Curve(a=[1.0, 0.5, 0.1], b=[0.0, 0.2, 0.9]), stopper], 5)

    assert len(history.epoch) == 3
    assert stopper.best == 0.7


# Metrics


@of_no_framework
def test_val_loss_without_validation_is_an_error_that_says_so():
    recorder = Recorder()
    with pytest.raises(MonitorNotFoundError, match="pass validation_data or validation_split"):
        fit(model(), [recorder, pk.EarlyStopping(patience=3)], 5, validation_data=None)

    assert list(recorder.weights) == [0]


@of_no_framework
def test_validation_every_other_epoch_is_no_cause_for_alarm(tmp_path):
    stopper = pk.EarlyStopping(patience=3)
    saver = pk.ModelCheckpoint(tmp_path / "m.keras", save_best_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PeakholdWarning)
        fit(model(), [stopper, saver, pk.ReduceLROnPlateau(patience=1)], 6, validation_freq=2)

    assert stopper.state_dict()["state"]["n_checks_done"] == 3


@pytest.mark.skipif(BACKEND == "tensorflow", reason="metrics are not known there before training")
def test_a_likely_misspelling_is_named_before_the_first_batch():
    class First(keras.callbacks.Callback):
        pass

    with (
        pytest.raises(MonitorNotFoundError, match="did you mean 'val_accuracy'"),
    ):
        fit(model(metrics=["accuracy"]), [pk.EarlyStopping("val_acc", mode="max", patience=1)], 3)


def test_a_train_step_of_the_users_may_log_what_it_likes(tmp_path):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x):
            return self.dense(x)

        def train_step(self, *arguments):
            result = super().train_step(*arguments)
            logs, rest = (result[0], result[1:]) if isinstance(result, tuple) else (result, None)
            logs = {**logs, "gap": logs["loss"]}
            return (logs, *rest) if rest is not None else logs

    net = Own()
    net.compile("sgd", "mse")
    x, y = data()
    stopper = pk.EarlyStopping("gap", mode="min", patience=9)
    saver = pk.ModelCheckpoint(tmp_path / "{epoch}-{gap:.3f}.weights.h5", save_weights_only=True)
    net.fit(x, y, epochs=2, callbacks=[stopper, saver], verbose=0)

    assert stopper.best is not None
    assert "NA" not in "".join(os.listdir(tmp_path))


def test_f1_score_with_one_class_is_a_number_and_with_many_is_refused():
    x, y = data()
    labels = keras.utils.to_categorical((y > 0).astype("int")[:, 0])
    for average, fails in (("macro", False), (None, True)):
        net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
        net.compile("sgd", "categorical_crossentropy", metrics=[keras.metrics.F1Score(average)])
        stopper = pk.EarlyStopping("f1_score", patience=9)
        if fails:
            with pytest.raises(ValueError, match="average='macro'"):
                net.fit(x, labels, epochs=1, callbacks=[stopper], verbose=0)
        else:
            net.fit(x, labels, epochs=1, callbacks=[stopper], verbose=0)
            assert stopper.monitor_op == keras.ops.greater


# Optimizers


@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
def test_the_plateau_lowers_the_rate_of_every_optimizer(several, tmp_path, capsys):
    net = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, name="a"), keras.layers.Dense(1, name="b")]
    )
    if several:
        optimizers = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.5, name="first"))
        optimizers["b.*"] = keras.optimizers.SGD(0.25, name="second")
        net.compile(keras.optimizers.MultiOptimizer(optimizers), "mse")
    else:
        net.compile(keras.optimizers.SGD(0.5), "mse")
    x, y = data()
    log = tmp_path / "log.csv"
    plateau = pk.ReduceLROnPlateau("m", mode="min", factor=0.5, patience=1, verbose=1)
    net.fit(
        x * 0, y * 0, epochs=2, verbose=0, callbacks=[pk.CSVLogger(log), Curve(m=[1, 1]), plateau]
    )
    out, head = capsys.readouterr().out, log.read_text().splitlines()[0]

    if several:
        assert "\nEpoch 2: ReduceLROnPlateau reducing first learning rate to 0.25.\n" in out
        assert "\nEpoch 2: ReduceLROnPlateau reducing second learning rate to 0.125.\n" in out
        assert "learning_rate_first,learning_rate_second" in head
    else:
        assert "\nEpoch 2: ReduceLROnPlateau reducing learning rate to 0.25.\n" in out
        assert "learning_rate," in head


def test_a_loss_scale_and_a_schedule_inside_it_are_seen_through():
    inner = keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9))
    with pytest.raises(TypeError, match="LearningRateSchedule"):
        fit(model(keras.optimizers.LossScaleOptimizer(inner)), [pk.ReduceLROnPlateau()], 1)

    net = model(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5)))
    fit(net, [Curve(val_loss=[1, 1]), pk.ReduceLROnPlateau(patience=1, factor=0.5)], 2)
    assert float(net.optimizer.inner_optimizer.learning_rate) == 0.25


def test_a_model_that_is_not_compiled_is_told_so_by_hand():
    net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    callbacks = pk.CallbackList(pk.ReduceLROnPlateau("loss"), model=net)
    with pytest.raises(HostError, match="optimizer=optimizer"):
        callbacks.on_train_begin()


# Files


@of_no_framework
def test_a_model_with_its_own_save_is_written_by_it(tmp_path):
    class Own(keras.Sequential):
        def save_weights(self, filepath, overwrite=True):
            type(self).called = True
            super().save_weights(filepath, overwrite=overwrite)

    net = Own([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    net.compile("sgd", "mse")
    fit(net, [pk.ModelCheckpoint(tmp_path / "m.weights.h5", save_weights_only=True)], 1)

    assert Own.called
    assert same(saved_weights(tmp_path / "m.weights.h5"), net.get_weights())
    assert sorted(os.listdir(tmp_path)) == ["m.weights.h5", "m.weights.h5.peakhold.json"]


@of_no_framework
def test_a_model_that_cannot_be_written_ends_training_at_its_first_save(tmp_path):
    class Layer(keras.layers.Layer):
        def __init__(self, thing):
            super().__init__()
            self.thing = thing

        def call(self, x):
            return x

        def get_config(self):
            raise NotImplementedError("this layer has no configuration")

    net = keras.Sequential([keras.Input((3,)), Layer(object()), keras.layers.Dense(1)])
    net.compile("sgd", "mse")
    recorder = Recorder()
    with pytest.raises(NotImplementedError, match="no configuration"):
        fit(net, [recorder, pk.ModelCheckpoint(tmp_path / "m.keras")], 3)

    assert list(recorder.weights) == [0]
    assert os.listdir(tmp_path) == []


def test_a_variable_that_is_infinite_from_the_start_is_no_defect(tmp_path):
    """An attention mask of -inf is no explosion."""

    class Mask(keras.layers.Layer):
        def build(self, shape):
            self.mask = self.add_weight(
                shape=(1,), initializer=lambda s, dtype: -np.inf * np.ones(s), trainable=False
            )

        def call(self, x):
            return x

    net = keras.Sequential(
        [keras.Input((3,)), Mask(), keras.layers.Dense(4), keras.layers.Dense(1)]
    )
    net.compile("sgd", "mse")
    path = tmp_path / "m.weights.h5"
    with pytest.warns(SaveWarning, match="before training; they are not checked"):
        fit(net, [pk.ModelCheckpoint(path, save_weights_only=True)], 1)

    assert path.exists()


@of_no_framework
def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "big").mkdir()
    link = tmp_path / "m.keras"
    link.symlink_to(tmp_path / "big" / "real.keras")
    fit(model(), [pk.ModelCheckpoint(link)], 2)

    assert link.is_symlink()
    assert (tmp_path / "big" / "real.keras").exists()
    keras.models.load_model(link)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras refuses it there")
def test_steps_per_execution_counts_every_batch(tmp_path):
    net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    net.compile("sgd", "mse", steps_per_execution=2)
    fit(net, [pk.ModelCheckpoint(tmp_path / "{epoch}-{batch}.keras", save_freq=4)], 2)

    assert sorted(p.name for p in tmp_path.glob("*.keras")) == ["1-4.keras", "2-4.keras"]


@of_no_framework
@pytest.mark.filterwarnings("ignore::peakhold.errors.MonitorWarning")
def test_a_stock_plateau_behind_our_logger_is_seen(tmp_path):
    path = tmp_path / "log.csv"
    fit(model(), [pk.CSVLogger(path), keras.callbacks.ReduceLROnPlateau("loss", mode="min")], 1)

    assert "learning_rate" in path.read_text()


def test_evaluate_and_predict_take_the_callbacks_too(tmp_path):
    net, (x, y) = model(), data()
    callbacks = [pk.EarlyStopping(patience=3), pk.ModelCheckpoint(tmp_path / "m.keras")]
    fit(net, callbacks, 1)
    net.evaluate(x, y, callbacks=callbacks, verbose=0)
    net.predict(x, callbacks=callbacks, verbose=0)
    fit(net, callbacks, 2)

    assert callbacks[0].state_dict()["state"]["n_checks_done"] == 2


@of_no_framework
def test_keras_s_own_checkpoint_on_the_same_path_is_not_of_an_earlier_run(tmp_path, capsys):
    path, net = tmp_path / "m.weights.h5", model()
    ours = pk.ModelCheckpoint(path, "loss", save_best_only=True, save_weights_only=True)
    theirs = keras.callbacks.ModelCheckpoint(str(path), save_weights_only=True)

    fit(net, [ours, theirs], 5)

    said = capsys.readouterr().out
    assert "was there before this run" not in said
    assert said.count("was changed by another program") <= 1
    aside = tmp_path / "previous"  # theirs, where it came ahead of our first
    assert len(os.listdir(aside) if aside.is_dir() else []) <= 1
