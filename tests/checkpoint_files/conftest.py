import pytest

from leftovers import Hold, check_nothing_is_left


@pytest.fixture(autouse=True)
def nothing_is_left_behind(tmp_path):
    yield
    check_nothing_is_left(tmp_path)


@pytest.fixture
def hold():
    """Keeps the writer thread busy while a save must be under way."""
    holds = Hold()
    yield holds
    holds.open()
