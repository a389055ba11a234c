"""Told before it hurts: settings that work against each other, seen before the first batch.

Names load when they are used: the doctor needs the rules of folders alone, and starts at once.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peakhold.advice.folders import located, on_folders
    from peakhold.advice.rules import advise_on, differing, not_finite
    from peakhold.advice.said import Advice, silence, spoken
    from peakhold.advice.settings import Folder, Plateau, RunSettings, Saver, Schedule, Stopper

__all__ = [
    "Advice",
    "Folder",
    "Plateau",
    "RunSettings",
    "Saver",
    "Schedule",
    "Stopper",
    "advise_on",
    "differing",
    "located",
    "not_finite",
    "on_folders",
    "silence",
    "spoken",
]  # fmt: skip

if not TYPE_CHECKING:
    from peakhold._names import lazily

    _HOMES = {
        **dict.fromkeys(__all__, "peakhold.advice.settings"),
        **dict.fromkeys(("located", "on_folders"), "peakhold.advice.folders"),
        **dict.fromkeys(("advise_on", "differing", "not_finite"), "peakhold.advice.rules"),
        **dict.fromkeys(("Advice", "silence", "spoken"), "peakhold.advice.said"),
    }
    __getattr__ = lazily(globals(), _HOMES)
