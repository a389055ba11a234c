"""A run that is killed inside an epoch goes on with the same line, and ends with the same bits."""

import collections
import itertools
import os
import signal

import pytest

from peakhold import Every
from run_programs import LOOPS, N_BATCHES, N_EPOCHS, left

BACKEND = os.environ.get("KERAS_BACKEND", "torch")
KINDS = {"jax": ["jax"], "tensorflow": ["tape"]}.get(BACKEND, ["torch", "torch steps"])


class PowerCut(Exception):
    pass


def cut_at(n):
    """A hook that ends the process's part at its n-th call."""
    calls = itertools.count(1)

    def hook(place):
        if next(calls) == n:
            raise PowerCut

    return hook


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def unbroken(kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    run, trained = LOOPS[kind](folder)
    return left(folder, run, trained)


@pytest.mark.parametrize("calls", [1, 6, 12, 15, 31])
def test_after_an_exception_at_any_place(kind, unbroken, tmp_path, calls):
    folder = tmp_path / "run"
    with pytest.raises(PowerCut):
        LOOPS[kind](folder, cut_at(calls), save_every=Every(batches=2))
    run, trained = LOOPS[kind](folder, save_every=Every(batches=2))
    assert left(folder, run, trained) == unbroken


def test_again_and_again(kind, unbroken, tmp_path):
    folder, cuts = tmp_path / "run", 0
    for _ in range(60):
        try:
            run, trained = LOOPS[kind](folder, cut_at(5), save_every=Every(batches=1))
            break
        except PowerCut:
            cuts += 1
    assert cuts > 5
    assert left(folder, run, trained) == unbroken


@pytest.mark.parametrize(
    ("number", "where", "n"),
    [
        (signal.SIGTERM, "batch", 15),
        (signal.SIGINT, "batch", 15),
        (signal.SIGTERM, "evaluation", 3),
    ],
)
def test_a_signal_ends_at_the_next_border_and_nothing_is_done_twice(
    kind, unbroken, tmp_path, number, where, n, capfd
):
    folder, calls = tmp_path / "run", collections.Counter()

    def hook(place):
        calls[place] += 1
        if place == where and calls[place] == n:
            signal.raise_signal(number)

    error = SystemExit if number == signal.SIGTERM else KeyboardInterrupt
    before = signal.getsignal(number)
    with pytest.raises(error) as caught:
        LOOPS[kind](folder, hook, save_every=Every(seconds=3600))
    if number == signal.SIGTERM:
        assert caught.value.code == 75
    assert signal.getsignal(number) == before
    assert "saves and ends after this batch" in capfd.readouterr().err
    run, trained = LOOPS[kind](folder, hook, save_every=Every(seconds=3600))
    assert left(folder, run, trained) == unbroken
    assert calls["batch"] == {"torch steps": 40}.get(kind, N_EPOCHS * N_BATCHES)


@pytest.mark.skipif(BACKEND != "torch", reason="loaders of PyTorch")
def test_with_processes_that_load(tmp_path):
    run, trained = LOOPS["torch workers"](tmp_path / "unbroken")
    unbroken = left(tmp_path / "unbroken", run, trained)
    for number, calls in enumerate([5, 20]):
        folder = tmp_path / str(number)
        with pytest.raises(PowerCut):
            LOOPS["torch workers"](folder, cut_at(calls), save_every=Every(batches=2))
        run, trained = LOOPS["torch workers"](folder, save_every=Every(batches=2))
        assert left(folder, run, trained) == unbroken
