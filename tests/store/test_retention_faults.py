"""Retention that goes wrong: the save is safe, the fault is told, and nothing else is held up."""

import os
import re
import warnings

import numpy as np
import pytest

from peakhold.errors import SaveError, SaveWarning
from peakhold.store import KeepBest, KeepEvery, KeepLast, Reader, Store
from peakhold.testing import FailingDisk

STATE = {"model": {"w": np.ones(3)}}


class ByMetric:
    """Looks up a metric that the second save does not have."""

    at_most = None

    def keeps(self, infos):
        return frozenset(info.commit for info in infos if info.metrics["loss"] < 1)


def steps(folder):
    return [entry.step for entry in Reader(folder).list()]


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (ByMetric(), "KeyError: 'loss'"),
        (type("Lists", (ByMetric,), {"keeps": lambda _, infos: [1]})(), "TypeError"),
    ],
    ids=["raises", "returns nonsense"],
)
def test_a_policy_that_raises_loses_no_save_and_is_told(tmp_path, policy, told):
    store = Store(tmp_path, keep=policy)
    store.save(1, STATE, metrics={"loss": 0.5}).result()
    assert store.save(2, STATE).result().step == 2
    with pytest.warns(SaveWarning, match="could not be deleted") as warned:
        store.close()

    assert told in str(warned[-1].message)
    assert store.stats.committed == 2 and store.stats.failed == 0
    assert steps(tmp_path) == [1, 2], "what the policy did not decide is not deleted"


def test_a_policy_that_raises_in_mid_run_is_told_by_the_next_save(tmp_path):
    with Store(tmp_path, keep=ByMetric()) as store:
        store.save(1, STATE).result()
        store._retention.wait()
        with pytest.warns(SaveWarning, match="KeyError"):
            store.save(2, STATE, metrics={"loss": 0.5}).result()
        with pytest.warns(SaveWarning, match="KeyError"):
            store.wait()


# -- rules that have nothing to go by -----------------------------------------------------------

BLIND = {
    "misspelt": (KeepBest("val_acc", "max"), "val_acc.*but 'val_accuracy'"),
    "beside another": (KeepLast(1) | KeepBest("val_acc", "max"), "val_acc"),
    "no epochs": (KeepEvery(epochs=2), "none was saved with an epoch"),
}


@pytest.mark.parametrize("name", BLIND)
def test_a_rule_that_has_nothing_to_go_by_deletes_nothing_and_is_told_once(tmp_path, name):
    policy, words = BLIND[name]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with Store(tmp_path, keep=policy) as store:
            for step in range(5):
                store.save(step, STATE, metrics={"val_accuracy": step / 10}).result()
                store.wait()
    told = [str(w.message) for w in warned if issubclass(w.category, SaveWarning)]
    assert len(told) == 1 and re.search(words, told[0])
    assert steps(tmp_path) == [0, 1, 2, 3, 4]


def test_a_metric_that_comes_later_decides_from_then_on(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SaveWarning)
        with Store(tmp_path, keep=KeepBest("loss", "min")) as store:
            for step in range(3):
                store.save(step, STATE).result()
                store.wait()
            assert steps(tmp_path) == [0, 1, 2]
            store.save(3, STATE, metrics={"loss": 1.0})
            store.save(4, STATE, metrics={"loss": 2.0})
    assert steps(tmp_path) == [3, 4]


# -- one item that fails holds up no other ------------------------------------------------------


@pytest.mark.parametrize("foreign", [".ipynb_checkpoints", "@eaDir", "notes"])
def test_a_foreign_folder_in_a_checkpoint_stops_no_deletion(tmp_path, foreign):
    """What is ours goes; what is not stays, is told once, and is in nobody's way."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with Store(tmp_path, keep=KeepLast(1)) as store:
            for step in range(30):
                entry = store.save(step, STATE).result()
                if step == 3:
                    (entry.path / foreign).mkdir()
                    (entry.path / foreign / "mine").write_text("kept")
                store.wait()
    trash = sorted(path.name for path in (tmp_path / ".trash").iterdir())
    assert trash == ["000004.step-00000003", "000029.step-00000028"]
    left = tmp_path / ".trash" / trash[0]
    assert [path.name for path in left.iterdir()] == [foreign]
    assert (left / foreign / "mine").read_text() == "kept"
    told = [str(w.message) for w in warned if issubclass(w.category, SaveWarning)]
    assert len(told) == 1 and foreign in told[0] and "step-00000003" in told[0]
    assert steps(tmp_path) == [29]


def test_each_has_a_foreign_folder_and_nothing_grows(tmp_path):
    """As on a NAS: a retention looks at those that stay no more than twice."""
    disk = FailingDisk()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SaveWarning)
        with Store(tmp_path, keep=KeepLast(1), undo=0, disk=disk) as store:
            counts = []
            for step in range(30):
                disk.count = 0
                entry = store.save(step, STATE).result()
                (entry.path / "@eaDir").mkdir()
                store.wait()
                counts.append(disk.count)
    assert max(counts[20:]) <= counts[5]
    assert len(list((tmp_path / ".trash").iterdir())) == 29


def test_a_victim_that_cannot_be_renamed_holds_up_no_other(tmp_path):
    class Sticky(FailingDisk):
        def rename(self, old, new, old_at, new_at):
            if old == "step-00000001" and new.endswith(old):
                raise PermissionError(13, "Permission denied")
            super().rename(old, new, old_at, new_at)

    with Store(tmp_path) as store:
        for step in range(4):
            store.save(step, STATE).result()
    store = Store(tmp_path, keep=KeepLast(1), disk=Sticky())
    store.save(4, STATE).result()
    with pytest.warns(SaveWarning, match="step-00000001 could not be deleted"):
        store.wait()
    assert steps(tmp_path) == [1, 4]
    with pytest.raises(SaveError, match="Permission denied"):
        store.delete(1)
    store.close()


def test_a_bad_block_during_retention_deletes_nothing_that_is_referred_to(tmp_path):
    """Refused once, it may be there again the next time: nothing is deleted meanwhile."""

    class Sick(FailingDisk):
        sick = 0

        def open(self, name, at):
            if self.sick and "step-00000001" in os.readlink(f"/proc/self/fd/{at}"):
                self.sick -= 1
                raise OSError(5, "Input/output error")
            return super().open(name, at)

    class Referred:
        at_most = None

        def keeps(self, infos):
            kept = {info.commit for info in infos[-2:]}
            needed = {step for info in infos[-2:] for step in info.refers_to}
            return frozenset(kept | {info.commit for info in infos if info.step in needed})

    disk = Sick()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with Store(tmp_path, keep=Referred(), disk=disk) as store:
            store.save(0, STATE).result()
            store.save(1, STATE, refers_to=[0]).result()
            store.wait()
            disk.sick = 2
            store.save(2, STATE).result()
            store.wait()
            assert disk.sick == 0 and steps(tmp_path) == [0, 1, 2]
