import pytest

from peakhold.store import Store
from store_support import state


@pytest.fixture
def folder(tmp_path):
    """A store with three checkpoints, closed."""
    with Store(tmp_path / "store") as store:
        for step in (1, 2, 3):
            store.save(step, state(step))
    return tmp_path / "store"
