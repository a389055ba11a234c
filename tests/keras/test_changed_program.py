"""A run is resumed by a program that was changed: what differs is said, and which of the two counts.

The notebook: Ctrl-C, another learning rate in `compile`, the cell again.
"""

import re

import pytest
from keras.optimizers import schedules

import keras
import peakhold.keras as pk
from keras_helpers import Curve, fit, model
from peakhold.errors import BackupMismatchError, SaveWarning

of_no_framework = pytest.mark.torch_is_enough(
    "what differs and what is said of it is Python's; what an optimizer is asked is asked on every backend"
)

VERBOSE = pytest.mark.parametrize("verbose", [0, 2])


class Stops(keras.callbacks.Callback):
    """An exception in an epoch, as the power going out; or Ctrl-C."""

    def __init__(self, epoch, error=RuntimeError):
        super().__init__()
        self.epoch, self.error = epoch, error

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise self.error


def interrupted(folder, net, callbacks, **arguments):
    stop = Stops(arguments.pop("at", 2))
    with pytest.raises(RuntimeError):
        fit(
            net,
            [*callbacks, pk.BackupAndRestore(folder), stop],
            arguments.pop("epochs", 6),
            **arguments,
        )


def resumed(capsys, folder, net, callbacks, **arguments):
    """What is said of differences; without paths, and in one order."""
    capsys.readouterr()
    fit(net, [*callbacks, pk.BackupAndRestore(folder)], arguments.pop("epochs", 6), **arguments)
    start = "Peakhold: BackupAndRestore: "
    lines = capsys.readouterr().out.splitlines()
    return [line[len(start) :] for line in lines if line.startswith(start)]


def sgd(**arguments):
    return keras.optimizers.SGD(**{"learning_rate": 0.001, **arguments})


@VERBOSE
def test_another_learning_rate_is_said_and_the_backups_counts(tmp_path, capsys, verbose):
    interrupted(tmp_path, model(sgd()), [])
    net = model(sgd(learning_rate=0.01))

    (line,) = resumed(capsys, tmp_path, net, [], verbose=verbose)

    assert line == (
        f"learning_rate is 0.01 in this program and 0.001 in the backup, which counts. To begin "
        f"anew, delete {str(tmp_path)!r}; to go on with 0.01, add "
        "`LearningRateScheduler(lambda epoch, rate: 0.01 if epoch == 2 else rate)`."
    )
    assert float(net.optimizer.learning_rate) == pytest.approx(0.001)


def plateau():
    return pk.ReduceLROnPlateau("val_loss", patience=1, factor=0.1)


WORSE = {"val_loss": [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]}


@of_no_framework
def test_the_hint_helps_and_a_plateau_may_still_lower_the_rate(tmp_path, capsys):
    """It is fed back as code."""
    interrupted(tmp_path, model(sgd()), [Curve(**WORSE), plateau()])
    capsys.readouterr()
    interrupted(tmp_path, model(sgd(learning_rate=0.01)), [Curve(**WORSE), plateau()], verbose=0)
    (code,) = re.findall("to go on with 0.01, add `(.*)`", capsys.readouterr().out)
    rates = Rates()

    fit(
        model(sgd(learning_rate=0.01)),
        [Curve(**WORSE), plateau(), eval(code, vars(pk)), rates, pk.BackupAndRestore(tmp_path)],
        5,
    )

    assert rates.seen == pytest.approx([0.01, 0.001, 0.0001])


class Rates(keras.callbacks.Callback):
    """The rates that epochs are trained with."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(float(self.model.optimizer.learning_rate))


@of_no_framework
def test_a_rate_that_training_has_lowered_is_no_difference(tmp_path, capsys):
    interrupted(tmp_path, model(sgd()), [Curve(**WORSE), plateau()], at=3)

    assert resumed(capsys, tmp_path, model(sgd()), [Curve(**WORSE), plateau()]) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_cell_again_without_a_change_is_no_difference(tmp_path, capsys, error):
    """The optimizer of this process shows the rate that training has left in it."""
    net = model(sgd())
    with pytest.raises(error):
        fit(
            net,
            [Curve(**WORSE), plateau(), pk.BackupAndRestore(tmp_path), Stops(3, error)],
            6,
        )

    assert resumed(capsys, tmp_path, net, [Curve(**WORSE), plateau()]) == []


@of_no_framework
def test_a_rate_set_between_two_cells_is_said(tmp_path, capsys):
    class CtrlC(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                import signal

                signal.raise_signal(signal.SIGINT)

    net = model(sgd())
    with pytest.raises(KeyboardInterrupt):
        fit(net, [pk.BackupAndRestore(tmp_path), CtrlC()], 6)
    net.optimizer.learning_rate = 0.05

    (line,) = resumed(capsys, tmp_path, net, [])

    assert line.startswith("learning_rate is 0.05 in this program and 0.001 in the backup")


@of_no_framework
def test_it_is_said_again_as_long_as_it_is_so(tmp_path, capsys):
    interrupted(tmp_path, model(sgd()), [])
    interrupted(tmp_path, model(sgd(learning_rate=0.01)), [], at=4)

    assert len(resumed(capsys, tmp_path, model(sgd(learning_rate=0.01)), [])) == 1


@of_no_framework
def test_what_counts_from_here_on_is_said_once(tmp_path, capsys):
    interrupted(tmp_path, model(), [pk.EarlyStopping("val_loss", patience=7)])
    interrupted(tmp_path, model(), [pk.EarlyStopping("val_loss", patience=9)], at=4)

    assert resumed(capsys, tmp_path, model(), [pk.EarlyStopping("val_loss", patience=9)]) == []


def stopping(**arguments):
    return [pk.EarlyStopping("val_loss", **{"patience": 8, **arguments})]


COUNTS_NOW = {  # by kind: before, after, what is told
    "patience": (stopping(), stopping(patience=9), "patience of EarlyStopping(val_loss)", "8", "9"),
    "min_delta": (stopping(), stopping(min_delta=0.5), "min_delta of EarlyStopping(val_loss)", "0", "0.5"),
    "restore_best_weights": (
        stopping(), stopping(restore_best_weights=True),
        "restore_best_weights of EarlyStopping(val_loss)", "False", "True",
    ),
    "factor": (
        [pk.ReduceLROnPlateau("val_loss", factor=0.5)], [pk.ReduceLROnPlateau("val_loss", factor=0.2)],
        "factor of ReduceLROnPlateau(val_loss)", "0.5", "0.2",
    ),
}  # fmt: skip


@of_no_framework
@pytest.mark.parametrize("kind", COUNTS_NOW)
@VERBOSE
def test_an_argument_of_a_callback_counts_from_here_on(tmp_path, capsys, kind, verbose):
    before, after, subject, then, now = COUNTS_NOW[kind]
    interrupted(tmp_path, model(), before)

    (line,) = resumed(capsys, tmp_path, model(), after, verbose=verbose)

    assert line == (
        f"{subject} is {now} in this program and was {then} in the run that is resumed; "
        f"{now} counts from here on."
    )


@of_no_framework
def test_another_mode_is_said_with_what_it_does_to_the_best(tmp_path, capsys):
    interrupted(tmp_path, model(), stopping(mode="min"))

    (line,) = resumed(capsys, tmp_path, model(), stopping(mode="auto"))

    assert line.startswith(
        "mode of EarlyStopping(val_loss) is 'auto' in this program and was 'min'"
    )
    assert line.endswith(f"with the best value of before: to begin anew, delete {str(tmp_path)!r}.")


@of_no_framework
@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"epochs": 6}, {"epochs": 8}, ["epochs is 8 in this program and was 6"]),
        ({"batch_size": 8}, {"batch_size": 16}, ["batch_size is 16 in this program and was 8"]),
        ({"validation_freq": 1}, {"validation_freq": 2}, ["validation_freq is 2 in this program and was 1"]),
    ],
    ids=["epochs", "batch_size", "validation_freq"],
)  # fmt: skip
def test_what_fit_is_called_with_counts_from_here_on(tmp_path, capsys, before, after, told):
    interrupted(tmp_path, model(), [], **before)

    lines = resumed(capsys, tmp_path, model(), [], **after)

    assert [line.partition(" in the run")[0] for line in lines] == told


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (sgd, lambda: sgd(weight_decay=0.1), "weight_decay is 0.1 in this program and was None"),
        (sgd, lambda: sgd(clipnorm=1.0), "clipnorm is 1 in this program and was None"),
        (
            keras.optimizers.Adam, lambda: keras.optimizers.Adam(beta_1=0.8),
            "beta_1 is 0.8 in this program and was 0.9",
        ),
        (
            lambda: keras.optimizers.Adam(weight_decay=0.004), keras.optimizers.AdamW,
            "the class of the optimizer is 'AdamW' in this program and was 'Adam'",
        ),
        (
            lambda: sgd(learning_rate=schedules.CosineDecay(0.001, 100)),
            lambda: sgd(learning_rate=schedules.CosineDecay(0.001, 200)),
            "CosineDecay.decay_steps is 200 in this program and was 100",
        ),
    ],
    ids=["weight_decay", "clipnorm", "beta_1", "class", "schedule"],
)  # fmt: skip
def test_what_the_optimizer_is_given_counts_from_here_on(tmp_path, capsys, before, after, told):
    interrupted(tmp_path, model(before()), [])

    lines = resumed(capsys, tmp_path, model(after()), [])

    assert [line.partition(" in the run")[0] for line in lines] == [told]


def test_another_kind_of_optimizer_is_an_error(tmp_path, capsys):
    interrupted(tmp_path, model(sgd()), [])

    with pytest.raises(BackupMismatchError, match="the optimizer is 'Adam', it was 'SGD'."):
        resumed(capsys, tmp_path, model("adam"), [])


@of_no_framework
def test_another_monitor_begins_afresh(tmp_path, capsys):
    interrupted(tmp_path, model(), stopping())

    with pytest.warns(SaveWarning, match=r"EarlyStopping\(val_mae\) begins afresh"):
        resumed(capsys, tmp_path, model(), [pk.EarlyStopping("val_mae", patience=8)])


def test_the_same_program_is_told_nothing(tmp_path, capsys):
    callbacks = [
        *stopping(), plateau(), pk.CSVLogger(tmp_path / "log.csv"),
        pk.ModelCheckpoint(tmp_path / "m.keras"), pk.TensorBoard(tmp_path / "t", write_graph=False),
    ]  # fmt: skip
    interrupted(tmp_path / "b", model(), callbacks)

    assert resumed(capsys, tmp_path / "b", model(), callbacks) == []


# More patience after a stop


def ends_by_patience(folder, patience, epochs, net=None, **arguments):
    early = pk.EarlyStopping("val_loss", patience=patience, **arguments)
    backup = pk.BackupAndRestore(folder, delete_checkpoint=False)
    history = fit(net or model(), [Curve(val_loss=[0.5, *[0.6] * 20]), early, backup], epochs)
    return early, history.epoch


@of_no_framework
@pytest.mark.parametrize("restores", [False, True])
def test_more_patience_after_a_stop_goes_on(tmp_path, restores):
    _, epochs = ends_by_patience(tmp_path, 2, 10, restore_best_weights=restores)
    assert epochs == [0, 1, 2]

    early, epochs = ends_by_patience(tmp_path, 5, 10, restore_best_weights=restores)

    assert epochs == [0, 1, 2, 3, 4, 5]  # as a run with this patience from its beginning
    assert (early.stopped_epoch, early.best_epoch) == (5, 0)


@of_no_framework
def test_the_same_patience_after_a_stop_trains_nothing_and_says_so(tmp_path, capsys):
    ends_by_patience(tmp_path, 2, 10)
    capsys.readouterr()

    assert ends_by_patience(tmp_path, 2, 12)[1] == [0, 1, 2]

    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(
        "Peakhold: BackupAndRestore trains nothing: training was over after epoch 3"
    )
    assert "With a longer patience, it goes on." in first


@of_no_framework
def test_more_epochs_after_the_last_go_on(tmp_path, capsys):
    ends_by_patience(tmp_path, 9, 2)
    ends_by_patience(tmp_path, 9, 2)
    assert "With more epochs, it goes on." in capsys.readouterr().out

    assert ends_by_patience(tmp_path, 9, 4)[1] == [0, 1, 2, 3]
