"""`peakhold.Run` with several workers: one folder, one truth, and the same batch to save and end at."""

import json
import math
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest

from peakhold import Every, Run, TerminateOnNaN
from peakhold.errors import (
    InvalidArgumentError,
    RunOwnedError,
    WorkerFailedError,
    WorkersDifferError,
)
from peakhold.ledger import RunFolder
from peakhold.testing import FakeHub, run_workers
from run_programs import logged
from shared_runs import Runs

pytestmark = pytest.mark.torch_is_enough("no framework has a part in it")
LONG = 20_000


def at(rank, epoch, batch, work):
    """A body that does something once, on one worker."""

    def body(run, own_rank, own_epoch, own_batch):
        if (own_rank, own_epoch, own_batch) == (rank, epoch, batch):
            work(run)

    return body


def sent(number):
    """As if a signal had come; a thread gets none."""
    return lambda run: run._signals._handle(number, None)


def events(folder):
    with open(os.path.join(folder, "events.jsonl")) as file:
        return [json.loads(line) for line in file]


def ends_of(runs):
    """Where all ended, which is one place."""
    batches = {len(done) for done in runs.done}
    assert len(batches) == 1, batches
    assert len({run.stopped_because for run in runs.runs}) == 1
    assert len({run.latest.reason for run in runs.runs}) == 1
    assert runs.runs[0].state == runs.runs[1].state
    return batches.pop(), runs.runs[0].latest.reason


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    runs = Runs(tmp_path_factory.mktemp("unbroken") / "run", n_batches=300)
    ended = runs.run()
    assert not any(isinstance(one, BaseException) for one in ended), ended
    return runs


def check_it_ends_as(unbroken, folder, **arguments):
    """Start it again, and see that it ends with what the unbroken run has."""
    runs = Runs(folder, n_batches=300, **arguments)
    ended = runs.run()
    assert not any(isinstance(one, BaseException) for one in ended), ended
    for one, whole in zip(runs.runs, unbroken.runs, strict=True):
        np.testing.assert_array_equal(one.state["w"], whole.state["w"])
        assert one.stopped_because == whole.stopped_because
        assert one.history == whole.history
    assert logged(folder) == logged(unbroken.folder)
    for own, whole in zip(runs.done, unbroken.done, strict=True):
        assert own == whole[-len(own) :]
    return runs


def test_one_folder_and_one_truth(unbroken):
    first, second = unbroken.runs
    # 1/(1+epoch) of 300 batches of 2 rows on rank 0, and 1 more of 3 rows each on rank 1
    expected = [1 / (1 + epoch) + 3 / 5 for epoch in range(3)]
    np.testing.assert_allclose(first.history.history["loss"], expected)
    assert second.history == first.history
    assert str(second.best) == str(first.best)
    assert second.latest == first.latest
    assert second.stopped_because == first.stopped_because == "all was run"
    kinds = [(one["kind"], one.get("event"), one.get("epoch")) for one in events(unbroken.folder)]
    assert len(kinds) == len({*kinds})  # each was written once
    assert str(RunFolder(unbroken.folder).status()) == "ended: all was run"


@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_one_ends_all_at_one_batch_and_they_go_on_from_there(tmp_path, unbroken, rank):
    folder = tmp_path / "run"
    runs = Runs(folder, n_batches=300, body=at(rank, 1, 3, sent(signal.SIGTERM)))
    ended = runs.run()
    assert [(type(one), one.code) for one in ended] == [(SystemExit, 75)] * 2
    n_done, reason = ends_of(runs)
    assert runs.runs[0].stopped_because == "SIGTERM"
    assert 303 < n_done <= 600
    inside = f"batch {n_done - 300} of epoch 2"
    assert reason == (inside if n_done < 600 else "after epoch 2")
    assert RunFolder(folder).status().word == "interrupted"
    check_it_ends_as(unbroken, folder)


def test_ctrl_c_is_what_it_is_on_all(tmp_path):
    runs = Runs(tmp_path / "run", n_batches=LONG, body=at(1, 0, 3, sent(signal.SIGINT)))
    assert [type(one) for one in runs.run()] == [KeyboardInterrupt] * 2
    n_done, reason = ends_of(runs)
    assert reason == f"batch {n_done} of epoch 1"


def test_signals_to_all_are_no_second_ones(tmp_path):
    def body(run, rank, epoch, batch):
        if batch == 5:
            sent(signal.SIGTERM)(run)

    runs = Runs(tmp_path / "run", n_batches=LONG, body=body)
    assert [type(one) for one in runs.run()] == [SystemExit] * 2
    ends_of(runs)


def test_the_run_is_over_for_all_if_one_says_so(tmp_path):
    stops = at(1, 0, 3, lambda run: run.stop("it is enough"))
    runs = Runs(tmp_path / "run", n_batches=LONG, body=stops)
    assert runs.run() == runs.runs
    assert ends_of(runs)[0] < LONG
    assert runs.runs[0].stopped_because == "it is enough"
    again = Runs(tmp_path / "run").run()  # and all are refused with one message
    assert [type(one) for one in again] == [InvalidArgumentError] * 2
    assert "that run has ended (it is enough)" in str(again[1])
    assert str(again[0]) == str(again[1])
    assert again[0].argument == again[1].argument


@pytest.mark.parametrize("why", ["a limit of rank 0's", "a file"])
def test_clocks_and_the_file_are_rank_0s(tmp_path, why):
    def put(run):
        with open(os.path.join(run.folder, "stop"), "w"):
            pass

    arguments = {"body": at(0, 0, 5, put)}
    if why != "a file":
        arguments = {"time_limit": lambda rank: 3600 if rank else 0}
    runs = Runs(tmp_path / "run", n_batches=LONG, **arguments)
    assert runs.run() == runs.runs
    assert ends_of(runs)[0] < LONG
    words = "its folder has a file named 'stop'" if why == "a file" else "its time limit has come"
    assert runs.runs[1].stopped_because == words
    assert RunFolder(tmp_path / "run").status().word == "interrupted"
    assert not os.path.exists(tmp_path / "run" / "stop")


def test_what_comes_in_an_evaluation_is_done_at_the_epochs_end(tmp_path):
    def evaluate(run, rank, epoch):
        for batch in run.batches(range(5 + 20 * rank), "val"):
            run.log(loss=batch)
            if (rank, epoch, batch) == (1, 1, 3):
                sent(signal.SIGTERM)(run)

    runs = Runs(tmp_path / "run", evaluate=evaluate)
    assert [type(one) for one in runs.run()] == [SystemExit] * 2
    assert ends_of(runs) == (12, "after epoch 2")
    # 0 to 4 on rank 0, 0 to 24 on rank 1
    assert runs.runs[1].history.history["val_loss"] == [(10 + 300) / 30] * 2


def test_a_loss_that_is_nan_on_one_ends_all_at_one_batch(tmp_path):
    def logs(rank, epoch, batch):
        return math.nan if rank == 1 and batch >= 7 else 1.0

    arguments = {"monitor": None, "patience": None}
    runs = Runs(tmp_path / "run", n_batches=LONG, logs=logs, **arguments)
    runs.arguments["callbacks"] = lambda rank: [TerminateOnNaN()]
    assert runs.run() == runs.runs
    assert len(runs.done[0]) == len(runs.done[1])
    assert 7 < len(runs.done[0]) < LONG
    assert runs.runs[0].stopped_because.startswith("the loss is nan at batch ")


@pytest.mark.filterwarnings("ignore:.*loss is nan at epoch 1")
def test_nan_on_one_is_nan_for_all(tmp_path):
    runs = Runs(tmp_path / "run", logs=lambda rank, epoch, batch: math.nan if rank else 0.5)
    runs.run()
    assert all(math.isnan(one) for one in runs.runs[0].history.history["loss"])
    assert runs.runs[0].best is None
    assert runs.runs[1].best is None


@pytest.mark.parametrize("every", [Every(seconds=0.005), Every(batches=7)])
def test_all_save_at_the_same_batches(tmp_path, every, unbroken):
    places = [[], []]

    def body(run, rank, epoch, batch):
        saves = run._loop.border.pace.n_saves
        if len(places[rank]) < saves:
            places[rank] += [(epoch, batch)] * (saves - len(places[rank]))

    folder = tmp_path / "run"
    runs = Runs(folder, n_batches=300, save_every=every, body=body)
    assert runs.run() == runs.runs
    assert places[0] == places[1]
    assert len(places[0]) >= 2
    np.testing.assert_array_equal(runs.runs[0].state["w"], unbroken.runs[0].state["w"])


def test_save_on_one_is_a_save_of_all(tmp_path):
    class PowerCut(Exception):
        pass

    def cut(run):
        raise PowerCut

    saves, cuts = at(1, 0, 3, lambda run: run.save()), at(1, 0, LONG // 2, cut)

    def body(*where):
        saves(*where)
        cuts(*where)

    runs = Runs(tmp_path / "run", n_batches=LONG, body=body)
    runs.run()
    assert runs.runs[0].latest.reason.endswith("of epoch 1")


def test_a_save_that_the_epochs_end_makes_is_made_once(tmp_path):
    def evaluate(run, rank, epoch):
        if rank == 1:
            run.save()

    runs = Runs(tmp_path / "run", evaluate=evaluate, save_every=Every(epochs=9), epochs=4)
    assert runs.run() == runs.runs
    assert [run._loop.border.pace.n_saves for run in runs.runs] == [4, 4]


def test_an_exception_on_one_ends_the_others_and_all_go_on_from_the_last_checkpoint(
    tmp_path, unbroken
):
    def fail(run):
        raise ValueError("the user's own")

    folder = tmp_path / "run"
    runs = Runs(folder, n_batches=300, save_every=Every(batches=50), body=at(1, 1, 120, fail))
    first, second = runs.run()
    assert isinstance(first, Exception)  # what its collective raises
    assert str(second) == "the user's own"
    assert RunFolder(folder).status().word == "interrupted"
    assert runs.runs[0].latest.reason == "batch 100 of epoch 2"
    check_it_ends_as(unbroken, folder, save_every=Every(batches=50))


def test_the_others_hear_of_an_error_at_their_next_exchange(tmp_path):
    is_there = threading.Event()

    def evaluate(run, rank, epoch):
        if epoch == 1 and rank == 0:
            is_there.set()
        elif epoch == 1:
            is_there.wait(30)
            raise ValueError("the user's own")

    first, second = Runs(tmp_path / "run", evaluate=evaluate).run()
    assert isinstance(second, ValueError)
    assert isinstance(first, WorkerFailedError)
    assert "rank 1 ended with ValueError: the user's own" in str(first)


def test_a_signal_while_one_is_gone_ends_at_once_and_names_what_is_on_disk(tmp_path, capsys):
    def body(run, rank, epoch, batch):
        if (epoch, batch) != (1, 3):
            return
        if rank == 1:
            runs.hub.channel(1).set("peakhold/0/0/left/1", b"1")  # as its process's end does
            raise ValueError("gone")
        while run._workers.lost() is None or run.latest is None:
            time.sleep(0.001)
        sent(signal.SIGTERM)(run)

    runs = Runs(tmp_path / "run", body=body)
    first, _ = runs.run()
    assert isinstance(first, SystemExit)
    assert first.code == 75
    assert len(runs.done[0]) == 10
    said = capsys.readouterr().out
    checkpoints = str(tmp_path / "run" / "checkpoints")
    assert "SIGTERM, and rank 1 " in said
    assert f"The newest backup is step 0 in {checkpoints!r}, after epoch 1." in said
    assert RunFolder(tmp_path / "run").status().word == "interrupted"


def test_what_is_wrong_with_the_folder_is_said_on_all(tmp_path):
    folder = tmp_path / "run"
    with RunFolder(folder).own():
        owned = Runs(folder).run()
    assert [type(one) for one in owned] == [RunOwnedError] * 2
    assert str(owned[0]) == str(owned[1])
    assert owned[1].path == str(folder)
    runs = Runs(folder)
    assert runs.run() == runs.runs  # it was let go


def test_runs_that_differ_are_an_error_on_all(tmp_path):
    runs = Runs(tmp_path / "run", patience=lambda rank: 5 + rank)
    ended = runs.run()
    assert [type(one) for one in ended] == [WorkersDifferError] * 2
    assert "expected the same run on all workers, got patience=5 on rank 0, and 6 on rank 1" in str(
        ended[0]
    )
    assert not os.path.exists(tmp_path / "run")


def test_new_sets_aside_once(tmp_path):
    Runs(tmp_path / "run").run()
    runs = Runs(tmp_path / "run", resume="new")
    assert runs.run() == runs.runs
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("size", [1, 3])
def test_with_another_number_of_workers_its_epoch_is_begun_anew(tmp_path, size, capsys):
    first = Runs(tmp_path / "run", n_batches=LONG, body=at(0, 0, 9, sent(signal.SIGTERM)))
    first.run()
    n_done, _ = ends_of(first)
    state, said = first.runs[0].state["w"], capsys.readouterr()

    def body(run, rank, epoch, batch):
        if not began[rank]:
            began[rank].append((epoch, batch))

    began = [[] for _ in range(size)]
    runs = Runs(tmp_path / "run", size, n_batches=5, epochs=2, body=body)
    ended = runs.run()
    assert not any(isinstance(one, BaseException) for one in ended), ended
    assert began == [[(0, 0)]] * size
    said = capsys.readouterr().out
    assert said.count("the run that is resumed had 2 workers, this one has") == 1
    words = f"Epoch 1 is begun anew, with the weights that it had after batch {n_done}."
    assert said.count(words) == 1
    assert [one["batch"] for one in runs.trained_from] == [0] * size
    assert runs.trained_from[0]["w"] == state


def test_without_epochs(tmp_path):
    def work(rank):
        state = {"w": np.zeros(1)}
        with Run(tmp_path / "run", state=state, verbose=0, save_every=Every(batches=5),
                 workers=hub.channel(rank)) as run:  # fmt: skip
            for rows in run.steps(np.ones((4, 2)), 23):
                run.state = {"w": run.state["w"] + rows.sum()}
                run.log(loss=rank)
                if run.every(steps=10):
                    run.check(accuracy=rank)
                if rank == 1 and run.state["w"] == 2 * 17 and not stopped:
                    stopped.append(1)
                    raise RuntimeError("cut")
        return run

    hub, stopped = FakeHub(2), []
    first, second = run_workers(2, work)
    assert isinstance(first, WorkerFailedError)
    assert str(second) == "cut"
    hub = FakeHub(2)
    first, second = run_workers(2, work)
    assert first.state == second.state == {"w": 46.0}
    assert first.history.history == {"loss": [0.5, 0.5], "accuracy": [0.5, 0.5]}
    assert second.history == first.history


def calls_of_a_batch(run, batches):
    """How many functions are called for a batch, after the first ones."""
    for _ in range(3):
        next(batches)
    run._loop.border.look_at = math.inf
    calls = []
    sys.setprofile(lambda frame, event, argument: calls.append(event))
    try:
        next(batches)
    finally:
        sys.setprofile(None)
    return calls.count("call") + calls.count("c_call")


def test_a_batch_with_nothing_due_is_what_it_is_alone(tmp_path):
    def count(rank, channel=None):
        folder = tmp_path / ("alone" if channel is None else "run")
        with Run(folder, state={"w": np.zeros(1)}, save_every="epoch", verbose=0,
                 workers=channel) as run:  # fmt: skip
            for _ in run.epochs(1):
                counted = calls_of_a_batch(run, run.batches(np.ones((9, 2))))
        return counted

    hub = FakeHub(2)
    first, second = run_workers(2, lambda rank: count(rank, hub.channel(rank)))
    assert first == second == count(0)
