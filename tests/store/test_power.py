"""Power loss: what is on the platter after a cut at any call, in the worst order a disk may choose.

Each call is recorded. A cut after the n-th leaves: every name and byte that was flushed, and of the
rest whatever the disk liked. Three disks are simulated: one that kept nothing that was not flushed,
one that kept all names but no unflushed bytes (zeros in their place, as XFS and ext4 in writeback mode
do), and several that threw a coin for every name and every file.
"""

import os
import random

import pytest

from peakhold.store import KeepBest, KeepLast, Reader, Store
from peakhold.testing import WatchedDisk
from store_support import assert_same, quietly, state, survey


class Recorder(WatchedDisk):
    """Writes down every call that changes something, with what descriptors stand for."""

    def __init__(self):
        self.log = []
        self.paths = {}

    def after(self, name, arguments, result):
        if name == "open_root":
            self.paths[result] = ""
        elif name in ("open_folder", "create", "open", "open_lock"):
            self.paths[result] = self.path(*arguments)
        if name == "create" or name == "make_folder":
            self.log.append((name, self.path(*arguments)))
        elif name == "write" and self.paths[arguments[0]] != "/.lock":  # nothing depends on it
            self.log.append((name, self.paths[arguments[0]], bytes(arguments[1][:result])))
        elif name == "sync":
            self.log.append((name, self.paths[arguments[0]]))
        elif name == "rename":
            old, new, old_at, new_at = arguments
            self.log.append((name, self.path(old, old_at), self.path(new, new_at)))
        elif name in ("remove", "remove_folder"):
            self.log.append((name, self.path(*arguments)))

    def path(self, name, at):
        return f"{self.paths[at]}/{name}"


class Node:
    """A file (`data`, `flushed`) or a folder (`names`, `flushed`), with what a cut may leave of it."""

    def __init__(self, folder):
        self.folder = folder
        self.now = {} if folder else b""
        self.flushed = {} if folder else b""


class Platter:
    def __init__(self):
        self.root = Node(folder=True)

    def find(self, path):
        node = self.root
        for name in path.strip("/").split("/") if path else []:
            node = node.now[name]
        return node

    def parent(self, path):
        folder, _, name = path.rpartition("/")
        return self.find(folder).now, name

    def play(self, name, path, *more):
        if name == "sync":
            node = self.find(path)
            node.flushed = dict(node.now) if node.folder else node.now
        elif name == "write":
            self.find(path).now += more[0]
        elif name in ("create", "make_folder"):
            names, key = self.parent(path)
            names[key] = Node(folder=name == "make_folder")
        elif name == "rename":
            names, key = self.parent(path)
            others, other = self.parent(more[0])
            assert other not in others, "a rename may never replace"
            others[other] = names.pop(key)
        else:
            names, key = self.parent(path)
            del names[key]

    def leave(self, node, target, choose):
        """Write to `target` what a cut leaves; `choose` picks between now, flushed and zeros."""
        if not node.folder:
            zeros = b"\0" * len(node.now)
            certain = node.now == node.flushed
            target.write_bytes(node.now if certain else choose([node.now, node.flushed, zeros]))
            return
        target.mkdir()
        for name in {**node.now, **node.flushed}:
            survivors = [names[name] for names in (node.now, node.flushed) if name in names]
            certain = node.now.get(name) is node.flushed.get(name)
            child = (
                survivors[0]
                if certain
                else choose([node.now.get(name), node.flushed.get(name), None])
            )
            if child is not None:
                self.leave(child, target / name, choose)


DISKS = {
    "kept only what was flushed": lambda options: options[1],
    "kept names, lost bytes": lambda options: options[0] if isinstance(options[0], Node) else options[1],
    "kept names, zeroed bytes": lambda options: options[0] if isinstance(options[0], Node) else options[2],
}  # fmt: skip
for seed in range(4):
    DISKS[f"coin {seed}"] = random.Random(seed).choice


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The calls of a run of nine saves, with the moments when each was reported as committed."""
    disk = Recorder()
    folder = tmp_path_factory.mktemp("recorded")
    keep = KeepLast(2) | KeepBest("loss", "min")
    with Store(folder, keep, disk=disk, undo=1) as store:
        for step in range(9):
            pending = store.save(step, state(step), metrics={"loss": abs(step - 3) + 1.0})
            pending.task.wait()
            disk.log.append(("reported", step))
            store.wait()
        store.delete(7)
        disk.log.append(("deleted", 7))
        store.undelete(7)
    return disk.log


def test_no_commit_is_reported_before_everything_is_flushed(recorded):
    """Read straight off the log, without any model of a disk."""
    for step in range(9):
        name = f"/step-{step:08d}"
        end = recorded.index(("reported", step))
        renamed = next(i for i, c in enumerate(recorded) if c[0] == "rename" and c[2] == name)
        hidden = recorded[renamed][1]
        created = [c[1] for c in recorded[:end] if c[0] == "create" and c[1].startswith(hidden)]
        assert [os.path.basename(path) for path in created] == [
            "model.safetensors", "model.json", "train.safetensors", "train.json", "manifest.json"]  # fmt: skip
        flushed = [recorded.index(("sync", path)) for path in created]
        last_write = [
            max(i for i, c in enumerate(recorded) if c[:2] == ("write", p)) for p in created
        ]
        assert all(w < f for w, f in zip(last_write, flushed, strict=True))
        assert flushed == sorted(flushed), "the manifest is the last file"
        folder_flushed = recorded.index(("sync", hidden))
        parent_flushed = next(i for i in range(renamed, end) if recorded[i] == ("sync", ""))
        assert flushed[-1] < folder_flushed < renamed < parent_flushed < end


def test_nothing_is_unlinked_before_its_deletion_is_durable(recorded):
    trashed = {}
    for i, call in enumerate(recorded):
        if call[0] == "rename" and call[2].startswith("/.trash/"):
            trashed[call[2]] = i
        if call[0] == "remove":
            since = trashed[os.path.dirname(call[1])]
            between = recorded[since:i]
            assert ("sync", "/.trash") in between and ("sync", "") in between
    assert len(trashed) >= 5


@pytest.mark.parametrize("disk", DISKS)
def test_a_cut_at_any_moment(recorded, tmp_path, disk):
    platter, committed, cuts = Platter(), [], 0
    for i, (name, *arguments) in enumerate(recorded):
        if name == "reported":
            committed.append(arguments[0])
        elif name != "deleted":
            platter.play(name, *arguments)
        if name in ("create", "write") and i % 3:
            continue  # between two bytes of one file nothing else can go wrong
        target = tmp_path / f"{i}"
        platter.leave(platter.root, target, DISKS[disk])
        check(target, committed)
        cuts += 1
    print(f"{cuts} cuts on a disk that {disk}: nothing lost")
    assert cuts > 150


def check(folder, committed):
    """What was reported is there, unless retention had begun to delete it; what is listed is whole."""
    if not committed:
        return
    steps = survey(folder)
    expected = max(committed)
    assert len(steps) >= min(2, len(committed))
    assert expected in steps or (expected == 8 and 8 in steps)
    best = min(committed, key=lambda step: abs(step - 3))
    assert best in steps
    with quietly(Store, folder) as store:
        loaded = store.load("latest")
        assert loaded.entry.step >= expected
        assert_same(loaded.parts, state(loaded.entry.step))
        store.save(99, state(99)).result()
    assert Reader(folder).latest.step == 99
