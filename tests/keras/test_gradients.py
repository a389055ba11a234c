"""Watched gradients in real fits: their norm, their step, and that nothing else changes."""

import io
import json
import math
import os
import pickle
import re
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest

import keras
import peakhold
import peakhold.keras as pk
from conftest import BACKEND
from event_reader import array, opened, series, steps, tags, values
from fake_slack import FakeSlack
from keras import optimizers
from keras_helpers import data, same
from peakhold.errors import AdviceWarning, HostError, InvalidArgumentError, NonFiniteGradientError

of_no_framework = pytest.mark.torch_is_enough(
    "what is drawn, sent or refused of a norm is Python's; the norm is taken on every backend"
)

N_BATCHES, BATCH = 10, 4
BAD = 6  # index of the batch whose gradient explodes

TRACED = BACKEND != "torch"
several_steps = pytest.mark.skipif(not TRACED, reason="Keras runs one step at a time there")

OPTIMIZERS = {
    "plain": lambda **a: optimizers.SGD(**a),
    "adam": lambda **a: optimizers.Adam(**a),
    "clips": lambda **a: optimizers.Adam(clipnorm=0.1, **a),
    "averages": lambda **a: optimizers.SGD(use_ema=True, ema_overwrite_frequency=3, **a),
    "accumulates": lambda **a: optimizers.SGD(gradient_accumulation_steps=3, **a),
    "scales by a factor": lambda **a: optimizers.SGD(loss_scale_factor=8.0, **a),
    "scales": lambda **a: optimizers.LossScaleOptimizer(optimizers.SGD(**a)),
    "several": lambda **a: optimizers.MultiOptimizer(
        optimizers.OptimizerMap(optimizers.SGD(**a), {".*dense_1/.*": optimizers.Adam(**a)})
    ),
}


def facts(net):
    return pk.KerasHost(net).gradient_facts()


def root_of_error(y, p):
    """Its slope is infinite where there is no error; the loss itself is finite."""
    return keras.ops.mean(keras.ops.sqrt(keras.ops.abs(p - y)))


def linear(optimizer, loss="mse", weights=(1.0, 1.0), **compiled):
    net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    net.compile(optimizer, loss, **compiled)
    net.layers[0].kernel.assign([[weight] for weight in weights])
    return net


def fit_linear(net, callbacks=(), targets=None, epochs=1):
    """All rows are (1, 1): a batch is known by its target."""
    targets = np.zeros(N_BATCHES) if targets is None else targets
    x = np.ones((N_BATCHES * BATCH, 2), "float32")
    y = np.repeat(np.asarray(targets, "float32"), BATCH)[:, None]
    return net.fit(
        x, y, batch_size=BATCH, shuffle=False, verbose=0, epochs=epochs, callbacks=list(callbacks)
    )


def exploding():
    """Targets, one of which the model hits: 1 + 1."""
    targets = np.zeros(N_BATCHES)
    targets[BAD] = 2.0
    return targets


def deep(make, watched, *, keep=False, **compiled):
    """The same model on every call."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(3)
    net = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(1),
        ]
    )
    optimizer = make()
    if watched:
        optimizer = pk.watch_gradients(optimizer, keep=keep)
    net.compile(optimizer, keras.losses.MeanSquaredError(), **compiled)
    return net


def fit_deep(net, callbacks=(), epochs=2, **arguments):
    return net.fit(
        *data(64), batch_size=8, epochs=epochs, verbose=0, callbacks=list(callbacks), **arguments
    )


# What is seen


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_norm_is_that_of_the_raw_gradient_and_has_its_step(kind):
    """Error 2 - y, slope 2 (2 - y) in both directions; the rate is 0."""
    targets = np.full(N_BATCHES, 1.0)
    targets[3] = -1.0
    net = linear(pk.watch_gradients(OPTIMIZERS[kind](learning_rate=0.0)))
    fit_linear(net, targets=targets, epochs=2)
    seen = facts(net)

    assert seen.norm == pytest.approx(2 * math.sqrt(2))
    assert seen.largest == pytest.approx(6 * math.sqrt(2))
    assert (seen.largest_step, seen.n_nonfinite, seen.first_nonfinite_step) == (4, 0, None)


@pytest.mark.parametrize("n_at_once", [1, pytest.param(4, marks=several_steps)])
@pytest.mark.parametrize("jit", [False, pytest.param(True, marks=several_steps)])
def test_who_looks_at_the_end_of_the_epoch_knows_the_batch(n_at_once, jit):
    """The loss of that batch is finite, and it is not the first batch of the optimizer's."""
    net = linear(
        pk.watch_gradients(optimizers.SGD(0.0)),
        root_of_error,
        steps_per_execution=n_at_once,
        jit_compile=jit,
    )
    fit_linear(net)
    assert facts(net).finite
    fit_linear(net, targets=exploding())
    seen = facts(net)

    assert not seen.finite
    assert seen.first_nonfinite_step == seen.largest_step == N_BATCHES + BAD + 1
    assert seen.largest == math.inf


def test_facts_begin_anew_when_they_are_forgotten():
    net = linear(pk.watch_gradients(optimizers.SGD(0.0)))
    fit_linear(net)
    pk.KerasHost(net).forget_gradients()
    assert facts(net).norm is None and facts(net).largest is None
    fit_linear(net)

    assert facts(net).largest_step == N_BATCHES + 1


def test_an_embedding_used_twice_in_a_batch_has_one_gradient():
    """TensorFlow hands over its rows one by one: those of the same word belong together."""
    for jit in (False, True) if TRACED else (False,):
        net = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Embedding(50, 3),
                keras.layers.Flatten(),
                keras.layers.Dense(1),
            ]
        )
        net.compile(pk.watch_gradients(optimizers.SGD(0.0), keep=True), "mse", jit_compile=jit)
        net.fit(np.array([[1, 1, 2, 3]] * 4), np.ones((4, 1)), batch_size=4, verbose=0)
        kept = dict(pk.KerasHost(net).gradients())

        assert facts(net).norm == pytest.approx(
            math.sqrt(sum((g.astype("float64") ** 2).sum() for g in kept.values())), rel=1e-5
        )
        rows = kept[net.layers[0].embeddings.path]
        assert rows.shape == (50, 3) and np.flatnonzero(rows.any(1)).tolist() == [1, 2, 3]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_kept_gradients_are_those_of_the_last_batch(kind):
    targets = np.full(N_BATCHES, 1.0)
    targets[-1] = -1.0
    net = linear(pk.watch_gradients(OPTIMIZERS[kind](learning_rate=0.0), keep=True))
    fit_linear(net, targets=targets)
    ((path, gradient),) = pk.KerasHost(net).gradients()

    assert path == net.layers[0].kernel.path
    assert gradient == pytest.approx(np.full((2, 1), 6.0))


def test_frozen_weights_have_no_gradient():
    net = deep(optimizers.SGD, watched=False)
    net.layers[0].trainable = False
    net.compile(pk.watch_gradients("sgd", keep=True), "mse")
    fit_deep(net)

    paths = {path for path, _ in pk.KerasHost(net).gradients()}
    assert paths == {weight.path for weight in net.trainable_weights}


def test_an_optimizer_that_has_trained_can_be_watched():
    net = linear(optimizers.SGD(0.0))
    fit_linear(net)
    pk.watch_gradients(net.optimizer, keep=True)
    net.compile(net.optimizer, "mse")
    fit_linear(net)

    assert facts(net).largest_step == N_BATCHES + 1
    assert len(dict(pk.KerasHost(net).gradients())) == 1


def test_watching_twice_is_watching():
    net = linear(pk.watch_gradients(pk.watch_gradients(optimizers.SGD(0.0)), keep=True))
    fit_linear(net)

    assert facts(net).largest_step == 1
    assert len(dict(pk.KerasHost(net).gradients())) == 1


@of_no_framework
@pytest.mark.parametrize("given", [None, 0.1, optimizers.SGD])
def test_what_is_no_optimizer_is_refused(given):
    with pytest.raises(InvalidArgumentError, match="expected an optimizer of Keras, got"):
        pk.watch_gradients(given)


def test_overflow_under_a_dynamic_loss_scale_is_passed_over():
    """`mixed_float16` wraps the optimizer; a batch that it skips is no explosion."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        net = linear(pk.watch_gradients(optimizers.SGD(0.0)))
    finally:
        keras.config.set_dtype_policy("float32")
    targets = np.zeros(N_BATCHES)
    targets[2] = 1e4
    guard = pk.TerminateOnNaN()
    history = fit_linear(net, [guard], targets)

    assert type(net.optimizer).__name__ == "LossScaleOptimizer"
    assert int(net.optimizer.iterations) < N_BATCHES and len(history.epoch) == 1
    assert facts(net).finite and not guard.session.stop_reasons


# Nothing else changes


@pytest.mark.parametrize(
    ("kind", "n_at_once"),
    [
        *((kind, 1) for kind in OPTIMIZERS),
        *(
            pytest.param(kind, 3, marks=[several_steps, *late])
            for kind in OPTIMIZERS
            # In the short form, those that count steps.
            for late in [[] if kind in {"averages", "accumulates"} else [pytest.mark.exhaustive]]
        ),
    ],
)
def test_weights_are_the_same_bit_by_bit(kind, n_at_once):
    nets = [
        deep(OPTIMIZERS[kind], watched, keep=watched, steps_per_execution=n_at_once)
        for watched in (False, True)
    ]
    for net in nets:
        fit_deep(net, shuffle=False)

    assert same(nets[0].get_weights(), nets[1].get_weights())
    # The order of names in a process differs, and is no part of the state.
    states = [pk.KerasHost(net).snapshot(["optimizer"])["optimizer"] for net in nets]
    assert same(*(list(state.values()) for state in states))


def members(path):
    """All that a file holds, but for the addresses and times in it."""
    if not path.endswith(".keras"):
        return {"": hdf5(path)}
    with zipfile.ZipFile(path) as archive:
        found = {}
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith(".h5"):
                found[name] = hdf5(io.BytesIO(content))
            else:
                content = re.sub(rb'"shared_object_id": \d+', b"", content)
                found[name] = re.sub(rb'"date_saved": "[^"]*"', b"", content)
        return found


def hdf5(file):
    found = {}

    def visit(name, one):
        value = np.array(one).tolist() if isinstance(one, h5py.Dataset) else None
        found[name] = (attributes(one), value)

    def attributes(one):
        return {key: np.array(value).tolist() for key, value in one.attrs.items()}

    with h5py.File(file) as opened_file:
        found["/"] = attributes(opened_file)
        opened_file.visititems(visit)
    return found


SUFFIXES = (".keras", ".weights.h5", ".h5")


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_files_are_the_same_member_by_member(kind, tmp_path):
    """Saved by Keras and, in the background, by us."""
    n_compared = 0
    for name, watched in {"bare": False, "watched": True}.items():
        net = deep(OPTIMIZERS[kind], watched, keep=watched)
        savers = [
            pk.ModelCheckpoint(tmp_path / f"{name}-ours{suffix}", save_weights_only="we" in suffix)
            for suffix in SUFFIXES
            if not (kind == "several" and suffix == ".h5")  # Keras has no such file
        ]
        fit_deep(net, savers, epochs=1, shuffle=False)
        for saver in savers:
            suffix = saver.filepath.partition("-ours")[2]
            save = net.save_weights if saver.save_weights_only else net.save
            save(tmp_path / f"{name}{suffix}")
    for path in tmp_path.glob("bare*"):
        if not str(path).endswith(SUFFIXES):  # a sidecar
            continue
        assert members(str(path)) == members(str(path).replace("bare", "watched"))
        n_compared += 1
    assert n_compared == 2 * len(savers)


def test_stock_keras_loads_it_with_the_optimizers_state(tmp_path):
    net = deep(lambda: optimizers.Adam(0.01), watched=True, keep=True)
    fit_deep(net)
    net.save(tmp_path / "model.keras")
    code = (
        "import os, sys, json\n"
        "if os.environ['KERAS_BACKEND'] == 'torch': import torch\n"
        "import warnings, keras; warnings.simplefilter('error', UserWarning)\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "assert not any(name.startswith('peakhold') for name in sys.modules)\n"
        "from keras.src import backend\n"
        "values = [backend.convert_to_numpy(v).tolist() for v in model.optimizer.variables]\n"
        "print(json.dumps([type(model.optimizer).__name__, values]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model.keras")],
        env={**os.environ, "KERAS_BACKEND": BACKEND, "PYTHONPATH": ""},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    name, loaded = json.loads(done.stdout.splitlines()[-1])
    state = pk.KerasHost(net).snapshot(["optimizer"])["optimizer"]

    assert name == "Adam"
    assert loaded[0] == 16
    assert same([np.asarray(v) for v in loaded], [v.astype("float64") for v in state.values()])


class Breaks(keras.callbacks.Callback):
    """A user's callback that fails once."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise ZeroDivisionError


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True), (True, True)])
def test_a_backup_goes_with_and_without_the_watch(first, second, tmp_path):
    whole = deep(optimizers.Adam, watched=False)
    fit_deep(whole, epochs=4)
    net = deep(optimizers.Adam, first, keep=first)
    with pytest.raises(ZeroDivisionError):
        fit_deep(net, [pk.BackupAndRestore(tmp_path), Breaks()], epochs=4)
    net = deep(optimizers.Adam, second, keep=second)
    fit_deep(net, [pk.BackupAndRestore(tmp_path), pk.TerminateOnNaN()], epochs=4)

    assert same(net.get_weights(), whole.get_weights())
    if second:  # the steps go on
        assert facts(net).largest_step > 16


def test_the_optimizer_is_restored_with_the_best_weights():
    ends = []
    for watched in (False, True):
        net = deep(optimizers.Adam, watched, keep=watched)
        stopper = pk.EarlyStopping("loss", patience=2, mode="max", restore_best_weights=True,
                                   restore_optimizer=True)  # fmt: skip
        fit_deep(net, [stopper], epochs=6)
        state = pk.KerasHost(net).snapshot(["optimizer"])["optimizer"]
        ends.append([*net.get_weights(), *state.values()])

    assert same(*ends)


def test_copies_of_model_and_callbacks_do_not_drag_the_watch_along():
    net, guard = linear(pk.watch_gradients("adam")), pk.TerminateOnNaN()
    fit_linear(net, [guard])
    copy, copied_guard = pickle.loads(pickle.dumps((net, guard)))
    fit_linear(copy, [copied_guard])

    assert type(copy.optimizer) is type(keras.optimizers.Adam())
    assert facts(copy) is None and int(copy.optimizer.iterations) == 2 * N_BATCHES


@pytest.mark.skipif(BACKEND != "jax", reason="elsewhere nothing must be threaded")
def test_on_jax_a_loop_by_hand_threads_the_watch():
    net = linear(pk.watch_gradients(optimizers.SGD(0.0)))
    optimizer = net.optimizer
    optimizer.build(net.trainable_variables)
    state = [variable.value for variable in optimizer.variables]
    trainable = [variable.value for variable in net.trainable_variables]
    _, state = optimizer.stateless_apply(state, [np.full((2, 1), 3.0)], trainable)
    for variable, value in zip(optimizer.variables, state, strict=True):
        variable.assign(value)

    assert facts(net).norm == pytest.approx(3 * math.sqrt(2))


@pytest.mark.skipif(BACKEND != "jax", reason="elsewhere nothing must be hidden from files")
@pytest.mark.parametrize("change", ["renamed", "reads other things"])
def test_a_keras_that_saves_otherwise_is_an_error_and_no_longer_file(change, monkeypatch):
    from keras.src.legacy.saving import legacy_h5_format as legacy
    from keras.src.optimizers.base_optimizer import BaseOptimizer

    if change == "renamed":
        monkeypatch.delattr(BaseOptimizer, "save_own_variables")
    else:
        monkeypatch.setattr(legacy, "save_optimizer_weights_to_hdf5_group", lambda g, o: o.weights)
    optimizer = optimizers.SGD(0.0)

    with pytest.raises(HostError, match="expected a version of Keras that saves"):
        pk.watch_gradients(optimizer)
    assert "_peakhold_watch" not in vars(optimizer)


# The guard


def test_training_stops_at_the_batch_whose_gradient_explodes(capsys):
    net, guard = linear(pk.watch_gradients(optimizers.SGD(0.0)), root_of_error), pk.TerminateOnNaN()
    losses = []
    log = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: losses.append(logs["loss"])
    )
    fit_linear(net)
    fit_linear(net, [log, guard], exploding())

    assert len(losses) == BAD + 1 and all(math.isfinite(loss) for loss in losses)
    assert guard.session.stop_reasons == [
        f"the gradient of step {N_BATCHES + BAD + 1} is not finite at batch {BAD} (TerminateOnNaN)"
    ]
    assert f"Batch {BAD}: Invalid gradient, terminating training" in capsys.readouterr().out


def test_it_can_be_an_error_that_names_the_step():
    net = linear(pk.watch_gradients(optimizers.SGD(0.0)), root_of_error)
    with pytest.raises(NonFiniteGradientError, match=f"batch {BAD}, step {BAD + 1} of") as caught:
        fit_linear(net, [pk.TerminateOnNaN(raise_error=True)], exploding())

    assert caught.value.step == BAD + 1


def test_an_explosion_of_an_earlier_fit_stops_no_later_one():
    net, guard = linear(pk.watch_gradients(optimizers.SGD(0.0)), root_of_error), pk.TerminateOnNaN()
    fit_linear(net, [guard], exploding())
    net.layers[0].kernel.assign([[1.0], [1.0]])
    history = fit_linear(net, [guard], epochs=2)

    assert len(history.epoch) == 2 and not guard.session.stop_reasons


def test_without_a_watch_the_loss_is_all_there_is():
    net, guard = linear(optimizers.SGD(0.0), root_of_error), pk.TerminateOnNaN()
    fit_linear(net, [guard], exploding())

    assert guard.session.stop_reasons == [f"the loss is nan at batch {BAD + 1} (TerminateOnNaN)"]


# TensorBoard


def test_norms_and_histograms_are_drawn(tmp_path):
    targets = np.full(N_BATCHES, 1.0)
    targets[3] = -1.0
    net = linear(pk.watch_gradients(optimizers.SGD(0.0), keep=True))
    board = pk.TensorBoard(tmp_path, histogram_freq=1, update_freq=2, write_gradients=True)
    fit_linear(net, [board], targets, epochs=2)
    train = opened(tmp_path / "train")
    small, large = 2 * math.sqrt(2), 6 * math.sqrt(2)
    drawn = dict(series(train, "batch_gradient_norm"))

    assert series(train, "epoch_gradient_norm") == [(i, pytest.approx(large)) for i in (0, 1)]
    assert series(train, "epoch_nonfinite_gradients") == [(0, 0.0), (1, 0.0)]
    assert drawn == {
        step: pytest.approx(large if step in (4, 14) else small) for step in range(2, 21, 2)
    }
    tag = f"{net.layers[0].kernel.path}/gradient"
    assert steps(train, tag) == [0, 1]
    assert array(train.Tensors(tag)[0])[-1].tolist() == [2.0, 2.0, 2.0]  # two values, both 2


def test_an_explosion_is_drawn(tmp_path):
    """TensorBoard's reader reads infinite scalars, and histograms of nothing finite."""
    net = linear(pk.watch_gradients(optimizers.SGD(0.0), keep=True), root_of_error)
    board = pk.TensorBoard(tmp_path, histogram_freq=1, write_gradients=True)
    fit_linear(net, [board], exploding())
    train = opened(tmp_path / "train")
    histogram = array(train.Tensors(f"{net.layers[0].kernel.path}/gradient")[0])

    assert series(train, "epoch_gradient_norm") == [(0, math.inf)]
    assert series(train, "epoch_nonfinite_gradients") == [(0, N_BATCHES - BAD)]
    assert histogram[:, 2].sum() == 0


@of_no_framework
def test_nothing_is_drawn_unasked(tmp_path):
    net = linear(pk.watch_gradients(optimizers.SGD(0.0), keep=True))
    history = fit_linear(
        net, [pk.TensorBoard(tmp_path / "tb", histogram_freq=1), pk.CSVLogger(tmp_path / "log.csv")]
    )

    assert not [tag for tag in tags(opened(tmp_path / "tb" / "train")) if "gradient" in tag]
    assert list(history.history) == ["loss"]
    assert (tmp_path / "log.csv").read_text().splitlines()[0] == "epoch,loss"


@of_no_framework
def test_a_metric_of_the_users_own_of_that_name_is_drawn(tmp_path):
    net = linear(pk.watch_gradients(optimizers.SGD(0.0)))
    net.compile(net.optimizer, "mse", metrics=[keras.metrics.MeanMetricWrapper(
        lambda y, p: keras.ops.zeros_like(p) + 42.0, name="gradient_norm")])  # fmt: skip
    fit_linear(net, [pk.TensorBoard(tmp_path, write_gradients=True)])

    assert series(opened(tmp_path / "train"), "epoch_gradient_norm") == [(0, 42.0)]


@of_no_framework
def test_gradients_that_nobody_watches_are_an_error_before_the_first_batch(tmp_path):
    net, board = linear(optimizers.SGD(0.0)), pk.TensorBoard(tmp_path, write_gradients=True)
    with pytest.raises(HostError) as caught:
        fit_linear(net, [board])

    text = str(caught.value)
    assert text.startswith("expected an optimizer that is watched for TensorBoard(write_gradients")
    assert "\nHint: from peakhold.keras import watch_gradients" in text
    assert int(net.optimizer.iterations) == 0


def test_histograms_of_gradients_that_are_not_kept(tmp_path):
    board = pk.TensorBoard(tmp_path, histogram_freq=1, write_gradients=True)
    for make in (
        [optimizers.SGD] if TRACED else [lambda: optimizers.LossScaleOptimizer(optimizers.SGD())]
    ):
        with pytest.raises(HostError, match=r"keeps its gradients[^\n]*\nHint: .*keep=True"):
            fit_linear(linear(pk.watch_gradients(make())), [board])
    if not TRACED:  # PyTorch's parameters have them
        net = linear(pk.watch_gradients(optimizers.SGD(0.0, loss_scale_factor=8.0)))
        fit_linear(net, [board])
        ((_, gradient),) = pk.KerasHost(net).gradients()
        assert gradient == pytest.approx(np.full((2, 1), 4.0))


@of_no_framework
def test_a_restart_takes_back_norms_too(tmp_path):
    net, board = linear(pk.watch_gradients(optimizers.SGD(0.0))), None
    for first, last in ((0, 3), (1, 4)):
        board = pk.TensorBoard(tmp_path, write_gradients=True)
        x = np.ones((8, 2))
        net.fit(x, np.zeros((8, 1)), verbose=0, epochs=last, initial_epoch=first, callbacks=[board])

    assert steps(opened(tmp_path / "train"), "epoch_gradient_norm") == [0, 1, 2, 3]
    assert len([v for _, v in values(tmp_path / "train") if v.tag == "epoch_gradient_norm"]) == 6


# Alerts


def test_an_alert_names_the_step_without_a_key_in_the_logs():
    targets = np.zeros(N_BATCHES)
    targets[3] = -10.0
    net = linear(pk.watch_gradients(optimizers.SGD(0.0)))
    with FakeSlack() as slack:
        alert = pk.SlackAlert(slack.url, when="gradient_norm > 20")
        history = fit_linear(net, [alert], targets, epochs=2)
        assert alert.flush(60)
        (text,) = slack.taken

    assert text.endswith("epoch 1 of 2: gradient_norm &gt; 20\ngradient_norm 33.9411 at step 4")
    assert list(history.history) == ["loss"]


@of_no_framework
def test_an_explosion_is_larger_than_any_limit():
    net = linear(pk.watch_gradients(optimizers.SGD(0.0)), root_of_error)
    with FakeSlack() as slack:
        alert = pk.SlackAlert(slack.url, when="gradient_norm > 1e30 and epoch > 1")
        fit_linear(net)
        fit_linear(net, [alert], exploding(), epochs=2)
        assert alert.flush(60)

    # The second epoch is broken from its first batch on.
    assert [text.splitlines()[1] for text in slack.taken] == [
        f"gradient_norm inf at step {2 * N_BATCHES + 1}"
    ]


@of_no_framework
def test_a_logged_metric_of_that_name_wins():
    class Logs(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["gradient_norm"] = 5.0

    net = linear(pk.watch_gradients(optimizers.SGD(0.0)))
    with FakeSlack() as slack:
        alert = pk.SlackAlert(slack.url, when="gradient_norm > 1")
        fit_linear(net, [Logs(), alert])
        assert alert.flush(60)

    assert [text.splitlines()[1] for text in slack.taken] == ["gradient_norm 5"]


@of_no_framework
def test_an_alert_on_gradients_that_nobody_watches_is_told_how():
    with FakeSlack() as slack:
        alert = pk.SlackAlert(slack.url, when="gradient_norm > 1")
        net = linear(optimizers.SGD(0.0))
        net.evaluate(np.ones((2, 2)), np.ones((2, 1)), verbose=0)  # its metrics are known
        with pytest.warns(AdviceWarning, match=r"model.compile\(watch_gradients\(optimizer\)"):
            fit_linear(net, [alert])


# In a loop with a Keras model


def test_the_neutral_classes_see_them_in_a_loop(tmp_path):
    net = linear(pk.watch_gradients(optimizers.SGD(0.0), keep=True))
    board = peakhold.TensorBoard(tmp_path, histogram_freq=1, write_gradients=True)
    callbacks = peakhold.CallbackList([board], net, verbose=0)
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    loss = net.train_on_batch(np.ones((4, 2)), np.zeros((4, 1)))
    callbacks.on_epoch_end(0, {"loss": loss})
    callbacks.on_train_end()
    train = opened(tmp_path / "train")

    assert series(train, "epoch_gradient_norm") == [(0, pytest.approx(4 * math.sqrt(2)))]
    assert f"{net.layers[0].kernel.path}/gradient" in tags(train)
