"""What a run does for a loop: its ends, its errors, what it says and what it leaves."""

import json
import os
import signal

import numpy as np
import pytest

from peakhold import Budget, Every, LoopHost, Run, TerminateOnNaN
from peakhold.errors import HostError, InvalidArgumentError, SaveWarning

DATA = np.ones((4, 2))


def train(folder, *, n=3, losses=(), body=None, **arguments):
    """A loop whose losses are given, by epoch."""
    losses = [*losses] or [1.0 / (1 + epoch) for epoch in range(n)]
    run = Run(folder, **{"state": {"w": np.zeros(2)}, "verbose": 0, **arguments})
    with run:
        for epoch in run.epochs(n):
            for index, x in enumerate(run.batches(DATA)):
                run.state = {"w": run.state["w"] + x}
                run.log(loss=losses[epoch])
                if body is not None:
                    body(run, epoch, index)
    return run


def events(folder):
    return [json.loads(line) for line in open(os.path.join(folder, "events.jsonl"))]


def test_the_folder(tmp_path):
    run = train(tmp_path / "run", monitor="loss", patience=2)
    assert {"run.json", "events.jsonl", "checkpoints", "metrics.csv", "tensorboard",
            "best.safetensors"} <= {*os.listdir(tmp_path / "run")}  # fmt: skip
    assert run.best.epoch == 2
    assert str(run.best) == f"epoch 3, loss 0.3333, {tmp_path / 'run' / 'best.safetensors'}"
    assert run.latest.epoch == 3
    assert run.stopped_because == "all was run"


def test_patience_stops_and_the_best_is_restored(tmp_path):
    run = train(tmp_path / "run", n=9, losses=[0.5, 0.4, 0.6, 0.7, 0.1, 0.1, 0.1, 0.1, 0.1],
                monitor="loss", patience=2)  # fmt: skip
    assert run.best.epoch == 1
    assert "no improvement for 2 epochs" in run.stopped_because
    np.testing.assert_array_equal(run.state["w"], [8.0, 8.0])


def test_a_finished_run_is_not_gone_on_with_by_surprise(tmp_path):
    train(tmp_path / "run")
    with pytest.raises(InvalidArgumentError, match="resume='extend' goes on"):
        train(tmp_path / "run", n=5)


def test_extend(tmp_path):
    train(tmp_path / "run")
    run = train(tmp_path / "run", n=5, resume="extend")
    np.testing.assert_array_equal(run.state["w"], [20.0, 20.0])


@pytest.mark.parametrize("resume", ["new", False])
def test_new_sets_aside_and_deletes_nothing(tmp_path, resume):
    train(tmp_path / "run")
    before = (tmp_path / "run" / "events.jsonl").read_bytes()
    run = train(tmp_path / "run", n=2, resume=resume)
    np.testing.assert_array_equal(run.state["w"], [8.0, 8.0])
    others = [one for one in os.listdir(tmp_path) if one != "run"]
    assert len(others) == 1
    assert (tmp_path / others[0] / "events.jsonl").read_bytes() == before


def test_break_is_a_clean_end(tmp_path):
    with Run(tmp_path / "run", state={"w": np.zeros(2)}, monitor="loss", verbose=0) as run:
        for epoch in run.epochs(9):
            for _ in run.batches(DATA):
                run.log(loss=1.0)
            if epoch == 1:
                break
    assert events(tmp_path / "run")[-1]["kind"] == "end"
    with pytest.raises(InvalidArgumentError, match="resume='extend'"):
        train(tmp_path / "run")


def test_break_out_of_batches_ends_the_pass_alone(tmp_path):
    seen = []
    with Run(tmp_path / "run", state={"w": np.zeros(2)}, verbose=0) as run:
        for _ in run.epochs(2):
            for index, _ in enumerate(run.batches(DATA)):
                seen.append(index)
                if index == 1:
                    break
    assert seen == [0, 1, 0, 1]


def test_an_exception_restores_the_best_closes_all_and_is_raised(tmp_path):
    def body(run, epoch, index):
        if epoch == 2 and index == 1:
            raise RuntimeError("no power")

    state = {}
    with pytest.raises(RuntimeError, match="no power"):
        with Run(
            tmp_path / "run", state={"w": np.zeros(2)}, monitor="loss", patience=5, verbose=0
        ) as run:
            state["run"] = run
            for epoch in run.epochs(9):
                for index, x in enumerate(run.batches(DATA)):
                    run.state = {"w": run.state["w"] + x}
                    run.log(loss=[0.1, 0.5, 0.5][epoch])
                    body(run, epoch, index)
    np.testing.assert_array_equal(state["run"].state["w"], [4.0, 4.0])
    last = events(tmp_path / "run")[-1]
    assert (last["kind"], last["reason"]) == ("interrupted", "RuntimeError: no power")


def test_the_next_start_goes_on_after_an_exception(tmp_path):
    def body(run, epoch, index):
        if epoch == 1 and index == 2:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train(tmp_path / "run", body=body, save_every=Every(batches=1))
    run = train(tmp_path / "run", save_every=Every(batches=1))
    np.testing.assert_array_equal(run.state["w"], [12.0, 12.0])


def test_stop_ends_at_the_next_border_and_is_over(tmp_path):
    run = train(tmp_path / "run", body=lambda run, epoch, i: i == 1 and run.stop("enough"))
    assert run.stopped_because == "enough"
    np.testing.assert_array_equal(run.state["w"], [2.0, 2.0])
    assert events(tmp_path / "run")[-1]["kind"] == "end"


def test_a_time_limit_saves_and_the_next_start_goes_on(tmp_path):
    run = train(tmp_path / "run", time_limit=0)
    assert run.stopped_because == "its time limit has come"
    assert run.latest is not None
    run = train(tmp_path / "run")
    np.testing.assert_array_equal(run.state["w"], [12.0, 12.0])


def test_a_file_named_stop(tmp_path):
    def body(run, epoch, index):
        if (epoch, index) == (1, 1):
            (tmp_path / "run" / "stop").touch()
            run.save()  # looks at the next border, not within half a second

    run = train(tmp_path / "run", body=body)
    assert "stop" in run.stopped_because
    np.testing.assert_array_equal(run.state["w"], [6.0, 6.0])
    run = train(tmp_path / "run")
    np.testing.assert_array_equal(run.state["w"], [12.0, 12.0])


def test_a_second_signal_ends_at_once(tmp_path):
    after = []

    def body(run, epoch, index):
        if (epoch, index) == (1, 1):
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            after.append(1)

    with pytest.raises(SystemExit) as caught:
        train(tmp_path / "run", body=body, save_every=Every(batches=1))
    assert caught.value.code == 75
    assert not after
    assert events(tmp_path / "run")[-1]["reason"] == "SIGTERM"
    run = train(tmp_path / "run")
    np.testing.assert_array_equal(run.state["w"], [12.0, 12.0])


def test_further_signals(tmp_path):
    def body(run, epoch, index):
        if (epoch, index) == (1, 1):
            signal.raise_signal(signal.SIGUSR1)

    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(SystemExit):
        train(tmp_path / "run", body=body, signals=[signal.SIGUSR1])
    assert events(tmp_path / "run")[-1]["reason"] == "SIGUSR1"
    assert signal.getsignal(signal.SIGUSR1) == before


def test_nan_ends_a_run_with_the_guard(tmp_path):
    run = train(tmp_path / "run", n=2, losses=[1.0, float("nan")], callbacks=[TerminateOnNaN()])
    np.testing.assert_array_equal(run.state["w"], [5.0, 5.0])
    assert "nan" in run.stopped_because.lower()


def test_steps_checks_and_patience_in_checks(tmp_path):
    losses = iter([0.5, 0.4, 0.6, 0.7, 0.1])
    run = Run(tmp_path / "run", state={"w": np.zeros(2)}, monitor="val_loss", patience=2, verbose=0)
    with run:
        for x in run.steps(DATA, 100):
            run.state = {"w": run.state["w"] + x}
            run.log(loss=1.0)
            if run.every(steps=6):
                run.check(val_loss=next(losses))
    assert run.best.epoch == 1
    np.testing.assert_array_equal(run.state["w"], [12.0, 12.0])
    assert "no improvement for 2" in run.stopped_because


def test_steps_end_where_they_were_asked_to(tmp_path):
    seen = []
    with Run(tmp_path / "run", state={"w": np.zeros(2)}, verbose=0) as run:
        for x in run.steps(range(3), 7):
            seen.append(x)
    assert seen == [0, 1, 2, 0, 1, 2, 0]


def test_means_are_weighted_by_batches(tmp_path):
    rows = []
    with Run(tmp_path / "run", state={"w": np.zeros(2)}, verbose=0) as run:
        for _ in run.epochs(1):
            for x in run.batches([np.ones((3, 2)), np.ones((1, 2))]):
                run.log(loss=float(len(x)))
            for x in run.batches([np.ones((2, 2)), np.ones((2, 2))], "val"):
                run.log(loss=len(x))
            run.log(own=7)
    told = [one for one in events(tmp_path / "run") if one.get("event") == "on_epoch_end"]
    rows = told[-1]["metrics"]
    assert (rows["loss"], rows["val_loss"], rows["own"]) == (2.5, 2.0, 7.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"monitor": None, "patience": 3}, "the metric that patience waits for"),
        ({"model": object()}, "a model, or the state that the loop passes on, not both"),
        ({"save_every": 10}, r"Budget\(...\), Every\(...\) or 'epoch'"),
        ({"resume": "maybe"}, "True, False, 'extend' or 'new'"),
        ({"time_limit": -1}, "seconds, at least 0"),
        ({"extra": [1]}, "a dict of what a backup is to hold"),
        ({"patience": 0, "monitor": "loss"}, "an int of at least 1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(tmp_path, arguments, words):
    with pytest.raises(InvalidArgumentError, match=words):
        Run(tmp_path / "run", **{"state": {"w": np.zeros(2)}, **arguments})
    assert not os.path.exists(tmp_path / "run")


def test_a_file_in_its_place(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(InvalidArgumentError, match="not of a file"):
        Run(tmp_path / "run")


@pytest.mark.parametrize("call", [
    lambda run: next(run.epochs(3)), lambda run: next(iter(run.batches(DATA))),
    lambda run: run.log(loss=1.0), lambda run: run.save(), lambda run: run.check(),
    lambda run: next(run.steps(DATA, 3)), lambda run: run.every(steps=3),
])  # fmt: skip
def test_outside_of_its_with(tmp_path, call):
    with pytest.raises(HostError, match="inside the run's with"):
        call(Run(tmp_path / "run"))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: next(iter(run.batches(DATA))), "inside an epoch"),
        (lambda run: run.log(loss=1.0), "inside an epoch"),
        (lambda run: run.check(loss=1.0), "a loop without epochs"),
        (lambda run: run.restore_best(), "keeps the best weights"),
        (lambda run: [0 for _ in run.epochs(1)] + [0 for _ in run.epochs(1)], "one loop of a run"),
    ],
)
def test_calls_in_the_wrong_place(tmp_path, call, words):
    with pytest.raises(HostError, match=words):
        with Run(tmp_path / "run", verbose=0) as run:
            call(run)


def test_an_own_list_in_place_of_the_stack(tmp_path):
    import peakhold

    run = train(tmp_path / "run", callbacks=[peakhold.EarlyStopping("loss", patience=1)],
                losses=[0.1, 0.2, 0.3])  # fmt: skip
    np.testing.assert_array_equal(run.state["w"], [8.0, 8.0])


def test_a_budget_is_kept(tmp_path):
    share = Budget(0.5)
    run = train(tmp_path / "run", n=40, save_every=share)
    assert run.latest is not None


def test_a_sink_hears_what_the_ledger_does_and_may_fail(tmp_path):
    heard = []
    run = Run(tmp_path / "run", state={"w": np.zeros(2)}, verbose=0)
    run.add_sink(heard.append)
    run.add_sink(lambda event: 1 / 0)
    with pytest.warns(SaveWarning, match="a sink of the run failed"):
        with run:
            for _ in run.epochs(2):
                run.log(loss=1.0)
    kinds = [one["kind"] for one in heard]
    assert kinds[0] == "start" and kinds[-1] == "end" and "moment" in kinds


def test_its_own_functions(tmp_path):
    weights = {"w": np.zeros(2)}
    host = LoopHost(get_state=lambda: weights, set_state=weights.update)
    with Run(tmp_path / "run", host=host, monitor="loss", verbose=0) as run:
        for _ in run.epochs(2):
            weights["w"] = weights["w"] + 1
            run.log(loss=1.0)
    assert run.best.epoch == 0


def test_a_process_of_a_group_may_be_alone(tmp_path, monkeypatch):
    from peakhold.distributed import alone, finding

    def channel_of(group):
        raise ConnectionError("the group is asked")

    group = object()
    monkeypatch.setattr(finding, "_ENGINES", {"torch": (lambda: group, channel_of)})
    with pytest.raises(ConnectionError, match="the group is asked"):
        train(tmp_path / "run")
    with alone():
        train(tmp_path / "run")


def test_what_cannot_be_entered_lets_the_folder_go(tmp_path):
    class Broken:
        def state_dict(self):
            raise RuntimeError("no state")

        def load_state_dict(self, state):
            pass

    with pytest.raises(RuntimeError, match="no state"):
        with Run(tmp_path / "run", state={"w": np.zeros(2)}, extra={"x": Broken()}, verbose=0):
            pass
    train(tmp_path / "run")
