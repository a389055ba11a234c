"""Told before it hurts: settings that work against each other, seen before the first batch."""

from peakhold.advice.rules import Advice, advise_on, differing, silence
from peakhold.advice.settings import Plateau, RunSettings, Saver, Schedule, Stopper

__all__ = [
    "Advice",
    "Plateau",
    "RunSettings",
    "Saver",
    "Schedule",
    "Stopper",
    "advise_on",
    "differing",
    "silence",
]  # fmt: skip
