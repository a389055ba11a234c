"""One run, whoever holds the callbacks and whatever model each was given."""

import numpy as np
import pytest

import keras
import peakhold.keras as pk
from keras_helpers import Curve, Recorder, epoch_of, fit, model, same

of_no_framework = pytest.mark.torch_is_enough(
    "whose callbacks are one run, and what is said of it, is Python's"
)

CURVE = (0.9, 0.5, 0.2, 0.3, 0.31, 0.32, 0.33, 0.34)


class Composite(keras.callbacks.Callback):
    """A user's callback that holds others, and hands on whatever it is called for."""

    def __init__(self, callbacks):
        super().__init__()
        self.callbacks = callbacks

    def set_model(self, model):
        super().set_model(model)
        for callback in self.callbacks:
            callback.set_model(model)

    def set_params(self, params):
        super().set_params(params)
        for callback in self.callbacks:
            callback.set_params(params)

    def on_train_begin(self, logs=None):
        for callback in self.callbacks:
            callback.on_train_begin(logs)

    def on_train_end(self, logs=None):
        for callback in self.callbacks:
            callback.on_train_end(logs)

    def on_epoch_begin(self, epoch, logs=None):
        for callback in self.callbacks:
            callback.on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch, logs=None):
        for callback in self.callbacks:
            callback.on_epoch_end(epoch, logs)

    def on_test_begin(self, logs=None):
        for callback in self.callbacks:
            callback.on_test_begin(logs)

    def on_test_end(self, logs=None):
        for callback in self.callbacks:
            callback.on_test_end(logs)


class PowerCut(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise ZeroDivisionError("power cut")


ORDERS = {
    "backup first": lambda backup, stopping, plateau: [backup, stopping, plateau],
    "backup last": lambda backup, stopping, plateau: [stopping, plateau, backup],
}


def run(folder, hold, order, *, cut=None):
    """One process's part of a run; what it left."""
    keras.utils.set_random_seed(3)
    net = model("adam")
    stopping = pk.EarlyStopping("val_loss", patience=4, restore_best_weights=True)
    plateau = pk.ReduceLROnPlateau("val_loss", patience=3, min_delta=0)
    backup = pk.BackupAndRestore(folder)
    ours = ORDERS[order](backup, stopping, plateau)
    recorder = Recorder()
    callbacks = [Curve(val_loss=CURVE), *hold(ours), recorder]
    if cut is not None:
        callbacks.append(PowerCut(cut))
        with pytest.raises(ZeroDivisionError):
            fit(net, callbacks, 8)
        return None
    fit(net, callbacks, 8)
    return {
        "weights": net.get_weights(),
        "best": (stopping.best, stopping.best_epoch, stopping.wait, stopping.stopped_epoch),
        "plateau": (plateau.best, plateau.wait, plateau.cooldown_counter),
        "rate": float(keras.ops.convert_to_numpy(net.optimizer.learning_rate)),
        "epochs": sorted(recorder.weights),
    }


@pytest.mark.parametrize(
    "order", ["backup last", pytest.param("backup first", marks=of_no_framework)]
)
def test_a_composite_of_the_user_s_is_resumed_like_a_flat_list(tmp_path, order, capsys):
    holds = {"flat": lambda ours: ours, "composite": lambda ours: [Composite(ours)]}
    left = {}
    for name, hold in holds.items():
        folder = tmp_path / name
        run(folder, hold, order, cut=4)
        left[name] = run(folder, hold, order)

    flat, held = left["flat"], left["composite"]
    assert flat["best"] == held["best"] == (0.2, 2, 4, 6)
    assert flat["epochs"] == held["epochs"] == [4, 5, 6]
    assert flat["plateau"] == held["plateau"] and flat["rate"] == held["rate"]
    assert same(flat["weights"], held["weights"])
    assert not (tmp_path / "composite").exists()  # it ended well


def test_callbacks_of_one_model_without_a_list_are_one_run(tmp_path):
    net = model()
    stopping, plateau = pk.EarlyStopping("loss"), pk.ReduceLROnPlateau("loss")
    for callback in (stopping, plateau):
        callback.set_model(net)
        callback.on_train_begin()
    assert stopping.session is plateau.session

    stopping.on_train_begin()  # one begins again: the run of both is over
    assert stopping.session is not plateau.session


class SaveEMA(pk.ModelCheckpoint):
    """A user's checkpoint that saves another model than the one that is trained."""

    def __init__(self, average, *arguments, **more):
        super().__init__(*arguments, **more)
        self.average = average

    def set_model(self, model):
        super().set_model(self.average)


def _average(net):
    average = keras.models.clone_model(net)
    average.set_weights([np.full_like(w, 7.0) for w in net.get_weights()])
    return average


def test_each_callback_acts_on_the_model_that_it_was_given(tmp_path):
    net, recorder = model(), Recorder()
    average = _average(net)
    saver = SaveEMA(average, tmp_path / "average.weights.h5", save_weights_only=True)
    stopping = pk.EarlyStopping("val_loss", patience=9, restore_best_weights=True)

    fit(net, [saver, Curve(val_loss=CURVE), stopping, recorder], 6)

    assert epoch_of(net.get_weights(), recorder) == 2
    assert all((w == 7.0).all() for w in average.get_weights())
    fresh = model()
    fresh.load_weights(tmp_path / "average.weights.h5")
    assert all((w == 7.0).all() for w in fresh.get_weights())


def test_a_backup_behind_a_checkpoint_of_another_model_is_of_the_trained_one(tmp_path):
    def callbacks(net):
        average = _average(net)
        saver = SaveEMA(average, tmp_path / "average.weights.h5", save_weights_only=True)
        return [saver, pk.BackupAndRestore(tmp_path / "backup")], average

    keras.utils.set_random_seed(3)
    whole = model("adam")
    fit(whole, callbacks(whole)[0], 4, shuffle=False)

    keras.utils.set_random_seed(3)
    net = model("adam")
    with pytest.raises(ZeroDivisionError):
        fit(net, [*callbacks(net)[0], PowerCut(2)], 4, shuffle=False)
    net = model("adam")
    ours, average = callbacks(net)
    fit(net, ours, 4, shuffle=False)

    assert same(net.get_weights(), whole.get_weights())
    assert all((w == 7.0).all() for w in average.get_weights())


class Late(pk.EarlyStopping):
    """A user's stopping that looks at nothing before epoch 5."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch >= 5:
            super().on_epoch_end(epoch, logs)


@of_no_framework
@pytest.mark.parametrize(("epochs", "patience"), [(8, 9), (4, 9), (9, 2)])
def test_the_last_lines_count_epochs_that_a_subclass_kept_to_itself(capsys, epochs, patience):
    values = [0.5] * 9
    fit(
        model(), [Curve(val_loss=values), Late("val_loss", patience=patience)], epochs, verbose=2,
    )  # fmt: skip

    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Peakhold")]
    done = 8 if patience == 2 else epochs
    assert f"after epoch {done} of {epochs}" in said[-3]
    assert said[-1].startswith(f"Peakhold: {done} epochs took")


class Reader(keras.callbacks.Callback):
    def __init__(self, stopping):
        super().__init__()
        self.stopping, self.seen = stopping, []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append((self.stopping.best, self.stopping.best_epoch, self.stopping.wait))

    def on_train_batch_end(self, batch, logs=None):
        self.stopping.best, self.stopping.best_weights  # noqa: B018


@of_no_framework
@pytest.mark.parametrize("spoil_at", [None, 2])
def test_reading_an_attribute_shows_what_will_be_settled_and_settles_nothing(capsys, spoil_at):
    """Same decisions, states and messages, whoever reads (and whenever)."""
    from peakhold.extend import listening

    class Spoil(keras.callbacks.Callback):
        """The loss stays finite, a weight does not: only the look can tell."""

        def on_epoch_end(self, epoch, logs=None):
            if epoch == spoil_at:
                weights = self.model.get_weights()
                weights[0][0, 0] = np.inf
                self.model.set_weights(weights)

    outcomes = []
    for reads in (False, True):
        keras.utils.clear_session()  # or the layers have other names
        keras.utils.set_random_seed(3)
        stopping = pk.EarlyStopping("val_loss", patience=3, restore_best_weights=True, verbose=1)
        reader, told = Reader(stopping), []
        callbacks = [Curve(val_loss=(0.9, 0.5, 0.2, 0.3, 0.4, 0.45, 0.46)), Spoil(), stopping]
        net = model()
        with listening(told.append):
            fit(net, callbacks + [reader] * reads, 7)
        if reads:
            best = (0.5, 1) if spoil_at else (0.2, 2)
            assert reader.seen[2][:2] == best  # it waited for the look
        decided = [
            (each.moment.event, each.moment.at.epoch, decisions, each.facts)
            for each in told
            for decisions in each.decided.values()
            if each.moment.at.batch is None
        ]
        outcomes.append((decided, stopping.state_dict(), capsys.readouterr().out))

    for one, other in zip(*outcomes, strict=True):
        assert one == other
