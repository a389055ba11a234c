"""What is done in a forked child and at the end of the process, in which order."""

import os
import subprocess
import sys
import textwrap

import pytest


def told_by(body):
    """What a program of its own says, line by line; and what it says of errors."""
    done = subprocess.run(
        [sys.executable, "-c", "import os, sys\nfrom peakhold import process\n"
         "tell = lambda *words: print(*words, flush=True)\n" + textwrap.dedent(body)],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout.splitlines(), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_does_all_in_order_whatever_one_of_them_raises():
    lines, errors = told_by(
        """
        class Open:
            def __init__(self, name):
                self.name = name

            def close(self):
                tell("close", self.name)
                raise OSError(self.name)

        process.in_forked_child(lambda: tell("first"))
        alive = process.each_in_forked_child(Open.close)
        process.in_forked_child(lambda: tell("last"))
        one, other, gone = Open("x"), Open("x"), Open("gone")
        alive.update([one, other, gone])
        del gone
        if os.fork() == 0:
            os._exit(0)
        os.wait()
        tell("parent")
        """
    )

    assert lines == ["first", "close x", "close x", "last", "parent"]
    assert "OSError: x" in errors


def test_the_end_takes_the_last_first_whatever_one_of_them_raises():
    lines, errors = told_by(
        """
        process.at_exit(lambda: tell("built first"))
        process.at_exit(lambda: 1 / 0)
        process.at_exit(lambda: tell("built upon it"))
        """
    )

    assert lines == ["built upon it", "built first"]
    assert "ZeroDivisionError" in errors


def test_what_is_asked_for_at_the_very_end_harms_nobody():
    lines, errors = told_by(
        """
        process.at_exit(lambda: tell("still"))
        process.at_exit(lambda: process.at_exit(lambda: None))
        """
    )

    assert (lines, errors) == (["still"], "")
