"""A keep policy of the user's that goes wrong: the save is safe, and the fault is told."""

import numpy as np
import pytest

from peakhold.errors import SaveWarning
from peakhold.store import Reader, Store

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
