"""A tracker that hangs, raises or is not there, and one that a run goes on with."""

import threading
import time

import numpy as np
import pytest

from peakhold import CallbackList, EarlyStopping, Run
from peakhold.errors import InvalidArgumentError, SaveWarning
from peakhold.sinks import Tracker

LOSSES = (1.0, 0.5, 0.75, 0.25, 0.5)


class Fake(Tracker):
    where = "a test"

    def __init__(self, **arguments):
        super().__init__(**{"close_timeout_s": 60, **arguments})  # a machine may be busy
        self.about, self.rows, self.endings = None, [], []
        self.threads = set()

    def begin(self, about):
        self.about = about

    def write(self, row):
        self.threads.add(threading.current_thread())
        self.rows.append(row)

    def end(self, ending):
        self.endings.append(ending)


def train(folder, *sinks, n=5, body=None, **arguments):
    arguments = {"monitor": "loss", "patience": 9, "verbose": 0, "save_every": "epoch", **arguments}
    with Run(folder, state={"w": np.zeros(2)}, **arguments) as run:
        for sink in sinks:
            run.add_sink(sink)
        for epoch in run.epochs(n):
            for x in run.batches(np.ones((4, 2))):
                run.state = {"w": run.state["w"] + x}
                run.log(loss=LOSSES[epoch])
            if body is not None:
                body(run, epoch)
    return run


def shown(fake):
    return [(row.epoch, row.metrics["loss"], row.best.epoch) for row in fake.rows]


def test_a_run_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "correct-horse")
    fake = Fake(config={"dataset": "digits", "token": "abc", "url": "login correct-horse"})
    run = train(tmp_path / "digits", fake)
    assert shown(fake) == [(0, 1.0, 0), (1, 0.5, 1), (2, 0.75, 1), (3, 0.25, 3), (4, 0.5, 3)]
    assert [row.metrics["updates"] for row in fake.rows] == [4, 8, 12, 16, 20]
    assert "ModelCheckpoint(loss, best.safetensors): save: better" in fake.rows[1].decided
    about = fake.about
    assert about.name == f"digits-{about.run_id}"
    assert about.goes_on_from is None
    assert about.config["monitor"] == "loss"
    assert about.config["epochs"] == 5
    assert about.config["versions/numpy"] == np.__version__
    assert about.config["dataset"] == "digits"
    assert about.config["token"] == "***"
    assert about.config["url"] == "login ***"
    (ending,) = fake.endings
    assert (ending.state, ending.reason) == ("finished", "all was run")
    assert ending.best.flat() == {"best/epoch": 3, "best/loss": 0.25} | {
        f"best/{name}": value for name, value in fake.rows[3].metrics.items() if name == "loss"
    }
    assert run.best.epoch == 3
    assert ending.decided.splitlines()[0].startswith("epoch 1: EarlyStopping(loss): best so far")
    (thread,) = fake.threads
    assert thread is not threading.main_thread()
    thread.join(30)
    assert not thread.is_alive()


def test_how_it_ends(tmp_path):
    def fails(run, epoch):
        if epoch == 1:
            raise ValueError("my secret is https://me:pw@example.com")

    fake = Fake()
    with pytest.raises(ValueError, match="secret"):
        train(tmp_path / "a", fake, body=fails)
    (ending,) = fake.endings
    assert ending.state == "failed"
    assert ending.reason == "ValueError: my secret is https://***@example.com"
    fake = Fake()
    train(tmp_path / "b", fake, time_limit=0)
    (ending,) = fake.endings
    assert ending.state == "interrupted"
    assert ending.reason == "its time limit has come"


def test_the_next_start_goes_on_with_what_counts(tmp_path):
    """The first start has told an epoch, the best so far, that the second does not go on from."""

    class Killed(BaseException):
        pass

    def dies(run, epoch):
        if epoch == 3:  # before the end of the epoch is backed up
            raise Killed

    first, second = Fake(), Fake()
    with pytest.raises(Killed):
        train(tmp_path / "run", first, body=dies, save_every="epoch")
    assert first.endings[0].state == "interrupted"
    train(tmp_path / "run", second)
    assert second.about.run_id == first.about.run_id
    assert second.about.goes_on_from == 3
    assert shown(second) == [(0, 1.0, 0), (1, 0.5, 1), (2, 0.75, 1), (3, 0.25, 3), (4, 0.5, 3)]
    assert second.endings[0].decided.count("epoch ") >= 3
    late = Fake()
    train(tmp_path / "run", late, resume="extend")
    assert late.endings[0].best.epoch == 3  # nothing was trained: it is of the starts before
    assert late.endings[0].decided.splitlines()[0].startswith("epoch 1: ")


def test_the_best_that_a_lost_stretch_had_is_not_the_best(tmp_path):
    """A record whose second start began again at epoch 1, behind which the best had been told."""
    train(tmp_path / "run", n=2)
    lines = (tmp_path / "run" / "events.jsonl").read_bytes().splitlines(keepends=True)
    offset = len(b"".join(lines))
    better = [line for line in lines if b'"loss":0.5' in line]
    extra = better[0].replace(b'"loss":0.5', b'"loss":0.0').replace(b'"epoch":1', b'"epoch":2')
    goes_on = b'{"kind":"goes_on","from":%d,"epoch":2}\n' % offset
    path = tmp_path / "run" / "events.jsonl"
    path.write_bytes(b"".join([*lines, extra, goes_on]))
    fake = Fake()
    train(tmp_path / "run", fake, n=3, resume="extend")
    assert shown(fake) == [(0, 1.0, 0), (1, 0.5, 1), (2, 0.75, 1)]


def test_one_that_hangs_holds_neither_training_nor_its_end(tmp_path):
    go = threading.Event()

    class Hangs(Fake):
        def write(self, row):
            go.wait()

    hanging, other = Hangs(close_timeout_s=0.05), Fake()
    with pytest.warns(SaveWarning, match=r"6 of 7 messages are lost") as said:
        begun = time.monotonic()
        train(tmp_path / "run", hanging, other)
    assert time.monotonic() - begun < 30
    assert len([one for one in said if "a test" in str(one.message)]) == 1
    assert len(other.rows) == 5
    go.set()


def test_one_that_raises_is_said_once_at_the_end(tmp_path):
    class Raises(Fake):
        def write(self, row):
            if row.epoch % 2:
                raise OSError(f"no network at https://me:pw@example.com for {row.epoch}")
            super().write(row)

    fake, events = Raises(), []
    with pytest.warns(SaveWarning, match="2 of 7 messages are lost") as said:
        train(tmp_path / "run", fake, events.append)
    (one,) = [str(one.message) for one in said if "a test" in str(one.message)]
    assert "OSError: no network at https://***@example.com for 1 (1 try)" in one
    assert [row.epoch for row in fake.rows] == [0, 2, 4]
    assert len(fake.endings) == 1
    assert events[-1]["kind"] == "end"  # a function beside it hears all


def test_opening_is_tried_again(tmp_path):
    class Late(Fake):
        tries = 0

        def begin(self, about):
            self.tries += 1
            if self.tries < 2:
                raise TimeoutError
            super().begin(about)

    fake = Late(close_timeout_s=30)
    train(tmp_path / "run", fake)
    assert fake.tries == 2
    assert len(fake.rows) == 5


def test_one_that_cannot_be_opened_says_why(tmp_path):
    class Closed(Fake):
        def begin(self, about):
            raise PermissionError("nobody is logged in")

    with pytest.warns(SaveWarning, match=r"PermissionError: nobody is logged in.* 7 of 7 messages"):
        train(tmp_path / "run", Closed(close_timeout_s=0.5))


def test_one_whose_library_is_missing_is_said_before_the_first_batch(tmp_path):
    class Missing(Fake):
        package = "no_such_tracker"

    def body(run, epoch):
        said.append(len(warned))

    said, fake = [], Missing()
    with pytest.warns(SaveWarning, match="no_such_tracker cannot be imported") as warned:
        train(tmp_path / "run", fake, body=body)
    assert said[0] == 1
    assert "Hint: pip install 'peakhold[no_such_tracker]'" in str(warned[0].message)
    assert len(warned) == 1
    assert fake.rows == []


def test_one_that_is_added_late_hears_the_rest(tmp_path):
    fake = Fake()
    train(tmp_path / "run", body=lambda run, epoch: run.add_sink(fake) if epoch == 1 else None)
    assert [row.epoch for row in fake.rows] == [1, 2, 3, 4]
    assert len(fake.endings) == 1


def test_a_tracker_is_of_one_run(tmp_path):
    fake = Fake()
    train(tmp_path / "run", fake)
    with pytest.raises(InvalidArgumentError, match="a tracker of one run"):
        train(tmp_path / "other", fake)


def test_a_list_of_callbacks_is_told_too():
    fake = Fake()
    with fake.listening():
        callbacks = CallbackList([EarlyStopping("loss", patience=1)], {"w": np.zeros(1)}, verbose=0)
        callbacks.on_train_begin()
        for epoch in range(5):
            callbacks.on_epoch_begin(epoch)
            callbacks.on_epoch_end(epoch, {"loss": LOSSES[epoch]})
            if callbacks.stop_training:
                break
        callbacks.on_train_end()
    assert shown(fake) == [(0, 1.0, 0), (1, 0.5, 1), (2, 0.75, 1)]
    (ending,) = fake.endings
    assert ending.state == "finished"
    assert ending.reason == "no improvement for 1 epoch (EarlyStopping(loss))"


def test_an_exception_in_the_block_is_the_end():
    fake = Fake()
    with pytest.raises(KeyError), fake.listening():
        EarlyStopping("loss").on_epoch_end(0, {"loss": 0.5})
        raise KeyError("rows")
    assert fake.endings[0].state == "failed"
    assert fake.endings[0].reason == "KeyError: 'rows'"
