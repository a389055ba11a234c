"""Every place that warns is known, and has a test in which it does (`tests/warning_sites.py`)."""

import ast
from pathlib import Path

from pointing import sites
from warning_sites import FAULT, OF_ONE_PLACE, SITES, missed

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


def test_what_is_reached_in_fit_and_in_loops_has_tests_in_both():
    """`FAULT` brings each of its cases about in both."""
    places = {
        site: {test.split("/")[1] for test in tests} | ({"keras", "loops"} if FAULT in tests else set())
        for site, tests in SITES.items()
    }  # fmt: skip

    one = {site for site, found in places.items() if not {"keras", "loops"} <= found}
    assert one == set(OF_ONE_PLACE)


def test_one_that_shows_it_no_longer_is_named():
    site, (test, *_) = next(iter(SITES.items()))

    assert f"{test} no longer shows {site}" in missed({test: set()})
    assert missed({test: set(SITES)}) == missed({}) == []
