"""`fit` goes on inside an epoch, exactly: each kind of data, or it is said before the first batch."""

import contextlib
import gc
import os
import re
import signal
import sys
import weakref

import numpy as np
import pytest

import keras
import peakhold.keras as pk
import resume_runs
from conftest import BACKEND
from event_reader import opened, series
from peakhold.backup.interrupted import Interrupted
from peakhold.errors import SaveWarning
from peakhold.keras import tf_summary
from peakhold.store import Reader, drain

of_no_framework = pytest.mark.torch_is_enough(
    "what is asked of the iterator is Keras's, not a backend's"
)

N, SIZE = 44, 8
"""Rows, and rows in a batch: the last one of an epoch has four."""


class Witness(keras.callbacks.Callback):
    """A user's callback that sees each hook once, draws from NumPy's generator, and has a state."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = [list(one) for one in state["seen"]]

    def note(self, *what):
        self.seen.append([*what, float(np.random.rand())])  # noqa: NPY002 - what a backup brings back

    def on_epoch_begin(self, epoch, logs=None):
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        steps = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        self.note("epoch", epoch, rate, steps)

    def on_train_batch_begin(self, batch, logs=None):
        self.note("begin", batch)

    def on_train_batch_end(self, batch, logs=None):
        self.note("end", batch, float(logs["loss"]))

    def on_epoch_end(self, epoch, logs=None):
        self.note("epoch end", float(logs["loss"]))


class Crash(keras.callbacks.Callback):
    """Raises at a hook of an epoch."""

    def __init__(self, epoch, hook, batch=None):
        super().__init__()
        self.at, self.epoch = (epoch, hook, batch), 0

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

    def reached(self, hook, batch=None):
        if (self.epoch, hook, batch) == self.at:
            raise ZeroDivisionError

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        self.reached("begin", batch)

    def on_train_batch_end(self, batch, logs=None):
        self.reached("end", batch)

    def on_test_begin(self, logs=None):
        self.reached("test")


def rows(n=N):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 4)).astype("float32")
    return x, (x.sum(axis=1, keepdims=True) > 0).astype("float32")


def build(**compiled):
    net = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dropout(0.4),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    net.compile(
        keras.optimizers.Adam(0.01), "binary_crossentropy",
        metrics=["accuracy", "AUC"], weighted_metrics=["mae"], **compiled,
    )  # fmt: skip
    return net


def train(
    folder, make, *also, net=build, epochs=3, seed=1, of_tensorflow=False, save_freq=2, **backup
):
    """The line that starts a run and resumes it; returns all that must be the same."""
    keras.utils.set_random_seed(1 if BACKEND == "tensorflow" or of_tensorflow else seed)
    if "torch" in sys.modules:  # Keras seeds it on its own backend alone
        sys.modules["torch"].manual_seed(seed)
    folder.mkdir(exist_ok=True)
    model, witness = net(), Witness()
    halves = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)
    ours = [
        pk.BackupAndRestore(folder / "backup", save_freq, **backup),
        halves,
        witness,  # after ours: a backup made in our own hook would not know what it has seen
        pk.CSVLogger(folder / "log.csv", append=True),
        *also,
    ]
    history = model.fit(**{"verbose": 0, **make()}, epochs=epochs, callbacks=ours)
    arrays = [*model.variables, *model.optimizer.variables]
    return {
        "state": resume_runs.digest(keras.ops.convert_to_numpy(one) for one in arrays),
        "history": history.history,
        "csv": (folder / "log.csv").read_text(),
        "seen": witness.seen,
    }


def differing(folder, make, *moments, **arguments):
    """What of a run differs from the unbroken one, if it is broken at these moments, one by one."""
    whole = train(folder / "whole", make, **arguments)
    for number, moment in enumerate(moments):
        with pytest.raises(ZeroDivisionError):
            train(folder / "broken", make, Crash(*moment), seed=1 + number, **arguments)
        drain()
    again = train(folder / "broken", make, seed=9, **arguments)
    return {name: (again[name], whole[name]) for name in whole if again[name] != whole[name]}


def arrays(**more):
    def make():
        x, y = rows()
        return {"x": x, "y": y, "batch_size": SIZE, **more}

    return make


def of_tf_data(pipeline, **more):
    def make():
        tf = pytest.importorskip("tensorflow")
        return {"x": pipeline(tf, tf.data.Dataset.from_tensor_slices(rows())), **more}

    return make


def of_loader(**options):
    def make():
        torch = pytest.importorskip("torch")
        x, y = rows()
        options.setdefault("batch_size", SIZE)
        own = {"generator": torch.Generator().manual_seed(5)} if options.get("own") else {}
        taken = {k: v for k, v in options.items() if k != "own"}
        data = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
        return {"x": torch.utils.data.DataLoader(data, shuffle=True, **own, **taken)}

    return make


class Fixed(keras.utils.PyDataset):
    def __init__(self, **options):
        super().__init__(**options)
        self.x, self.y = rows()

    def __len__(self):
        return (N - 1) // SIZE + 1

    def __getitem__(self, index):
        part = slice(index * SIZE, (index + 1) * SIZE)
        return self.x[part], self.y[part]


class Reordered(Fixed):
    """Its order is its own, and changes with each epoch."""

    def __init__(self, **options):
        super().__init__(**options)
        self.n_epochs = 0
        self.on_epoch_end()

    def on_epoch_end(self):
        self.order = np.random.default_rng(self.n_epochs).permutation(N)
        self.n_epochs += 1

    def __getitem__(self, index):
        part = self.order[index * SIZE : (index + 1) * SIZE]
        return self.x[part], self.y[part]


class WithState(Reordered):
    def state_dict(self):
        return {"n_epochs": self.n_epochs}

    def load_state_dict(self, state):
        self.n_epochs = state["n_epochs"] - 1
        self.on_epoch_end()


def tensors():
    x, y = rows()
    return {
        "x": keras.ops.convert_to_tensor(x),
        "y": keras.ops.convert_to_tensor(y),
        "batch_size": SIZE,
    }


def batches():
    x, y = rows()
    return {"x": pk.Batches(x, y, batch_size=SIZE, seed=3)}


WEIGHTS = np.linspace(0.5, 2, N).astype("float32")

EXACT = {
    "arrays": arrays(),
    "arrays, in their order": arrays(shuffle=False),
    "arrays, shuffled in batches": arrays(shuffle="batch"),
    "arrays, sample_weight": arrays(sample_weight=WEIGHTS, validation_data=rows(12)),
    "arrays, class_weight": arrays(class_weight={0: 1.0, 1: 3.0}, validation_split=0.25),
    "arrays, a pass of two epochs": arrays(steps_per_epoch=3),
    "tensors": tensors,
    "tf.data": of_tf_data(lambda tf, data: data.cache().shuffle(N).batch(SIZE).prefetch(2)),
    "tf.data, endless": of_tf_data(
        lambda tf, data: data.shuffle(N, seed=4).repeat().batch(SIZE), steps_per_epoch=5
    ),
    "tf.data, of unknown length": of_tf_data(
        lambda tf, data: data.filter(lambda x, y: x[0] < 1).shuffle(N, seed=4).batch(SIZE),
        class_weight={0: 1.0, 1: 3.0},
    ),
    "DataLoader": of_loader(),
    "DataLoader, a generator of its own": of_loader(own=True),
    "DataLoader, two workers": of_loader(num_workers=2),
    "PyDataset": lambda: {"x": Fixed()},
    "PyDataset with a state": lambda: {"x": WithState(), "shuffle": False},
    "Batches": batches,
}
FOREIGN = {"tensorflow": "tf.data", "torch": "DataLoader"}


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("kind", EXACT)
def test_a_run_that_is_broken_inside_an_epoch_ends_with_the_same_bits(tmp_path, kind):
    if kind == "DataLoader, two workers" and BACKEND != "torch":
        pytest.skip("processes that are forked from a process that runs JAX or TensorFlow")

    if kind.startswith("DataLoader"):
        pytest.importorskip("torch")  # before it is seeded
    tensorflow = kind.startswith("tf.data")  # it shuffles by the seed that the program has set
    assert differing(tmp_path, EXACT[kind], (1, "begin", 2), of_tensorflow=tensorflow) == {}


def test_all_that_can_be_set_at_once(tmp_path):
    """Calls of two batches, the last with one; a mask; an average of the weights; two breaks."""

    def net():
        inputs = keras.Input((4,))
        x = keras.layers.Masking()(keras.layers.Reshape((2, 2))(inputs))
        x = keras.layers.SimpleRNN(4)(x)
        x = keras.layers.GaussianNoise(0.1)(x)
        one = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
        one.compile(
            keras.optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=4),
            "mse", metrics=["AUC"], steps_per_execution=1 if BACKEND == "torch" else 2,
        )  # fmt: skip
        return one

    def make():
        x, y = rows(40)  # five batches
        x[::3, :2] = 0
        return {"x": x, "y": y, "batch_size": SIZE, "validation_data": (x, y)}

    assert differing(tmp_path, make, (1, "begin", 2), (2, "test"), net=net) == {}


def test_an_epoch_whose_last_batch_is_in_the_backup_ends_as_it_would_have(tmp_path):
    """Killed in validation: no batch is left to train, and what was logged is there."""
    assert differing(tmp_path, arrays(validation_split=0.25), (1, "test")) == {}


@of_no_framework
def test_sigterm_inside_an_epoch_is_exact(tmp_path):
    class Terminate(keras.callbacks.Callback):
        """Waits for the backup, as SIGTERM does, and is not called again."""

        def __init__(self):
            super().__init__()
            self.epoch = 0

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_begin(self, batch, logs=None):
            if (self.epoch, batch) == (1, 2):
                os.kill(os.getpid(), signal.SIGTERM)

    class Ended(Exception):
        pass

    def handle(number, frame):
        raise Ended

    whole = train(tmp_path / "whole", arrays(), save_freq=False, epochs=9)
    before = signal.signal(signal.SIGTERM, handle)
    try:
        with pytest.raises(Ended):
            train(tmp_path / "broken", arrays(), Terminate(), save_freq=False, epochs=9)
    finally:
        signal.signal(signal.SIGTERM, before)
    drain()
    assert train(tmp_path / "broken", arrays(), save_freq=False, epochs=9, seed=2) == whole


# What is said


def test_it_says_where_it_goes_on(tmp_path, capsys):
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, arrays(), Crash(1, "begin", 3))
    drain()
    train(tmp_path, arrays(verbose=2), seed=2)

    said = capsys.readouterr().out
    assert (
        "goes on with epoch 2 of 3, after its batch 2; these are read again and not trained" in said
    )


def generator():
    x, y = rows()
    return {"x": ((x[:SIZE], y[:SIZE]) for _ in range(99)), "steps_per_epoch": 5}


SAID = {
    "Python generator": (generator, "a Python generator cannot be begun anew"),
    "PyDataset with workers": (lambda: {"x": Fixed(workers=2)}, "pass workers=1"),
    "PyDataset that changes": (
        lambda: {"x": Reordered()},
        r"Reordered changes between epochs \(on_epoch_end\); give it state_dict",
    ),
    "DataLoader, persistent workers": (
        of_loader(num_workers=1, persistent_workers=True),
        "pass persistent_workers=False",
    ),
    "tf.data, Python": (
        of_tf_data(
            lambda tf, data: tf.data.Dataset.from_generator(
                lambda: iter([rows(SIZE)] * 5),
                output_signature=data.batch(SIZE).element_spec,
            )
        ),
        "tf.data calls Python functions",
    ),
    "tf.data, cached too late": (
        of_tf_data(lambda tf, data: data.shuffle(N).cache().batch(SIZE)),
        "shuffle after it",
    ),
    "tf.data, shuffled too early": (
        of_tf_data(lambda tf, data: data.shuffle(N).repeat(2).batch(SIZE)),
        "shuffle last",
    ),
    "tf.data, in any order": (
        of_tf_data(
            lambda tf, data: data.map(
                lambda x, y: (x, y), num_parallel_calls=2, deterministic=False
            ).batch(SIZE)
        ),
        "deterministic=False",
    ),
    "tf.data, random in parallel": (
        of_tf_data(
            lambda tf, data: data.map(
                lambda x, y: (x + tf.random.uniform(()), y), num_parallel_calls=2
            ).batch(SIZE)
        ),
        "in parallel",
    ),
    "tf.data, of a kind not known": (
        of_tf_data(lambda tf, data: data.enumerate().map(lambda i, xy: xy).batch(SIZE)),
        "not known to give the same batches twice",
    ),
}


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("kind", SAID)
def test_what_cannot_be_exact_is_said_before_the_first_batch(tmp_path, capsys, kind):
    if kind.startswith("DataLoader") and BACKEND != "torch":
        pytest.skip("processes that are forked from a process that runs JAX or TensorFlow")
    make, words = SAID[kind]

    class Look(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 0:
                self.said = capsys.readouterr().out

    look = Look()
    backup = pk.BackupAndRestore(tmp_path / "b", 2)
    build().fit(**make(), epochs=1, verbose=2, callbacks=[backup, look])

    assert "will begin an epoch anew in which it is interrupted" in look.said
    assert re.search(words, look.said)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_where_it_is_said_the_epoch_is_begun_anew_with_the_weights_of_that_batch(tmp_path):
    seen = began_anew(tmp_path, generator)

    assert seen[0][:2] == ["epoch", 1]
    assert seen[1][:2] == ["begin", 0]


def test_with_exact_false_as_well(tmp_path):
    """Keras's meaning, of a backup that could be gone on from exactly."""
    seen = began_anew(tmp_path, arrays(), exact=False)

    assert seen[1][:2] == ["begin", 0]


def began_anew(folder, make, **backup):
    """What a user's callback sees first in the run that goes on."""
    with pytest.raises(ZeroDivisionError):
        train(folder, make, Crash(1, "begin", 3), epochs=2)
    drain()
    n_before = [one[0] for one in crashed(folder)["seen"]]
    result = train(folder, make, epochs=2, **backup)
    assert len(result["history"]["loss"]) == 2
    return result["seen"][len(n_before) :]


def crashed(folder):
    """The state of `Witness` in the newest backup."""
    callbacks = Reader(folder / "backup").load(Reader(folder / "backup").latest.step)["train_state"]
    return next(state for name, state in callbacks["callbacks"].items() if "Witness" in name)


@of_no_framework
def test_another_size_of_batches_begins_the_epoch_anew_and_says_so(tmp_path, capsys):
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, arrays(), Crash(1, "begin", 3))
    drain()
    train(tmp_path, arrays(batch_size=4), seed=2)

    assert (
        "begins the epoch anew: batch_size is 4 in this program and was 8"
        in capsys.readouterr().out
    )


@of_no_framework
def test_the_data_are_not_held_after_a_fit_that_raised(tmp_path):
    x, y = rows()
    held = weakref.ref(x)
    backup = pk.BackupAndRestore(tmp_path / "b", 2)
    with contextlib.suppress(ZeroDivisionError):
        build().fit(x, y, batch_size=SIZE, verbose=0, callbacks=[backup, Crash(0, "end", 3)])
    del x
    gc.collect()

    assert held() is None


@of_no_framework
def test_a_backup_after_each_epoch_finds_its_place_in_a_longer_pass(tmp_path):
    """`save_freq="epoch"`: the second half of a pass over the data, not a first half again."""
    assert differing(tmp_path, arrays(steps_per_epoch=3), (1, "begin", 1), save_freq="epoch") == {}


@of_no_framework
def test_what_is_put_back_twice_is_not_held_for_the_rest_of_the_run(tmp_path):
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, arrays(), Crash(1, "begin", 3))
    drain()
    backup = pk.BackupAndRestore(tmp_path / "backup", 2, delete_checkpoint=False)
    counts = []

    class Count(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            gc.collect()
            counts.append(sum(isinstance(one, Interrupted) for one in gc.get_objects()))

    x, y = rows()
    with pytest.warns(SaveWarning, match="takes the state"):  # of those that are not in this list
        build().fit(x, y, batch_size=SIZE, epochs=3, verbose=0, callbacks=[backup, Count()])

    assert set(counts) == {0}


@of_no_framework
def test_tensorboard_draws_the_line_of_the_unbroken_run(tmp_path):
    """Batches before the place are written already, and stay."""

    def line(folder):
        return series(opened(folder / "logs" / "train"), "batch_loss")

    def run(folder, *also, seed=1):
        board = pk.TensorBoard(folder / "logs", update_freq=3)
        train(folder, arrays(), board, *also, seed=seed)

    run(tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "broken", Crash(1, "begin", 4))
    drain()
    while tf_summary._entered:  # a fit that raised has left TensorFlow's writer the default one
        tf_summary._entered.pop().stack.close()
    run(tmp_path / "broken", seed=2)

    assert line(tmp_path / "broken") == line(tmp_path / "whole")
