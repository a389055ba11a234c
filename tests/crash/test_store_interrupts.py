"""Ctrl-C, and a handler that saves, at each line of what hands over and of what waits."""

import itertools
from collections import Counter

import pytest

from interrupting import forget_threads_that_never_began
from store_interrupts import (
    MODES,
    handle_elsewhere,
    handle_in_save,
    interrupt_close,
    interrupt_save,
)

pytestmark = pytest.mark.exhaustive


@pytest.fixture(autouse=True)
def _nothing_is_left():
    yield
    forget_threads_that_never_began()


def each_line(tmp_path, one):
    """What became of each; the last has no such line any more."""
    told = Counter()
    for at in itertools.count(1):
        folder = tmp_path / f"{at}"
        folder.mkdir()
        done = one(folder, at)
        if not done:
            return told
        told[done] += 1


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("mode", MODES)
def test_ctrl_c_at_every_line_of_a_save(tmp_path, mode, busy):
    told = each_line(tmp_path, lambda f, at: interrupt_save(f, mode, at, busy=busy))
    print(f"\nCtrl-C at each of {told.total()} lines of a save, {mode}, {busy=}: all good")
    assert told.total() > 100


@pytest.mark.parametrize("how", ["close", "wait", "delete"])
def test_ctrl_c_at_every_line_of_a_wait(tmp_path, how):
    told = each_line(tmp_path, lambda f, at: interrupt_close(f, at, how))
    print(f"\nCtrl-C at each of {told.total()} lines of {how}: all good")
    assert told.total() > 10


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("mode", ["copied", "replacing"])
def test_a_handler_that_saves_at_every_line_of_a_save(tmp_path, mode, busy):
    told = each_line(tmp_path, lambda f, at: handle_in_save(f, mode, at, busy=busy))
    print(f"\na handler that saves at each of {told.total()} lines of a save, {mode}, {busy=}: "
          f"{dict(told)}")  # fmt: skip
    assert told.total() > 100


@pytest.mark.parametrize("how", ["result", "wait", "close"])
def test_a_handler_that_saves_at_every_line_of_a_wait(tmp_path, how):
    told = each_line(tmp_path, lambda f, at: handle_elsewhere(f, at, how))
    print(f"\na handler that saves at each of {told.total()} lines of {how}: {dict(told)}")
    assert told.total() > 10
