"""A run that was recorded decides the same when it is read back and taken again."""

from dataclasses import replace

import numpy as np
import pytest

import peakhold
from peakhold._core.monitor import Criterion, Direction, Watched
from peakhold._core.policies.early_stopping import EarlyStoppingPolicy
from peakhold._core.policies.plateau import PlateauPolicy
from peakhold.errors import SaveWarning
from peakhold.extend import Event, listening
from peakhold.ledger import Ledger, RunFolder, read_events, steps_of
from replaying import FromTheFile, FromTheRecord, policy_of, taken_again

CURVE = (0.9, 0.5, 0.2, float("nan"), 0.31, 0.32, 0.33, 0.34, 0.25, 0.24, 0.23, 0.22)


class Killed(BaseException):
    """What ends a run without its last hooks."""


class Loop:
    """A loop by hand whose loss follows the curve."""

    def __init__(self, folder, callbacks):
        self.folder = RunFolder(folder)
        self.weights, self.rate = {"w": np.zeros(2)}, 0.1
        host = peakhold.LoopHost(
            get_state=lambda: self.weights,
            set_state=self.weights.update,
            get_learning_rate=lambda: self.rate,
            set_learning_rate=lambda rate: setattr(self, "rate", rate),
        )
        self.list = peakhold.CallbackList(callbacks, host=host, epochs=12, verbose=0)

    def train(self, ledger, *, at=None):
        """Run; `at` is called in each epoch."""
        with listening(ledger.told):
            self.list.on_train_begin()
            self.began_with = self.list.initial_epoch
            for epoch in range(self.began_with, 12):
                self.list.on_epoch_begin(epoch)
                for batch in range(2):
                    self.list.on_train_batch_begin(batch)
                    self.weights["w"] += 1.0
                    self.list.on_train_batch_end(batch, {"loss": CURVE[epoch]})
                if at is not None:
                    at(epoch)
                self.list.on_epoch_end(epoch, {"loss": CURVE[epoch], "val_loss": CURVE[epoch]})
                if self.list.stop_training:
                    break
            self.list.on_train_end()
        return self


def callbacks(tmp_path, **arguments):
    return [
        peakhold.ReduceLROnPlateau("val_loss", patience=1, factor=0.5, min_delta=0),
        peakhold.EarlyStopping("val_loss", **{"patience": 4, **arguments}),
        peakhold.ModelCheckpoint(
            tmp_path / "best.safetensors", "val_loss", save_best_only=True, verbose=0
        ),
    ]


def fresh(patience=4):
    """The policies of those callbacks, made here: from the run comes nothing but its record."""
    least = Watched("val_loss", Criterion(Direction.MIN, 0.0))
    return {
        "ReduceLROnPlateau(val_loss)": PlateauPolicy(least, 0.5, 1, 0, 0.0),
        "EarlyStopping(val_loss)": EarlyStoppingPolicy((least,), patience),
    }


def assert_same_decisions(events, policies, *, at_least):
    pairs = taken_again(events, policies)
    assert [(moment, now, then) for moment, now, then in pairs if repr(now) != repr(then)] == []
    assert len([now for _, now, _ in pairs if now]) >= at_least


def test_the_policies_are_those_of_the_run(tmp_path):
    loop = Loop(tmp_path / "run", callbacks(tmp_path))
    with loop.folder.own():
        ledger = Ledger(loop.folder.events, None)
        loop.train(ledger)
        ledger.close()

    said = {}
    for event in read_events(loop.folder.events):
        for name, steps in steps_of(event).items() if event["kind"] == "moment" else ():
            said.update({name: step.policy for step in steps if step.policy is not None})
    assert {name: said[name] for name in fresh()} == {n: repr(p) for n, p in fresh().items()}


def test_a_whole_run(tmp_path):
    loop = Loop(tmp_path / "run", callbacks(tmp_path))
    with loop.folder.own():
        ledger = Ledger(loop.folder.events, None)
        loop.train(ledger)
        ledger.close()

    events = list(read_events(loop.folder.events))
    ends = [event for event in events if event.get("event") == str(Event.EPOCH_END)]
    assert len(ends) == 7 and loop.rate < 0.1  # it stopped, and the rate was cut
    assert_same_decisions(events, fresh(), at_least=8)
    assert loop.folder.history().epoch == list(range(7))
    assert str(loop.folder.history().history["val_loss"]) == str(list(CURVE[:7]))


@pytest.mark.parametrize("dies_in", [1, 5, 6])
def test_a_run_that_was_killed_and_resumed(tmp_path, dies_in):
    """The record of both attempts, as readers see it, is that of one run."""

    def die(epoch):
        if epoch == dies_in:
            raise Killed

    def attempt(offset, at=None):
        made = [*callbacks(tmp_path), peakhold.BackupAndRestore(tmp_path / "backup")]
        loop = Loop(tmp_path / "run", made)
        with loop.folder.own():
            ledger = Ledger(loop.folder.events, offset)
            if offset is not None:
                ledger.go_on()
            try:
                loop.train(ledger, at=at)
            finally:
                ledger.close()
        return loop

    path = tmp_path / "run" / "events.jsonl"
    with pytest.raises(Killed):
        attempt(None, die)
    assert list(read_events(path))[-1]["epoch"] == dies_in
    loop = attempt(_end_of_epoch(path, dies_in - 1))

    events = list(read_events(path))
    assert loop.began_with == dies_in
    assert loop.folder.history().epoch == list(range(7))
    assert_same_decisions(events, fresh(), at_least=6)
    ends = [event for event in events if event.get("event") == str(Event.EPOCH_END)]
    assert [event["epoch"] for event in ends] == list(range(7))


def _end_of_epoch(path, epoch):
    """Where the line of an epoch's end ends: what the checkpoint of that moment holds."""
    at = 0
    for line in path.read_bytes().splitlines(keepends=True):
        at += len(line)
        if b'"on_epoch_end"' in line and b'"epoch":%d,' % epoch in line:
            return at
    raise AssertionError(epoch)


@pytest.mark.parametrize("sets", ["best", "patience"])
def test_an_attribute_that_is_set_in_mid_run(tmp_path, sets):
    """What is set from outside is in the record: a state begins the chain anew, a policy is named."""
    made = callbacks(tmp_path)
    loop = Loop(tmp_path / "run", made)

    def at(epoch):
        if epoch == 4 and sets == "best":
            made[1].best = 0.05
            made[1].wait = 0
        if epoch == 4 and sets == "patience":
            made[1].patience = 6

    with loop.folder.own():
        ledger = Ledger(loop.folder.events, None)
        loop.train(ledger, at=at)
        ledger.close()

    events = list(read_events(loop.folder.events))
    name = "EarlyStopping(val_loss)"
    steps = [
        (event["epoch"], step)
        for event in events if event["kind"] == "moment"
        for step in steps_of(event).get(name, ())
    ]  # fmt: skip
    if sets == "best":
        (set_at,) = [step for epoch, step in steps if step.was_set and epoch == 4]
        assert set_at.before["best"] == 0.05
        assert_same_decisions(events, fresh(), at_least=8)
        return
    (new,) = [step.policy for epoch, step in steps if step.policy is not None and epoch == 4]
    assert new == repr(fresh(6)[name])
    before = [event for event in events if event["epoch"] < 4]
    assert_same_decisions(before, fresh(), at_least=4)
    wrong = taken_again(events, fresh())
    assert [pair for pair in wrong if repr(pair[1]) != repr(pair[2])] != []


def test_another_policy_decides_otherwise(tmp_path):
    """A replay that cannot fail shows nothing."""
    loop = Loop(tmp_path / "run", callbacks(tmp_path))
    with loop.folder.own():
        ledger = Ledger(loop.folder.events, None)
        loop.train(ledger)
        ledger.close()

    pairs = taken_again(list(read_events(loop.folder.events)), fresh(patience=2))

    assert any(repr(now) != repr(then) for _, now, then in pairs)


def test_the_same_object_in_a_second_run(tmp_path):
    made = callbacks(tmp_path)
    for n in (1, 2):
        loop = Loop(tmp_path / f"run-{n}", made)
        with loop.folder.own():
            ledger = Ledger(loop.folder.events, None)
            loop.train(ledger)
            ledger.close()
        assert_same_decisions(list(read_events(loop.folder.events)), fresh(), at_least=8)


def test_what_every_test_looks_at_sees_what_is_wrong(tmp_path):
    recorded = FromTheRecord()

    def forgetful(told):
        recorded(told)
        recorded._after.clear()  # as if a state had not come from the step before

    with pytest.raises(KeyError), listening(forgetful):
        peakhold.EarlyStopping("loss").on_epoch_end(0, {"loss": 0.5})
        stopping = peakhold.EarlyStopping("loss")
        for epoch in range(3):
            stopping.on_epoch_end(epoch, {"loss": 0.5})
    assert recorded.lines > 0


def test_what_is_read_from_every_run_s_folder_sees_what_is_wrong(tmp_path):
    """One decision of the file is another one; the policies are made of nothing but its words."""
    loop = Loop(tmp_path / "run", callbacks(tmp_path))
    with loop.folder.own():
        ledger = Ledger(loop.folder.events, None)
        loop.train(ledger)
        ledger.close()
    path = loop.folder.events
    whole = FromTheFile()
    whole(path)
    assert whole.wrong == [] and whole.steps > 20

    with open(path, "rb") as file:
        text = file.read()
    assert text.count(b"no improvement for 4 epochs") == 1
    with open(path, "wb") as file:
        file.write(text.replace(b"no improvement for 4 epochs", b"no improvement for 3 epochs"))
    doctored = FromTheFile()
    doctored(path)
    assert len(doctored.wrong) == 1

    with open(path, "wb") as file:
        file.write(text.replace(b"patience=4,", b"patience=3,"))
    doctored = FromTheFile()
    doctored(path)
    assert doctored.wrong != []


def test_a_policy_is_made_of_its_words():
    for policy in fresh().values():
        assert policy_of(repr(policy)) == policy
    assert policy_of("SomebodysPolicy(n=3)") is None
    with pytest.raises(ValueError, match="cannot be made"):
        policy_of("PlateauPolicy(no_such=3)")


def test_a_participant_that_cannot_be_recorded_ends_no_training(tmp_path):
    """What a stranger's policy holds may be anything; the moments without it are there."""
    path = tmp_path / "events.jsonl"
    ledger = Ledger(path, None)
    stopping = peakhold.EarlyStopping("loss")

    def strange(told):
        odd = told.moment.event is Event.EPOCH_END and told.moment.at.epoch == 1
        answers = {"mine": object()} if odd else {}
        ledger.told(replace(told, moment=replace(told.moment, answers=answers)))

    with pytest.warns(SaveWarning, match="a moment is not in"), listening(strange):
        for epoch in range(3):
            stopping.on_epoch_end(epoch, {"loss": 0.5})
    ledger.close()

    ends = [event["epoch"] for event in read_events(path) if event["event"] == "on_epoch_end"]
    assert ends == [0, 2]
    assert any(
        "before" in str(event.get("steps")) for event in read_events(path) if event["epoch"] == 2
    )
