"""What a position is, what it costs to come back to it, and what is refused."""

import itertools
import json
import pathlib
import random
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from peakhold.errors import InvalidArgumentError
from peakhold.run.sources import source_for
from source_kinds import N_ROWS, TORCH, ByIndex, Iterable, Rows, Stream, seeded
from source_rig import as_stored, behind, draws, gone_on, plain, seed, with_us

TESTS = pathlib.Path(__file__).parents[1]


def position(loader, count, epoch=0):
    """A source's state behind some batches."""
    source = source_for(loader)
    batches = source.begin(epoch)
    for _ in range(count):
        next(batches)
    return as_stored(source.state())


# What is loaded again


@pytest.mark.parametrize(
    "kind",
    [kind for kind in TORCH if not kind.loads and "workers" not in kind.name],
    ids=lambda kind: kind.name,
)
def test_what_is_skipped_is_not_loaded(kind):
    state = position(kind.make(), 3)
    loader = kind.make()

    batches = source_for(loader).go_on(state, 0)

    assert loader.dataset.n_loaded == 0
    next(batches)
    assert loader.dataset.n_loaded == (1 if loader.batch_sampler is None else 4)


def test_an_index_that_is_skipped_is_not_asked_for():
    asked = []

    class Asked(ByIndex):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    state = position(Asked(), 7)
    asked.clear()

    next(source_for(Asked()).go_on(state, 0))

    assert asked == [7]


def test_replay_loads_again():
    loader = DataLoader(Rows(), 4)

    source_for(loader, replay=True).go_on(position(DataLoader(Rows(), 4), 3), 0)

    assert loader.dataset.n_loaded == 12


# Positions


def shuffling():
    return DataLoader(Rows(), 4, shuffle=True, generator=seeded())


@pytest.mark.parametrize("make", [shuffling, Iterable, lambda: list(range(N_ROWS))])
def test_it_goes_on_twice_in_one_epoch(make):
    unbroken, states = with_us(make)
    seed()
    source = source_for(make())
    draws()
    batches = source.go_on(states[1], 1)
    assert same_position(source.state(), states[1])  # before its first batch, too
    for _ in range(2):
        next(batches)
        draws()

    tail = gone_on(make, as_stored(source.state()), 3)

    assert tail == behind(unbroken, 3)


def same_position(one, other):
    return json.dumps(one, default=np.ndarray.tolist) == json.dumps(
        other, default=np.ndarray.tolist
    )


def test_a_later_epoch_after_a_pass_that_was_broken_off():
    seed()
    source, states = source_for(shuffling()), []
    seen = []
    for epoch in range(3):
        seen.append([plain(batch) for batch in itertools.islice(source.begin(epoch), 2)])
        states.append(as_stored(source.state()))

    seed()
    again = source_for(shuffling())
    again.pass_over(states[0])
    torch.set_rng_state(torch.from_numpy(states[0]["now"]["process"]["torch"]))

    assert [plain(batch) for batch in itertools.islice(again.begin(1), 2)] == seen[1]
    assert states[1]["batch"] == 2
    assert not states[1]["has_ended"]


def test_the_loader_is_as_it_was():
    loader = DataLoader(Rows(), 4, shuffle=True)
    sampler, batch_sampler, names = loader.sampler, loader.batch_sampler, set(vars(loader))

    batches = source_for(loader).go_on(position(shuffling(), 2), 0)
    next(batches)

    assert loader.sampler is sampler
    assert loader.batch_sampler is batch_sampler
    assert set(vars(loader)) == names


def test_nothing_holds_a_batch_or_an_iterator():
    import weakref

    class Batch:
        pass

    class Batches:
        def __iter__(self):
            self.iterator = weakref.ref(made := (Batch() for _ in range(3)))
            return made

    loader = Batches()
    source = source_for(loader)
    batches = source.begin(0)
    batch = weakref.ref(next(batches))
    assert batch() is None

    del batches

    assert loader.iterator() is None


def test_an_error_of_a_loader_leaves_it_where_it_is():
    class Once(Rows):
        def __getitem__(self, index):
            self.n_loaded += 1
            if self.n_loaded == 6:
                raise ValueError(index)
            return index, 0

    source = source_for(DataLoader(Once(), 4))
    batches = source.begin(0)
    next(batches)
    with pytest.raises(ValueError, match="5"):
        next(batches)

    assert source.state()["batch"] == 1
    assert next(batches)[0].tolist() == [8, 9, 10, 11]  # as torch goes on


# Iterators


def endless():
    rows = list(range(5))
    while True:
        random.shuffle(rows)
        yield from rows


@pytest.mark.parametrize("broken", [(1, 2), (2, 0), (2, 3)])
def test_an_endless_generator_goes_through_all_epochs(broken):
    seed()
    source, seen, state = source_for(endless()), [], None
    for epoch in range(4):
        batches = source.begin(epoch)
        for number in range(4):
            if (epoch, number) == broken:
                state = as_stored(source.state())
            if number < 3:
                seen.append((epoch, next(batches), float(np.random.rand())))

    seed()
    np.random.rand()
    again, rest = source_for(endless()), []
    batches = again.go_on(state, broken[0])
    for epoch in range(broken[0], 4):
        if epoch > broken[0]:
            batches = again.begin(epoch)
        for _ in range(3 - broken[1] if epoch == broken[0] else 3):
            rest.append((epoch, next(batches), float(np.random.rand())))

    assert rest == seen[broken[0] * 3 + broken[1] :]


def test_a_generator_made_for_each_epoch():
    state = position((number for number in range(6)), 4, epoch=2)

    again = source_for(number for number in range(6))

    assert list(again.go_on(state, 2)) == [4, 5]
    assert list(source_for(iter("ab")).begin(3)) == ["a", "b"]

    source = source_for(iter("ab"))
    assert list(source.begin(0)) == ["a", "b"]
    assert list(source_for(iter("ab")).go_on(source.state(), 1)) == ["a", "b"]


class Counting:
    """An iterator with a state."""

    def __init__(self):
        self.number = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.number += 1
        return self.number

    def state_dict(self):
        return {"number": (self.number, torch.tensor([1.5]), b"x"), 3: 2**70}

    def load_state_dict(self, state):
        assert torch.equal(state["number"][1], torch.tensor([1.5]))
        assert state["number"][2] == b"x"
        assert state[3] == 2**70
        self.number = state["number"][0]


def test_an_iterator_with_a_state_is_not_gone_through_again():
    source = source_for(Counting())
    assert source.limits == ()
    state = position(Counting(), 5)

    again = source_for(Counting())

    assert next(again.go_on(state, 0)) == 6
    assert next(again.begin(1)) == 7


class Odd(Counting):
    def state_dict(self):
        return {"lock": object()}


def test_a_state_that_cannot_be_kept_is_named():
    with pytest.raises(InvalidArgumentError, match=r"not object at 'lock', got loader=<.*Odd"):
        position(Odd(), 1)


# What is said, and refused


@pytest.mark.parametrize(
    ("make", "other", "words"),
    [
        (lambda: DataLoader(Rows(), 4), lambda: DataLoader(Rows(), 8), "got n_batches=3"),
        (lambda: DataLoader(Rows(), 4), lambda: DataLoader(Rows(), 8), "batch_size was 4, is 8"),
        (
            lambda: DataLoader(Rows(), 4),
            lambda: DataLoader(Rows(), 4, shuffle=True),
            "got sampler=",
        ),
        (
            lambda: DataLoader(Rows(), 4),
            lambda: [1, 2, 3],
            "with kind='DataLoader', got kind='list'",
        ),
        (lambda: [1, 2, 3], lambda: [1, 2], "with n_batches=3, got n_batches=2"),
        (lambda: np.zeros((4, 2)), lambda: np.zeros((4, 3)), "got shape=[4, 3]"),
    ],
)
def test_a_loader_that_changed_inside_an_epoch_is_refused(make, other, words):
    state = position(make(), 2)
    before = torch.get_rng_state()

    with pytest.raises(InvalidArgumentError, match=re.escape(words)) as caught:
        source_for(other()).go_on(state, 0)

    assert "inside epoch 1 behind 2 batches" in str(caught.value)
    assert "\nHint: " in str(caught.value)
    assert torch.equal(torch.get_rng_state(), before)


def test_at_an_epochs_border_a_loader_may_change():
    state = position(DataLoader(Rows(), 4, shuffle=True), 6)

    assert len(list(source_for(DataLoader(Rows(), 8)).go_on(state, 1))) == 3
    assert len(list(source_for([1, 2]).go_on(state, 1))) == 2


def test_what_nothing_can_be_had_of_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"^expected batches: .* got loader=3\.\nHint: "):
        source_for(3)


@pytest.mark.parametrize(
    ("make", "n_batches", "limit"),
    [
        (lambda: DataLoader(Rows(), 4), 6, None),
        (lambda: DataLoader(Rows(), 4, num_workers=1), 6, "replay=True"),
        (
            lambda: DataLoader(Rows(), 4, num_workers=1, persistent_workers=True),
            6,
            "cannot be brought back",
        ),
        (lambda: DataLoader(Rows(), 4, num_workers=1, in_order=False), 6, "in_order=False"),
        (lambda: DataLoader(Stream(), 4), None, "IterableDataset"),
        (lambda: [1, 2], 2, None),
        (ByIndex, N_ROWS, None),
        (Iterable, None, "gone through again"),
        (lambda: iter([1]), None, "cannot go back"),
        (lambda: np.zeros((3, 1)), 3, None),
    ],
)
def test_what_is_known_before_the_first_batch(make, n_batches, limit):
    source = source_for(make())

    assert source.n_batches == n_batches
    assert any(limit in one for one in source.limits) if limit else source.limits == ()


def test_asking_for_the_length_of_a_stream_has_no_effect(recwarn):
    class Longer(IterableDataset):
        def __len__(self):
            return 2

        def __iter__(self):
            return iter(range(6))

    source = source_for(DataLoader(Longer(), None))

    assert source.n_batches == 2
    assert len(list(source.begin(0))) == 6
    assert not recwarn.list


def test_a_loaders_own_iter_is_gone_through_again():
    class Doubling(DataLoader):
        def __iter__(self):
            for rows, _ in super().__iter__():
                yield rows * 2

    source = source_for(Doubling(Rows(), 4))

    assert "__iter__ is its own" in source.limits[0]
    behind_two = source.go_on(position(Doubling(Rows(), 4), 2), 0)
    assert next(behind_two).tolist() == [16, 18, 20, 22]


# Through a store, and a kill


def test_a_position_goes_through_a_store_and_a_kill(tmp_path):
    """Three processes: one unbroken, one that kills itself inside an epoch, one that goes on."""

    def run(mode, code):
        process = subprocess.run(
            [sys.executable, str(TESTS / "source_kill.py"), mode, str(tmp_path / "store")],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert process.returncode == code, process.stderr[-3000:]
        return process.stdout.splitlines()

    unbroken = run("unbroken", 0)
    killed = run("killed", -signal.SIGKILL)
    left = run("again", 0)

    assert killed == unbroken[: len(killed)]
    assert left == unbroken[len(killed) :]
    assert 6 < len(killed) < 12


def test_no_framework_is_imported_for_it():
    code = (
        "import sys, peakhold.run.sources; "
        "print([name for name in ('torch', 'numpy', 'tensorflow', 'jax') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
