"""The session by itself: phases, errors, starts; callbacks that note how they are asked."""

import gc
import weakref

import pytest

import peakhold
from peakhold._core.wire import decisions_to_json, moment_to_json
from peakhold.extend import (
    CONTINUES,
    FRESH,
    RESUMED,
    Event,
    Keeper,
    Lender,
    Measured,
    Moment,
    Participant,
    Participating,
    Position,
    Save,
    SetLearningRate,
    Stop,
    listening,
)


class Notes(Participant):
    """Notes every verb that it is asked."""

    def __init__(self, log, label, decisions=()):
        self.log, self.label, self.decisions = log, label, decisions

    def note(self, verb, *more):
        self.log.append((self.label, verb, *more))

    def needs(self, run):
        self.note("needs")
        return super().needs(run)

    def begin(self, run, start):
        self.note("begin", start.word)

    def news(self, moment):
        self.note("news", moment.event.name)
        return ()

    def measure(self, moment, logs):
        self.note("measure", moment.event.name)
        return Measured({f"from_{self.label}": 1.0} if moment.event is Event.EPOCH_END else {})

    def decide(self, moment):
        self.note("decide", moment.event.name, *sorted(moment.metrics))
        return self.decisions if moment.event is Event.EPOCH_END else ()

    def apply(self, decision, moment, logs):
        self.note("apply", type(decision).__name__)

    def record(self, moment, logs, decided):
        self.note("record", moment.event.name)

    def settle(self):
        self.note("settle")

    def end(self, ending):
        self.note("end", ending.n_epochs_done)


class Held(Participating):
    pass


def train(callbacks, epochs=1, start=0, **params):
    run = peakhold.CallbackList(callbacks, verbose=0, **params)
    run.on_train_begin()
    for epoch in range(start, epochs):
        run.on_epoch_begin(epoch)
        run.on_epoch_end(epoch, {"loss": 0.5})
        if run.stop_training:
            break
    run.on_train_end()
    return run


def test_verb_by_verb_for_all_who_stand_side_by_side():
    log = []
    train([Held(Notes(log, "a")), Held(Notes(log, "b"))])

    at_end_of_epoch = [each[:2] for each in log if "EPOCH_END" in each]
    assert at_end_of_epoch == [
        (who, verb) for verb in ("news", "measure", "decide", "record") for who in "ab"
    ]
    decided = [each for each in log if each[1:3] == ("decide", "EPOCH_END")]
    assert {each[3:] for each in decided} == {("from_a", "from_b", "loss")}  # one moment for all
    order = [each[1] for each in log if each[0] == "a"]
    assert [order.index(v) for v in ("needs", "begin", "settle", "end")] == sorted(
        order.index(v) for v in ("needs", "begin", "settle", "end")
    )


def test_decisions_are_carried_out_kind_by_kind():
    log = []
    first = Notes(log, "a", (Stop("enough"), Save("due")))
    second = Notes(log, "b", (SetLearningRate("lower", "", 0.1),))
    train([Held(first), Held(second)])

    assert [each for each in log if each[1] == "apply"] == [
        ("b", "apply", "SetLearningRate"), ("a", "apply", "Save"), ("a", "apply", "Stop"),
    ]  # fmt: skip


@pytest.mark.parametrize("verb", ["measure", "decide", "record", "settle", "end"])
def test_an_error_of_one_keeps_no_other_from_its_turn(verb):
    log = []

    class Fails(Notes):
        def fail(self, *args):
            raise ZeroDivisionError(verb)

    setattr(Fails, verb, Fails.fail)
    with pytest.raises(ZeroDivisionError, match=verb):
        train([Held(Fails(log, "a")), Held(Notes(log, "b"))])

    assert any(each[:2] == ("b", verb) for each in log)


def test_two_errors_are_told_together():
    class Fails(Notes):
        def decide(self, moment):
            raise ZeroDivisionError(self.label)

    with pytest.raises(ZeroDivisionError, match="a") as caught:
        train([Held(Fails([], "a")), Held(Fails([], "b"))])

    assert any("ZeroDivisionError('b')" in note for note in caught.value.__notes__)


def test_how_a_run_starts_is_worked_out_once():
    log = []
    callback = Held(Notes(log, "a"))
    train([callback], epochs=2)
    train([callback], epochs=4, start=2)
    callback._peakhold_link.participant.is_loaded = True
    train([callback], epochs=1)

    starts = [each[2] for each in log if each[1] == "begin"]
    assert starts == [FRESH.word, CONTINUES.word, RESUMED.word]


def test_a_keeper_resumes_first_puts_back_before_the_first_epoch_and_commits_last():
    log = []

    class Keeps(Keeper, Notes):
        def resume(self, run):
            self.note("resume")

        def put_back(self, run):
            self.note("put_back")

        def commit(self, moment, logs):
            self.note("commit", moment.at.epoch)

    class Lends(Lender, Notes):
        def withdraw(self):
            self.note("withdraw")

        def lend_again(self):
            self.note("lend_again")

    train([Held(Notes(log, "a")), Held(Keeps(log, "k")), Held(Lends(log, "l"))])

    verbs = [each[:2] for each in log]
    assert verbs.index(("k", "resume")) < verbs.index(("a", "needs"))
    assert verbs.index(("k", "put_back")) < verbs.index(("a", "begin"))
    at = verbs.index(("k", "commit"))
    assert verbs[at - 1 : at + 2] == [("l", "withdraw"), ("k", "commit"), ("l", "lend_again")]
    assert verbs.index(("l", "record")) < at


def test_a_listener_gets_every_moment_with_what_was_decided():
    told = []
    with listening(told.append):
        run = train([Held(Notes([], "a", (Stop("enough"),)))])

    events = [each.moment.event for each in told]
    assert events == [Event.TRAIN_BEGIN, Event.EPOCH_BEGIN, Event.EPOCH_END, Event.TRAIN_END]
    end = told[2]
    assert end.moment.metrics == {"loss": 0.5, "from_a": 1.0}
    assert [d for ds in end.decided.values() for d in ds] == [Stop("enough")]
    assert len({each.run_id for each in told}) == 1
    assert run.callbacks[0].session.run_id == told[0].run_id


def test_nobody_listens_after_the_block():
    told = []
    with listening(told.append):
        pass
    train([Held(Notes([], "a"))])

    assert told == []


class Model:
    """Something that callbacks may be given, in a loop that calls hooks by hand."""


def by_hand(model, log):
    callbacks = [Held(Notes(log, "a")), Held(Notes(log, "b"))]
    for callback in callbacks:
        callback.set_model(model)
        callback.on_train_begin()
    assert callbacks[0].session is callbacks[1].session
    for callback in callbacks:
        callback.on_epoch_begin(0)
    for callback in callbacks:
        callback.on_epoch_end(0, {"loss": 0.5})
    late = Held(Notes(log, "c"))
    late.set_model(model)
    late.on_train_begin()  # a run that has trained takes nobody in
    assert late.session is not callbacks[0].session
    for callback in callbacks:
        callback.on_train_end()
    return weakref.ref(callbacks[0].session)


def test_callbacks_that_were_given_one_model_share_a_run_that_is_held_weakly():
    model, log = Model(), []
    session = by_hand(model, log)

    assert [each for each in log if each[1] == "end"] == [("a", "end", 1), ("b", "end", 1)]
    gc.collect()
    assert session() is None


def test_a_run_asks_the_coordinator_and_carries_out_what_it_says():
    asked = []

    class Coordinator:
        """Of a worker that follows; whoever leads has asked for a stop."""

        rank, size, attempt, border = 1, 2, "0", None

        def await_border(self, what):
            asked.append(f"await {what}")

        def lost(self):
            return None

        def meet(self, offer):
            asked.append("meet")
            return [offer, offer]

        def gather(self, what, value):
            asked.append(f"gather {what}")
            return [value, value]

        def agree(self, what, value):
            asked.append(f"agree {what}")
            return value

        def aggregate(self, what, report):
            asked.append(f"aggregate {what}")
            self.metrics = report["metrics"]

        def decide(self, what, answer=None):
            asked.append(f"decide {what}")
            event = "on_epoch_end" if "epoch 1 (" in what else "on_train_end"
            moment = Moment(Event(event), Position(0), {**self.metrics, "val_loss": 2.0})
            return {
                "moment": moment_to_json(moment),
                "facts": {},
                "decided": {"Held()": decisions_to_json([Stop("rank 0 says so")])},
                "states": {},
                "wanted": [],
                "statistics": False,
            }

        def fail(self, error):
            asked.append(f"fail {error}")

        def close(self):
            asked.append("close")

    log, logs = [], {"loss": 0.5}
    callback = Held(Notes(log, "a"))
    run = peakhold.CallbackList([callback], workers=Coordinator(), verbose=0)
    run.on_train_begin()
    run.on_epoch_begin(0)
    assert asked == ["meet", "agree the name of the run"]
    asked.clear()
    run.on_epoch_end(0, logs)

    assert [one.partition(" (")[0] for one in asked] == [
        "aggregate the end of epoch 1", "decide the end of epoch 1"
    ]  # fmt: skip
    assert ("a", "apply", "Stop") in log  # what another has decided is carried out here
    assert logs == {"loss": 0.5, "val_loss": 2.0}
    asked.clear()
    run.on_train_end()
    assert [one.partition(",")[0] for one in asked] == [
        "aggregate the end of training", "decide the end of training",
        "gather the end of the run", "close",
    ]  # fmt: skip
