"""Told before it hurts: settings that work against each other, seen before the first batch."""

from peakhold.advice.facts import Checkpoint, Facts, Plateau, Schedule, Stopper
from peakhold.advice.rules import Advice, differing, give, silence

__all__ = [
    "Advice", "Checkpoint", "Facts", "Plateau", "Schedule", "Stopper", "differing", "give",
    "silence",
]  # fmt: skip
