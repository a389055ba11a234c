"""In `fit`: what is said stands on lines of its own, begins alike, and ends no training."""

import io
import re
import subprocess
import sys
import textwrap
import warnings

import pytest

import keras
import peakhold.keras as pk
from broken_streams import STREAMS
from keras_helpers import Curve, data, fit, model
from peakhold.errors import AdviceWarning, MonitorWarning, PeakholdWarning, SaveWarning

of_no_framework = pytest.mark.torch_is_enough(
    "what is said, and where, is Python's; a progress bar is looked at on every backend"
)


def everything(folder):
    return [
        Curve(val_loss=[0.5, 0.4, float("nan"), 0.6, 0.7]),
        pk.ReduceLROnPlateau("val_loss", patience=1, verbose=1),
        pk.EarlyStopping(
            "val_loss", patience=2, verbose=1, restore_best_weights=True, memory_budget=8
        ),
        pk.ModelCheckpoint(folder / "m.keras", monitor="val_loss", verbose=1),
        pk.CSVLogger(folder / "log.csv"),
        pk.BackupAndRestore(folder / "backup"),
        pk.LearningRateScheduler(lambda epoch, rate: rate, verbose=1),
    ]


@of_no_framework
@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.filterwarnings("ignore")
def test_a_fit_trains_to_its_end_on_any_console(tmp_path, kind, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, STREAMS[kind]())
    folder = tmp_path / "naïve – ∞"

    history = fit(model(), everything(folder), 5)

    assert len(history.history["loss"]) == 4


@of_no_framework
def test_a_pipe_that_nobody_reads_ends_no_training(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import os, sys
        from pathlib import Path
        sys.path.insert(0, {str(__file__.rsplit("/", 2)[0])!r})
        import numpy, torch, keras
        from keras_helpers import fit, model
        sys.path.insert(0, {str(__file__.rsplit("/", 1)[0])!r})
        from test_speech import everything
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        history = fit(model(), everything(Path({str(tmp_path)!r})), 5)
        Path({str(tmp_path / "done")!r}).write_text(str(len(history.history["loss"])))
        os._exit(0)
        """)
    )

    result = subprocess.run([sys.executable, str(program)], timeout=300)

    assert result.returncode == 0
    assert (tmp_path / "done").read_text() == "4"


@of_no_framework
@pytest.mark.filterwarnings("ignore")
def test_a_handler_of_logging_that_raises_ends_no_training(tmp_path):
    """With `disable_interactive_logging`, Keras hands messages to `logging`."""
    import logging

    class Broken(logging.Handler):
        def emit(self, record):
            raise RuntimeError("no")

    handler, level = Broken(), logging.getLogger().level
    keras.config.disable_interactive_logging()
    logging.getLogger().addHandler(handler)
    logging.getLogger("absl").addHandler(handler)
    logging.getLogger().setLevel("INFO")
    try:
        history = fit(model(), everything(tmp_path), 5)
    finally:
        logging.getLogger().setLevel(level)
        logging.getLogger().removeHandler(handler)
        logging.getLogger("absl").removeHandler(handler)
        keras.config.enable_interactive_logging()

    assert len(history.history["loss"]) == 4


# Where it stands


@pytest.mark.filterwarnings("ignore")
def test_what_is_said_is_never_inside_the_progress_bar(tmp_path, capsys, monkeypatch):
    """Lines of ours begin with our name, or with Keras's words, and nothing comes before them."""
    (tmp_path / "m.keras").write_bytes(b"an earlier run's")

    x, y = data()
    model().fit(
        x, y, batch_size=8, validation_data=(x, y), epochs=5, verbose=1,
        callbacks=everything(tmp_path),
    )  # fmt: skip

    text = capsys.readouterr().out
    for words in ("Peakhold: ", "Epoch [0-9]+: ", "Restoring model weights"):
        found = re.findall(f"(.?){words}", text, re.DOTALL)
        assert found, words
        assert set(found) <= {"\n", ""}, words


@pytest.mark.filterwarnings("ignore")
def test_a_warning_in_the_middle_of_an_epoch_begins_a_line(tmp_path, monkeypatch):
    said = io.StringIO()
    monkeypatch.setattr(sys, "stdout", said)
    x, y = data()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, category, *rest: said.write(f"warned: {category}\n")
        model().fit(
            x, y, batch_size=8, epochs=2, verbose=1, validation_data=(x, y),
            callbacks=[Curve(val_loss=[float("nan"), 1.0]), pk.EarlyStopping("val_loss", patience=3)],
        )  # fmt: skip

    found = re.findall("(.)warned: [^\n]*MonitorWarning", said.getvalue(), re.DOTALL)
    assert found
    assert set(found) == {"\n"}


@of_no_framework
@pytest.mark.filterwarnings("ignore")
def test_what_is_said_of_the_start_is_said_at_the_start(tmp_path, capsys):
    class Remembers(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.seen = []

        def on_epoch_end(self, epoch, logs=None):
            self.seen.append(epoch)

    x, y = data()
    model().fit(
        x, y, batch_size=8, validation_data=(x, y), epochs=2, verbose=2,
        callbacks=[*everything(tmp_path), Remembers()],
    )  # fmt: skip

    lines = capsys.readouterr().out.splitlines()
    first = lines.index("Epoch 1/2")
    at_the_start = [line for line in lines[:first] if line]
    words = ("on disk", "Remembers may remember", "each save replaces the last")
    assert all(any(word in line for line in at_the_start) for word in words)
    assert all(line.startswith(("Peakhold: ", "Epoch 1: Learning")) for line in at_the_start)


@of_no_framework
@pytest.mark.filterwarnings("ignore")
def test_at_verbose_0_nothing_is_said_but_what_changes_the_result(tmp_path, capsys):
    quiet = [
        pk.EarlyStopping("val_loss", patience=2),
        pk.ReduceLROnPlateau("val_loss", patience=1),
        pk.ModelCheckpoint(tmp_path / "m.keras"),
        pk.CSVLogger(tmp_path / "log.csv"),
        pk.BackupAndRestore(tmp_path / "backup"),
    ]
    fit(model(), quiet, 2)
    assert capsys.readouterr().out == ""

    fit(model(), [pk.ModelCheckpoint(tmp_path / "m.keras")], 1)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Peakhold: ")
    assert "was there before this run; it is kept as" in line


# Whose line a warning points at


def torn(folder):
    (folder / "log.csv").write_text("epoch,loss\n0,0.5\n1,0")
    return [pk.CSVLogger(folder / "log.csv", append=True)]


def no_folder(folder):
    class Removes(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if not (folder / "gone").is_file():
                (folder / "gone").rmdir()
                (folder / "gone").write_text("a file")

    return [Removes(), pk.ModelCheckpoint(folder / "gone" / "m.keras")]


WARNINGS = {
    "advice": (lambda _: [pk.EarlyStopping("val_loss", patience=0)], AdviceWarning),
    "a training metric": (lambda _: [pk.EarlyStopping("loss", patience=1)], AdviceWarning),
    "a mode nobody knows": (lambda _: [pk.EarlyStopping("val_loss", mode="least")], UserWarning),
    "not finite": (
        lambda _: [Curve(val_loss=[float("nan")]), pk.EarlyStopping("val_loss")], MonitorWarning,
    ),
    "a torn log": (torn, SaveWarning),
    "an argument of another class": (
        lambda _: [pk.ReduceLROnPlateau("val_loss", epsilon=0.1)], AdviceWarning,
    ),
    "a file that fails": (no_folder, SaveWarning),
    "a metric of a condition": (
        lambda _: [pk.SlackAlert("http://localhost:9/x", when="val_los > 1")], PeakholdWarning,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if kind in {"advice", "not finite"} else of_no_framework)
        for kind in WARNINGS  # one before training, one in the middle of it
    ],
)
def test_a_warning_points_at_the_line_of_fit(tmp_path, kind):
    make, category = WARNINGS[kind]
    x, y = data()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model().fit(
            x, y, epochs=2, verbose=0, batch_size=8, validation_data=(x, y),
            callbacks=make(tmp_path),
        )  # fmt: skip

    ours = [one for one in caught if issubclass(one.category, (category, PeakholdWarning))]
    assert any(issubclass(one.category, category) for one in ours)
    assert {one.filename for one in ours} == {__file__}


@of_no_framework
def test_a_warning_that_the_user_has_made_an_error_is_one():
    with warnings.catch_warnings(), pytest.raises(AdviceWarning, match="patience=0"):
        warnings.simplefilter("error")
        fit(model(), [pk.EarlyStopping("val_loss", patience=0)], 3)


# Who is named as one whose state is lost


class OfLambda(keras.callbacks.LambdaCallback):
    """A subclass without a state of a class without one."""


class OfPlateau(keras.callbacks.ReduceLROnPlateau):
    """A subclass that adds nothing to a class that remembers."""


@of_no_framework
@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda: OfLambda(), None),
        (lambda: keras.callbacks.TerminateOnNaN(), None),
        (lambda: OfPlateau("loss"), "give it `state_dict()` and `load_state_dict(state)`"),
        (lambda: keras.callbacks.ReduceLROnPlateau("loss"), "import it from `peakhold.keras`"),
    ],
    ids=["of-lambda", "keras's", "of-plateau", "keras's-plateau"],
)
def test_what_a_resume_loses_is_named_with_what_helps(tmp_path, capsys, make, hint):
    fit(model(), [make(), pk.BackupAndRestore(tmp_path)], 1, verbose=2)

    said = [line for line in capsys.readouterr().out.splitlines() if "may remember" in line]
    told = [line.partition("; ")[2] for line in said]
    assert told == ([] if hint is None else [f'{hint}. (silence with peakhold.silence("E14"))'])
