"""A run that ended without its last hook is noticed, in real processes."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from fake_slack import SECRET, FakeSlack
from peakhold.alerts.failure import OpenRun, words

LOOP = """
import os, signal, sys, threading, warnings
import peakhold

def train(break_at, how):
    alert = peakhold.SlackAlert(on=("failure", "stop"), monitor="loss", exit_timeout_s=60)
    callbacks = peakhold.CallbackList([alert], epochs=9, verbose=0)
    callbacks.on_train_begin()
    for epoch in range(4):
        callbacks.on_epoch_begin(epoch)
        if epoch == break_at:
            how()
        callbacks.on_epoch_end(epoch, {"loss": 1.0 - epoch / 10})
    callbacks.on_train_end()
    return callbacks

def boom():
    raise RuntimeError("no memory for " + os.environ["PEAKHOLD_SLACK_WEBHOOK"])
"""


def run(body, *, action=None):
    """The exit code, what was printed, and the first lines of the messages."""
    with FakeSlack() as slack:
        process = subprocess.Popen(
            [sys.executable, "-c", LOOP + textwrap.dedent(body)],
            env={**os.environ, "PEAKHOLD_SLACK_WEBHOOK": slack.url},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        if action is not None:
            assert process.stdout.readline() == "ready\n"
            action(process)
        out, err = process.communicate(timeout=120)
    heads = [text.partition("\n")[0].partition("] ")[2] for text in slack.taken]
    return process.returncode, out, err, heads


FAILED = "training failed in epoch 3 of 9: "
UNKNOWN = f"{FAILED}it ended without on_train_end, most likely by an exception"
AT_EXIT = f"{FAILED}the process ended before on_train_end"


def test_an_exception_that_nobody_catches_is_named_without_the_secret():
    code, _, err, heads = run("train(2, boom)")

    assert code == 1
    assert heads == [f"{FAILED}RuntimeError: no memory for ***"]
    assert err.startswith("Traceback (most recent call last):"), "Python's own report stays"


def test_a_thread_that_dies():
    code, _, err, heads = run(
        """
        thread = threading.Thread(target=train, args=(2, boom))
        thread.start()
        thread.join()
        print("and on")
        """
    )

    assert code == 0
    assert heads == [f"{FAILED}RuntimeError: no memory for ***"]
    assert "Exception in thread" in err


def test_an_exception_in_one_thread_is_no_failure_of_anothers_run():
    code, _, _, heads = run(
        """
        def wait():
            other = threading.Thread(target=lambda: 1 / 0)
            other.start()
            other.join()
        train(2, wait)
        """
    )

    assert code == 0
    assert heads == ["training ended after epoch 4 of 9: the loop was left"]


def test_an_exception_that_is_caught():
    code, _, _, heads = run(
        """
        try:
            train(2, boom)
        except RuntimeError:
            pass
        print("and on")
        """
    )

    assert (code, heads) == (0, [UNKNOWN])


@pytest.mark.parametrize("how", ["sys.exit", "lambda: sys.exit(3)"])
def test_sys_exit(how):
    code, _, _, heads = run(f"train(2, {how})")

    assert code == (3 if "3" in how else 0)
    assert heads in ([UNKNOWN], [AT_EXIT])


def test_a_loop_in_the_main_module_that_exits():
    """Its list lives in a global: nothing but the end of the process can tell."""
    code, _, _, heads = run(
        """
        alert = peakhold.SlackAlert(on="failure", exit_timeout_s=60)
        callbacks = peakhold.CallbackList([alert], epochs=9, verbose=0)
        callbacks.on_train_begin()
        callbacks.on_epoch_begin(2)
        sys.exit(0)
        """
    )

    assert (code, heads) == (0, [AT_EXIT])


def test_the_second_ctrl_c():
    def press_twice(process):
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "pressed\n"

    code, _, _, heads = run(
        """
        def wait():
            before = signal.getsignal(signal.SIGINT)
            def handle(*arguments):
                print("pressed", flush=True)
                before(*arguments)
            signal.signal(signal.SIGINT, handle)
            print("ready", flush=True)
            while True:
                signal.pause()
        train(2, wait)
        """,
        action=press_twice,
    )

    assert code == -signal.SIGINT
    assert heads == [f"{FAILED}KeyboardInterrupt"]


def test_sigterm_is_told_before_the_process_dies_of_it():
    code, _, _, heads = run(
        """
        def wait():
            print("ready", flush=True)
            while True:
                signal.pause()
        train(2, wait)
        """,
        action=lambda process: process.send_signal(signal.SIGTERM),
    )

    assert code == -signal.SIGTERM
    assert heads == ["SIGTERM came in epoch 3 of 9"]


def test_a_forked_child_tells_nothing():
    code, _, _, heads = run(
        """
        def fork():
            if os.fork() == 0:
                sys.exit(0)
            os.wait()
        train(2, fork)
        """
    )

    assert code == 0
    assert heads == ["training ended after epoch 4 of 9: the loop was left"]


def test_a_run_that_ends_as_it_should():
    code, _, err, heads = run("callbacks = train(None, None)")

    assert (code, err) == (0, "")
    assert heads == ["training ended after epoch 4 of 9: the loop was left"]


def test_a_cell_of_a_notebook():
    pytest.importorskip("IPython", reason="no IPython here")
    code, _, _, heads = run(
        """
        from IPython.core.interactiveshell import InteractiveShell
        shell = InteractiveShell.instance()
        shell.user_ns.update(train=train, boom=boom)
        shell.run_cell("1 / 0")
        shell.run_cell("train(2, boom)")
        shell.run_cell("1 / 0")
        sys.stdout.flush()
        """
    )

    assert code == 0
    assert heads == [f"{FAILED}RuntimeError: no memory for ***"]


# Alone


class Run:
    pass


def test_a_watch_tells_once():
    told, run = [], Run()
    watch = OpenRun(run, told.append)
    watch.fail("why")
    watch.fail("why")
    del run

    assert told == ["why"]


def test_a_closed_watch_tells_nothing():
    told, run = [], Run()
    watch = OpenRun(run, told.append)
    watch.close()
    watch.close()
    del run

    assert told == []


def test_what_tells_may_fail_itself():
    run = Run()
    OpenRun(run, lambda reason: 1 / 0)
    del run


def test_a_run_let_go_while_its_exception_is_dealt_with_has_a_name():
    told, run = [], [Run()]
    OpenRun(run[0], told.append)
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        run.clear()

    assert told == ["ValueError: first"]


def test_words():
    class Silent(Exception):
        def __str__(self):
            raise ValueError

    assert words(KeyError("x")) == "KeyError: 'x'"
    assert words(MemoryError()) == "MemoryError"
    assert words(Silent()) == "Silent"
    assert words(ValueError("x\ny")) == "ValueError: x"


def test_the_hooks_are_chained_once():
    for _ in range(3):
        OpenRun(Run(), lambda reason: None)
    hook = sys.excepthook
    OpenRun(Run(), lambda reason: None)

    assert sys.excepthook is hook
    assert threading.excepthook.__module__ == "peakhold.alerts.failure"
    assert SECRET
