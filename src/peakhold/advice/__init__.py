"""Told before it hurts: settings that work against each other, seen before the first batch."""

from peakhold.advice.rules import Advice, advise_on, differing, silence
from peakhold.advice.settings import Checkpoint, Plateau, RunSettings, Schedule, Stopper

__all__ = [
    "Advice",
    "Checkpoint",
    "Plateau",
    "RunSettings",
    "Schedule",
    "Stopper",
    "advise_on",
    "differing",
    "silence",
]  # fmt: skip
