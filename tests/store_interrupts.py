"""A store that is interrupted at each line of a hand-over, and must be good afterwards."""

import threading

import numpy as np

from interrupting import Lines, interrupt
from peakhold.errors import SaveError, StoreBusyError, StoreClosedError
from peakhold.files import background
from peakhold.store import Reader, Store
from peakhold.testing import WatchedDisk
from store_support import quietly, state, survey

MODES = {
    "copied": {},
    "replacing": {"when_busy": "replace"},
    "live": {"memory_limit": 0},
    "immutable": {},
}


class Slow(WatchedDisk):
    """Holds the writer up at its first flush, until the main thread has gone on."""

    def __init__(self):
        self.gate, self.waited = threading.Event(), False

    def before(self, name, arguments):
        if name == "sync" and not self.waited:
            self.waited = True
            self.gate.wait(0.02)


def overwrite(parts):
    """What training does next: every array changes."""
    for tree in parts.values():
        for leaf in tree.values():
            if isinstance(leaf, np.ndarray):
                leaf[...] = 0


def save_once(folder, mode, lines, *, busy):
    """Two saves, the second interrupted; then the arrays change, and the store is used on.

    Returns the steps that were acknowledged, and those that may be there.
    """
    disk = Slow()
    store = Store(folder, disk=disk, **MODES[mode])
    acknowledged, may_be = [], []
    first = store.save(1, state(1))
    if not busy:
        first.result()
    acknowledged.append(1)
    parts = state(2)
    try:
        with lines:
            pending = store.save(2, parts, immutable=mode == "immutable")
    except KeyboardInterrupt:
        may_be.append(2)
        overwrite(parts)
    else:
        if mode == "immutable":
            pending.task.wait()
        overwrite(parts)
        acknowledged.append(2)
    disk.gate.set()
    if mode == "replacing":  # the second may take the place of the first, the third of the second
        acknowledged, may_be = [], [1, 2]
    acknowledged.append(store.save(3, state(3)).result(60).step)
    return store, acknowledged, may_be


def check(folder, acknowledged, may_be):
    """Each checkpoint is whole and what it says it is; what was acknowledged is there."""
    steps = survey(folder)
    assert set(acknowledged) <= set(steps) <= {*acknowledged, *may_be}, (steps, acknowledged)


def interrupt_save(folder, mode, at, *, busy):
    """Ctrl-C at one line of `save`; False if it has not that many."""
    lines = Lines(at, interrupt)
    store, acknowledged, may_be = save_once(folder, mode, lines, busy=busy)
    quietly(store.close)
    check(folder, acknowledged, may_be)
    Store(folder).close()
    return lines.where is not None


def interrupt_close(base, at, how):
    """Ctrl-C at one line of `close` or `wait` or `delete`; False if it has not that many.

    Another store is opened at once: it may get the descriptors that the first has let go.
    """
    one, two = base / "one", base / "two"
    disk = Slow()
    store = Store(one, disk=disk)
    store.save(1, state(1)).result()
    store.save(2, state(2))
    lines = Lines(at, interrupt)
    steps = [1, 2]
    try:
        with lines:
            if how == "delete":
                store.delete(1)
            else:
                getattr(store, how)()
    except KeyboardInterrupt:
        pass
    with Store(two) as other:
        disk.gate.set()
        assert other.save(9, state(9)).result(60).step == 9
        store.close()
        assert survey(two) == [9]
    with Store(one):  # nobody owns it
        pass
    if how == "delete":
        assert survey(one) in ([1, 2], [2])
    else:
        assert survey(one) == steps
    return lines.where is not None


def handle_in_save(folder, mode, at, *, busy):
    """A handler that saves, and waits, at one line of `save`: it does, or is told at once."""
    made = []

    def handler():
        try:
            made.append(store_of[0].save(7, state(7)).result(60).step)
        except StoreBusyError:
            made.append("busy")

    store_of = []
    real = Store.__init__

    def remember(self, *args, **named):
        real(self, *args, **named)
        store_of.append(self)

    Store.__init__ = remember
    try:
        lines = Lines(at, handler)
        store, acknowledged, may_be = save_once(folder, mode, lines, busy=busy)
    finally:
        Store.__init__ = real
    quietly(store.close)
    if made == [7]:
        acknowledged.append(7)
    check(folder, acknowledged, may_be)
    return made[0] if made else None


def handle_elsewhere(folder, at, how):
    """The same at one line of `wait`, `result` or `close`."""
    disk = Slow()
    store = Store(folder, disk=disk)
    store.save(1, state(1)).result()
    pending = store.save(2, state(2))
    made = []

    def handler():
        disk.gate.set()
        try:
            made.append(store.save(7, state(7)).result(60).step)
        except (StoreClosedError, SaveError) as error:
            made.append(type(error).__name__)

    with Lines(at, handler):
        pending.result() if how == "result" else getattr(store, how)()
    quietly(store.close)
    background.drain()
    assert survey(folder) == [1, 2, *([7] if made == [7] else [])], made
    assert Reader(folder).latest.step == (7 if made == [7] else 2)
    return made[0] if made else None
