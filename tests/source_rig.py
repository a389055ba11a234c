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

import numpy as np

from peakhold.run.sources import source_for
from peakhold.runtime.random_state import set_random_state

N_EPOCHS = 3
BROKEN = 1
"""The epoch that is broken off."""


def seed(number=1):
    random.seed(number)
    np.random.seed(number)
    try:
        import torch
    except ImportError:
        return
    torch.manual_seed(number)


def draws():
    """What a loop draws for a batch, from each generator of the process."""
    import torch

    return [random.random(), float(np.random.rand()), torch.rand(2).tolist()]


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
