"""A loop that is broken off at a border goes on to the bit, for each kind of loader."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

from source_kinds import EVERY
from source_rig import expected_of, measured
from source_table import ELSEWHERE, IN_PROCESS, line_of, shown

RIG = pathlib.Path(__file__).parents[1] / "source_rig.py"


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: f"{kind.name}-{kind.replay}")
def test_it_goes_on_to_the_bit(kind):
    expected_of(kind, measured(kind))


@pytest.mark.parametrize(("title", "framework"), ELSEWHERE.items())
def test_kinds_of_other_packages_go_on_to_the_bit(title, framework):
    """Each in a process of its own: frameworks share none, and torchdata changes PyTorch's samplers."""
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")

    process = subprocess.run(
        [sys.executable, str(RIG), framework],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip

    assert process.returncode == 0, process.stderr[-3000:]
    lines = [line for line in process.stdout.splitlines() if line.startswith("| ")]
    assert lines == shown()[title]


def test_the_page_shows_what_is_tried():
    tables = shown()

    assert tables.keys() == {*IN_PROCESS, *ELSEWHERE}
    for title, kinds in IN_PROCESS.items():
        assert tables[title] == [line_of(kind) for kind in kinds]
    for kind in (kind for kinds in IN_PROCESS.values() for kind in kinds):
        assert kind in EVERY
