"""Whatever is trained is saved whole, comes back as it was, or is refused in time."""

import pathlib

import pytest

from kinds_of_state import KINDS
from matrix_of_state import ANCHOR, COLUMNS, cell, hint_of, row

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "explanation" / "kinds-of-state.md"
TABLES = PAGE.read_text().partition(ANCHOR)[2].splitlines()
ROWS = {line.split(" | ")[0][2:]: line for line in TABLES if line.startswith("| ")}


@pytest.mark.filterwarnings("ignore")  # PyTorch's, of sparse and quantized tensors
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_it_is_exact_or_refused_in_time_and_the_page_says_which(kind, column):
    words, message = cell(kind, column)
    shown = ROWS[kind.name].strip("| ").split(" | ")
    assert shown[1 + list(COLUMNS).index(column)] == words
    if message:
        hint = next(line for line in TABLES if line.endswith(f": {hint_of(message)}"))
        assert kind.name in hint


def test_the_page_has_these_kinds_and_no_others():
    assert [name for name in ROWS if name != "kind"] == [kind.name for kind in KINDS]
    for kind in KINDS:
        assert f"## {kind.of}" in TABLES
    assert row("kind", [])  # as the page has it
