"""Two processes writing, one reading, for a minute."""

import pytest

from store_contention import contention


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:.*fork.*")
@pytest.mark.filterwarnings("error::peakhold.errors.PeakholdWarning")
def test_two_writers_and_a_reader_for_a_minute(tmp_path):
    contention(tmp_path, seconds=60)
