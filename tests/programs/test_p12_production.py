"""P12: a function that returns the callbacks of a serious run; and ours, in one call."""

import copy
import gc
import os
import threading
import traceback

import numpy as np
import pytest

import keras
import peakhold.keras as pk
from fake_slack import SECRET, FakeSlack
from peakhold.errors import AdviceWarning, InvalidArgumentError, StoreOwnedError
from peakhold.keras import production_callbacks
from peakhold.ledger import RunFolder, read_events

of_no_framework = pytest.mark.torch_is_enough("names, numbers of runs and messages are Python's")

KINDS = [
    "ReduceLROnPlateau", "EarlyStopping", "ModelCheckpoint", "TensorBoard", "CSVLogger", "SlackAlert",
    "RunRecord", "BackupAndRestore",
]  # fmt: skip
ENDED = ["best.keras", "events.jsonl", "heartbeat", "metrics.csv", "run.json", "tensorboard"]
"""What a run that has ended leaves in its folder, as `peakhold.Run` names it."""


@pytest.fixture(autouse=True)
def no_webhook(monkeypatch):
    monkeypatch.delenv("PEAKHOLD_SLACK_WEBHOOK", raising=False)
    monkeypatch.delenv("PEAKHOLD_ALERT_URL", raising=False)


@pytest.fixture
def train(xy, classifier):
    def run(callbacks, epochs=3, loss="binary_crossentropy", **arguments):
        keras.utils.set_random_seed(0)
        model = classifier(loss=loss)
        arguments = {"validation_split": 0.25, "verbose": 0, **arguments}
        history = model.fit(*xy, epochs=epochs, callbacks=callbacks, **arguments)
        return model, history

    return run


class Fail(keras.callbacks.Callback):
    def __init__(self, epoch, error):
        super().__init__()
        self.at, self.error = epoch, error

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.at:
            raise self.error


def kinds(callbacks):
    return [type(callback).__name__ for callback in callbacks]


def names(folder):
    ours = (".peakhold.json", ".lock")
    return sorted(name for name in os.listdir(folder) if not name.endswith(ours))


def epochs_of(path):
    return [line.split(",")[0] for line in path.read_text().splitlines()[1:]]


def get_callbacks(model_path, monitor="val_loss", patience=10, webhook=None):
    """As people write it."""
    folder = os.path.dirname(model_path)
    os.makedirs(folder, exist_ok=True)
    return [
        pk.ReduceLROnPlateau(monitor=monitor, factor=0.5, patience=patience // 2, min_lr=1e-6),
        pk.EarlyStopping(monitor=monitor, patience=patience, restore_best_weights=True),
        pk.ModelCheckpoint(model_path, monitor=monitor, save_best_only=True),
        pk.TensorBoard(log_dir=os.path.join(folder, "logs")),
        pk.CSVLogger(os.path.join(folder, "training.csv")),
        pk.SlackAlert(webhook, when="val_accuracy > 0.01 and epoch >= 2", on="stop"),
    ]


def test_p12_the_function_that_people_write(train, tmp_path, advice):
    path = str(tmp_path / "models" / "best.keras")
    with FakeSlack() as slack:
        callbacks = get_callbacks(path, patience=2, webhook=slack.url)
        model, history = train(callbacks)
        callbacks[-1].flush(30)

    assert len(slack.taken) == 2
    assert "epoch 2 of 3" in slack.taken[0]
    assert epochs_of(tmp_path / "models" / "training.csv") == [str(e) for e in history.epoch]
    assert os.listdir(tmp_path / "models" / "logs")
    best = keras.models.load_model(path).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(best, model.get_weights(), strict=True))
    assert advice(AdviceWarning) == []


def test_p12_the_same_in_one_call(train, tmp_path, advice):
    run = tmp_path / "runs" / "circle"
    with FakeSlack() as slack:
        callbacks = production_callbacks(run, monitor="val_accuracy", patience=2, alert=slack.url)
        assert kinds(callbacks) == KINDS
        assert not run.exists(), "a list that is not used leaves nothing behind"
        model, history = train(callbacks)
        callbacks[5].flush(30)

    assert len(slack.taken) == 1
    assert slack.taken[0].startswith("[circle 1, run ")
    assert names(run) == ENDED
    assert names(run / "tensorboard") == ["train", "validation"]
    assert epochs_of(run / "metrics.csv") == [str(e) for e in history.epoch]
    best = keras.models.load_model(run / "best.keras").get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(best, model.get_weights(), strict=True))
    assert advice(AdviceWarning) == []
    check_record(RunFolder(run), history)


def check_record(folder, history):
    """What the run was, and all that happened in it, as `peakhold.Run` writes it."""
    past = folder.history()
    assert past.epoch == history.epoch
    assert {name: past.history[name] for name in history.history} == history.history
    assert (
        str(folder.status()) == "ended: val_accuracy: no improvement for 2 epochs (EarlyStopping)"
    )
    assert folder.about()["settings"]["patience"] == 2
    assert folder.about()["versions"]["keras"] == keras.__version__
    events = list(read_events(folder.events))
    assert [events[0]["kind"], events[-1]["kind"]] == ["start", "end"]
    assert {events[0]["run"]} == {folder.about()["id"]}
    moments = [event for event in events if event["kind"] == "moment"]
    assert {"on_train_begin", "on_epoch_begin", "on_epoch_end", "on_train_end"} <= {
        event["event"] for event in moments
    }
    reasons = [
        decision["reason"]
        for event in moments
        for name, decided in event.get("decisions", {}).items()
        for decision in decided
        if "best.keras" in name and decision["decision"] == "Save"
    ]
    assert reasons[0] == "better than every saved file"
    assert any("best.keras" in name for event in moments for name in event.get("facts", {}))


@of_no_framework
@pytest.mark.parametrize("patience", [2, 3, 4, 5, 10, 25])
def test_one_patience_makes_settings_that_agree(patience, tmp_path):
    plateau, stopping, best, *_ = production_callbacks(tmp_path, "val_auc", "max", patience)

    assert 1 <= plateau.patience < stopping.patience == patience
    assert {(cb.monitor, cb.mode) for cb in (plateau, stopping, best)} == {("val_auc", "max")}
    assert plateau.min_delta == stopping.min_delta
    assert stopping.restore_best_weights
    assert best.save_best_only


@of_no_framework
def test_it_is_a_plain_list_that_can_be_read_extended_and_copied(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    callbacks = production_callbacks(
        "run", patience=6, alert="http://127.0.0.1:9/services/" + SECRET
    )

    assert type(callbacks) is list
    assert repr(callbacks[:3]) == (
        "[ReduceLROnPlateau(factor=0.3, patience=2, min_delta=0.0), "
        "EarlyStopping(patience=6, restore_best_weights=True), "
        "ModelCheckpoint(filepath='run/best.keras', save_best_only=True)]"
    )
    text = repr(callbacks)
    assert "TensorBoard(log_dir='run/tensorboard'), CSVLogger(filename='run/metrics.csv'" in text
    assert "RunRecord(folder='run'), BackupAndRestore(backup_dir='run/checkpoints')" in text
    assert "127.0.0.1" in text
    assert not [part for part in SECRET.split("/") if part in text]
    copied = copy.deepcopy(callbacks)
    assert (type(copied), kinds(copied)) == (list, KINDS)


@of_no_framework
def test_the_order_and_what_is_added_do_not_matter(train, tmp_path):
    straight, mixed = tmp_path / "straight", tmp_path / "mixed"
    seen = []
    train(production_callbacks(straight, patience=2), 4)
    extended = production_callbacks(mixed, patience=2)[::-1]
    extended.append(keras.callbacks.LambdaCallback(on_epoch_end=lambda e, _: seen.append(e)))
    train(extended, 4)

    assert seen
    assert (mixed / "metrics.csv").read_bytes() == (straight / "metrics.csv").read_bytes()
    assert names(mixed) == names(straight)
    assert RunFolder(mixed).history() == RunFolder(straight).history()


@of_no_framework
def test_each_part_can_be_left_out_or_replaced(tmp_path):
    def made(**arguments):
        return production_callbacks(tmp_path, **arguments)

    given = {
        "plateau": "ReduceLROnPlateau", "stopping": "EarlyStopping", "best": "ModelCheckpoint",
        "tensorboard": "TensorBoard", "csv": "CSVLogger", "record": "RunRecord",
        "resume": "BackupAndRestore",
    }  # fmt: skip
    without_alert = [kind for kind in KINDS if kind != "SlackAlert"]
    assert kinds(made()) == kinds(made(alert=False)) == without_alert
    for place, (name, kind) in enumerate(given.items()):
        assert kinds(made(**{name: False})) == [k for k in without_alert if k != kind]
        mine = keras.callbacks.LambdaCallback()
        assert made(**{name: mine})[place] is mine
    mine = pk.SlackAlert("http://127.0.0.1:9/x", when="loss < 1")
    assert made(alert=mine)[5] is mine


@of_no_framework
def test_the_alert_comes_from_the_environment_too(tmp_path, monkeypatch):
    monkeypatch.setenv("PEAKHOLD_SLACK_WEBHOOK", "http://127.0.0.1:9/services/" + SECRET)

    assert kinds(production_callbacks(tmp_path)) == KINDS
    assert kinds(production_callbacks(tmp_path, alert=False)) == [k for k in KINDS if "Sl" not in k]
    assert production_callbacks(tmp_path, alert=True)[5].on == ("stop", "failure", "resume")


@of_no_framework
def test_any_service_of_apprise_by_its_url(tmp_path, monkeypatch):
    pytest.importorskip("apprise")
    made = production_callbacks(tmp_path, alert=f"json://127.0.0.1:9/{SECRET}")
    assert kinds(made)[5] == "Alert"

    monkeypatch.setenv("PEAKHOLD_ALERT_URL", f"json://127.0.0.1:9/{SECRET}")
    assert kinds(production_callbacks(tmp_path))[5] == "Alert"


@of_no_framework
@pytest.mark.parametrize("script", [[], [500] * 9, ["cut"] * 9], ids=["taken", "500", "cut"])
def test_a_fit_tells_a_service_of_apprise_and_shows_its_secret_nowhere(
    train, script, tmp_path, capfd, caplog
):
    """The real Apprise, over a real socket; all that is written and logged is searched."""
    pytest.importorskip("apprise")
    caplog.set_level(1)
    with FakeSlack(*script) as slack:
        callbacks = production_callbacks(
            tmp_path / "circle",
            patience=2,
            alert=f"json://me:B1Secret88@127.0.0.1:{slack.port}/{SECRET}",
        )
        callbacks[5]._peakhold_link.participant.outbox._pause = lambda seconds: (
            None
        )  # between two tries
        train(callbacks, 2, verbose=2)
        assert callbacks[5].flush(60)
    output = "".join((*capfd.readouterr(), caplog.text, repr(callbacks)))

    assert slack.texts[0].startswith("[circle 1, run ")
    assert "training ended after epoch 2 of 2: all epochs were run" in slack.texts[0]
    assert ("an alert to json was not delivered" in output) is bool(script)
    assert "withheld while an alert is sent" in output
    shown = [output.encode(), *(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())]
    assert len(shown) > 4
    assert not [part for part in SECRET.split("/") if any(part.encode() in one for one in shown)]


@of_no_framework
def test_a_url_that_apprise_does_not_know_is_refused_and_not_shown(tmp_path):
    pytest.importorskip("apprise")
    with pytest.raises(InvalidArgumentError) as caught:
        production_callbacks(tmp_path, alert=f"nosuch://{SECRET}")

    trace = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    shown = "".join(trace.format())
    assert "a URL of a service that Apprise knows, got url=***" in shown
    assert not [part for part in SECRET.split("/") if part in shown]


@of_no_framework
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            {"patience": 1},
            r"expected an int of at least 2, got patience=1\.\nHint: .*plateau=False",
        ),
        ({"patience": 0, "plateau": False}, "at least 1, got patience=0"),
        ({"monitor": ""}, "got monitor=''"),
        ({"mode": "up"}, "got mode='up'"),
        ({"alert": True}, "got webhook=None"),
        ({"alert": "hooks.slack.com/x"}, "webhook"),
        ({"alert": 3}, "got alert=3"),
        ({"csv": "log.csv"}, "expected True, False, or a callback for Keras, got csv='log.csv'"),
        ({"run_dir": ""}, "expected the path of a folder, got run_dir=''"),
        ({"run_dir": 3}, "got run_dir=3"),
        ({"run_dir": __file__}, "expected the path of a folder, not of a file, got run_dir="),
    ],
)
def test_what_is_wrong_is_said_at_once(arguments, expected, tmp_path):
    with pytest.raises(InvalidArgumentError, match=expected):
        production_callbacks(**{"run_dir": tmp_path, **arguments})


# Names


@of_no_framework
def test_a_run_that_ended_is_never_overwritten(train, tmp_path):
    train(production_callbacks(tmp_path, patience=5))
    first = {n: (tmp_path / n).read_bytes() for n in names(tmp_path) if n != "tensorboard"}

    train(production_callbacks(tmp_path, patience=5))
    train(production_callbacks(tmp_path, patience=5, resume=False), 2)

    assert names(tmp_path) == sorted([*ENDED, "run-2", "run-3"])
    assert names(tmp_path / "run-2") == names(tmp_path / "run-3") == ENDED
    assert {n: (tmp_path / n).read_bytes() for n in first} == first
    folder = RunFolder(tmp_path)
    assert [run.number for run in folder.numbered()] == [1, 2, 3]
    assert folder.newest().path == str(tmp_path / "run-3")
    assert folder.history().epoch == [0, 1]


@of_no_framework
def test_a_second_fit_with_the_same_list_adds_to_its_log(train, tmp_path):
    callbacks = production_callbacks(tmp_path, patience=5)
    train(callbacks, 3)
    train(callbacks, 2)
    _, history = train(callbacks, 4, initial_epoch=2)

    assert epochs_of(tmp_path / "metrics.csv") == ["0", "1", "2", "0", "1", "2", "3"]
    folder = RunFolder(tmp_path)
    kinds = [event["kind"] for event in read_events(folder.events) if event["kind"] != "moment"]
    assert kinds == ["start", "end", "start", "end", "goes_on", "end"]
    past = folder.history()  # of the fit that began anew, and of the one that went on with it
    assert past.epoch == [0, 1, 2, 3] and past.history["loss"][2:] == history.history["loss"]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()], ids=type)
def test_the_same_line_goes_on_with_a_run_that_failed_under_its_names(train, tmp_path, error):
    train(production_callbacks(tmp_path, patience=5))
    with pytest.raises(type(error)):
        train([*production_callbacks(tmp_path, patience=5), Fail(2, error)], 4)
    assert "checkpoints" in names(tmp_path / "run-2")
    error.__traceback__ = None  # which holds the fit, as long as somebody may look at it
    gc.collect()
    assert RunFolder(tmp_path).status().word == "interrupted"

    train(production_callbacks(tmp_path, patience=5), 4)

    assert names(tmp_path) == sorted([*ENDED, "run-2"]) and names(tmp_path / "run-2") == ENDED
    assert epochs_of(tmp_path / "run-2" / "metrics.csv") == ["0", "1", "2", "3"]
    assert RunFolder(tmp_path).history().epoch == [0, 1, 2, 3]
    events = list(read_events(RunFolder(tmp_path).newest().events))
    begun = [one["epoch"] for one in events if one.get("event") == "on_epoch_begin"]
    assert begun == [0, 1, 2, 3], "what came again is there once"
    assert "run-3/metrics.csv" in repr(production_callbacks(tmp_path))


def test_a_run_that_became_nan_goes_on_from_its_last_good_epoch(train, tmp_path):
    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                self.model.set_weights([w * np.nan for w in self.model.get_weights()])

    train([*production_callbacks(tmp_path), Poison(), pk.TerminateOnNaN()], 4, "mse")
    assert "checkpoints" in names(tmp_path)
    assert RunFolder(tmp_path).status().word == "interrupted"

    model, history = train(production_callbacks(tmp_path), 4, "mse")

    assert epochs_of(tmp_path / "metrics.csv") == ["0", "1", "2", "3"]
    assert all(np.isfinite(history.history["loss"]))
    assert names(tmp_path) == ENDED
    assert all(np.isfinite(RunFolder(tmp_path).history().history["loss"]))


@of_no_framework
def test_a_second_run_at_the_same_time_is_refused(train, tmp_path):
    refused = []

    class Second(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                thread = threading.Thread(target=self.start)
                thread.start()
                thread.join()

        def start(self):
            with pytest.raises(StoreOwnedError) as caught:
                train(production_callbacks(tmp_path))
            refused.append(caught.value)

    train([*production_callbacks(tmp_path), Second()])

    assert len(refused) == 1
    assert names(tmp_path) == ENDED
    assert epochs_of(tmp_path / "metrics.csv") == ["0", "1", "2"]


@of_no_framework
def test_without_resume_a_run_that_failed_is_left_as_it_is(train, tmp_path):
    with pytest.raises(RuntimeError):
        train([*production_callbacks(tmp_path), Fail(1, RuntimeError())])
    rows = (tmp_path / "metrics.csv").read_bytes()

    train(production_callbacks(tmp_path, resume=False))

    assert (tmp_path / "metrics.csv").read_bytes() == rows
    assert epochs_of(tmp_path / "run-2" / "metrics.csv") == ["0", "1", "2"]
    assert "run-3/metrics.csv" in repr(production_callbacks(tmp_path)), "the newest run has ended"


@of_no_framework
def test_a_run_that_was_killed_before_its_first_epoch_keeps_its_number(tmp_path):
    (tmp_path / "run-4" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run-4" / "tensorboard" / "train").mkdir(parents=True)
    assert "run-4/metrics.csv" in repr(production_callbacks(tmp_path))

    # Killed when its backup had been emptied already: it was over.
    (tmp_path / "run-4" / "metrics.csv").touch()
    assert "run-5/metrics.csv" in repr(production_callbacks(tmp_path))


@of_no_framework
def test_what_else_is_in_the_folder_is_no_run(tmp_path):
    for name in (
        "best-07.keras",
        "best-final.keras",
        "catalog-3.csv",
        "log-2024x.csv",
        "run-1.log",
    ):
        (tmp_path / name).touch()

    assert f"{tmp_path}/metrics.csv" in repr(production_callbacks(tmp_path))


@of_no_framework
def test_a_backup_of_ones_own_says_whether_the_run_ended(train, tmp_path):
    def made():
        return production_callbacks(
            tmp_path / "run", resume=pk.BackupAndRestore(tmp_path / "elsewhere")
        )

    with pytest.raises(RuntimeError):
        train([*made(), Fail(1, RuntimeError())])
    assert f"{tmp_path}/run/metrics.csv" in repr(made())
    train(made())

    assert epochs_of(tmp_path / "run" / "metrics.csv") == ["0", "1", "2"]
    assert RunFolder(tmp_path / "run").history().epoch == [0, 1, 2]
    assert "run-2/metrics.csv" in repr(made())


# Folders that older versions have written


@of_no_framework
def test_the_run_after_one_of_an_older_version_has_a_folder_of_its_own(train, tmp_path):
    for name in ("best-1.keras", "log-1.csv"):
        (tmp_path / name).write_bytes(b"kept")

    train(production_callbacks(tmp_path), 1)

    assert names(tmp_path) == ["best-1.keras", "log-1.csv", "run-2"]
    assert names(tmp_path / "run-2") == ENDED
    assert RunFolder(tmp_path).history().epoch == [0]


@of_no_framework
def test_a_run_of_an_older_version_keeps_its_names_until_it_ends(tmp_path):
    (tmp_path / "log-1.csv").touch()
    (tmp_path / "backup-2").mkdir()

    made = repr(production_callbacks(tmp_path))

    for name in ("best-2.keras", "tensorboard/run-2", "log-2.csv", "backup-2"):
        assert f"{tmp_path}/{name}'" in made
    assert "RunRecord" not in made
