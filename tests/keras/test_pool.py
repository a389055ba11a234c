"""One pool of host buffers for each fit: what is copied when, and what is left."""

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest

import keras
import peakhold.keras as pk
from keras_helpers import Curve, Recorder, data, epoch_of, fit, model, same
from peakhold.extend import Needs, Participant, Participating
from peakhold.keras.host.keras_host import KerasHost
from peakhold.snapshots import memory
from peakhold.snapshots import part_buffer as buffers
from peakhold.snapshots import pool as pools
from peakhold.snapshots.pool import SnapshotPool

of_no_framework = pytest.mark.torch_is_enough(
    "who shares a copy, and for how long, is Python's; what is in it is looked at on every backend"
)


def rich_model(dtype="float32"):
    """Batch normalisation, seeds, ints, bools, a variable of no size, one that is a number."""

    class Odd(keras.layers.Layer):
        def build(self, shape):
            self.flag = self.add_weight(
                shape=(3,), dtype="bool", initializer="zeros", trainable=False, name="flag"
            )
            self.count = self.add_weight(
                shape=(), dtype="int32", initializer="zeros", trainable=False, name="count"
            )
            self.empty = self.add_weight(
                shape=(0, 2), initializer="zeros", trainable=False, name="empty"
            )

        def call(self, x):
            return x

    net = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, dtype=dtype),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            Odd(),
            keras.layers.Dense(1, dtype=dtype),
        ]
    )
    net.compile(keras.optimizers.Adam(0.05), "mse", metrics=["mae"])
    return net


def arrays(tree):
    return list(tree.values()) if isinstance(tree, dict) else list(tree)


def equal(one, other):
    return len(one) == len(other) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(one, other, strict=True)
    )


@pytest.fixture
def watched(monkeypatch):
    """Every buffer that lives, and every fresh allocation with the number of bytes."""

    class Watch:
        def __init__(self):
            self.buffers, self.allocated, self.fills = weakref.WeakSet(), [], []

        @property
        def held(self):
            gc.collect()
            return sum(buffer.nbytes for buffer in self.buffers)

    watch = Watch()
    make, allocate, fill = pools._buffer_for, memory.allocate, buffers.fill

    def noted(part):
        buffer = make(part)
        watch.buffers.add(buffer)
        return buffer

    def noted_fill(filled, trees, walks=None):
        watch.fills.extend(buffer.part for buffer in filled)
        fill(filled, trees, walks)

    monkeypatch.setattr(pools, "_buffer_for", noted)
    monkeypatch.setattr(buffers, "fill", noted_fill)
    monkeypatch.setattr(memory, "allocate", lambda n: (watch.allocated.append(n), allocate(n))[1])
    return watch


def weight_bytes(net):
    return sum(w.nbytes for w in net.get_weights())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_snapshot_stays_what_it_was_and_can_be_put_back(dtype):
    net = rich_model(dtype)
    fit(net, [], 1)
    host = KerasHost(net)
    pool = SnapshotPool(lambda: host)
    held = pool.take(host.parts())
    before = {part: [np.array(a) for a in arrays(tree)] for part, tree in held.parts.items()}

    assert set(before) == {"weights", "optimizer"}
    assert equal(before["weights"], net.get_weights())
    fit(net, [], 2)
    pool.is_stale = True
    pool.take(host.parts()).release()
    assert not equal(before["weights"], net.get_weights())
    for _ in range(2):  # a framework that kept our memory would write to it the second time
        held.restore(host)
        pool.is_stale = True
        again = pool.take(host.parts())
        for part, was in before.items():
            assert equal(was, arrays(held.parts[part])), part
            assert equal(was, arrays(again.parts[part])), part
        again.release()
        fit(net, [], 1)
        pool.is_stale = True
        pool.take(host.parts()).release()
    assert all(equal(was, arrays(held.parts[part])) for part, was in before.items())


def test_a_snapshot_is_read_only_until_it_is_given_away():
    net = model()
    host = KerasHost(net)
    pool = SnapshotPool(lambda: host)
    held = pool.take(["weights"])
    with pytest.raises(ValueError, match="read-only"):
        held.parts["weights"][0][...] = 0
    mine = held.give_away("weights")
    mine[0][...] = 7
    held.release()
    pool.is_stale = True
    pool.take(["weights"])

    assert (mine[0] == 7).all()


def test_the_optimizers_state_is_matched_by_order_where_names_differ():
    one, other = model("adam"), model("adam")
    fit(one, [], 2)
    held = SnapshotPool(lambda: KerasHost(one)).take(["weights", "optimizer"])
    paths = [v.path for v in one.optimizer.variables]
    held.restore(KerasHost(other))  # its optimizer has no slots yet

    assert [v.path for v in other.optimizer.variables] != paths
    assert equal(
        [np.array(v) for v in map(keras.ops.convert_to_numpy, one.optimizer.variables)],
        [np.array(v) for v in map(keras.ops.convert_to_numpy, other.optimizer.variables)],
    )


@of_no_framework
def test_callbacks_that_want_the_same_epoch_share_one_copy(watched):
    net = model("adam")
    stoppers = [
        pk.EarlyStopping("m", mode="min", patience=9, restore_best_weights=True),
        pk.EarlyStopping("m", mode="min", patience=9, restore_best_weights=True,
                         restore_optimizer=True),
    ]  # fmt: skip
    fit(net, [Curve(m=[0.5, 0.4, 0.6, 0.3]), *stoppers], 4)

    assert sorted(watched.fills) == ["optimizer"] * 3 + ["weights"] * 3


def test_a_users_callback_in_between_may_have_changed_the_weights(watched):
    net, kept = model(), []

    class Doubles(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kept.append(self.model.get_weights())
            self.model.set_weights([2 * w for w in self.model.get_weights()])

    first, second = (
        pk.EarlyStopping("m", mode="min", patience=9, restore_best_weights=True) for _ in "ab"
    )
    fit(net, [Curve(m=[0.5]), first, Doubles(), second], 1)

    assert same(first.best_weights, kept[0])
    assert same(second.best_weights, [2 * w for w in kept[0]])


def test_all_memory_is_there_before_the_first_batch(watched):
    net, epochs = model("adam", units=64), []
    stopper = pk.EarlyStopping(
        "m", mode="min", patience=9, restore_best_weights=True, restore_optimizer=True
    )

    class Marks(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            epochs.append(len(watched.allocated))

    fit(net, [Curve(m=[0.9, 0.8, 0.7, 0.6, 0.5]), stopper, Marks()], 5)

    assert epochs[0] == 4, "weights and optimizer, the best and a candidate"
    assert len(watched.allocated) == 4, "and nothing at an improvement"


def test_a_model_that_is_built_by_fit_gets_its_memory_then(watched):
    net, recorder = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(1)]), Recorder()
    net.compile("sgd", "mse")
    stopper = pk.EarlyStopping("m", mode="min", patience=9, restore_best_weights=True)
    fit(net, [Curve(m=[0.9, 0.8, 0.7, 0.6, 0.8]), recorder, stopper], 5)

    assert len(watched.allocated) == 2
    assert epoch_of(net.get_weights(), recorder) == 3


def test_after_fit_only_the_best_is_left_and_nothing_leaks(watched):
    net = model("adam", units=64)
    stopper = pk.EarlyStopping(
        "m", mode="min", patience=9, restore_best_weights=True, restore_optimizer=True
    )
    size = weight_bytes(net)
    held, most = [], []

    class Counts(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            most.append(watched.held)

    for number in range(3):
        fit(net, [Curve(m=[0.9, 0.8, 0.7]), stopper, Counts()], 3)
        held.append(watched.held)
        optimizer = held[0] - size
        assert max(most) == 2 * (size + optimizer), f"two copies, also in fit {number + 1}"
    assert held == held[:1] * 3
    assert stopper.best == 0.7
    assert same(stopper.best_weights, net.get_weights())
    del stopper
    assert watched.held == 0
    assert [t.name for t in threading.enumerate() if t.name.startswith("peakhold")] == []


@of_no_framework
def test_a_fit_that_raised_leaves_its_best_and_the_next_one_reuses_the_memory(watched):
    net, recorder = model(), Recorder()
    stopper = pk.EarlyStopping("m", mode="min", patience=9, restore_best_weights=True)

    def trouble(epoch, logs=None):
        if epoch == 2:
            raise ZeroDivisionError

    raises = keras.callbacks.LambdaCallback(on_epoch_begin=trouble)
    with pytest.raises(ZeroDivisionError):
        fit(net, [Curve(m=[0.5, 0.4]), recorder, stopper, raises], 5)
    stopper.restore_best()
    assert epoch_of(net.get_weights(), recorder) == 1

    fit(net, [Curve(m=[0.5, 0.4, 0.3]), recorder, stopper], 3)
    assert watched.held == weight_bytes(net)
    assert epoch_of(net.get_weights(), recorder) == 2


@of_no_framework
def test_a_run_that_nobody_ends_gives_its_memory_back(watched):
    def abandoned():
        net = model()
        stopper = pk.EarlyStopping("m", mode="min", patience=9, restore_best_weights=True)
        run = pk.CallbackList([stopper], model=net)
        run.on_train_begin()
        run.on_epoch_begin(0)
        run.on_epoch_end(0, {"m": 0.5})
        assert watched.held == 2 * weight_bytes(net)

    abandoned()
    assert watched.held == 0


def test_best_weights_are_never_written_to_again():
    net, recorder, read = model(), Recorder(), {}
    stopper = pk.EarlyStopping("m", mode="min", patience=9, restore_best_weights=True)
    reads = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: read.update({epoch: stopper.best_weights})
    )
    fit(net, [Curve(m=[0.9, 0.8, 0.7, 0.6, 0.9]), recorder, stopper, reads], 5)
    fit(net, [Curve(m=[0.9, 0.8]), stopper], 2)

    assert [epoch_of(read[epoch], recorder) for epoch in range(5)] == [0, 1, 2, 3, 3]
    assert all(w.flags.writeable for w in read[0])


@of_no_framework
@pytest.mark.parametrize("how", [copy.deepcopy, lambda cb: pickle.loads(pickle.dumps(cb))])
def test_a_copied_callback_carries_its_best_and_no_pool(how, watched):
    net, recorder = model(), Recorder()
    stopper = pk.EarlyStopping("m", mode="min", patience=9, restore_best_weights=True)
    fit(net, [Curve(m=[0.5, 0.4, 0.6]), recorder, stopper], 3)
    again = how(stopper)
    before = watched.held
    fit(net, [Curve(m=[0.5, 0.4, 0.3]), stopper], 3)

    assert epoch_of(again.best_weights, recorder) == 1
    assert watched.held == before
    again.set_model(net)
    again.restore_best()
    assert epoch_of(net.get_weights(), recorder) == 1


@pytest.mark.parametrize("curve", [[0.5, 0.4, 0.1, 0.6, 0.6], [0.5, 0.4, 0.1, 0.45, 0.3]])
def test_a_state_with_nan_is_found_out_before_anything_depends_on_it(curve):
    """Looked at while the next epoch trains, and known before anybody can see a difference."""
    net, recorder = model(), Recorder()
    seen = {}

    class Spoils(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                self.good = self.model.get_weights()
                self.model.set_weights([np.full_like(w, np.nan) for w in self.good])

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                self.model.set_weights(self.good)

    stopper = pk.EarlyStopping("m", mode="min", patience=9, restore_best_weights=True)
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.update({epoch: stopper.best})
    )
    fit(net, [Curve(m=curve), Spoils(), recorder, stopper, watch], 5)
    last = 0.4 if curve[4] == 0.6 else 0.3

    assert seen == {0: 0.5, 1: 0.4, 2: 0.4, 3: 0.4, 4: last}
    assert epoch_of(net.get_weights(), recorder) == (1 if last == 0.4 else 4)
    assert "weights are not finite" in stopper.state_dict()["history"][2]["reason"]


@of_no_framework
def test_a_state_with_nan_stops_at_the_same_epoch_as_a_bad_value():
    net = model()

    class Spoils(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch >= 1:
                self.model.set_weights([np.full_like(w, np.nan) for w in self.model.get_weights()])

    stopper = pk.EarlyStopping("m", mode="min", patience=2, restore_best_weights=True)
    history = fit(net, [Curve(m=[0.5, 0.4, 0.3, 0.2, 0.1]), Spoils(), stopper], 5)

    assert history.epoch[-1] == stopper.stopped_epoch == 2
    assert (stopper.best, stopper.wait) == (0.5, 2)


def test_beyond_the_budget_the_best_is_kept_on_disk_and_that_is_said(
    capsys, watched, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    net, recorder, folders = rich_model(), Recorder(), []
    stopper = pk.EarlyStopping(
        "m", mode="min", patience=9, restore_best_weights=True, restore_optimizer=True,
        memory_budget=100,
    )  # fmt: skip
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: folders.append(
            len(list(tmp_path.glob("peakhold-best-*/step*")))
        )
    )
    fit(net, [Curve(m=[0.5, 0.4, 0.6, 0.3, 0.7]), recorder, stopper, look], 5, verbose=2)
    said = [line for line in capsys.readouterr().out.splitlines() if "on disk" in line]

    assert len(said) == 1
    assert "memory_budget=100" in said[0]
    assert folders == [1] * 5
    assert watched.allocated == []
    assert epoch_of(net.get_weights(), recorder) == 3
    assert epoch_of(stopper.best_weights, recorder) == 3
    assert epoch_of(pickle.loads(pickle.dumps(stopper)).best_weights, recorder) == 3
    del stopper, look
    gc.collect()
    assert list(tmp_path.glob("peakhold*")) == []


@of_no_framework
def test_the_smallest_budget_counts_and_copies_are_shared_in_it():
    net = model(units=64)
    size, booked = weight_bytes(net), []

    class Member(Participant):
        def __init__(self, budget):
            self.budget, self.answers = budget, []

        def needs(self, run):
            return Needs(memory_budget=self.budget)

        def buffers_needed(self, run):
            self.answers = [run.pool.affordable(["weights"], n) for n in (1, 2, 3)]
            return {"weights": 2} if self.answers[1] else {}

        def begin(self, run, start):
            booked.append((run.pool.nbytes, run.pool.affordable(["weights"], 1, extra=1)))

    members = [Member(None), Member(3 * size), Member(10 * size)]
    callbacks = [pk.adapt(Participating(member)) for member in members]
    x, y = data()
    net.fit(x, y, epochs=1, verbose=0, callbacks=callbacks)

    assert [m.answers for m in members] == [
        [True, True, True], [True, True, False], [True, False, False],
    ]  # fmt: skip
    assert booked == [(3 * size, False)] * 3


def test_the_ema_of_the_best_epoch_is_kept_with_it():
    net = model(keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.5))
    x, y = data()
    stopper = pk.EarlyStopping("m", mode="min", patience=9, restore_best_weights=True)
    averages = {}
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: averages.update(
            {epoch: [np.array(keras.ops.convert_to_numpy(v))
                     for v in net.optimizer._model_variables_moving_average]}
        )
    )  # fmt: skip
    net.fit(x, y, epochs=3, verbose=0, callbacks=[Curve(m=[0.5, 0.1, 0.2]), watch, stopper])

    assert same([keras.ops.convert_to_numpy(v) for v in net.trainable_variables], averages[1])


def test_with_ema_the_model_trains_on_after_its_best_was_put_back():
    """On JAX, Keras's `fit` alone leaves weights and averages in one buffer, which is then donated."""
    net = model(keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.5))
    x, y = data()
    stopper = pk.EarlyStopping("m", mode="min", patience=9, restore_best_weights=True)
    for curve in ([0.5, 0.1, 0.2], [0.4, 0.3]):
        net.fit(x, y, epochs=len(curve), verbose=0, callbacks=[Curve(m=curve), stopper])
        net.evaluate(x, y, verbose=0)
        average = [np.array(v) for v in net.optimizer._model_variables_moving_average]
        assert same([keras.ops.convert_to_numpy(v) for v in net.trainable_variables], average)
