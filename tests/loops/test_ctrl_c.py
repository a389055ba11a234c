"""Ctrl-C in loops of people's own, by real signals in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys
import numpy as np
import peakhold

presses, looks, with_backup = int(sys.argv[1]), sys.argv[2] == "looks", sys.argv[3] == "backup"
params = {"w": np.zeros(1)}
host = peakhold.LoopHost(get_state=lambda: params, set_state=params.update)
stopping = peakhold.EarlyStopping("loss", patience=9, restore_best_weights=True)
more = [peakhold.BackupAndRestore("backup")] if with_backup else []
callbacks = peakhold.CallbackList([stopping, *more], host=host, epochs=4, verbose=0)


def say(text):
    os.write(1, f"{text}\\n".encode())


def main():
    try:
        callbacks.on_train_begin()
        for epoch in range(4):
            callbacks.on_epoch_begin(epoch)
            params["w"] = params["w"] + 1
            if epoch == 2:
                for n in range(presses):
                    say(f"press {n + 1}")
                    os.kill(os.getpid(), signal.SIGINT)
                    say("goes on")
            callbacks.on_epoch_end(epoch, {"loss": [0.3, 0.2, 0.9, 0.9][epoch]})
            if looks and callbacks.stop_training:
                break
        say(f"after epoch {epoch + 1}")
        callbacks.on_train_end()
        say("ended")
    except KeyboardInterrupt:
        say(f"mine: {params['w'][0]:.0f}")


main()
say("over")
"""
WORDS = (
    "Peakhold: Ctrl-C: stop_training is set, for the loop to end by; on_train_end() then puts "
    "everything right and raises KeyboardInterrupt. Press Ctrl-C again to raise it at once."
)


def run(tmp_path, presses, looks="looks", backup="plain", program=PROGRAM):
    path = tmp_path / "program.py"
    path.write_text(program)
    source = Path(__file__).parent.parent.parent / "src"
    done = subprocess.run(
        [sys.executable, str(path), str(presses), looks, backup],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(source)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


@pytest.mark.parametrize("backup", ["plain", "backup"])
def test_the_first_one_says_what_it_does_when_it_is_pressed(tmp_path, backup):
    assert run(tmp_path, 1, backup=backup) == [
        "press 1", WORDS, "goes on", "after epoch 3", "mine: 2", "over",
    ]  # fmt: skip


def test_a_loop_that_never_looks_is_told_and_its_except_comes_at_the_end(tmp_path):
    assert run(tmp_path, 1, looks="never") == [
        "press 1", WORDS, "goes on", "after epoch 4", "mine: 2", "over",
    ]  # fmt: skip


def test_the_second_one_ends_it_there(tmp_path):
    assert run(tmp_path, 2) == ["press 1", WORDS, "goes on", "press 2", "mine: 3", "over"]


@pytest.mark.parametrize(
    "broken", ["None", "open(os.devnull)", "type('Odd', (), {'flush': lambda self: None})()"]
)
def test_a_console_that_cannot_be_written_to_ends_nothing(tmp_path, broken):
    program = PROGRAM.replace("def main", f"sys.stderr = {broken}\n\n\ndef main", 1)

    assert run(tmp_path, 1, program=program) == [
        "press 1", "goes on", "after epoch 3", "mine: 2", "over",
    ]  # fmt: skip


def test_a_notebook_s_stream_gets_the_words(tmp_path):
    program = PROGRAM.replace("def main", "import io\nsys.stderr = io.StringIO()\n\n\ndef main", 1)
    program += "say(sys.stderr.getvalue())\n"

    assert run(tmp_path, 1, program=program)[-2:] == [WORDS, ""]


OVERRIDES = {
    "an override": "def on_train_begin(self, logs=None):\n        super().on_train_begin(logs)",
    "an override by a helper": (
        "def on_train_begin(self, logs=None):\n        self.start()\n\n"
        "    def start(self):\n        super().on_train_begin()"
    ),
}


@pytest.mark.parametrize("kind", OVERRIDES)
def test_a_subclass_of_the_list_does_not_hide_the_loop(tmp_path, kind):
    """Its frame is gone when Ctrl-C comes, and nobody knew whose loop that was."""
    program = PROGRAM.replace(
        "callbacks = peakhold.CallbackList(",
        f"class Own(peakhold.CallbackList):\n    {OVERRIDES[kind]}\n\n\ncallbacks = Own(",
    )

    assert run(tmp_path, 1, program=program) == [
        "press 1", WORDS, "goes on", "after epoch 3", "mine: 2", "over",
    ]  # fmt: skip


def test_nor_does_one_that_hands_hooks_on(tmp_path):
    program = PROGRAM.replace(
        "def say",
        "class Mine:\n    def on_train_begin(self):\n        callbacks.on_train_begin()\n\n\ndef say",
        1,
    ).replace(
        "        callbacks.on_train_begin()\n        for",
        "        Mine().on_train_begin()\n        for",
    )
    assert program.count("on_train_begin()") == 2

    assert run(tmp_path, 1, program=program)[-2:] == ["mine: 2", "over"]


def test_a_loop_within_the_list_s_own_class_is_its_loop(tmp_path):
    program = PROGRAM.replace(
        "callbacks = peakhold.CallbackList(",
        "class Own(peakhold.CallbackList):\n    def train(self):\n        main()\n\n\ncallbacks = Own(",
    ).replace("main()\nsay", "callbacks.train()\nsay")

    assert run(tmp_path, 1, program=program)[-2:] == ["mine: 2", "over"]
