import pytest

from leftovers import check_nothing_is_left


@pytest.fixture(autouse=True)
def nothing_is_left_behind(tmp_path):
    yield
    check_nothing_is_left(tmp_path)
