"""TensorBoard in `fit`: beside Keras's own, in the same run, read by TensorBoard's own code."""

import copy
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest

import keras
import peakhold
import peakhold.keras as pk
from conftest import BACKEND
from event_reader import (
    array,
    files,
    multiplexed,
    opened,
    raw_events,
    series,
    steps,
    tags,
    values,
)  # fmt: skip
from keras_helpers import data, fit, model
from peakhold.errors import InvalidArgumentError
from peakhold.keras import profiler

of_no_framework = pytest.mark.torch_is_enough(
    "which events lie in which file is Python's; what a fit gives to be drawn is drawn on every backend"
)

RUN_GRAPH = "__run_graph__"
"""What TensorBoard calls the graph of a run; Keras 3 writes none."""
N_BATCHES = 4  # 32 rows, 8 at a time


def both(tmp_path, **arguments):
    """Keras's TensorBoard and ours, for the same `fit`."""
    return [
        keras.callbacks.TensorBoard(str(tmp_path / "keras"), **arguments),
        pk.TensorBoard(tmp_path / "ours", **arguments),
    ]


def read(tmp_path, run):
    return opened(tmp_path / "keras" / run), opened(tmp_path / "ours" / run)


@pytest.fixture(scope="module", params=["epoch", "batch"])
def written_by_both(request, tmp_path_factory):
    """By Keras's and by ours, of two fits that are alike."""
    folder = tmp_path_factory.mktemp("both")
    arguments = {"histogram_freq": 2, "write_images": True, "write_steps_per_second": True}
    for board in both(folder, update_freq=request.param, **arguments):
        keras.utils.set_random_seed(1)
        keras.utils.clear_session()
        fit(model("adam"), [board], 3)
    return folder


@pytest.mark.parametrize("run", ["train", "validation"])
def test_what_keras_writes_is_written(run, written_by_both):
    """Tags, steps, values, plugins; but for clocks, images (darker in Keras) and nothing else."""
    theirs, mine = read(written_by_both, run)

    assert tags(mine) - {RUN_GRAPH} == tags(theirs) - {RUN_GRAPH}
    for tag in tags(theirs) - {RUN_GRAPH}:
        assert steps(mine, tag) == steps(theirs, tag), tag
        plugin = theirs.SummaryMetadata(tag).plugin_data
        assert mine.SummaryMetadata(tag).plugin_data == plugin
        if tag.endswith(("steps_per_second", "/image")):
            continue
        for one, other in zip(mine.Tensors(tag), theirs.Tensors(tag), strict=True):
            a, b = array(one), array(other)
            assert a.dtype == b.dtype and a.shape == b.shape
            if plugin.plugin_name == "histograms":
                assert np.array_equal(a[:, 2], b[:, 2]) and np.allclose(a, b, atol=1e-12)
            else:
                assert np.array_equal(a, b), tag
    ours = opened(written_by_both / "ours" / "train")
    assert json.loads(array(ours.Tensors("keras")[0]).item())


def test_images_show_the_sign_of_a_weight(tmp_path):
    net = model()
    net.layers[0].kernel.assign([[-1, 0, 0.5, 1], [0, 0, 0, 0], [0, 0, 0, 0]])
    fit(net, [pk.TensorBoard(tmp_path, histogram_freq=1, write_images=True)], 1, steps_per_epoch=1)
    width, height, png = array(
        opened(tmp_path / "train").Tensors(f"{net.layers[0].kernel.path}/image")[0]
    )
    pixels = pytest.importorskip("tensorflow").io.decode_png(png).numpy()[..., 0]

    assert (width, height) == (b"4", b"3")
    assert pixels[0, 0] < 20 and pixels[0, 3] > 235


# Steps


def test_batches_count_on_in_the_next_fit(tmp_path):
    """K-T1."""
    net, board = model(), pk.TensorBoard(tmp_path, update_freq=1)
    fit(net, [board], 2)
    fit(net, [board], 3, initial_epoch=2)
    train = opened(tmp_path / "train")

    assert steps(train, "batch_loss") == list(range(1, 3 * N_BATCHES + 1))
    assert steps(train, "epoch_loss") == [0, 1, 2]


@pytest.mark.parametrize(
    ("compiled", "update_freq", "expected"),
    [
        ({"steps_per_execution": 2}, 1, [2, 4, 6, 8]),
        ({"steps_per_execution": 2}, 3, [4, 6]),
        ({"optimizer": "accumulates"}, 1, [0, 1, 1, 2, 2, 3, 3, 4]),
        ({"optimizer": "scales"}, 1, list(range(1, 9))),
        ({}, 3, [3, 6]),
    ],
)
def test_the_step_of_a_batch_is_the_optimizers(compiled, update_freq, expected, tmp_path):
    optimizers = {
        "accumulates": lambda: keras.optimizers.SGD(gradient_accumulation_steps=2),
        "scales": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
    }
    make = optimizers.get(compiled.get("optimizer"), lambda: "sgd")
    if BACKEND == "torch" and "steps_per_execution" in compiled:
        pytest.skip("Keras runs one step at a time there")
    net = model()
    net.compile(make(), "mse", steps_per_execution=compiled.get("steps_per_execution", 1))
    fit(net, [pk.TensorBoard(tmp_path, update_freq=update_freq)], 2)

    assert steps(opened(tmp_path / "train"), "batch_loss") == expected


@of_no_framework
def test_a_rate_is_that_of_the_epoch_wherever_the_callback_stands(tmp_path):
    for name, order in {"before": 1, "after": -1}.items():
        board = pk.TensorBoard(tmp_path / name)
        plateau = pk.ReduceLROnPlateau("loss", patience=1, min_delta=1e9, factor=0.5)
        fit(model(keras.optimizers.SGD(0.5)), [board, plateau][::order], 4)
    before, after = (
        series(opened(tmp_path / n / "train"), "epoch_learning_rate") for n in ("before", "after")
    )

    assert before == after
    assert before[0] == (0, 0.5) and before[-1][1] < 0.5


# One line


@of_no_framework
def test_a_killed_fit_and_its_restart_draw_one_line(tmp_path):
    """The same lines twice; `BackupAndRestore` finds out where to go on."""
    code = (
        "import os, signal, sys\n"
        "sys.path[:0] = sys.argv[2].split(os.pathsep)\n"
        "import conftest, keras, peakhold.keras as pk\n"
        "from keras_helpers import fit, model\n"
        "class Dies(keras.callbacks.Callback):\n"
        "    def on_train_batch_end(self, batch, logs=None):\n"
        "        if sys.argv[3] == 'dies' and self.model.optimizer.iterations >= 14:\n"
        "            board._peakhold_link.participant._folders.flush()\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "board = pk.TensorBoard(sys.argv[1] + '/tb', update_freq=1, histogram_freq=1)\n"
        "fit(model(), [board, pk.BackupAndRestore(sys.argv[1] + '/backup'), Dies()], 5)\n"
    )
    path = os.pathsep.join([str(pathlib.Path(__file__).parents[1]), *sys.path])
    for word, status in [("dies", -signal.SIGKILL), ("lives", 0)]:
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), path, word],
            env={**os.environ, "KERAS_BACKEND": BACKEND}, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr[-2000:]
    reader = multiplexed(tmp_path / "tb")
    train, validation = reader.GetAccumulator("train"), reader.GetAccumulator("validation")

    assert len(files(tmp_path / "tb" / "train")) == 2
    assert len(values(tmp_path / "tb" / "train")) > len(train.Tensors("batch_loss")) + 14
    assert steps(train, "batch_loss") == list(range(1, 5 * N_BATCHES + 1))
    for tag in tags(train) - {"batch_loss", "batch_mae", "keras", RUN_GRAPH}:
        assert steps(train, tag) == [0, 1, 2, 3, 4], tag
    assert steps(train, "keras") == steps(train, RUN_GRAPH) == [0]
    assert steps(validation, "epoch_loss") == [0, 1, 2, 3, 4]
    assert steps(validation, "evaluation_loss_vs_iterations") == [4, 8, 12, 16, 20]


# `tf.summary` in layers


@pytest.fixture
def tf():
    return pytest.importorskip("tensorflow")


class Summarizes(keras.layers.Layer):
    """A layer of a user that writes with TensorFlow."""

    def call(self, x):
        import tensorflow as tf

        tf.summary.scalar("of_the_layer", keras.ops.convert_to_numpy(keras.ops.sum(x))
                          if BACKEND == "torch" else keras.ops.sum(x))  # fmt: skip
        return x


def summarizing_model():
    net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1), Summarizes()])
    net.compile("sgd", "mse", jit_compile=False)
    return net


class Watches(keras.callbacks.Callback):
    """Somebody who has TensorBoard open all the time."""

    def __init__(self, log_dir):
        super().__init__()
        self.readers, self.seen = {}, []
        self.log_dir = log_dir

    def on_epoch_end(self, epoch, logs=None):
        for run in ("train", "validation"):
            reader = self.readers.setdefault(run, opened(self.log_dir / run))
            reader.Reload()


@pytest.mark.skipif(BACKEND == "jax", reason="JAX traces: a layer writes nothing there")
@pytest.mark.parametrize("update_freq", [1, 2])
def test_summaries_of_layers_and_ours_are_all_seen(tf, update_freq, tmp_path):
    watches = Watches(tmp_path)
    fit(
        summarizing_model(), [pk.TensorBoard(tmp_path, update_freq=update_freq), watches], 3,
        validation_batch_size=8,
    )  # fmt: skip
    for name, reader in watches.readers.items():
        reader.Reload()
        custom = [tag for tag in tags(reader) if tag.endswith("of_the_layer")]
        assert len(custom) == 1
        assert steps(reader, custom[0]) == list(range(update_freq, 13, update_freq)), name
        assert steps(reader, "epoch_loss") == [0, 1, 2]
    assert steps(watches.readers["train"], "batch_loss") == list(
        range(update_freq, 13, update_freq)
    )
    assert steps(watches.readers["validation"], "evaluation_loss_vs_iterations") == [4, 8, 12]


@pytest.mark.skipif(BACKEND == "jax", reason="JAX traces: a layer writes nothing there")
def test_two_boards_and_the_summaries_of_layers(tf, tmp_path):
    boards = [pk.TensorBoard(tmp_path / name, update_freq=1) for name in "ab"]
    fit(summarizing_model(), boards, 2)

    assert not tf.summary.should_record_summaries()
    for name in "ab":
        assert steps(opened(tmp_path / name / "train"), "batch_loss") == list(range(1, 9))
    last = opened(tmp_path / "b" / "train")
    assert [steps(last, t) for t in tags(last) if t.endswith("of_the_layer")] == [[*range(1, 9)]]


@pytest.mark.skipif(BACKEND == "jax", reason="JAX traces: a layer writes nothing there")
def test_summaries_of_layers_in_one_fit_after_another(tf, tmp_path):
    """The traced function holds the writer of the first fit: Keras's second one dies of it."""
    net, board = summarizing_model(), pk.TensorBoard(tmp_path / "a", update_freq=1)
    fit(net, [board], 1)
    fit(net, [board], 2, initial_epoch=1)
    fit(net, [pk.TensorBoard(tmp_path / "b", update_freq=1)], 1)

    for run, expected in {"a": [1, 2, 3, 4, 5, 6, 7, 8], "b": [9, 10, 11, 12]}.items():
        train = opened(tmp_path / run / "train")
        (custom,) = [tag for tag in tags(train) if tag.endswith("of_the_layer")]
        assert steps(train, custom) == steps(train, "batch_loss") == expected


def test_a_layer_that_writes_dies_of_keras_own_callback_in_the_second_fit(tf, tmp_path):
    """What the test above is about, to know when Keras has mended it."""
    if BACKEND != "tensorflow":
        pytest.skip("nothing is traced there")
    net = summarizing_model()
    board = keras.callbacks.TensorBoard(str(tmp_path), update_freq=1)
    fit(net, [board], 1)

    with pytest.raises(tf.errors.OpError):
        fit(net, [board], 1)
    state = importlib.import_module("tensorflow.python.ops.summary_ops_v2")._summary_state
    state.writer = state.is_recording = None  # what it left behind


def test_the_default_writer_is_as_before_when_training_has_ended(tf, tmp_path):
    board = pk.TensorBoard(tmp_path, update_freq=1)
    fit(model(), [board], 1)
    net = model()
    net.evaluate(*data(), verbose=0, callbacks=[board])

    assert not tf.summary.should_record_summaries()


def test_without_tensorflow(tmp_path):
    """K-T2: TensorFlow cannot even be found."""
    if BACKEND == "tensorflow":
        pytest.skip("the backend needs it")
    code = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "absent = {'tensorflow', 'tensorboard'}\n"
        "def without(name, path=None, target=None):\n"
        "    return None if name.split('.')[0] in absent else find(name, path, target)\n"
        "PathFinder.find_spec = without\n"
        "sys.path[:0] = sys.argv[2].split(':')\n"
        "import conftest, keras, peakhold.keras as pk\n"
        "from keras_helpers import fit, model\n"
        "board = pk.TensorBoard(sys.argv[1], histogram_freq=1, write_images=True,\n"
        "    write_steps_per_second=True, update_freq=2, embeddings_freq=1)\n"
        "fit(model(), [board], 2)\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    path = os.pathsep.join([str(pathlib.Path(__file__).parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), path], capture_output=True, text=True,
        env={**os.environ, "KERAS_BACKEND": BACKEND}, timeout=300, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-2000:]
    train = opened(tmp_path / "train")
    assert steps(train, "batch_loss") == [2, 4, 6, 8]
    assert {"keras", "epoch_loss", "batch_steps_per_second"} <= tags(train)


# Embeddings


def embedding_model():
    net = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Embedding(5, 2, name="words"),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    net.compile("adam", "mse")
    return net


def projected(log_dir, name):
    """The points that the projector's own server would send to the browser."""
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
    from werkzeug.test import Client
    from werkzeug.wrappers import Response

    plugin = ProjectorPlugin(TBContext(logdir=str(log_dir)))
    app = plugin.get_plugin_apps()
    served = Client(app["/tensor"], Response).get("/?run=.&name=" + name)
    assert served.status_code == 200, served.data
    labels = Client(app["/metadata"], Response).get("/?run=.&name=" + name)
    return np.frombuffer(served.data, np.float32), labels.data


@pytest.mark.parametrize("values", ["trained", "zeros", "text"])
def test_the_projector_shows_the_embeddings(tf, values, tmp_path):
    (tmp_path / "words.tsv").write_text("a\nb\nc\nd\ne\n")
    labels = {"words": "words.tsv"}
    board = pk.TensorBoard(tmp_path, embeddings_freq=1, embeddings_metadata=labels)
    net = embedding_model()
    net.fit(np.zeros((8, 3)), np.zeros((8, 1)), epochs=2, verbose=0, callbacks=[board])
    assert labels == {"words": "words.tsv"}
    layer = net.layers[0]
    if values != "trained":  # float32 whose bytes can be read as text
        number = np.frombuffer(b"abcd", np.float32)[0] if values == "text" else 0.0
        layer.embeddings.assign(np.full((5, 2), number))
        board._peakhold_link.participant._record_embeddings()
    points, names = projected(tmp_path, "words")

    assert np.array_equal(points.reshape(5, 2), keras.ops.convert_to_numpy(layer.embeddings))
    assert names.split() == [b"a", b"b", b"c", b"d", b"e"]


@of_no_framework
def test_labels_for_a_layer_that_is_not_there_are_refused_before_training(tmp_path):
    board = pk.TensorBoard(tmp_path, embeddings_freq=1, embeddings_metadata={"word": "w.tsv"})

    with pytest.raises(InvalidArgumentError, match="Unrecognized `Embedding` layer names"):
        embedding_model().fit(np.zeros((8, 3)), np.zeros((8, 1)), verbose=0, callbacks=[board])


@of_no_framework
def test_a_model_of_another_framework_has_no_embedding_layers(tmp_path):
    """Keras's list and its kind of the callback drive other loops, too."""
    weights = {"w": np.zeros(3)}
    host = peakhold.LoopHost(get_state=lambda: weights, set_state=weights.update)
    callbacks = pk.CallbackList(pk.TensorBoard(tmp_path, embeddings_freq=1), host=host, verbose=0)
    callbacks.set_model(None)
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    callbacks.on_epoch_end(0, {"loss": 0.5})
    callbacks.on_train_end()

    assert steps(opened(tmp_path / "train"), "epoch_loss") == [0]
    assert not (tmp_path / "projector_config.pbtxt").exists()


# The profiler


def test_a_batch_is_profiled_by_the_frameworks_own_profiler(tmp_path):
    if BACKEND == "jax" and sys.version_info < (3, 12):
        with pytest.warns(match=r"backend requires python >= 3\.12"):
            board = pk.TensorBoard(tmp_path, profile_batch=2)
        fit(model(), [board], 1)
        assert not (tmp_path / "train" / "plugins").exists()
        return
    fit(model(), [pk.TensorBoard(tmp_path, profile_batch=(2, 3))], 2)
    traces = [p.name for p in (tmp_path / "train").rglob("*") if p.is_file()]

    suffix = ".pt.trace.json" if BACKEND == "torch" else ".xplane.pb"
    assert sum(name.endswith(suffix) for name in traces) == 1
    if BACKEND == "tensorflow":
        assert "batch_3" in tags(opened(tmp_path / "train"))


@pytest.mark.parametrize("compiled", ["steps_per_execution", "gradient_accumulation_steps"])
def test_batches_to_profile_are_counted_as_batches(compiled, tmp_path, monkeypatch):
    """However many of them a hook stands for, and however few updates they make."""
    if BACKEND == "torch" and compiled == "steps_per_execution":
        pytest.skip("Keras runs one step at a time there")
    done = []
    monkeypatch.setattr(profiler, "usable", lambda batches: True)
    monkeypatch.setattr(profiler, "start", lambda folder: done.append("start") or folder)
    monkeypatch.setattr(profiler, "stop", lambda running: done.append("stop"))
    says = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: done.append(batch),
        on_train_batch_end=lambda batch, logs: done.append(batch),
    )
    net = model()
    if compiled == "steps_per_execution":
        net.compile("sgd", "mse", steps_per_execution=2)
        one = [0, 1, 2, 3]
        expected = [*one, "start", 0, "stop", 1, 2, 3, *one]
    else:
        net.compile(keras.optimizers.SGD(gradient_accumulation_steps=2), "mse")
        one = [0, 0, 1, 1, 2, 2, 3, 3]
        expected = [*one, "start", 0, 0, 1, "stop", 1, 2, 2, 3, 3, *one]
    fit(net, [pk.TensorBoard(tmp_path, profile_batch=(5, 6)), says], 3)

    assert done == expected


def test_a_profile_that_training_does_not_reach_the_end_of_is_stopped(tmp_path):
    if BACKEND == "jax" and sys.version_info < (3, 12):
        pytest.skip("no profiler there")
    board = pk.TensorBoard(tmp_path, profile_batch=(2, 300))
    fit(model(), [board], 1)
    fit(model(), [pk.TensorBoard(tmp_path / "again", profile_batch=1)], 1)

    assert board._peakhold_link.participant._profiler is None


# Around it


def test_evaluate_alone(tmp_path):
    net, board = model(), pk.TensorBoard(tmp_path)
    net.evaluate(*data(), verbose=0, callbacks=[board])
    fit(net, [board], 1, validation_data=None)
    net.evaluate(*data(), verbose=0, callbacks=[board])

    assert steps(opened(tmp_path / "validation"), "evaluation_loss_vs_iterations") == [0, 4]


@of_no_framework
@pytest.mark.parametrize("copied", [lambda board: board, copy.deepcopy])
def test_a_board_made_for_loops_and_adapted_has_all_that_keras_offers(copied, tmp_path):
    """So has a user's subclass: what writes for it is for `fit`, and its own class stays."""

    class Own(peakhold.TensorBoard):
        pass

    for kind in (peakhold.TensorBoard, Own):
        neutral = kind(tmp_path / kind.__name__, update_freq=2)
        board = copied(pk.adapt(neutral))
        fit(model(), [board], 1)
        train = opened(tmp_path / kind.__name__ / "train")

        assert isinstance(board, kind) and board.update_freq == 2
        assert steps(train, "batch_loss") == [2, 4]
        assert RUN_GRAPH in tags(train)


def test_hooks_by_hand(tmp_path):
    """K-T4."""
    board = pk.TensorBoard(tmp_path)
    board.set_model(model())
    board.on_train_begin()
    board.on_epoch_begin(0)
    board.on_test_begin()
    board.on_test_end()
    board.on_epoch_end(0, {"loss": keras.ops.convert_to_tensor(0.5)})
    board.on_train_end()

    assert series(opened(tmp_path / "train"), "epoch_loss") == [(0, 0.5)]


def test_the_neutral_class_in_a_loop_with_a_keras_model(tmp_path):
    net = model()
    callbacks = peakhold.CallbackList(
        peakhold.TensorBoard(tmp_path, histogram_freq=1), net, verbose=0
    )
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    callbacks.on_epoch_end(0, {"loss": 0.5})
    callbacks.on_train_end()

    paths = {f"{weight.path}/histogram" for weight in net.weights}
    assert tags(opened(tmp_path / "train")) == {"epoch_loss", "epoch_learning_rate", *paths}


@of_no_framework
def test_an_exception_ends_a_run_that_the_next_one_takes_over(tmp_path):
    class Breaks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations >= 6:
                raise ZeroDivisionError

    board = pk.TensorBoard(tmp_path, update_freq=1)
    with pytest.raises(ZeroDivisionError):
        fit(model(), [Breaks(), board], 3)
    fit(model(), [board], 2)
    train = opened(tmp_path / "train")

    assert steps(train, "batch_loss") == list(range(1, 9))
    assert steps(train, "epoch_loss") == [0, 1]


@of_no_framework
def test_a_model_that_cannot_be_written_as_json_is_no_error(tmp_path):
    class Own(keras.layers.Layer):
        def get_config(self):
            raise RuntimeError("not that one")

        def call(self, x):
            return x

    net = keras.Sequential([keras.Input((3,)), Own(), keras.layers.Dense(1)])
    net.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="failed to serialize as JSON"):
        fit(net, [pk.TensorBoard(tmp_path)], 1)

    assert "epoch_loss" in tags(opened(tmp_path / "train"))


@of_no_framework
def test_the_page_of_graphs_opens_on_the_layers(tmp_path):
    """Branches, a layer that is used twice, and a model in a model, as Keras writes them down."""
    shared = keras.layers.Dense(3, name="shared")
    inner_in = keras.Input((3,), name="inner_in")
    inner = keras.Model(inner_in, keras.layers.Dense(2, name="a")(inner_in), name="inner")
    tail_in = keras.Input((2,), name="tail_in")
    tail = keras.Sequential([tail_in, keras.layers.Dense(2, name="last")], name="tail")
    x, y = keras.Input((3,), name="x"), keras.Input((3,), name="y")
    sum_ = keras.layers.Add(name="sum")([shared(x), shared(y)])
    net = keras.Model([x, y], tail(inner(sum_)), name="net")
    net.compile("sgd", "mse")
    rows = np.ones((4, 3))
    net.fit([rows, rows], np.ones((4, 2)), verbose=0, callbacks=[pk.TensorBoard(tmp_path)])
    nodes = {n.name: list(n.input) for n in opened(tmp_path / "train").Graph().node}

    assert nodes == {
        "net/tail/tail_in": ["net/inner/a"], "net/tail/last": ["net/tail/tail_in"],
        "net/x": [], "net/y": [], "net/shared": ["net/x", "net/y"], "net/sum": ["net/shared"],
        "net/inner/inner_in": ["net/sum"], "net/inner/a": ["net/inner/inner_in"],
    }  # fmt: skip


@of_no_framework
def test_a_subclassed_model_has_no_graph_and_is_no_error(tmp_path):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x):
            return self.dense(x)

    net = Own()
    net.compile("sgd", "mse")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(net, [pk.TensorBoard(tmp_path, histogram_freq=1)], 1)

    assert "keras" not in tags(opened(tmp_path / "train"))


@of_no_framework
def test_each_file_ends_with_the_mark_of_its_end(tmp_path):
    fit(model(), [pk.TensorBoard(tmp_path)], 1)

    for run in ("train", "validation"):
        *_, last = raw_events(tmp_path / run)
        assert last.session_log.status == 2
