"""Rows of a log as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peakhold.files.rows import line_of, lines_of

CELLS = st.lists(st.text(st.sampled_from('0.5aN ,;\t"\r\n\x00'), max_size=4), max_size=4)


@given(CELLS, st.sampled_from([",", ";", "\t", " ", "a"]), st.sampled_from(["\n", "\r\n"]))
def test_a_line_is_what_the_writer_of_csv_makes_of_it(cells, separator, line_end):
    assert line_of(cells, separator, line_end) == lines_of([cells], separator, line_end)


@pytest.mark.parametrize("cells", [[], [""], ["", ""], ["0", "0.5"], ["0", "a,b"], ["a b", '"']])
def test_so_are_these(cells):
    assert line_of(cells, ",") == lines_of([cells], ",")
