"""One loop, unbroken and broken off: what it saw, and what it drew, batch by batch.

A loop seeds all generators, makes its loader, and draws from each of them for each batch, as dropout
does. Broken off at a border, it is begun anew: the program runs from its first line, generators
are anywhere by then, and the source goes on.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import sys

import numpy as np

from kind_of_source import LOADED
from peakhold.run.sources import source_for
from peakhold.runtime.random_state import set_random_state

N_EPOCHS = 3
BROKEN = 1
"""The epoch that is broken off."""


def seed(number=1):
    random.seed(number)
    np.random.seed(number)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(number)


def draws():
    """What a loop draws for a batch, from each generator of the process."""
    torch = sys.modules.get("torch")
    drawn = [] if torch is None else torch.rand(2).tolist()
    return [random.random(), float(np.random.rand()), drawn]


@dataclasses.dataclass(frozen=True)
class Seen:
    """A batch, or the end of an epoch (`batch` is None)."""

    epoch: int
    batch: int | None
    rows: object
    augmented: object
    drawn: object


def plain(batch):
    """A batch as rows and what was made of them at random."""
    rows, augmented = batch if isinstance(batch, (tuple, list)) and len(batch) == 2 else (batch, 0)
    return _values(rows), _values(augmented)


def _values(value):
    if isinstance(value, (int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_values(one) for one in value]
    return np.asarray(value).tolist()


def loop(batches_of, first=0, at=0):
    """What the loop sees and draws, from a place on."""
    seen = []
    for epoch in range(first, N_EPOCHS):
        number = at if epoch == first else 0
        for batch in batches_of(epoch):
            number += 1
            seen.append(Seen(epoch, number, *plain(batch), draws()))
        seen.append(Seen(epoch, None, None, None, draws()))
    return seen


def without_us(make):
    """The loop as its user wrote it."""
    seed()
    loader = make()
    return loop(lambda _: loader)


def with_us(make, *, replay=False):
    """The loop, with a source.

    Returns:
        What it saw and drew, and the source's position at each border of the epoch `BROKEN`, by
        the batches before it; `"end"` for behind the epoch.
    """
    seed()
    source = source_for(make(), replay=replay)
    states = {}

    def batches(epoch):
        each = source.begin(epoch)
        for number in itertools.count():
            if epoch == BROKEN:
                states[number] = as_stored(source.state())
            try:
                batch = next(each)
            except StopIteration:
                break
            yield batch
        if epoch == BROKEN:
            states["over"] = as_stored(source.state())

    seen = []
    for epoch in range(N_EPOCHS):
        for number, batch in enumerate(batches(epoch), 1):
            seen.append(Seen(epoch, number, *plain(batch), draws()))
        seen.append(Seen(epoch, None, None, None, draws()))
        if epoch == BROKEN:
            states["end"] = as_stored(source.state())
    return seen, states


def gone_on(make, state, at, *, replay=False):
    """The loop, begun anew, from a position on."""
    seed()
    source = source_for(make(), replay=replay)
    draws(), draws()
    if at == "end":  # generators are the run's to put back, where no source has to
        set_random_state(state["now"]["process"])
        first, at = BROKEN + 1, 0
    else:
        first, at = BROKEN, state["batch"]
    return loop(
        lambda number: source.go_on(state, first) if number == first else source.begin(number),
        first,
        at,
    )


def behind(seen, at):
    """What is left of a loop behind a border."""
    if at == "end":
        return [one for one in seen if one.epoch > BROKEN]
    left = [one for one in seen if one.epoch >= BROKEN]
    if at == "over":
        return left[next(at for at, one in enumerate(left) if one.batch is None) :]
    return left[at:]


def as_stored(state):
    """The same tree, its plain values through JSON and its arrays copied."""
    if isinstance(state, dict):
        assert all(isinstance(key, str) for key in state), state
        return {key: as_stored(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [as_stored(value) for value in state]
    if isinstance(state, np.ndarray):
        return state.copy()
    return json.loads(json.dumps(state))


def measured(kind):
    """What is exact of a kind of loader, at each border.

    Returns:
        By what was tried, whether it is as in the unbroken loop: `as without us`, and for each
        border `batches`, `rows`, `drawn` (by the loop, later epochs included) and `augmented`.
    """
    unbroken, states = with_us(kind.make, replay=kind.replay)
    last = max(at for at in states if isinstance(at, int))
    found = {"as without us": unbroken == without_us(kind.make)}
    again = loads_again(kind)
    if again is not None:
        found["loads" if kind.loads else "loads nothing"] = again is kind.loads
    borders = (0, 1, last // 2, last - 1, last, "over", "end")
    if "workers" in kind.name:  # each starts processes, for each epoch that is left
        borders = (0, last // 2, last, "end")
    for at in borders:
        tail = gone_on(kind.make, states[at], at, replay=kind.replay)
        expected = behind(unbroken, at)
        for name, part in PARTS.items():
            found[f"{at}: {name}"] = [part(one) for one in tail] == [part(one) for one in expected]
    return found


def loads_again(kind):
    """Whether an epoch that goes on behind three batches loads those; None if nobody counts."""
    seed()
    source = source_for(kind.make(), replay=kind.replay)
    LOADED.value = 0
    batches = list(source.begin(0))
    all_rows = LOADED.value
    if not all_rows:
        return None
    first = sum(int(np.size(plain(batch)[0])) for batch in batches[:3])
    seed()
    source = source_for(kind.make(), replay=kind.replay)
    begun = source.begin(0)
    for _ in range(3):
        next(begun)
    state = as_stored(source.state())
    del begun, source  # what was loaded ahead is of no interest
    source = source_for(kind.make(), replay=kind.replay)
    LOADED.value = 0
    rest = list(source.go_on(state, 0))
    assert len(rest) == len(batches) - 3
    assert LOADED.value in {all_rows, all_rows - first}, (LOADED.value, all_rows, first)
    return LOADED.value == all_rows


PARTS = {
    "batches": lambda one: (one.epoch, one.batch),
    "rows": lambda one: one.rows,
    "drawn": lambda one: one.drawn,
    "augmented": lambda one: one.augmented,
}


def expected_of(kind, found):
    """What must have been found; where something is not exact, it differs at some border."""
    wrong = {name for name, is_so in found.items() if not is_so}
    if kind.sets_epochs:  # which is what we add
        wrong.discard("as without us")
    if kind.augmented:
        assert not wrong
    else:
        assert wrong
        assert all(name.endswith("augmented") for name in wrong), wrong


if __name__ == "__main__":
    from source_kinds_elsewhere import ELSEWHERE
    from source_table import line_of

    for each in ELSEWHERE[sys.argv[1]]():
        expected_of(each, measured(each))
        print(line_of(each), flush=True)
