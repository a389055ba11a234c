"""Whatever a loop trains is saved whole, comes back as it was, or is refused in time."""

import pytest

from kinds_of_state import KINDS
from matrix_of_state import BEGIN, CALLED, COLUMNS, EXACT, STEP, check, shown


@pytest.mark.filterwarnings("ignore")  # PyTorch's, of sparse and quantized tensors
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_it_is_exact_or_refused_in_time_and_the_page_says_which(kind, column):
    check(kind, column)


def test_the_page_has_these_kinds_and_no_others():
    cells, _ = shown()
    here = [(group, name) for group in cells for name in cells[group] if "Keras" not in group]
    assert here == [(kind.of, kind.name) for kind in KINDS]


def test_the_page_has_no_cell_of_another_kind():
    cells, _ = shown()
    for group, by_name in cells.items():
        for name, words in by_name.items():
            in_store = words["Store"]
            assert in_store in {EXACT, CALLED}, (group, name)
            others = {words[column] for column in COLUMNS if column != "Store"}
            assert others <= {EXACT, BEGIN, STEP}, (group, name)
