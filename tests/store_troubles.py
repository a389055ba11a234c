"""Each call of the disk fails once, with each error, in everything that a store can be asked for.

Afterwards either the truth was told, or an error that is the trouble; and what was acknowledged is
there. `tests/store/test_trouble.py` has the short form, `tests/crash/test_store_trouble.py` the
long one.
"""

import errno
import gc
import shutil
import warnings
from collections import Counter

from leftovers import descriptors
from peakhold.errors import CheckpointDamagedError, CheckpointDamagedWarning, PeakholdWarning
from peakhold.files import background
from peakhold.store import KeepLast, Reader, Store
from peakhold.testing import FailingDisk
from store_support import assert_same, quietly, state

ERRORS = (errno.EMFILE, errno.ENOMEM, errno.ESTALE, errno.EINTR, errno.EACCES, errno.EIO)
DAMAGE = (errno.EIO,)
"""What the medium cannot give back is damage: an older one is served, and it is said."""


def begin(folder):
    """A store with two checkpoints, one in the trash, and what a killed process has left."""
    with Store(folder, keep=KeepLast(2)) as store:
        for step in (1, 2, 3):
            store.save(step, state(step), metrics={"loss": 1 / step})
            store.wait()
    shutil.copytree(folder / "step-00000003", folder / ".tmp-step-00000004-01234567")
    return folder


def _steps(entries):
    return [entry.step for entry in entries]


LOOKS = {
    "list": lambda reader: _steps(reader.list()),
    "latest": lambda reader: reader.latest.step,
    "best": lambda reader: reader.best("loss", "min").step,
    "load latest": lambda reader: reader.load().entry.step,
    "load a step": lambda reader: reader.load(3).entry.step,
    "load mapped": lambda reader: reader.load(mmap=True).entry.step,
    "load a tensor": lambda reader: reader.load_tensor(3, "model", "steps").item(),
    "verify": lambda reader: [(finding.name, finding.ok) for finding in reader.verify()],
}
CHANGES = ("open", "save", "retention", "delete", "undelete")
ACTIONS = (*LOOKS, *CHANGES)


def calls_of(begun, folder, action):
    """How many calls of the disk it takes."""
    disk = FailingDisk()
    _act(begun, folder / "count", action, disk)
    return disk.count


def try_each(begun, folder, action, pairs):
    """Fail call after call; how often the truth was told, and how often the trouble."""
    told = Counter()
    for at, error in pairs:
        disk = FailingDisk(at, error)
        told[_act(begun, folder / f"{at}-{error}", action, disk)] += 1
        assert disk.failed, (action, at, error)
    return told


def _act(begun, folder, action, disk):
    if action in LOOKS:
        told = _look(begun, action, disk)
    else:
        shutil.copytree(begun, folder)
        told = _change(folder, action, disk)
        shutil.rmtree(folder)
    background.drain()
    gc.collect()  # a failed read's traceback holds what was mapped
    assert descriptors(folder) == descriptors(begun) == [], (action, disk.at, disk.error)
    return told


def _is_trouble(error, disk):
    """Whether this error, or what it came of, is the one that the disk gave."""
    while error is not None:
        if isinstance(error, OSError) and error.errno == disk.error:
            return True
        if isinstance(error, CheckpointDamagedError) and disk.error in DAMAGE:
            return True
        error = error.__cause__ or error.__context__
    return False


def _look(folder, action, disk):
    place = (action, disk.at, disk.error, disk.failed)
    truth = LOOKS[action](Reader(folder))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found = LOOKS[action](Reader(folder, disk=disk))
        except Exception as error:
            assert _is_trouble(error, disk), place
            return "trouble"
    said = [w for w in warned if issubclass(w.category, CheckpointDamagedWarning)]
    if found == truth:
        return "truth"
    assert disk.error in DAMAGE, (place, found)
    assert said or action == "verify", (place, found)
    return "damage"


def _change(folder, action, disk):
    """Open a store, do it, open another store and save: nothing that was acknowledged is lost."""
    place = (action, disk.at, disk.error, disk.failed)
    at, disk.at = disk.at, 0
    told, acknowledged = "truth", [2, 3]
    store = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PeakholdWarning)
        try:
            if action == "open":
                disk.at = at
                store = Store(folder, KeepLast(2), disk=disk)
            else:
                store = Store(folder, KeepLast(2), disk=disk)
                disk.count, disk.at = 0, at
                told = _do(store, action, acknowledged, disk)
        except Exception as error:
            assert _is_trouble(error, disk), (place, repr(error))
            told = "trouble"
    count, disk.at = disk.count, 0
    try:
        if store is not None:  # it can be used on, and its next commit is the newest
            quietly(store.save, 8, state(8)).result()
            acknowledged.append(8)
            quietly(store.wait)
            _check(folder, acknowledged, place)
    finally:
        if store is not None:
            quietly(store.close)
    with quietly(Store, folder, KeepLast(2)) as another:
        quietly(another.save, 9, state(9)).result()
    _check(folder, [*acknowledged, 9], place)
    disk.count = count
    return told


def _do(store, action, acknowledged, disk):
    told = "truth"
    if action == "save":
        store.save(4, state(4)).result()
        acknowledged.append(4)
        store._retention.wait()
    elif action == "retention":
        held, disk.at = disk.at, 0
        store._keep, keep = None, store._keep
        store.save(4, state(4)).result()
        acknowledged.append(4)
        disk.count, disk.at, store._keep = 0, held, keep
        background.submit(store._retain).result()
        told = "trouble" if store._notices else "truth"
        if disk.failed and not store._notices:  # made up for by the next
            told = "truth"
    elif action == "delete":
        store.delete(2)
        acknowledged.remove(2)
    elif action == "undelete":
        store._keep = None
        assert store.undelete().step == 1
        acknowledged.append(1)
    return told


def _check(folder, acknowledged, place):
    """The newest is the last that was acknowledged, and of the others what retention keeps."""
    reader = Reader(folder)
    entries = reader.list()
    assert entries[-1].step == acknowledged[-1], (place, _steps(entries))
    assert acknowledged[-2] in _steps(entries), (place, _steps(entries))
    assert len({entry.commit for entry in entries}) == len(entries), place
    assert reader.load().entry.step == acknowledged[-1], place
    for entry in entries:
        assert_same(reader.load(entry).parts, state(entry.step))
