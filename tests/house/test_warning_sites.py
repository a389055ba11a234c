"""Every place that warns is known, and has a test in which it does (`tests/warning_sites.py`)."""

import ast
from pathlib import Path

from pointing import sites
from warning_sites import SITES, missed

ROOT = Path(__file__).parents[2]


def defined(path):
    """Classes and functions of a file and of what it takes its tests from, by name."""
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
    for node in ast.walk(tree):
        own = ROOT / "tests" / f"{getattr(node, 'module', None)}.py"
        if isinstance(node, ast.ImportFrom) and own.exists():
            names |= defined(own.relative_to(ROOT))
    return names


def test_the_table_has_every_site_and_no_other():
    assert set(SITES) == set(sites())


def test_each_has_a_test_that_is_there():
    assert [site for site, tests in SITES.items() if not tests] == []
    for test in {one for tests in SITES.values() for one in tests}:
        path, *names = test.split("::")
        assert set(names) <= defined(path), test


def test_one_that_shows_it_no_longer_is_named():
    site, (test, *_) = next(iter(SITES.items()))

    assert f"{test} no longer shows {site}" in missed({test: set()})
    assert missed({test: set(SITES)}) == missed({}) == []
