"""A loop that is broken off at a border goes on to the bit, for each kind of loader."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

from source_kinds import EVERY, TORCHDATA
from source_kinds_elsewhere import ELSEWHERE
from source_rig import expected_of, measured

RIG = pathlib.Path(__file__).parents[1] / "source_rig.py"


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: f"{kind.name}-{kind.replay}")
def test_it_goes_on_to_the_bit(kind):
    expected_of(kind, measured(kind))


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("kind", TORCHDATA, ids=lambda kind: f"{kind.name}-{kind.replay}")
def test_a_stateful_loader_goes_on_to_the_bit(kind):
    pytest.importorskip("torchdata")

    expected_of(kind, measured(kind))


@pytest.mark.parametrize("framework", ELSEWHERE)
def test_kinds_of_other_frameworks_go_on_to_the_bit(framework):
    """Each in a process of its own: in ours, PyTorch is imported."""
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")

    process = subprocess.run(
        [sys.executable, str(RIG), framework],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip

    assert process.returncode == 0, process.stderr[-3000:]
    tried = [json.loads(line) for line in process.stdout.splitlines() if line[:1] == "{"]
    assert tried
    for each in tried:
        assert all(each["found"].values()), each
