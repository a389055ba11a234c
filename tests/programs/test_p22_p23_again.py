"""P22, P23: the same cell again, the same callbacks in many trials."""

import copy
import importlib.util
import pickle

import numpy as np
import pytest
from sklearn.model_selection import KFold

import keras
import peakhold.keras
from keras_helpers import Curve, Recorder, epoch_of, same, saved_weights
from peakhold.keras import (
    Alert,
    BackupAndRestore,
    CSVLogger,
    EarlyStopping,
    History,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ProgbarLogger,
    ReduceLROnPlateau,
    RemoteMonitor,
    RunRecord,
    SlackAlert,
    SwapEMAWeights,
    TensorBoard,
    TerminateOnNaN,
)

of_no_framework = pytest.mark.torch_is_enough("which file is whose is Python's")

HAS_APPRISE = importlib.util.find_spec("apprise") is not None

CELL = """
from peakhold.keras import EarlyStopping, ModelCheckpoint

model = build()
early_stopping = EarlyStopping("val_loss", patience=2, restore_best_weights=True)
checkpoint = ModelCheckpoint("best.keras", monitor="val_loss", save_best_only=True)
history = model.fit(
    x, y, validation_split=0.25, epochs=10, verbose=0,
    callbacks=[curve, early_stopping, checkpoint, recorder],
)
"""

RERUN = """
history = model.fit(
    x, y, validation_split=0.25, epochs=10, verbose=0,
    callbacks=[curve, early_stopping, checkpoint, recorder],
)
"""


@pytest.fixture
def notebook(xy, classifier, tmp_path, monkeypatch, capsys):
    """Runs a cell in a name space that stays; returns its recorder, and what it said of old files."""
    monkeypatch.chdir(tmp_path)
    space = {"build": classifier, "x": xy[0], "y": xy[1]}

    def run(cell, values):
        capsys.readouterr()
        space.update(curve=Curve(val_loss=values), recorder=Recorder())
        exec(cell, space)
        said = [line for line in capsys.readouterr().out.splitlines() if "kept as" in line]
        return space, space["recorder"], said

    return run


def models(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.keras"))


@of_no_framework
def test_p22_a_cell_run_again_loses_nothing_and_resumes_nothing(notebook, tmp_path):
    space, first, said = notebook(CELL, [0.3, 0.1, 0.2, 0.2])

    assert said == []
    assert models(tmp_path) == ["best.keras"]

    space, second, said = notebook(CELL, [0.9, 0.5, 0.4, 0.6, 0.6])

    assert models(tmp_path) == ["best.keras", "previous/best.keras"]
    assert epoch_of(saved_weights("previous/best.keras"), first) == 1
    assert epoch_of(saved_weights("best.keras"), second) == 2
    (line,) = said
    assert "best.keras" in line
    assert "previous/best.keras" in line
    # Nothing resumes by surprise: the second run decided by its own epochs alone.
    assert space["history"].epoch == [0, 1, 2, 3, 4]
    assert space["early_stopping"].best == space["checkpoint"].best == 0.4
    assert epoch_of(space["model"].get_weights(), second) == 2


@of_no_framework
def test_p22_only_fit_run_again_keeps_the_best_of_this_model(notebook, tmp_path):
    """As with Keras's class: the same checkpoint and the same model; stopping begins afresh."""
    space, first, said = notebook(CELL, [0.3, 0.1, 0.2, 0.2])
    space, second, said = notebook(RERUN, [0.9, 0.5, 0.4, 0.6, 0.6])

    assert said == []
    assert models(tmp_path) == ["best.keras"]
    assert epoch_of(saved_weights("best.keras"), first) == 1
    assert space["history"].epoch == [0, 1, 2, 3, 4]
    assert space["checkpoint"].best == 0.1
    assert space["early_stopping"].best == 0.4
    assert epoch_of(space["model"].get_weights(), second) == 2


@of_no_framework
@pytest.mark.parametrize(
    ("bests", "kept"),
    [([0.1, 0.4, 0.9], 0), ([0.4, 0.1, 0.9], 1), ([0.9, 0.4, 0.1], 1)],
    ids=["first", "second", "ever-better"],
)
def test_p22_at_most_one_is_kept_aside_the_better(notebook, bests, kept, tmp_path):
    recorders = [notebook(CELL, [best + 0.05, best, *[1.0] * 8])[1] for best in bests]

    assert models(tmp_path) == ["best.keras", "previous/best.keras"]
    assert epoch_of(saved_weights("best.keras"), recorders[-1]) == 1
    assert epoch_of(saved_weights("previous/best.keras"), recorders[kept]) == 1


@of_no_framework
def test_p22_a_file_that_something_else_wrote_is_never_deleted(notebook, tmp_path, classifier):
    """Keras's own `model.save`, and a file in the way of the one kept aside."""
    mine = classifier()
    mine.save(tmp_path / "best.keras")
    other = classifier()
    (tmp_path / "previous").mkdir()
    other.save(tmp_path / "previous/best.keras")
    for _ in range(3):
        notebook(CELL, [0.3, 0.2, 0.4, 0.4])
    everything = [saved_weights(path) for path in tmp_path.rglob("*.keras")]

    assert any(same(weights, mine.get_weights()) for weights in everything)
    assert any(same(weights, other.get_weights()) for weights in everything)


@of_no_framework
def test_p22_a_true_resume_goes_on_from_the_best(notebook, tmp_path):
    """`initial_epoch > 0` is how Keras users say that a run goes on; then the best carries over."""
    _, first, _ = notebook(CELL, [0.3, 0.1, 0.2, 0.2])
    goes_on = RERUN.replace("epochs=10", "initial_epoch=4, epochs=6")
    space, second, said = notebook(goes_on, [None] * 4 + [0.5, 0.4])

    assert said == []
    assert models(tmp_path) == ["best.keras"]
    assert epoch_of(saved_weights("best.keras"), first) == 1
    assert space["checkpoint"].best == 0.1


# P23


def halve(epoch, lr):
    return lr / 2


def note(epoch, logs):
    logs["noted"] = float(epoch)


def every_callback(folder):
    return [
        EarlyStopping("val_loss", patience=2, restore_best_weights=True, baseline=9.0),
        ReduceLROnPlateau("val_loss", factor=0.5, patience=1, cooldown=1),
        ModelCheckpoint(f"{folder}/best.keras", monitor="val_loss", save_best_only=True),
        ModelCheckpoint(f"{folder}/b.weights.h5", save_weights_only=True, save_freq=2),
        CSVLogger(f"{folder}/log.csv"),
        TerminateOnNaN(),
        LearningRateScheduler(halve),
        History(),
        LambdaCallback(on_epoch_end=note),
        TensorBoard(f"{folder}/board", histogram_freq=1),
        BackupAndRestore(f"{folder}/backup"),
        RunRecord(f"{folder}/record"),
    ]


def the_others():
    """What this `fit` cannot have: servers to post to, an optimizer that averages, two bars."""
    return [
        RemoteMonitor("http://127.0.0.1:1"),
        SlackAlert("http://127.0.0.1:1/hook", when="loss < 0.1 and epoch >= 2", on=["stop"]),
        *([Alert("json://127.0.0.1:1", when="loss < 0.1")] if HAS_APPRISE else []),
        SwapEMAWeights(),
        ProgbarLogger(),
    ]


WAYS = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda one: pickle.loads(pickle.dumps(one)),
}
VALUES = [0.5, 0.4, 0.6, 0.6]


def settings(callback):
    """What its constructor was given, as its public attributes tell."""
    hidden = ("model", "host", "session", "on_train_batch_end")
    names = [n for n in dir(callback) if not n.startswith("_") and n not in hidden]
    values = {n: getattr(callback, n) for n in names}
    return {n: v for n, v in values.items() if not callable(v)}


@pytest.mark.parametrize(
    "way", [*(pytest.param(n, marks=of_no_framework) for n in ("deepcopy", "copy")), "pickle"]
)
def test_p23_every_unused_callback_can_be_copied_and_works(xy, classifier, way, tmp_path):
    results = []
    for copied in (False, True):
        folder = tmp_path / str(copied)
        folder.mkdir()
        originals = every_callback(folder)
        used = [WAYS[way](one) for one in originals] if copied else originals
        if copied:
            assert [settings(one) for one in used] == [settings(one) for one in originals]
            assert all(a is not b for a, b in zip(used, originals, strict=True))
        keras.utils.set_random_seed(7)
        model = classifier()
        history = model.fit(
            *xy,
            validation_split=0.25,
            epochs=8,
            verbose=0,
            callbacks=[Curve(val_loss=VALUES), *used],
        )
        results.append(
            {
                "history": history.history,
                "weights": [w.tolist() for w in model.get_weights()],
                "rate": float(model.optimizer.learning_rate),
                "log": (folder / "log.csv").read_text(),
                "best": [w.tolist() for w in saved_weights(folder / "best.keras")],
                "files": sorted(path.name for path in folder.iterdir()),
                "state": [one.state_dict() for one in used if hasattr(one, "state_dict")],
            }
        )

    assert results[0] == results[1]
    assert len(results[0]["history"]["loss"]) == 4, "it did stop"


@of_no_framework
def test_p23_all_of_them_are_covered_here(tmp_path):
    classes = {type(one).__name__ for one in [*every_callback(tmp_path), *the_others()]}
    exported = {
        name
        for name in peakhold.keras.__all__
        if isinstance(getattr(peakhold.keras, name), type)
        and issubclass(getattr(peakhold.keras, name), keras.callbacks.Callback)
    }

    assert exported - classes - {"Alert"} == {"Callback", "CallbackList"}
    assert ("Alert" in classes) == HAS_APPRISE


@of_no_framework
def test_p23_the_whole_list_is_copied_at_once(tmp_path):
    originals = [*every_callback(tmp_path), *the_others()]
    for way in WAYS.values():
        copied = way(originals)
        assert [type(one) for one in copied] == [type(one) for one in originals]
        assert list(map(settings, copied)) == list(map(settings, originals))


@of_no_framework
def test_p23_cross_validation_copies_the_callbacks_for_each_fold(xy, classifier, tmp_path):
    """As tuners do it: the originals stay unused, and no trial knows of another one's best."""
    x, y = xy
    path = tmp_path / "{run_id}.keras"
    callbacks = [
        EarlyStopping("val_loss", patience=1, restore_best_weights=True),
        ModelCheckpoint(path, monitor="val_loss", save_best_only=True),
    ]
    scores = []
    for fold, (train, test) in enumerate(KFold(3).split(x)):
        trial = copy.deepcopy(callbacks)
        model, recorder = classifier(), Recorder()
        curve = Curve(val_loss=[0.1 * (fold + 2), 0.1 * (fold + 1), 0.9, 0.9])
        model.fit(
            x[train], y[train], validation_data=(x[test], y[test]), epochs=6, verbose=0,
            callbacks=[curve, *trial, recorder],
        )  # fmt: skip
        scores.append(model.evaluate(x[test], y[test], verbose=0)[0])

        assert trial[0].best == trial[1].best == pytest.approx(0.1 * (fold + 1))
        assert epoch_of(model.get_weights(), recorder) == 1
        assert epoch_of(saved_weights(trial[1].best_path), recorder) == 1

    assert np.isfinite(scores).all()
    assert len(list(tmp_path.glob("*.keras"))) == 3
    assert callbacks[0].best is None
    assert callbacks[1].best_path is None
    assert callbacks[0].model is None
