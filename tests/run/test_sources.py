"""A loop that is broken off at a border goes on to the bit, for each kind of loader."""

import pytest

from source_kinds import EVERY
from source_rig import behind, gone_on, with_us, without_us


@pytest.fixture(scope="module", params=EVERY, ids=lambda kind: f"{kind.name}-{kind.replay}")
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def with_source(kind):
    return with_us(kind.make, replay=kind.replay)


def test_an_epoch_is_what_it_is_without_us(kind, with_source):
    if "set_epoch" in kind.name:  # which is what we add
        return

    assert with_source[0] == without_us(kind.make)


def test_it_goes_on_to_the_bit(kind, with_source):
    unbroken, states = with_source
    last = max(at for at in states if isinstance(at, int))
    differs = False

    for at in (0, 1, last // 2, last - 1, last, "over", "end"):
        tail = gone_on(kind.make, states[at], at, replay=kind.replay)
        expected = behind(unbroken, at)

        assert [(one.epoch, one.batch) for one in tail] == [
            (one.epoch, one.batch) for one in expected
        ]
        assert [one.rows for one in tail] == [one.rows for one in expected], at
        assert [one.drawn for one in tail] == [one.drawn for one in expected], at
        if kind.augmented:
            assert [one.augmented for one in tail] == [one.augmented for one in expected], at
        else:
            differs |= [one.augmented for one in tail] != [one.augmented for one in expected]
    assert differs is not kind.augmented
