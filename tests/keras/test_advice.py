"""Advice that only a fit can give: what its host and its callbacks tell the rules."""

import warnings

import pytest
from keras.optimizers import schedules

import keras
import peakhold.keras as pk
from keras_helpers import Curve, fit, model
from peakhold.advice import rules
from peakhold.advice import said as SAID
from peakhold.errors import AdviceWarning, MonitorNotFoundError, PeakholdWarning
from peakhold.runtime import narration

of_no_framework = pytest.mark.torch_is_enough(
    "it comes from arguments and names; what reads a model or a rate runs on every backend"
)


@pytest.fixture
def said(capsys, monkeypatch):
    """Runs a fit; gives the warnings and the notices, without the lines at its end."""
    monkeypatch.setattr(
        narration, "_told", {"E10"}
    )  # what is said once in a process: once in a test

    def run(callbacks, epochs, net=None, **arguments):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit(net or model(), callbacks, epochs, verbose=2, **arguments)
        printed = capsys.readouterr().out.splitlines()
        return (
            [str(w.message) for w in caught if issubclass(w.category, AdviceWarning)],
            [line for line in printed if "peakhold.silence" in line],
        )

    return run


def stopping(patience=2, **arguments):
    arguments = {"monitor": "val_loss", "restore_best_weights": True, **arguments}
    return pk.EarlyStopping(patience=patience, **arguments)


def test_the_whole_stack_is_told_nothing(said, tmp_path):
    """Folders may be shared: what `BackupAndRestore` keeps lies beside other files."""
    callbacks = [
        pk.ReduceLROnPlateau("val_loss", patience=1),
        stopping(3),
        pk.ModelCheckpoint(tmp_path / "best.keras", monitor="val_loss", save_best_only=True),
        pk.TensorBoard(tmp_path, write_graph=False),
        pk.CSVLogger(tmp_path / "log.csv"),
        pk.BackupAndRestore(tmp_path),
    ]

    assert said(callbacks, 4, validation_freq=2) == ([], [])


NAN = float("nan")


def log(folder):
    """Makes a run of ours, and looks at no metric."""
    return pk.CSVLogger(folder / "log.csv")


CASES = {  # by a code, and a word where it says two things: a fit with the mistake, and without it
    "E2": lambda wrong, _: {"callbacks": [stopping(monitor="loss" if wrong else "val_loss")]},
    "E3": lambda wrong, _: {"callbacks": [stopping(mode="max" if wrong else "min")]},
    "E4": lambda wrong, _: {"callbacks": [stopping(restore_best_weights=not wrong)]},
    "E6": lambda wrong, _: {
        "callbacks": [stopping(3), pk.ReduceLROnPlateau("val_loss", patience=3 if wrong else 1)]
    },
    "E7 none": lambda wrong, _: {"callbacks": [stopping(0 if wrong else 1)]},
    "E7 long": lambda wrong, _: {"callbacks": [stopping(5 if wrong else 4)]},
    "E8 name": lambda wrong, folder: {
        "callbacks": [pk.ModelCheckpoint(folder / f"{'last' if wrong else '{epoch:02d}'}.keras")]
    },
    "E8 path": lambda wrong, folder: {
        "callbacks": [pk.CSVLogger(folder / name) for name in ("a", "a" if wrong else "b")]
    },
    "E11": lambda wrong, folder: {
        "callbacks": [pk.CSVLogger(folder / "log.csv")], "validation_freq": 6 if wrong else 5,
    },
    "E13 loss": lambda wrong, folder: {
        "callbacks": [Curve(loss=[NAN] if wrong else []), log(folder)]
    },
    "E13 other": lambda wrong, folder: {
        "callbacks": [Curve(f1=[NAN, NAN] if wrong else [0.5, NAN]), log(folder)]
    },
    "E14": lambda wrong, folder: {
        "callbacks": [
            (keras.callbacks if wrong else pk).ReduceLROnPlateau("val_loss", patience=9),
            pk.BackupAndRestore(folder),
        ]
    },
    "E15": lambda wrong, _: {
        "callbacks": [stopping()],
        "net": model(sgd(schedules.CosineDecay(0.01, 20 if wrong else 8))),
    },
}  # fmt: skip
LOUD = {"E2", "E3", "E6", "E7 none", "E8 path", "E11", "E13 loss"}


def test_each_code_has_a_fit_with_the_mistake_and_one_without():
    """But E5, which is no advice before training but a word in the summary: P4 of the programs; E12,
    which comes of the environment: `tests/workers/test_strangers.py`; and what comes of the disk:
    `tests/doctor`.
    """
    told = (*rules._RULES, rules.differing, rules.not_finite)
    codes = {rule.__doc__.partition(":")[0] for rule in told}

    assert {name.partition(" ")[0] for name in CASES} == codes - {"E5", "E9", "E10", "E12"}


@pytest.mark.parametrize(
    "name",
    [  # of these two, one asks a metric and one an optimizer
        pytest.param(name, marks=[] if name in {"E3", "E15"} else of_no_framework) for name in CASES
    ],
)
def test_a_mistake_is_named_and_a_fit_without_it_is_told_nothing(said, name, tmp_path):
    code = name.partition(" ")[0]
    loud, notices = said(epochs=5, **CASES[name](True, tmp_path))
    assert (len(loud), len(notices)) == ((1, 0) if name in LOUD else (0, 1))
    assert f'peakhold.silence("{code}")' in (loud + notices)[0]

    assert said(epochs=5, **CASES[name](False, tmp_path)) == ([], [])


@of_no_framework
@pytest.mark.parametrize(
    ("frequency", "n"), [(3, 1), ([5, 7], 1), (2, 0), ([2, 7], 0)], ids=["3", "5-7", "2", "2-7"]
)
def test_e11_validation_beyond_the_run(said, tmp_path, frequency, n):
    loud, _ = said([pk.CSVLogger(tmp_path / "log.csv")], 2, validation_freq=frequency)

    assert len(loud) == n
    assert all("smaller validation_freq" in text and "E11" in text for text in loud)


@of_no_framework
def test_e11_is_the_reason_that_the_error_names(said):
    with pytest.raises(MonitorNotFoundError, match="a validation_freq that this run reaches"):
        said([stopping()], 4, validation_freq=5)


@of_no_framework
def test_e11_is_not_about_a_fit_without_validation(said, tmp_path):
    callbacks = [pk.CSVLogger(tmp_path / "log.csv")]

    assert said(callbacks, 2, validation_data=None, validation_freq=9) == ([], [])


def sgd(schedule):
    return keras.optimizers.SGD(schedule)


@pytest.mark.parametrize(
    ("schedule", "n"),
    [
        pytest.param(lambda: schedules.CosineDecay(0.01, 20), 1, id="cosine"),
        pytest.param(lambda: 0.01, 0, id="rate"),
        *(
            pytest.param(schedule, n, id=name, marks=of_no_framework)
            for name, schedule, n in [
                (
                    "warm-up",
                    lambda: schedules.CosineDecay(0.01, 15, warmup_target=0.1, warmup_steps=5),
                    1,
                ),
                ("polynomial", lambda: schedules.PolynomialDecay(0.01, 20), 1),
                ("cycle", lambda: schedules.PolynomialDecay(0.01, 20, cycle=True), 0),
                ("short", lambda: schedules.CosineDecay(0.01, 8), 0),
                ("exponential", lambda: schedules.ExponentialDecay(0.01, 20, 0.9), 0),
            ]
        ),
    ],
)
def test_e15_a_schedule_that_spans_the_run(said, schedule, n):
    loud, notices = said([stopping()], 5, model(sgd(schedule())))  # 4 batches an epoch

    assert loud == []
    assert len(notices) == n
    assert all("E15" in text and "ModelCheckpoint" in text for text in notices)


def test_e15_is_not_about_a_second_run_after_the_end_of_the_curve(said):
    net = model(sgd(schedules.CosineDecay(0.01, 20)))
    fit(net, [], 5)

    assert said([stopping()], 5, net) == ([], [])


@of_no_framework
def test_e15_a_scheduler_with_a_curve_over_all_epochs(said):
    curve = pk.LearningRateScheduler(schedules.CosineDecay(0.01, 5))
    _, notices = said([stopping(), curve], 5)
    assert len(notices) == 1
    assert "E15" in notices[0]

    other = pk.LearningRateScheduler(lambda epoch, rate: rate * 0.9)
    assert said([stopping(), other], 5) == ([], [])


def test_e3_a_metric_that_knows_better_than_its_name(said):
    class OddAccuracy(keras.metrics.MeanAbsoluteError):
        pass  # Keras tells the direction of this class: down

    net = model(metrics=[OddAccuracy(name="accuracy")])
    right = pk.EarlyStopping("val_accuracy", mode="min", patience=2, restore_best_weights=True)

    assert said([right], 4, net) == ([], [])


@of_no_framework
def test_e6_and_e7_know_steps_and_several_metrics(said):
    several = pk.EarlyStopping(
        ["val_loss", "val_mae"], patience=2, restore_best_weights=True, mode="min"
    )
    lowering = pk.ReduceLROnPlateau("val_loss", patience=3)
    assert said([several, lowering], 5) == ([], []), "val_mae must have stopped improving, too"

    lowering = pk.ReduceLROnPlateau("val_loss", patience=pk.Steps(12))
    loud, _ = said([stopping(3), lowering], 6)  # 4 batches an epoch
    assert len(loud) == 1
    assert "EarlyStopping(patience=3)" in loud[0]
    assert "patience=Steps(n=24)" in loud[0]

    _, notices = said([stopping(pk.Steps(20))], 5)
    assert len(notices) == 1
    assert "E7" in notices[0]


@of_no_framework
def test_e8_two_callbacks_on_one_path(said, tmp_path):
    folder = str(tmp_path / "logs")
    loud, _ = said([pk.TensorBoard(folder), pk.TensorBoard(tmp_path / "logs")], 1)
    assert len(loud) == 1
    assert "'" + folder + "'" in loud[0]


@of_no_framework
def test_e8_what_saves_once_overwrites_nothing(said, tmp_path):
    last = pk.ModelCheckpoint(tmp_path / "last.keras", save_freq=pk.AtEnd())
    assert said([last], 3) == ([], [])


@of_no_framework
@pytest.mark.parametrize(
    ("name", "n"), [("last", 1), ("{timestamp}/last", 1), ("{worker}-{epoch}", 0)]
)
def test_e8_a_name_that_is_one_name_in_a_run(said, tmp_path, name, n):
    _, notices = said([pk.ModelCheckpoint(tmp_path / f"{name}.keras")], 3)

    assert len(notices) == n
    assert all("E8" in text for text in notices)


@of_no_framework
def test_a_best_file_in_a_folder_of_the_run_is_replaced_without_a_word(tmp_path, capsys):
    saver = pk.ModelCheckpoint(
        tmp_path / "{run_id}" / "best.keras", monitor="val_loss", save_best_only=True
    )
    fit(model(), [Curve(val_loss=[3.0, 2.0, 1.0]), saver], 3, verbose=2)

    assert saver.best_epoch == 2
    assert "earlier save" not in capsys.readouterr().out


# One typo is one message


def ranked(monitor, folder):
    return [
        pk.ReduceLROnPlateau(monitor, patience=1, mode="max"),
        pk.EarlyStopping(monitor, patience=2, mode="max", restore_best_weights=True),
        pk.ModelCheckpoint(folder / "m.keras", monitor=monitor, mode="max", save_best_only=True),
    ]


@pytest.mark.parametrize(
    "monitor",
    [
        "acc",
        *(pytest.param(n, marks=of_no_framework) for n in ("val_acc", "val_acuracy", "accurracy")),
    ],
)
def test_one_typo_is_one_error_and_nothing_else(tmp_path, monitor):
    """Before the first batch, where the model tells its metrics: TensorFlow's does so after it."""
    net = model(metrics=["accuracy"])
    alert = pk.SlackAlert("http://127.0.0.1:9/x", when=f"{monitor} > 2")
    right = "val_accuracy" if monitor.startswith("val_") else "accuracy"
    with (
        warnings.catch_warnings(record=True) as caught,
        pytest.raises(MonitorNotFoundError, match=f"Hint: did you mean '{right}'") as raised,
    ):
        warnings.simplefilter("always")
        fit(net, [alert, *ranked(monitor, tmp_path)], 3)

    told = [str(one.message) for one in caught if issubclass(one.category, PeakholdWarning)]
    notes = "\n".join(getattr(raised.value, "__notes__", []))
    assert f"got monitor={monitor!r} in ReduceLROnPlateau." in str(raised.value)
    if keras.backend.backend() == "tensorflow":
        assert not [line for line in told if "E2" not in line or f"'val_{monitor}'" in line]
        assert notes == "The same holds for EarlyStopping."
    else:
        assert told == []
        assert notes == "The same holds for EarlyStopping, ModelCheckpoint and SlackAlert."
        assert not (tmp_path / "m.keras").exists()


@of_no_framework
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_typo_that_nobody_can_know_before_is_one_error_too(tmp_path, epochs):
    """A callback of the user's own might log it."""
    with warnings.catch_warnings(record=True) as caught, pytest.raises(MonitorNotFoundError):
        warnings.simplefilter("always")
        fit(model(), [keras.callbacks.Callback(), Hears(), *ranked("val_los", tmp_path)], epochs)

    assert not [one for one in caught if issubclass(one.category, PeakholdWarning)]


@of_no_framework
def test_in_a_fit_of_one_epoch_checkpoints_of_one_typo_say_it_once(tmp_path):
    def saver(name):
        return pk.ModelCheckpoint(tmp_path / name, "val_los", mode="min", save_best_only=True)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model(), [Hears(), saver("a.keras"), saver("b.keras")], 1)
    (one,) = [str(w.message) for w in caught if issubclass(w.category, PeakholdWarning)]

    assert "got monitor='val_los' in ModelCheckpoint." in one and "did you mean 'val_loss'?" in one


class Hears(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        """A hook of the user's own, which may add to the logs."""


@of_no_framework
def test_what_a_callback_of_ours_logs_is_no_typo():
    """`lr` is another name for `learning_rate`, which ReduceLROnPlateau logs."""
    net = model(metrics=[keras.metrics.MeanAbsoluteError(name="lr")])
    plateau = pk.ReduceLROnPlateau("val_loss", patience=9)
    fit(net, [plateau, pk.EarlyStopping("learning_rate", mode="min", patience=5)], 2)


class Counts(keras.metrics.Metric):
    """Gives several values, which Keras logs under their own names."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        pass

    def result(self):
        return {"hits": 1.0, "misses": 0.0}


@of_no_framework
def test_a_metric_that_gives_several_values_is_known_by_their_names():
    net, stopper = model(metrics=[Counts()]), pk.EarlyStopping("val_hits", mode="max", patience=9)
    fit(net, [stopper], 1)
    assert stopper.best == 1.0

    with pytest.raises(MonitorNotFoundError, match="Hint: did you mean 'val_hits'?"):
        fit(net, [pk.EarlyStopping("val_hit", mode="max", patience=9)], 1)


@of_no_framework
def test_advice_that_holds_for_several_callbacks_is_given_once(said, tmp_path):
    told, _ = said(ranked("val_loss", tmp_path), 5)  # mode="max"

    (one,) = [line for line in told if "E3" in line]
    names = "EarlyStopping, ReduceLROnPlateau and ModelCheckpoint"
    assert one.startswith(f"{names} take the largest 'val_loss' for the best")


@of_no_framework
def test_nobody_is_sent_to_a_metric_that_is_not_there(said):
    """E2 said `monitor 'val_acc'` of a model that logs `accuracy`."""
    net = model(metrics=["accuracy"])
    with warnings.catch_warnings(record=True) as caught, pytest.raises(MonitorNotFoundError):
        warnings.simplefilter("always")
        fit(net, [pk.EarlyStopping("acc", patience=1)], 2)

    assert not [one for one in caught if "'val_acc'" in str(one.message)]


@of_no_framework
@pytest.mark.parametrize(
    "also",
    [
        lambda: stopping(1),
        lambda: pk.TerminateOnNaN(),
        lambda: keras.callbacks.TerminateOnNaN(),
    ],
    ids=["ranked-by", "ended-for-it", "ended-by-keras"],
)
def test_what_somebody_looks_at_is_not_said_twice(said, also, tmp_path):
    """E13 is said by who ranks by it (`MonitorWarning`); who ends training for it says so."""
    net = model(sgd(1e30))

    assert said([log(tmp_path), also()], 3, net) == ([], [])


@of_no_framework
def test_e13_is_silenced_like_the_others(said, monkeypatch, tmp_path):
    monkeypatch.setattr(SAID, "_silenced", {"E13"})

    assert said([Curve(loss=[NAN]), log(tmp_path)], 2) == ([], [])


@of_no_framework
def test_e4_names_a_path_that_can_be_loaded(said, tmp_path):
    def saver(name):
        return pk.ModelCheckpoint(tmp_path / name, monitor="val_loss", save_best_only=True)

    _, (fixed,) = said([stopping(restore_best_weights=False), saver("m.keras")], 5)
    _, (filled,) = said([stopping(restore_best_weights=False), saver("m-{epoch:02d}.keras")], 5)

    assert f"or load {str(tmp_path / 'm.keras')!r} afterwards" in fixed
    assert "or load the file of ModelCheckpoint's best_path afterwards" in filled


@of_no_framework
def test_a_notice_is_not_repeated_when_the_run_is_resumed(tmp_path, capsys):
    class Stops(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise RuntimeError

    def run(*more):
        callbacks = [stopping(9), pk.BackupAndRestore(tmp_path), *more]
        fit(model(), callbacks, 4, verbose=2)
        return capsys.readouterr().out

    with pytest.raises(RuntimeError):
        run(Stops())
    assert "E7" in capsys.readouterr().out

    assert "E7" not in run()
