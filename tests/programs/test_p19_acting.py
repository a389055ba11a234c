"""P19: callbacks of a user that act: batch size doubled in mid-run, the rate set, save, stop, roll back."""

import contextlib
import csv
import io
import json
import math
import signal

import numpy as np
import pytest

import keras
import peakhold.keras as ours
from keras_helpers import Recorder, epoch_of, saved_weights
from peakhold.keras import AtEnd, Batches, CSVLogger, EarlyStopping, ModelCheckpoint

of_no_framework = pytest.mark.torch_is_enough("when a user's own class acts is Python's")
BASES = pytest.mark.parametrize(
    "base", [ours.Callback, keras.callbacks.Callback], ids=["import-swapped", "keras-own"]
)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def doubler(base):
    class DoubleAndSlowDown(base):
        """Doubles the batch size every other epoch, and sets the rate by the square root."""

        def __init__(self, batches, start, rate):
            super().__init__()
            self.batches, self.start, self.rate = batches, start, rate
            self.n_batches = []

        def on_epoch_begin(self, epoch, logs=None):
            self.batches.batch_size = self.start * 2 ** (epoch // 2)
            self.model.optimizer.learning_rate = self.rate / math.sqrt(epoch + 1)
            self.n_batches.append(0)

        def on_train_batch_end(self, batch, logs=None):
            self.n_batches[-1] += 1

        def on_epoch_end(self, epoch, logs=None):
            logs["batch_size"] = self.batches.batch_size
            logs["learning_rate"] = float(self.model.optimizer.learning_rate)

    return DoubleAndSlowDown


@pytest.mark.parametrize(
    ("order", "workers", "base"),
    [
        # All of them on one backend, every two on each.
        pytest.param(order, workers, base, marks=of_no_framework if (i + j + k) % 2 else [])
        for i, order in enumerate((1, -1))
        for j, workers in enumerate((0, 2))
        for k, base in enumerate((ours.Callback, keras.callbacks.Callback))
    ],
)
def test_p19_batch_size_and_rate_change_and_are_seen_in_log_and_csv(
    xy, classifier, base, workers, order, tmp_path
):
    batches = Batches(*xy, batch_size=10, workers=workers)  # 96 rows: never a whole number
    act = doubler(base)(batches, 10, 0.1)
    path, last = tmp_path / "log.csv", tmp_path / "last.weights.h5"
    ours_after = [CSVLogger(path), ModelCheckpoint(last, save_weights_only=True)][::order]
    stopper = EarlyStopping("loss", patience=6, restore_best_weights=True)
    model, recorder = classifier(), Recorder()
    fitted = model.fit(
        batches, epochs=6, callbacks=[act, stopper, *ours_after, recorder], verbose=0
    )
    sizes, rates = [10, 10, 20, 20, 40, 40], [0.1 / math.sqrt(n) for n in range(1, 7)]

    assert act.n_batches == [10, 10, 5, 5, 3, 3]
    assert int(model.optimizer.iterations) == sum(act.n_batches)
    assert fitted.history["batch_size"] == sizes
    assert fitted.history["learning_rate"] == pytest.approx(rates)
    rows = rows_of(path)
    assert list(rows[0]) == ["epoch", "accuracy", "batch_size", "learning_rate", "loss"]
    assert [int(row["batch_size"]) for row in rows] == sizes
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(rates)
    assert epoch_of(saved_weights(last, classifier()), recorder) == 5
    assert epoch_of(model.get_weights(), recorder) == stopper.best_epoch


@BASES
def test_p19_the_rate_set_in_a_batch_counts_from_the_next_batch(xy, classifier, base):
    """On JAX the model is stale inside an epoch: setting the rate without a sync would be lost."""

    class Warmup(base):
        def __init__(self):
            super().__init__()
            self.n = 0
            self.rates = []

        def on_train_batch_end(self, batch, logs=None):
            self.rates.append(float(self.model.optimizer.learning_rate))
            self.n += 1
            self.model.optimizer.learning_rate = 0.1 * self.n

    warmup, model = Warmup(), classifier(optimizer=keras.optimizers.SGD(0.0))
    before = model.get_weights()
    model.fit(*xy, epochs=2, callbacks=[warmup], verbose=0)

    assert warmup.rates == pytest.approx([0.1 * n for n in range(6)])
    assert not any(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@of_no_framework
@BASES
def test_p19_save_now_saves_what_the_model_is_now(xy, classifier, base, tmp_path):
    saver = ModelCheckpoint(
        tmp_path / "{epoch}.weights.h5", save_weights_only=True, save_freq=AtEnd()
    )

    class SaveWhen(base):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                saver.save_now(logs)

    model, recorder = classifier(), Recorder()
    model.fit(*xy, epochs=5, callbacks=[SaveWhen(), saver, recorder], verbose=0)

    files = sorted(path.name for path in tmp_path.glob("*.weights.h5"))
    assert files == ["3.weights.h5", "5.weights.h5"]
    assert epoch_of(saved_weights(tmp_path / "3.weights.h5", classifier()), recorder) == 2


@of_no_framework
@BASES
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_epoch_end"])
@pytest.mark.filterwarnings("ignore::peakhold.errors.AdviceWarning")  # an early best, by mode="max"
def test_p19_a_stop_from_any_hook_restores_and_closes(xy, classifier, base, hook, tmp_path):
    class Stop(base):
        n = 0

    def stop(self, index, logs=None):
        self.n += 1
        if self.n == 4:
            self.model.stop_training = True

    setattr(Stop, hook, stop)
    stopper = EarlyStopping("loss", patience=99, mode="max", restore_best_weights=True)
    model, recorder, path = classifier(), Recorder(), tmp_path / "log.csv"
    fitted = model.fit(
        *xy, epochs=9, verbose=0, callbacks=[Stop(), stopper, CSVLogger(path), recorder]
    )

    assert len(fitted.epoch) == (2 if hook == "on_train_batch_end" else 4)
    assert len(rows_of(path)) == len(fitted.epoch)
    assert epoch_of(model.get_weights(), recorder) == stopper.best_epoch


class RollBack(ours.Callback):
    """The one of docs/how-to/act-on-training.md."""

    def __init__(self, times=3, factor=0.1):
        super().__init__()
        self.times, self.factor, self.n_done, self.good = times, factor, 0, None

    def _remember(self):
        self.good = self.host.snapshot(["weights", "optimizer"])

    def on_train_begin(self, logs=None):
        self.good = None
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)

    def on_epoch_begin(self, epoch, logs=None):
        if self.good is None:
            self._remember()

    def on_epoch_end(self, epoch, logs=None):
        if np.isfinite(logs["loss"]) and not self.host.nonfinite():
            self._remember()
        elif self.n_done == self.times:
            self.model.stop_training = True
        else:
            self.n_done += 1
            rate = float(self.model.optimizer.learning_rate)
            self.host.restore(self.good)
            rate *= self.factor
            self.model.optimizer.learning_rate = rate

    def state_dict(self):
        return {"n_done": self.n_done}

    def load_state_dict(self, state):
        self.n_done = state["n_done"]


def finite(model):
    variables = [*model.variables, *model.optimizer.variables]
    return all(np.isfinite(keras.ops.convert_to_numpy(v)).all() for v in variables)


class Spoil(keras.callbacks.Callback):
    """Makes the weights NaN in the middle of some epochs, as a bad batch would."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch in self.epochs and batch == 1:
            self.model.set_weights([np.full_like(w, np.nan) for w in self.model.get_weights()])


@pytest.mark.parametrize("spoilt", [{0}, {2}, {2, 3}, {1, 4}])
def test_p19_after_nan_it_goes_on_from_the_last_good_epoch_at_a_lower_rate(xy, classifier, spoilt):
    """Weights and the moments of Adam, on TensorFlow too, which builds the optimizer late."""
    model, back = classifier(loss="mse", optimizer=keras.optimizers.Adam(0.1)), RollBack()
    steps, rates = [], []
    after = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: (
            steps.append(int(model.optimizer.iterations)),
            rates.append(float(model.optimizer.learning_rate)),
        )
    )
    recorder = Recorder()
    fitted = model.fit(*xy, epochs=6, callbacks=[Spoil(spoilt), back, after, recorder], verbose=0)

    assert finite(model)
    assert back.n_done == len(spoilt)
    assert rates[-1] == pytest.approx(0.1 * 0.1 ** len(spoilt))
    assert [math.isnan(loss) for loss in fitted.history["loss"]] == [e in spoilt for e in range(6)]
    n_good = 0
    for epoch in range(6):
        n_good += epoch not in spoilt
        assert steps[epoch] == 3 * n_good
        if epoch in spoilt and epoch > 0:
            assert epoch_of(recorder.weights[epoch], recorder) < epoch


@of_no_framework
def test_p19_it_gives_up_after_so_many_times_also_in_a_run_that_goes_on(xy, classifier):
    model, back = classifier(loss="mse"), RollBack(times=3)
    first = model.fit(*xy, epochs=2, callbacks=[Spoil(range(99)), back], verbose=0)
    later = RollBack(times=3)
    later.load_state_dict(json.loads(json.dumps(back.state_dict())))
    second = model.fit(
        *xy, initial_epoch=2, epochs=9, callbacks=[Spoil(range(99)), later], verbose=0
    )

    assert (len(first.epoch), back.n_done) == (2, 2)
    assert (len(second.epoch), later.n_done) == (2, 3)


def test_p19_the_average_of_the_weights_is_rolled_back_too(xy, classifier):
    optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
    model, back = classifier(loss="mse", optimizer=optimizer), RollBack()
    model.fit(*xy, epochs=4, callbacks=[Spoil({2}), back], verbose=0)

    assert finite(model)


PROGRAM = """
import os, signal, sys
if os.environ["KERAS_BACKEND"] == "torch":
    import torch
    torch.set_num_threads(1)
import keras
import numpy as np
from peakhold.keras import Batches, BackupAndRestore, Callback, CSVLogger

keras.utils.set_random_seed(1)
rng = np.random.default_rng(3)
x = rng.normal(size=(96, 2)).astype("float32")
y = x.sum(axis=1, keepdims=True)
net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4), keras.layers.Dense(1)])
net.compile(keras.optimizers.Adam(), "mse")
batches = Batches(x, y, batch_size=10)

class Act(Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        net.optimizer.learning_rate = 0.1 / (epoch + 1)

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == ({epoch}, 1):
            os.kill(os.getpid(), signal.SIGKILL)

    def on_epoch_end(self, epoch, logs=None):
        logs["batch_size"] = batches.batch_size
        logs["learning_rate"] = float(net.optimizer.learning_rate)
        if epoch % 2:
            batches.batch_size *= 2

    def state_dict(self):
        return batches.state_dict()

    def load_state_dict(self, state):
        batches.load_state_dict(state)

callbacks = [Act(), CSVLogger("log.csv", append=True), BackupAndRestore("backup")]
history = net.fit(batches, epochs=6, callbacks=callbacks, verbose=0).history
print("batch sizes:", history["batch_size"], "steps:", int(net.optimizer.iterations))
print("weights:", [w.tobytes().hex() for w in net.get_weights()])
print("log:", open("log.csv", "rb").read())
os.remove("log.csv")
"""


@pytest.mark.torch_is_enough(
    "`Batches` and a resumed `fit` are looked at on every backend, each by itself"
)
def test_p19_killed_in_mid_run_it_goes_on_and_ends_as_if_nothing_had_happened(script, tmp_path):
    def here():
        said = io.StringIO()
        with contextlib.chdir(tmp_path), contextlib.redirect_stdout(said):
            exec(PROGRAM.replace("{epoch}", "99"), {"__name__": "__main__"})
        return [line for line in said.getvalue().splitlines() if not line.startswith("Peakhold")]

    whole = here()
    assert whole[0] == "batch sizes: [10, 10, 20, 20, 40, 40] steps: 36"
    for epoch in (3, 4):  # the second kill hits a run that goes on already
        killed = script(PROGRAM.replace("{epoch}", str(epoch)))
        assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, ""), killed.stderr
    assert here() == whole
