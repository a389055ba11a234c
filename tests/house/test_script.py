"""The picture of one epoch is the session's own script."""

import pathlib
import subprocess
import sys

from peakhold._core.observation import Event
from peakhold.runtime.closing import Closing
from peakhold.runtime.opening import Opening
from peakhold.runtime.participant import Keeper, Lender
from peakhold.runtime.script import SCRIPT, picture
from peakhold.runtime.turn import Turn

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "explanation" / "one-epoch.md"


def test_the_page_has_the_table_that_the_script_prints():
    printed = subprocess.run(
        [sys.executable, "-m", "peakhold.runtime.script"],
        capture_output=True, text=True, check=True, timeout=120,
    ).stdout  # fmt: skip

    assert printed.strip() == picture()
    assert picture() in PAGE.read_text(encoding="utf-8")


def test_every_phase_is_something_that_is_done():
    for event, scene in SCRIPT.items():
        first = Opening if event is Event.TRAIN_BEGIN else Turn
        last = (Closing,) if event is Event.TRAIN_END else (Keeper, Lender)
        for phases, owners in zip(scene, ((Opening,), (first,), (Turn,), last), strict=True):
            for phase in phases:
                assert any(callable(getattr(owner, phase, None)) for owner in owners), (
                    event,
                    phase,
                )


def test_every_event_has_its_scene():
    """What no session ever tells of is no event."""
    assert set(Event) == set(SCRIPT)
