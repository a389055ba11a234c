"""Each call of the disk fails with each error: the truth or the trouble, and nothing is lost."""

import pytest

from store_troubles import ACTIONS, ERRORS, begin, calls_of, try_each


@pytest.mark.exhaustive
@pytest.mark.parametrize("action", ACTIONS)
def test_every_call_fails_with_every_error(tmp_path, action):
    begun = begin(tmp_path / "begun")
    n_calls = calls_of(begun, tmp_path, action)
    pairs = [(at, error) for at in range(1, n_calls + 1) for error in ERRORS]
    told = try_each(begun, tmp_path, action, pairs)
    print(f"\n{action}: {n_calls} calls, each failing with {len(ERRORS)} errors: {dict(told)}")
    assert sum(told.values()) == len(pairs)
