"""Files written from a plan, beside files that stock Keras writes at the same moment."""

import io
import json
import os
import random
import subprocess
import sys
import textwrap
import threading
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest

import keras
from keras import layers
from peakhold.host.contract import CannotPlanError
from peakhold.keras.files import plan as file_plan
from peakhold.keras.files import saving
from peakhold.keras.files.plan import plan

of_no_framework = pytest.mark.torch_is_enough("how arrays of NumPy become a file is Python's")

SUFFIXES = (".keras", ".weights.h5", ".h5")  # `.h5` last: Keras's own changes the model (see below)
BACKEND = keras.backend.backend()

pytestmark = pytest.mark.filterwarnings("ignore")  # Keras's words about its legacy format


# What stands in a file


def h5_content(file):
    """Every group, dataset and attribute, with shape, type, layout and bytes."""
    content = {}

    def attributes(found):
        attrs = {}
        for name in found.attrs:
            kind = h5py.h5a.open(found.id, name.encode()).get_type()
            value = found.attrs[name]
            attrs[name] = (kind.get_class(), kind.get_size(), np.asarray(value).tolist())
        return attrs

    def visit(name, found):
        if isinstance(found, h5py.Dataset):
            # In files, a type is the same if what is written of it is.
            kind = (found.dtype.str, found.id.get_type().encode())
            data = (found.shape, kind, found.chunks, found.fillvalue.tobytes(), found[()].tobytes())
        else:
            data = "group"
        content[name] = (data, attributes(found))

    with h5py.File(file, "r") as h5:
        visit("/", h5)
        h5.visititems(visit)
    return content


def zip_content(file):
    content = {}
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            data = archive.read(info)
            if info.filename == "metadata.json":
                data = {k: v for k, v in json.loads(data).items() if k != "date_saved"}
            elif info.filename.endswith(".h5"):
                data = h5_content(io.BytesIO(data))
            content[info.filename] = (info.compress_type, info.external_attr, data)
        order = [name for name in content if not name.startswith("assets")]
    return {"order": order, **content}


def content_of(file, suffix):
    return zip_content(file) if suffix == ".keras" else h5_content(file)


def stock(net, suffix, folder):
    path = os.path.join(folder, f"stock{suffix}")
    (net.save_weights if suffix == ".weights.h5" else net.save)(path)
    return content_of(path, suffix)


def arrays_of(planned):
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in planned.variables]


def written(planned, arrays):
    file = io.BytesIO()
    planned.write(file, arrays)
    return file


def direct(net, suffix, folder):
    with open(os.path.join(folder, f"direct{suffix}"), "w+b") as file:
        saving.write(net, file, suffix, folder)
    return content_of(file.name, suffix)


# Models


def stepped(net, x=None, y=None):
    """One step of training, so that optimizer and metrics have their variables; not compiled."""
    x = np.ones((4, 3), "float32") if x is None else x
    net.run_eagerly = True
    net.train_on_batch(x, np.ones((4, 1), "float32") if y is None else y)
    net.run_eagerly = False
    return net


def sequential(*middle, optimizer="adam", **arguments):
    net = keras.Sequential([keras.Input((3,)), layers.Dense(4), *middle, layers.Dense(1)])
    net.compile(optimizer, "mse", **{"metrics": ["mae"], **arguments})
    return net


def functional():
    one, two = keras.Input((3,), name="one"), keras.Input((3,), name="two")
    shared = layers.Dense(4, name="shared", activation="relu")
    joined = layers.Concatenate()([shared(one), shared(two)])
    outputs = {"a": layers.Dense(1, name="a")(joined), "b": layers.Dense(2, name="b")(joined)}
    net = keras.Model([one, two], outputs)
    net.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        {"a": "mse", "b": "mae"},
        metrics={"a": ["mae"], "b": [keras.metrics.MeanSquaredError(name="squares")]},
    )
    x = np.ones((4, 3), "float32")
    return stepped(net, [x, x], {"a": np.ones((4, 1)), "b": np.ones((4, 2))})


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.parts = [layers.Dense(units), [layers.Dropout(0.5), layers.Dense(units)]]
        self.named = {"norm": layers.BatchNormalization()}

    def call(self, x, training=None):
        x = self.parts[0](x)
        x = self.parts[1][1](self.parts[1][0](x, training=training))
        return self.named["norm"](x, training=training)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block, self.last = Block(4), layers.Dense(1)
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, x, training=None):
        return self.scale * self.last(self.block(x, training=training))

    def get_config(self):
        return {"name": self.name}


def subclassed():
    net = Subclassed()
    net.compile("adam", "mse", metrics=["mae"])
    return stepped(net)


@keras.saving.register_keras_serializable("tests")
class OwnState(layers.Layer):
    """A computed value, an array of the user's, a scalar, nothing at all, and text beside them."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1],), initializer="ones", name="kernel")
        self.empty = self.add_weight(shape=(0, 3), name="empty", trainable=False)
        self.table = np.arange(6, dtype=">i4").reshape(2, 3).T

    def call(self, x):
        return x * self.kernel

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["halved"] = keras.ops.convert_to_tensor(self.kernel) / 2
        store["table"] = self.table
        store["flags"] = np.array([True, False])
        store["number"] = 3
        store._h5_entry_group.attrs["note"] = "a word"
        store.h5_file.attrs["parts"] = np.array([1.5, 2.5])


def text_vectorization():
    layer = layers.TextVectorization(output_mode="tf_idf")
    layer.adapt(["a fox", "a dog and a fox"])
    return keras.Sequential([keras.Input((1,), dtype="string"), layer, layers.Dense(1)])


def string_lookup():
    layer = layers.StringLookup()
    layer.adapt(np.array(["a", "b", "c"]))
    return keras.Sequential([keras.Input((1,), dtype="string"), layer])


def frozen():
    net = sequential(layers.Dense(4, trainable=False), layers.BatchNormalization())
    net.layers[0].trainable = False
    net.compile("adam", "mse")
    return stepped(net)


def several_optimizers():
    names = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1, momentum=0.9))
    net = sequential()
    names[f"{net.name}/{net.layers[0].name}/.*"] = keras.optimizers.Adam(0.01)
    net.compile(keras.optimizers.MultiOptimizer(names), "mse")
    return stepped(net)


def lora():
    net = keras.Sequential([keras.Input((3,)), layers.Dense(4)])
    net.layers[0].enable_lora(2)
    net.compile("adam", "mse")
    return stepped(net, y=np.ones((4, 4), "float32"))


def recurrent():
    net = keras.Sequential(
        [keras.Input((3, 2)), layers.Bidirectional(layers.LSTM(2)), layers.Dense(1)]
    )
    net.compile("rmsprop", "mse")
    return stepped(net, np.ones((4, 3, 2), "float32"))


def mixed_precision():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        net = sequential()
    finally:
        keras.config.set_dtype_policy(before)
    assert type(net.optimizer) is keras.optimizers.LossScaleOptimizer
    return stepped(net)


def nested():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dropout(0.2, seed=3)])
    return stepped(sequential(inner))


def quantized():
    net = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dense(1)])
    net.quantize("int8")
    return net


def optimizer(**arguments):
    return stepped(sequential(optimizer=keras.optimizers.AdamW(0.01, **arguments)))


MODELS = {
    "sequential": lambda: stepped(sequential()),
    "dropout": lambda: stepped(sequential(layers.Dropout(0.5), layers.GaussianNoise(0.1, seed=3))),
    "batch-norm": lambda: stepped(sequential(layers.BatchNormalization())),
    "functional": functional,
    "subclassed": subclassed,
    "nested": nested,
    "recurrent": recurrent,
    "own-state": lambda: stepped(sequential(OwnState())),
    "text-vectorization": text_vectorization,
    "string-lookup": string_lookup,
    "frozen": frozen,
    "lora": lora,
    "quantized": quantized,
    "mixed-precision": mixed_precision,
    "loss-scale": lambda: stepped(
        sequential(optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.1)))
    ),
    "bfloat16": lambda: stepped(sequential(layers.Dense(4, dtype="bfloat16"))),
    "float16": lambda: stepped(sequential(layers.Dense(4, dtype="float16"))),
    "several-optimizers": several_optimizers,
    "ema": lambda: optimizer(use_ema=True),
    "accumulation": lambda: optimizer(gradient_accumulation_steps=2),
    "schedule": lambda: stepped(
        sequential(optimizer=keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 9)))
    ),
    "not-compiled": lambda: keras.Sequential([keras.Input((3,)), layers.Dense(4)]),
    "compiled-not-trained": sequential,
    "metrics": lambda: stepped(
        sequential(metrics=["mae", keras.metrics.RootMeanSquaredError()], weighted_metrics=["mse"])
    ),
    "many-names": lambda: keras.Sequential(
        [keras.Input((1,)), *(layers.Dense(1, name=f"{i:03}{'x' * 700}") for i in range(100))]
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_planned_file_is_what_keras_writes(name, tmp_path):
    net = MODELS[name]()
    for suffix in SUFFIXES:
        planned = plan(net, suffix)
        ours = content_of(written(planned, arrays_of(planned)), suffix)
        at_once = direct(net, suffix, tmp_path)
        theirs = stock(net, suffix, tmp_path)

        assert ours == theirs
        assert at_once == theirs
        assert len({id(variable) for variable in planned.variables}) == len(planned.variables)


# A plan is of its moment


def change_everything(net):
    for number, variable in enumerate([*net.variables, *net.optimizer.variables]):
        variable.assign(np.full(tuple(variable.shape), number % 3))
    for layer in net.layers:
        layer.trainable = not layer.trainable
    net.optimizer.learning_rate = 0.125
    owner = net.get_layer(index=1)
    if hasattr(owner, "table"):
        owner.table += 1
    net.compile("sgd", "mae")


def everything():
    return stepped(sequential(OwnState(), layers.Dropout(0.5), layers.BatchNormalization()))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_changes_after_the_plan_is_not_in_the_file(suffix, tmp_path):
    net = everything()
    planned = plan(net, suffix)
    arrays = arrays_of(planned)
    then = stock(net, suffix, tmp_path)

    change_everything(net)
    files = []
    thread = threading.Thread(target=lambda: files.append(written(planned, arrays)))
    thread.start()
    thread.join()

    assert content_of(files[0], suffix) == then
    assert content_of(written(planned, arrays), suffix) == then  # a plan may be written again
    assert stock(net, suffix, tmp_path) != then


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_plan_misses_no_change(suffix, tmp_path):
    """One model, changed between plans: nothing that is kept from plan to plan goes stale."""
    net = keras.Sequential([keras.Input((3,)), OwnState(), layers.Dense(3)])
    net.compile("adam", "mse")

    def add_a_variable():
        layer = net.layers[0]
        layer._tracker.unlock()
        layer.add_weight(shape=(2,), name="late")

    for change in (
        lambda: None,
        lambda: stepped(net, y=np.ones((4, 3), "float32")),
        lambda: change_everything(net),
        lambda: net.compile(keras.optimizers.Adam(0.5), "mse", metrics=["mae"]),
        lambda: setattr(net.layers[1], "activation", keras.activations.relu),
        lambda: setattr(net.layers[0], "table", np.zeros(5, "float16")),
        add_a_variable,
        lambda: net.add(layers.Dense(2)),
    ):
        change()
        planned = plan(net, suffix)
        ours = content_of(written(planned, arrays_of(planned)), suffix)
        assert ours == stock(net, suffix, tmp_path)


def everything_that_a_plan_might_move():
    naming = keras.src.backend.common.global_state.get_global_attribute("object_name_uids")
    seeds = keras.src.random.seed_generator.global_seed_generator().state
    moved = [random.getstate(), repr(np.random.get_state()), dict(naming)]  # noqa: NPY002
    moved.append(np.array(keras.ops.convert_to_numpy(seeds)).tolist())
    if BACKEND == "torch":
        import torch

        moved.append(torch.get_rng_state().tolist())
    return moved


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_plan_moves_no_random_generator_and_no_name(suffix):
    net = everything()
    file_plan._skipset.cache_clear()  # Keras builds a layer, a metric, … for it
    variables, compiled = [v.path for v in net.variables], json.dumps(net.get_compile_config())
    before = everything_that_a_plan_might_move()

    plan(net, suffix)

    assert everything_that_a_plan_might_move() == before
    assert [v.path for v in net.variables] == variables
    assert json.dumps(net.get_compile_config()) == compiled


def test_keras_itself_forgets_the_optimizer_when_it_writes_h5(tmp_path):
    """The reason why a plan puts a model's compile configuration back."""
    net = stepped(sequential())
    assert "optimizer" in net.get_compile_config()

    net.save(tmp_path / "model.h5")

    assert "optimizer" not in net.get_compile_config()


def test_planning_leaves_no_folder_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    planned = plan(string_lookup(), ".keras")

    assert os.listdir(tmp_path) == []
    assert [i for i, _ in planned._members if i.filename.startswith("assets/")]


# What cannot be planned


class SavesItself(keras.Sequential):
    def save(self, filepath, **_):
        with open(filepath, "wb") as file:
            file.write(b"my own format")


def test_a_model_with_a_save_of_its_own_writes_itself(tmp_path):
    net = SavesItself([keras.Input((3,)), layers.Dense(2)])
    for suffix in (".keras", ".h5"):
        with pytest.raises(CannotPlanError, match=r"SavesItself has a save\(\) of its own"):
            plan(net, suffix)
        with open(tmp_path / f"own{suffix}", "w+b") as file:
            saving.write(net, file, suffix, str(tmp_path))
        assert (tmp_path / f"own{suffix}").read_bytes() == b"my own format"

    assert plan(net, ".weights.h5").variables  # this method is Keras's
    net.save_weights = lambda path: None
    with pytest.raises(CannotPlanError, match=r"save_weights\(\) of its own"):
        plan(net, ".weights.h5")


class ReadsBack(layers.Layer):
    """What it has put into the store, it takes out again, and does not notice an error."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1],), initializer="ones", name="kernel")

    def call(self, x):
        return x * self.kernel

    def save_own_variables(self, store):
        store["0"] = self.kernel
        try:
            store["1"] = np.array(store["0"]) + 1
        except Exception:  # noqa: BLE001
            store["1"] = np.zeros(1)


class UsesHdf5(ReadsBack):
    def save_own_variables(self, store):
        store["0"] = self.kernel
        store._h5_entry_group.create_dataset("1", data=np.ones(8), compression="gzip")


@pytest.mark.parametrize(
    ("layer", "reason"),
    [(ReadsBack, "a layer reads '0' back"), (UsesHdf5, "failed with TypeError: .*compression")],
)
def test_a_layer_that_a_plan_cannot_serve_is_saved_by_keras(layer, reason, tmp_path):
    net = stepped(sequential(layer()))
    with pytest.raises(CannotPlanError, match=reason):
        plan(net, ".weights.h5")

    assert direct(net, ".weights.h5", tmp_path) == stock(net, ".weights.h5", tmp_path)


def test_another_version_of_keras_is_said(monkeypatch):
    net = sequential()
    monkeypatch.delattr("keras.src.saving.saving_lib._save_container_state")
    with pytest.raises(CannotPlanError, match="_save_container_state"):
        plan(net, ".keras")


def test_the_weights_of_a_model_that_is_not_built_are_an_error():
    with pytest.raises(ValueError, match="has been built"):
        plan(keras.Sequential([layers.Dense(1)]), ".weights.h5")


# Writing


class Pipe(io.RawIOBase):
    """Counts what is written; has room for so much."""

    def __init__(self, room=1 << 40):
        super().__init__()
        self.room, self.position, self.error = room, 0, None

    def writable(self):
        return True

    def seekable(self):
        return True

    def tell(self):
        return self.position

    def seek(self, offset, whence=io.SEEK_SET):
        assert whence == io.SEEK_SET
        self.position = offset
        return offset

    def write(self, data):
        n_bytes = memoryview(data).nbytes
        if self.position + n_bytes > self.room:
            self.error = self.error or OSError(28, "No space left on device")
            raise self.error
        self.position += n_bytes
        return n_bytes


def wide():
    return keras.Sequential([keras.Input((1024,)), layers.Dense(8192)])


@of_no_framework
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_writing_takes_no_memory_of_the_size_of_the_weights(suffix):
    planned = plan(wide(), suffix)
    arrays = arrays_of(planned)
    tracemalloc.start()
    try:
        pipe = Pipe()
        planned.write(pipe, arrays)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert pipe.position > sum(array.nbytes for array in arrays) > 32 << 20
    assert peak < 1 << 20


@of_no_framework
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("room", [0, 700, 1 << 16, 1 << 24])
def test_a_write_that_fails_is_the_error_that_is_raised(suffix, room):
    planned = plan(wide(), suffix)
    pipe = Pipe(room)
    try:
        raise KeyError("another matter, being handled")
    except KeyError:
        with pytest.raises(OSError, match="No space left") as raised:
            planned.write(pipe, arrays_of(planned))

    assert raised.value is pipe.error


class Onward(Pipe):
    """Takes no step back: a file whose writer takes one is read again to be hashed."""

    def __init__(self):
        super().__init__()
        self.file = io.BytesIO()

    def seek(self, offset, whence=io.SEEK_SET):
        assert (offset, whence) == (self.position, io.SEEK_SET)
        return offset

    def write(self, data):
        self.file.write(data)
        return super().write(data)


@of_no_framework
@pytest.mark.parametrize("limit", [zipfile.ZIP64_LIMIT, 1 << 16], ids=["small", "beyond 2 GiB"])
def test_a_zip_is_written_onward_and_stands_as_zipfile_writes_it(limit, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    planned = plan(wide(), ".keras")
    pipe = Onward()
    planned.write(pipe, arrays_of(planned))

    assert pipe.position == len(pipe.file.getvalue())
    with zipfile.ZipFile(pipe.file) as archive:
        assert archive.testzip() is None
        again = io.BytesIO()
        with zipfile.ZipFile(again, "w") as other:
            for info in archive.infolist():
                header = zipfile.ZipInfo(info.filename, info.date_time)
                header.external_attr, header.file_size = info.external_attr, info.file_size
                with other.open(header, "w") as member:
                    member.write(archive.read(info))
    assert again.getvalue() == pipe.file.getvalue()


@of_no_framework
def test_arrays_that_do_not_fit_are_refused():
    planned = plan(wide(), ".weights.h5")
    wrong = [np.zeros((3, 3), array.dtype) for array in arrays_of(planned)]
    with pytest.raises(ValueError, match=r"expected an array of shape \(1024, 8192\)"):
        planned.write(io.BytesIO(), wrong)


LOADS = """
    import sys
    import numpy as np
    import keras
    folder = sys.argv[1]
    net = keras.models.load_model(f"{folder}/model.keras")
    assert net.optimizer.iterations == 1
    other = keras.models.load_model(f"{folder}/model.h5")
    for a, b in zip(net.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    other.set_weights([0 * w for w in other.get_weights()])
    other.load_weights(f"{folder}/model.weights.h5")
    np.savez(f"{folder}/loaded.npz", *other.get_weights(), *[np.array(v) for v in net.optimizer.variables])
"""


def test_stock_keras_loads_the_files_in_another_process(tmp_path):
    net = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.5)]
    )
    net.compile(keras.optimizers.Adam(0.01), keras.losses.MeanSquaredError())
    stepped(net, y=np.ones((4, 4), "float32"))
    for suffix in SUFFIXES:
        planned = plan(net, suffix)
        (tmp_path / f"model{suffix}").write_bytes(written(planned, arrays_of(planned)).getvalue())

    script = [sys.executable, "-c", textwrap.dedent(LOADS), str(tmp_path)]
    subprocess.run(script, check=True, timeout=300, env={**os.environ, "KERAS_BACKEND": BACKEND})

    loaded = list(np.load(tmp_path / "loaded.npz").values())
    kept = [*net.get_weights(), *(np.array(v) for v in net.optimizer.variables)]
    for one, other in zip(loaded, kept, strict=True):
        np.testing.assert_array_equal(one, other)
