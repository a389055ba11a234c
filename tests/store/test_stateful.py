"""Save, crash, reopen, delete, undelete, damage and verify in any order, beside a simple model."""

import os
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from peakhold._core.policies.keep import CheckpointInfo, keep
from peakhold.errors import CheckpointDamagedError, CheckpointNotFoundError, SaveError
from peakhold.store import KeepBest, KeepLast, Reader, Store
from peakhold.testing import FailingDisk
from store_support import assert_same, quietly, state

POLICY = KeepLast(2) | KeepBest("loss", "min")
LOSSES = st.sampled_from([0.5, 1.0, 2.0, float("nan"), float("inf")])


class StoreModel(RuleBasedStateMachine):
    """The model: a dict from folder name to (info, step), a list of deletions, a set of damaged."""

    @initialize(policy=st.sampled_from([None, POLICY]))
    def open_first(self, policy):
        self.base = Path(tempfile.mkdtemp())
        self.folder = self.base / "store"
        self.policy = policy
        self.live, self.trash, self.damaged, self.pinned = {}, [], set(), set()
        self.commit = 0
        self.open()

    def open(self):
        self.disk = FailingDisk()
        self.store = quietly(Store, self.folder, self.policy, undo=2, disk=self.disk)
        self.pinned = set()

    def name(self, step):
        used = [
            n for n in [*self.live, *self.trash_names()] if n.split(".r")[0] == f"step-{step:08d}"
        ]
        revision = max((int(n.partition(".r")[2] or 1) for n in used), default=0) + 1
        return f"step-{step:08d}" + (f".r{revision}" if revision > 1 else "")

    def trash_names(self):
        return [name for name, _ in self.trash]

    def retain(self):
        if self.policy is not None:
            infos = {n: i for n, i in self.live.items() if n not in self.unlisted()}
            kept = keep(self.policy, list(infos.values()))
            for name in sorted(infos, key=lambda n: infos[n].commit):
                if infos[name].commit not in kept and name not in self.pinned:
                    self.trash.append((name, self.live.pop(name)))
        self.trash = self.trash[-2:]

    def unlisted(self):
        return {name for name, file in self.damaged if file == "manifest.json"}

    @rule(step=st.integers(0, 4), loss=LOSSES)
    def save(self, step, loss):
        name = self.name(step)
        entry = quietly(self.store.save, step, state(step), metrics={"loss": loss}).result()
        quietly(self.store.wait)
        self.commit += 1
        assert entry.name == name
        # The trash may have dropped a damaged one of this name since.
        self.damaged = {(damaged, file) for damaged, file in self.damaged if damaged != name}
        self.live[name] = CheckpointInfo(step, entry.commit, None, {"loss": loss})
        self.retain()

    @rule(step=st.integers(0, 4), at=st.integers(1, 40))
    def save_fails(self, step, at):
        """The disk fails at some call, once. The save may fail for it, or retention, or nothing."""
        name = self.name(step)
        self.disk.count, self.disk.at = 0, at
        try:
            entry = quietly(self.store.save, step, state(step), metrics={"loss": 3.0}).result()
        except SaveError:
            pass
        else:
            self.live[name] = CheckpointInfo(step, entry.commit, None, {"loss": 3.0})
        quietly(self.store.wait)
        self.disk.at = 0
        on_disk = {p.name for p in self.folder.iterdir() if p.name.startswith("step-")}
        if name in self.live and self.disk.failed:
            # Retention may have been cut short; the next one makes up for it. Take what is there.
            for gone in sorted(set(self.live) - on_disk, key=lambda n: self.live[n].commit):
                self.trash.append((gone, self.live.pop(gone)))
        elif name in self.live:
            self.retain()
        held = sorted(p.name for p in (self.folder / ".trash").glob("0*"))
        names = [h.partition(".")[2] for h in held]
        self.trash = [(n, i) for n, i in self.trash if n in names]
        self.disk.failed.clear()

    @rule()
    def crash_and_reopen(self):
        """What a kill leaves: a half-written folder, and no farewell."""
        self.store._own.release()
        self.store._closed = True
        left = self.folder / ".tmp-step-00000077-00000000"
        left.mkdir()
        (left / "model.safetensors").write_bytes(b"half")
        self.open()
        assert not left.exists()

    @rule()
    def close_and_reopen(self):
        quietly(self.store.close)
        self.open()

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def delete(self, data):
        name = data.draw(st.sampled_from(sorted(self.live)))
        quietly(self.store.delete, name)
        self.trash.append((name, self.live.pop(name)))
        self.trash = self.trash[-2:]

    @rule()
    def undelete(self):
        whole = [(n, i) for n, i in self.trash if n not in self.unlisted()]
        if not whole:
            with pytest.raises(CheckpointDamagedError if self.trash else CheckpointNotFoundError):
                quietly(self.store.undelete)
            return
        name, info = whole[-1]
        if any(damaged == name for damaged, _ in self.damaged):
            with pytest.raises(CheckpointDamagedError):
                quietly(self.store.undelete)
            return
        assert quietly(self.store.undelete).name == name
        index = max(i for i, (n, _) in enumerate(self.trash) if n == name)
        del self.trash[index]
        self.live[name] = info
        self.pinned.add(name)

    @precondition(lambda self: self.live)
    @rule(
        data=st.data(), file=st.sampled_from(["manifest.json", "model.safetensors", "train.json"])
    )
    def damage(self, data, file):
        name = data.draw(st.sampled_from(sorted(self.live)))
        path = self.folder / name / file
        content = path.read_bytes()
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 4]) + content[-2:])
        if (name, file) in self.damaged:
            path.write_bytes(content)  # flipping twice would heal it
        self.damaged.add((name, file))

    @invariant()
    def what_is_told_is_what_is(self):
        if not hasattr(self, "store"):
            return
        live = {n: i for n, i in self.live.items() if n not in self.unlisted()}
        bad = {name for name, _ in self.damaged}
        for view in (self.store, Reader(self.folder)):
            if self.live and not live:
                with pytest.raises(CheckpointDamagedError):
                    quietly(view.list)
            else:
                entries = quietly(view.list)
                assert [e.name for e in entries] == sorted(live, key=lambda n: live[n].commit)
            findings = {finding.name: finding.ok for finding in quietly(view.verify)}
            assert findings == {name: name not in bad for name in self.live}
        ranked = KeepBest("loss", "min").ranked(list(live.values()))
        if ranked:
            assert quietly(self.store.best, "loss", "min").commit == ranked[0].commit
        good = [n for n in sorted(live, key=lambda n: -live[n].commit) if n not in bad]
        if good:
            loaded = quietly(self.store.load)
            assert loaded.entry.name == good[0]
            assert_same(loaded.parts, state(live[good[0]].step))
        elif self.live:
            with pytest.raises(CheckpointDamagedError):
                quietly(self.store.load)
        else:
            with pytest.raises(CheckpointNotFoundError):
                quietly(self.store.load)
        assert not [name for name in os.listdir(self.folder) if name.startswith(".tmp-")]

    def teardown(self):
        if hasattr(self, "store"):
            quietly(self.store.close)
            shutil.rmtree(self.base)


TestStoreModel = StoreModel.TestCase
TestStoreModel.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)
