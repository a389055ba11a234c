"""In a loop: nothing that only talks ends training, and warnings point at the loop's own lines."""

import contextlib
import logging
import re
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest

import peakhold
from broken_streams import STREAMS, narrow
from peakhold import CallbackList, LoopHost
from peakhold.errors import (
    AdviceWarning,
    InvalidArgumentError,
    MonitorNotFoundError,
    MonitorWarning,
    PeakholdWarning,
    SaveWarning,
)
from peakhold.speech import say, warn

TELLING = "naïve – …"
"""What not every console has letters for."""


def loop(folder, *, epochs=3, logs=lambda epoch: {"val_loss": 1 / (epoch + 1)}, callbacks=None):
    state = {"w": np.zeros(2)}
    host = LoopHost(get_state=lambda: state, set_state=state.update)
    if callbacks is None:
        callbacks = [
            peakhold.ModelCheckpoint(folder / f"{TELLING}.safetensors", verbose=1),
            peakhold.EarlyStopping("val_loss", patience=0, verbose=1, restore_best_weights=True),
        ]
    run = CallbackList(callbacks, host=host, epochs=epochs)
    run.on_train_begin()
    done = 0
    for epoch in range(epochs):
        run.on_epoch_begin(epoch)
        run.on_epoch_end(epoch, logs(epoch))
        done += 1
        if run.stop_training:
            break
    run.on_train_end()
    return done


def show_as_python_does(message, category, filename, lineno, file=None, line=None):
    """pytest keeps warnings for itself: what Python does with them without it."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.filterwarnings("always")
def test_a_loop_trains_to_its_end_on_any_console(tmp_path, kind, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, STREAMS[kind]())
    monkeypatch.setattr(warnings, "showwarning", show_as_python_does)

    assert loop(tmp_path) == 3


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_what_a_console_has_no_letter_for_is_shown_by_its_number(encoding, monkeypatch):
    stream = narrow(encoding)()
    monkeypatch.setattr(sys, "stdout", stream)

    say("ï–∞")

    shown = stream.buffer.getvalue().decode(encoding).strip()
    expected = {"ascii": r"\xef\u2013\u221e", "cp1252": "ï–\\u221e", "utf-8": "ï–∞"}
    assert shown == expected[encoding]


def test_a_pipe_that_nobody_reads_ends_no_training(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import os, sys
        sys.path.insert(0, {str(__file__.rsplit("/", 2)[0])!r})
        from loops.test_speech import loop
        from pathlib import Path
        os.environ["PYTHONUNBUFFERED"] = "1"
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        done = loop(Path({str(tmp_path)!r}))
        Path({str(tmp_path / "done")!r}).write_text(str(done))
        os._exit(0)
        """)
    )

    result = subprocess.run([sys.executable, str(program)], timeout=120)

    assert result.returncode == 0
    assert (tmp_path / "done").read_text() == "3"


def test_a_handler_of_logging_that_raises_ends_no_training(tmp_path, monkeypatch):
    class Broken(logging.Handler):
        def emit(self, record):
            raise RuntimeError("no")

    handler = Broken()
    logging.getLogger("py.warnings").addHandler(handler)
    logging.captureWarnings(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            monkeypatch.setattr(warnings, "showwarning", logging._showwarning)
            assert loop(tmp_path) == 3
    finally:
        logging.captureWarnings(False)
        logging.getLogger("py.warnings").removeHandler(handler)


def test_a_warning_that_the_user_has_made_an_error_is_one(tmp_path):
    with warnings.catch_warnings(), pytest.raises(AdviceWarning, match="patience=0"):
        warnings.simplefilter("error")
        loop(tmp_path)


def test_a_warning_is_not_raised_by_what_shows_it():
    with warnings.catch_warnings():
        warnings.simplefilter("always")

        def show(*arguments):
            raise ValueError("no")

        warnings.showwarning = show
        warn("said", SaveWarning)


def nan_first(epoch):
    return {"val_loss": float("nan") if epoch == 0 else 0.5}


def torn_log(folder):
    (folder / "log.csv").write_text("epoch,val_loss\n0,0.5\n1,0")
    return [peakhold.CSVLogger(folder / "log.csv", append=True)]


def refused_state(folder):
    class Broken:
        def get_weights(self):
            return [np.array([1.0])]

        def set_weights(self, weights):
            raise AssertionError

    return Broken()


WARNINGS = {  # by what comes about: callbacks, logs, category
    "advice": (lambda folder: [peakhold.EarlyStopping("val_loss", patience=0)], None, AdviceWarning),
    "missing metric": (
        lambda folder: [peakhold.EarlyStopping("val_loss", mode="min")], lambda epoch: {"loss": 0.5}, MonitorWarning,
    ),
    "not finite": (lambda folder: [peakhold.EarlyStopping("val_loss")], nan_first, MonitorWarning),
    "torn log": (torn_log, None, SaveWarning),
    "no such argument": (
        lambda folder: [peakhold.ReduceLROnPlateau("val_loss", epsilon=0.1)], None, AdviceWarning,
    ),
    "a mode nobody knows": (
        lambda folder: [peakhold.EarlyStopping("val_loss", mode="minimum")], None, UserWarning,
    ),
    "a file that fails": (
        lambda folder: [peakhold.ModelCheckpoint(str(folder / "gone" / "m.safetensors"))], "remove", SaveWarning,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WARNINGS)
def test_a_warning_points_at_the_line_of_the_loop(tmp_path, kind):
    make, logs, category = WARNINGS[kind]
    seen = logs if callable(logs) else (lambda epoch: {"val_loss": 0.5 - epoch / 10})

    def with_failure(epoch):
        if logs == "remove":
            import shutil

            shutil.rmtree(tmp_path / "gone", ignore_errors=True)
            (tmp_path / "gone").write_text("a file")
        return seen(epoch)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state = {"w": np.zeros(2)}
        rate = [0.1]
        host = LoopHost(
            get_state=lambda: state, set_state=state.update, get_learning_rate=lambda: rate[0],
            set_learning_rate=lambda value: rate.__setitem__(0, value),
        )  # fmt: skip
        run = CallbackList(make(tmp_path), host=host, epochs=3, verbose=0)
        run.on_train_begin()
        for epoch in range(3):
            run.on_epoch_begin(epoch)
            run.on_epoch_end(epoch, with_failure(epoch))
        run.on_train_end()

    ours = [one for one in caught if issubclass(one.category, (category, PeakholdWarning))]
    assert any(issubclass(one.category, category) for one in ours)
    assert {one.filename for one in ours} == {__file__}


def test_the_hint_of_a_loop_says_where_a_loop_logs(tmp_path):
    with pytest.raises(MonitorNotFoundError) as caught:
        loop(tmp_path, callbacks=[peakhold.EarlyStopping("f1", mode="max")])

    assert "compile" not in str(caught.value)
    assert "put the metric into the logs of `on_epoch_end(epoch, logs)`" in str(caught.value)


@pytest.mark.parametrize("path", ["", "."])
def test_the_file_that_a_hint_names_can_be_written_here(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgumentError) as caught:
        peakhold.ModelCheckpoint(path)

    named = re.search(r"'([^']*best\.[^']*)'", str(caught.value).partition("Hint:")[2])[1]
    assert loop(tmp_path, callbacks=[peakhold.ModelCheckpoint(named)], epochs=1) == 1
    assert (tmp_path / named).is_file()
