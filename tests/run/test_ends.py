"""A run that is ended from outside, anywhere, goes on with the same line and ends with the same bits.

Each end comes at each place of a loop that draws random numbers, steps a schedule between training
and evaluation, and keeps what the schedule said in a variable of its own.
"""

import functools
import pathlib
import signal
import types

import numpy as np
import pytest

from peakhold import Budget, Every, Run, TensorBoard
from peakhold.backup.keeping import Keeping
from peakhold.ledger import read_events
from peakhold.store import Reader
from run_programs import left

N_EPOCHS, N_BATCHES = 3, 4
DATA = np.random.default_rng(0).normal(size=(N_BATCHES, 2))


class Schedule:
    """A rate that is halved by each step."""

    def __init__(self):
        self.rate = 1.0

    def step(self):
        self.rate /= 2

    def state_dict(self):
        return {"rate": self.rate}

    def load_state_dict(self, state):
        self.rate = state["rate"]


def no_hook(run, place):
    """Nothing happens."""


def train(folder, hook=no_hook, data=DATA, validation=DATA, **arguments):
    """A loop; its hook is told the run, and where it is."""
    np.random.seed(0)
    schedule = Schedule()
    run = Run(
        folder, state={"w": np.zeros(2)}, extra={"schedule": schedule},
        **{"monitor": "val_loss", "patience": 8, "verbose": 0, **arguments},
    )  # fmt: skip
    with run:
        for _ in run.epochs(N_EPOCHS):
            hook(run, "epoch")
            for x in run.batches(data):
                noise = np.random.normal()
                hook(run, "batch")
                run.state = {"w": run.state["w"] * 0.9 + x * schedule.rate + noise}
                run.log(loss=noise)
            schedule.step()
            hook(run, "between")
            rate = schedule.rate
            for x in run.batches(validation, "val"):
                hook(run, "evaluation")
                run.log(loss=float(run.state["w"] @ x) + np.random.normal())
            hook(run, "behind")
            run.log(rate=rate)
    return run, [run.state, schedule.rate]


class At:
    """A hook that does something at the n-th time that the loop comes to a place; it counts."""

    def __init__(self, place="", n=0, act=None):
        self._at, self._act = (place, n), act
        self.counts = dict.fromkeys(("epoch", "batch", "between", "evaluation", "behind"), 0)

    def __call__(self, run, place):
        self.counts[place] += 1
        if (place, self.counts[place]) == self._at:
            self._act(run)


def touch_stop(run):
    pathlib.Path(run.folder, "stop").touch()


def reason_of(folder):
    """Why the run ended, as its record has it."""
    return list(read_events(folder / "events.jsonl"))[-1]["reason"]


ENDS = {
    "SIGTERM": lambda run: signal.raise_signal(signal.SIGTERM),
    "Ctrl-C": lambda run: signal.raise_signal(signal.SIGINT),
    "its time limit has come": lambda run: None,  # the clock is put forward
    "its folder has a file named 'stop'": touch_stop,
    "enough": lambda run: run.stop("enough"),
}
SOME = [("batch", 6), ("evaluation", 5), ("behind", 2)]
PLACES = [*SOME, ("epoch", 2), ("batch", 8), ("between", 2), ("evaluation", 8)]
EVERY = {"epoch": "epoch", "batches": Every(batches=3), "budget": Budget(0.5)}


@functools.cache
def _unbroken(root):
    run, trained = train(root / "unbroken")
    return left(root / "unbroken", run, trained)


@pytest.fixture
def unbroken(tmp_path_factory):
    return _unbroken(tmp_path_factory.getbasetemp())


@pytest.fixture
def clock(monkeypatch):
    """Puts the clock of a run forward."""
    import time

    ahead = types.SimpleNamespace(by=0.0)
    fake = types.SimpleNamespace(monotonic=lambda: time.monotonic() + ahead.by)
    monkeypatch.setattr("peakhold.run.border.time", fake)
    monkeypatch.setattr("peakhold.run.loop.time", fake)
    return ahead


def start(folder, hook, **arguments):
    """A start that may end by a signal."""
    try:
        return train(folder, hook, **arguments)
    except (SystemExit, KeyboardInterrupt) as error:
        return error


@pytest.mark.parametrize(
    ("end", "every", "place", "n"),
    [
        *(("SIGTERM", "epoch", *place) for place in PLACES),
        *(("SIGTERM", every, *place) for every in ("batches", "budget") for place in SOME),
        *((end, "epoch", *place) for end in ENDS if end != "SIGTERM" for place in SOME),
    ],
)
def test_an_end_at_any_place(tmp_path, unbroken, clock, end, every, place, n):
    limit = {"time_limit": 1e4} if end.startswith("its time") else {}
    arguments = {"save_every": EVERY[every], **limit}

    def act(run):
        clock.by = 1e5 if limit else 1.0  # for files are looked at now and then
        ENDS[end](run)

    first = At(place, n, act)
    ended = start(tmp_path / "run", first, **arguments)
    if end in ("SIGTERM", "Ctrl-C"):
        expected = SystemExit if end == "SIGTERM" else KeyboardInterrupt
        assert type(ended) is expected
    else:
        assert ended[0].stopped_because == end
    assert reason_of(tmp_path / "run") == end
    assert Reader(tmp_path / "run" / "checkpoints").latest is not None
    clock.by = 0.0
    resume = "extend" if end == "enough" else True
    second = At()
    run, trained = train(tmp_path / "run", second, resume=resume, **arguments)
    assert left(tmp_path / "run", run, trained) == unbroken
    if every != "budget":  # nothing that was trained is trained again
        assert first.counts["batch"] + second.counts["batch"] == N_EPOCHS * N_BATCHES


def test_a_signal_in_a_save(tmp_path, unbroken, monkeypatch):
    save, calls = Keeping._save, iter(range(99))

    def saves(*args):
        if next(calls) == 1:
            signal.raise_signal(signal.SIGTERM)
        return save(*args)

    monkeypatch.setattr(Keeping, "_save", saves)
    assert type(start(tmp_path / "run", no_hook, save_every=Every(batches=3))) is SystemExit
    assert reason_of(tmp_path / "run") == "SIGTERM"
    run, trained = train(tmp_path / "run", save_every=Every(batches=3))
    assert left(tmp_path / "run", run, trained) == unbroken


@pytest.mark.parametrize(
    ("place", "n"), [("batch", 6), ("between", 2), ("evaluation", 6), ("behind", 2)]
)
def test_a_second_signal_ends_at_once_and_saves_nothing(tmp_path, unbroken, place, n):
    def twice(run):
        ENDS["SIGTERM"](run)
        ENDS["Ctrl-C"](run)

    assert type(start(tmp_path / "run", At(place, n, twice), save_every="epoch")) is SystemExit
    assert reason_of(tmp_path / "run") == "SIGTERM"
    assert Reader(tmp_path / "run" / "checkpoints").latest.reason == "after epoch 1"
    run, trained = train(tmp_path / "run", save_every="epoch")
    assert left(tmp_path / "run", run, trained) == unbroken


def test_an_inner_evaluation_ends_first(tmp_path):
    """The batch that it lies in is half done: it is no place to go on from."""

    def run_once(folder, hook):
        with Run(folder, state={"w": np.zeros(2)}, verbose=0, save_every="epoch") as run:
            for x in run.steps(DATA, 9):
                run.state = {"w": run.state["w"] * 0.9 + x}
                if run.every(steps=3):
                    for row in run.batches(DATA, "val"):
                        hook(run, "evaluation")
                        run.log(loss=float(run.state["w"] @ row))
                    run.check()
        return run, [run.state]

    expected = left(tmp_path / "unbroken", *run_once(tmp_path / "unbroken", no_hook))
    hook = At("evaluation", 5, ENDS["SIGTERM"])
    with pytest.raises(SystemExit):
        run_once(tmp_path / "run", hook)
    assert hook.counts["evaluation"] == 2 * N_BATCHES
    assert left(tmp_path / "run", *run_once(tmp_path / "run", no_hook)) == expected


def test_a_run_that_is_over_passes_a_signal_on(tmp_path, unbroken):
    """It is over, so that there is nothing to go on with: who had the signal before gets it."""
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        run, trained = train(tmp_path / "run", At("behind", N_EPOCHS, ENDS["SIGTERM"]))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
    assert left(tmp_path / "run", run, trained) == unbroken
    assert reason_of(tmp_path / "run") == "all was run"


def test_a_loop_that_has_no_passes_ends_with_its_epoch(tmp_path):
    def run_once(folder, act):
        with Run(folder, state={"w": np.zeros(2)}, verbose=0, save_every="epoch") as run:
            for epoch in run.epochs(4):
                run.state = {"w": run.state["w"] + epoch}
                if epoch == 1:
                    act(run)
                run.log(loss=epoch)
        return run, [run.state]

    expected = left(tmp_path / "unbroken", *run_once(tmp_path / "unbroken", lambda run: None))
    with pytest.raises(SystemExit):
        run_once(tmp_path / "run", ENDS["SIGTERM"])
    assert Reader(tmp_path / "run" / "checkpoints").latest.epoch == 2
    assert left(tmp_path / "run", *run_once(tmp_path / "run", lambda run: None)) == expected


def test_an_error_in_an_evaluation_trains_nothing_again(tmp_path, unbroken):
    def fails(run):
        raise OSError("no such metric")

    first, second = At("evaluation", 6, fails), At()
    with pytest.raises(OSError, match="no such metric"):
        train(tmp_path / "run", first, save_every="epoch")
    run, trained = train(tmp_path / "run", second, save_every="epoch")
    assert left(tmp_path / "run", run, trained) == unbroken
    assert first.counts["batch"] + second.counts["batch"] == N_EPOCHS * N_BATCHES


def test_what_the_body_of_a_pass_that_is_over_would_have_set_is_said(tmp_path):
    def run_once(end):
        with Run(tmp_path / "run", state={"w": np.zeros(2)}, verbose=0, save_every="epoch") as run:
            for _ in run.epochs(2):
                for x in run.batches(DATA):
                    loss = float(x.sum())
                end()
                for _ in run.batches(DATA, "val"):
                    run.log(loss=loss)

    with pytest.raises(SystemExit):
        run_once(lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(UnboundLocalError) as caught:
        run_once(lambda: None)
    assert "epoch 1 behind the last batch of 'train'" in caught.value.__notes__[0]


class Broken(list):
    """Batches; the n-th that is asked for is an error, as long as it is broken."""

    def __init__(self, rows, n, error=OSError("no such file")):
        super().__init__(rows)
        self.n, self.error, self.asked = n, error, 0

    def __iter__(self):
        for row in list.__iter__(self):
            self.asked += 1
            if self.asked == self.n:
                raise self.error
            yield row


class DrawsThenBreaks(Broken):
    """It draws from the process's generator for each batch, also for the one that is an error."""

    def __iter__(self):
        for row in list.__iter__(self):
            self.asked += 1
            row = row + np.random.normal()
            if self.asked == self.n:
                raise self.error
            yield row


@pytest.mark.parametrize(
    ("n", "error"),
    [
        (2, OSError),
        (5, OSError),
        (7, OSError),
        (12, OSError),
        (7, SystemExit),
        (7, KeyboardInterrupt),
    ],
)
def test_an_error_of_the_loader_loses_no_batch(tmp_path, n, error):
    def run_once(folder, data, hook=no_hook):
        return train(folder, hook, data=data, save_every=Every(batches=1000))

    whole = run_once(tmp_path / "unbroken", Broken(DATA, 99))
    hook, folder = At(), tmp_path / "run"
    with pytest.raises(error, match="no such file"):
        run_once(folder, Broken(DATA, n, error("no such file")), hook)
    assert reason_of(folder) == {
        OSError: "OSError: no such file",
        SystemExit: "SystemExit: no such file",
        KeyboardInterrupt: "Ctrl-C",
    }[error]  # fmt: skip
    assert hook.counts["batch"] == n - 1
    again = At()
    for _ in range(3):  # an error that is there to stay costs nothing, and ends each start
        with pytest.raises(error):
            run_once(folder, Broken(DATA, (n - 1) % N_BATCHES + 1, error("no such file")), again)
    assert again.counts["batch"] == 0
    run, trained = run_once(folder, Broken(DATA, 99), hook)
    assert hook.counts["batch"] == N_EPOCHS * N_BATCHES
    assert left(folder, run, trained) == left(tmp_path / "unbroken", *whole)


@pytest.mark.parametrize("n", [3, 6])
def test_an_error_of_a_loader_that_draws_leaves_what_can_be_gone_on_with(tmp_path, n):
    """What it has drawn for the batch that never came cannot be undone: an older place counts."""
    every = {"save_every": Every(batches=2)}
    whole = train(tmp_path / "unbroken", data=DrawsThenBreaks(DATA, 99), **every)
    with pytest.raises(OSError, match="no such file"):
        train(tmp_path / "run", data=DrawsThenBreaks(DATA, n), **every)
    run, trained = train(tmp_path / "run", data=DrawsThenBreaks(DATA, 99), **every)
    assert left(tmp_path / "run", run, trained) == left(tmp_path / "unbroken", *whole)


def test_an_error_of_the_loader_of_an_evaluation(tmp_path, unbroken):
    hook = At()
    with pytest.raises(OSError, match="no such file"):
        train(tmp_path / "run", hook, validation=Broken(DATA, 6), save_every="epoch")
    run, trained = train(tmp_path / "run", hook, validation=Broken(DATA, 99), save_every="epoch")
    assert left(tmp_path / "run", run, trained) == unbroken
    assert hook.counts["batch"] == N_EPOCHS * N_BATCHES


def test_an_error_of_the_loader_in_a_loop_without_epochs(tmp_path):
    def run_once(folder, data):
        seen = []
        with Run(
            folder, state={"w": np.zeros(2)}, verbose=0, save_every=Every(seconds=3600)
        ) as run:
            for x in run.steps(data, 3 * N_BATCHES):
                seen.append(x)
                run.state = {"w": run.state["w"] * 0.9 + x}
        return len(seen), run.state["w"].tolist()

    n, expected = run_once(tmp_path / "unbroken", Broken(DATA, 99))
    with pytest.raises(OSError, match="no such file"):
        run_once(tmp_path / "run", Broken(DATA, 7))
    assert run_once(tmp_path / "run", Broken(DATA, 99)) == (n - 6, expected)


def test_a_signal_that_kills_what_loads_ends_as_the_signal(tmp_path, unbroken):
    """Ctrl-C goes to the processes that load, too: the loop then asks for a batch in vain."""

    class Killed(Broken):
        def __iter__(self):
            for number, row in enumerate(super().__iter__()):
                if number == 2 and self.n == 0:
                    signal.raise_signal(signal.SIGINT)
                    raise RuntimeError("DataLoader worker exited unexpectedly")
                yield row

    hook = At()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", hook, data=Killed(DATA, 0), save_every="epoch")
    assert reason_of(tmp_path / "run") == "Ctrl-C"
    run, trained = train(tmp_path / "run", hook, data=Killed(DATA, 99), save_every="epoch")
    assert hook.counts["batch"] == N_EPOCHS * N_BATCHES
    assert left(tmp_path / "run", run, trained) == unbroken


@pytest.mark.parametrize("place", [("evaluation", 8), ("behind", 2), ("epoch", 3)])
def test_an_evaluation_is_drawn_once(tmp_path, place):
    """Of a run that goes on at the very batch of the evaluation, and of one that goes on behind."""

    def run_once(folder, hook=no_hook):
        board = TensorBoard(folder / "tensorboard", update_freq=1)
        return train(folder, hook, callbacks=[board], save_every=Every(batches=N_BATCHES))

    def fails(run):
        raise OSError

    expected = left(tmp_path / "unbroken", *run_once(tmp_path / "unbroken"))["board"]
    with pytest.raises(OSError):
        run_once(tmp_path / "run", At(*place, fails))
    board = left(tmp_path / "run", *run_once(tmp_path / "run"))["board"]
    line = "validation/evaluation_loss_vs_iterations"
    assert [step for step, _ in board[line]] == [4, 8, 12]
    assert board == expected
