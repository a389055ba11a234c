"""What readers see of a record: what counts, whatever state the file is in."""

import json
import os
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peakhold.errors import RecordDamagedWarning
from peakhold.ledger import history, read_events, reader
from peakhold.ledger.lines import LONGEST, to_line
from peakhold.ledger.reader import last_event


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.jsonl"


def note(n):
    return to_line({"kind": "note", "n": n})


def epoch_end(epoch, **metrics):
    event = {"kind": "moment", "event": "on_epoch_end", "epoch": epoch, "step": 10 * (epoch + 1)}
    return to_line({**event, "metrics": metrics})


def numbers(path, **arguments):
    return [event["n"] for event in read_events(path, **arguments) if event["kind"] == "note"]


def strictly(call, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return call(*args)


def test_where_there_is_none_there_are_no_events(path):
    assert strictly(lambda: list(read_events(path))) == []
    assert history(path).epoch == []


def test_a_torn_last_line_is_passed_over_in_silence(path):
    path.write_bytes(note(1) + note(2)[:-1])

    assert strictly(numbers, path) == [1]


GARBAGE = [b"", b"garbage", b"\0" * 3000, b"\xff\xfe", b'{"kind":', b"[]", b"{}", b"x" * 3_000_000]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_in_the_middle_is_passed_over_and_told_once(path, garbage):
    path.write_bytes(note(1) + garbage + b"\n" + note(2) + garbage + b"\n" + note(3))
    told = []

    assert numbers(path, on_damage=lambda at, what: told.append(at)) == [1, 2, 3]

    assert told == [len(note(1)), len(note(1) + garbage + b"\n" + note(2))]
    with pytest.warns(RecordDamagedWarning, match="2 lines that cannot be read") as said:
        numbers(path)
    assert len(said) == 1 and str(path) in str(said[0].message)


def test_a_line_without_end_is_passed_over_and_not_kept(path):
    with open(path, "wb") as file:
        file.write(note(1))
        for _ in range(LONGEST // 2**20 + 3):
            file.write(b"x" * 2**20)
        file.write(b"\n" + note(2))
    told = []

    assert numbers(path, on_damage=lambda at, what: told.append(at)) == [1, 2]
    assert told == [len(note(1))]


def test_eight_tebibytes_of_nothing_are_passed_over(path):
    with open(path, "wb") as file:
        file.write(note(1))
        file.truncate(1 << 43)
    told = []

    assert numbers(path, on_damage=lambda at, what: told.append(at)) == [1]
    assert told == [len(note(1))]
    with open(path, "ab") as file:
        file.write(b"\n" + note(2))
    assert numbers(path, on_damage=lambda at, what: None) == [1, 2]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_told_and_holds_nobody_up(path, make):
    make(path)

    with pytest.warns(RecordDamagedWarning, match="no file that can be read"):
        assert numbers(path) == []
    assert last_event(path, frozenset({"note"})) is None


# Attempts


class Attempts:
    """A record by hand, with the offsets that checkpoints of it have."""

    def __init__(self):
        self.data, self.at = b"", {}

    def note(self, n):
        self.data += note(n)
        self.at[n] = len(self.data)
        return self

    def go_on(self, after):
        self.data += to_line({"kind": "goes_on", "from": self.at[after]})
        return self


@pytest.mark.parametrize(
    ("build", "left"),
    [
        (lambda a: a.note(1).note(2).go_on(1).note(3), [1, 3]),
        (lambda a: a.note(1).note(2).go_on(1).note(3).note(4).go_on(3).note(5), [1, 3, 5]),
        (lambda a: a.note(1).note(2).go_on(1).note(3).note(4).go_on(1).note(5), [1, 5]),
        # The newest checkpoint was damaged for a while: the third attempt goes on from the first.
        (lambda a: a.note(1).note(2).note(3).go_on(1).note(4).go_on(2).note(5), [1, 2, 5]),
        (lambda a: a.note(1).go_on(1).go_on(1).go_on(1).note(2), [1, 2]),
    ],
)  # fmt: skip
def test_what_earlier_attempts_wrote_beyond_is_dropped(path, build, left):
    attempts = build(Attempts())
    path.write_bytes(attempts.data)

    assert numbers(path) == left


@given(
    st.lists(st.one_of(st.none(), st.integers(0, 30), st.tuples(st.integers(0, 30))), max_size=25)
)
def test_attempts_are_what_a_list_would_be(tmp_path_factory, script):
    """The model: a list that a new attempt cuts back to what the checkpoint has."""
    path = tmp_path_factory.mktemp("attempts") / "events.jsonl"
    data, checkpoints, now = b"", [(0, [])], []
    for n, what in enumerate(script):
        if what is None:
            checkpoints.append((len(data), list(now)))
        elif isinstance(what, int):
            data += note(n)
            now = [*now, n]
        else:
            offset, then = checkpoints[what[0] % len(checkpoints)]
            data += to_line({"kind": "goes_on", "from": offset})
            now = list(then)
    path.write_bytes(data)

    assert numbers(path) == now


@pytest.mark.parametrize("came_from", [-1, 10**30, "3", None, True, 1.5, [0]])
def test_where_a_hostile_attempt_goes_on_from_is_not_believed(path, came_from):
    path.write_bytes(note(1) + to_line({"kind": "goes_on", "from": came_from}) + note(2))

    assert numbers(path) == [1, 2]


def test_the_word_alone_is_no_attempt(path):
    text = to_line({"kind": "note", "n": 2, "text": "goes_on", "from": 0})
    path.write_bytes(note(1) + text + note(3))

    assert numbers(path) == [1, 2, 3]


# The end


@pytest.mark.parametrize("behind", [0, 10, 40_000])
def test_the_last_event_of_a_kind_is_found_from_the_end(path, behind):
    last = to_line({"kind": "end", "reason": "the last"})
    first = to_line({"kind": "end", "reason": "the first"})
    path.write_bytes(first + note(0) + last + note(1) * behind + b'{"kind":"end"')

    assert last_event(path, frozenset({"end"}))["reason"] == "the last"
    assert last_event(path, frozenset({"start"})) is None


# The history


def test_the_history_has_a_column_for_each_metric(path):
    path.write_bytes(
        epoch_end(0, loss=1.0)
        + note(1)
        + epoch_end(1, loss=float("nan"), val_loss=0.5)
        + epoch_end(2, val_loss=0.25)
    )

    past = history(path)

    assert past.epoch == [0, 1, 2] and past.step == [10, 20, 30]
    assert str(past.history) == "{'loss': [1.0, nan, None], 'val_loss': [None, 0.5, 0.25]}"


def test_the_history_is_that_of_the_attempts_that_count(path):
    first = epoch_end(0, loss=1.0)
    gone = to_line({"kind": "goes_on", "from": len(first)})
    path.write_bytes(first + epoch_end(1, loss=9.0, odd=1.0) + gone + epoch_end(1, loss=0.5))

    assert history(path).history == {"loss": [1.0, 0.5]}


ODD = {
    "a name with a brace": {"metrics": {"f1}": 0.5, "x": 1.0}},
    "a name with an object in it": {"metrics": {'"metrics":{': 0.5, "}}": float("inf")}},
    "metrics of a step before": {"steps": {"E": [{"moment": {"metrics": {"loss": 7.0}}}]}, "metrics": {"loss": 0.5}},
    "metrics before all else": None,
    "no metrics": {},
    "no metrics, but those of a step": {"steps": {"E": [{"moment": {"metrics": {"loss": 7.0}}}]}},
    "empty ones": {"metrics": {}},
    "NaN": {"metrics": {"loss": float("nan"), "val_loss": float("-inf")}, "text": "}"},
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_the_history_is_what_the_events_say_whatever_the_form_of_a_line(path, odd):
    """It is read up to the metrics where that can be."""
    head = {"kind": "moment", "event": "on_epoch_end", "epoch": 1, "step": 20}
    event = (
        {**head, **ODD[odd]}
        if ODD[odd] is not None
        else {"kind": "moment", "metrics": {"loss": 0.5}, **head}
    )
    path.write_bytes(epoch_end(0, loss=1.0) + to_line(event) + epoch_end(2, loss=0.25))

    past = history(path)

    told = [one.get("metrics", {}) for one in read_events(path)]
    assert past.epoch == [0, 1, 2]
    names = {name: None for one in told for name in one}
    assert str(past.history) == str({name: [one.get(name) for one in told] for name in names})


def test_an_attempt_is_seen_wherever_its_line_lies_in_a_piece(path, monkeypatch):
    first = epoch_end(0, loss=1.0)
    gone = to_line({"kind": "goes_on", "from": len(first)})
    path.write_bytes(first + epoch_end(1, loss=9.0) + gone + epoch_end(1, loss=0.5))
    for piece in range(12, 200, 7):
        monkeypatch.setattr(reader, "_PIECE", piece)
        assert history(path).history == {"loss": [1.0, 0.5]}


@pytest.mark.parametrize(
    "line",
    [
        b"garbage\n",
        b'{"kind":"moment","event":"on_epoch_end"\n',
        json.dumps({"kind": "moment", "event": "on_epoch_end"}).encode() + b"\n",
        json.dumps(
            {"kind": "moment", "event": "on_epoch_end", "epoch": "0", "step": 1, "metrics": []}
        ).encode() + b"\n",
    ],
)  # fmt: skip
def test_a_damaged_line_is_no_epoch_and_is_told(path, line):
    path.write_bytes(epoch_end(0, loss=1.0) + line + epoch_end(1, loss=0.5))

    with pytest.warns(RecordDamagedWarning, match="1 line that cannot be read"):
        past = history(path)
    assert past.epoch == [0, 1]
