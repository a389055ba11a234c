"""Told before it hurts: settings that work against each other, seen before the first batch."""

from peakhold.advice.rules import Advice, Checkpoint, Facts, Plateau, Stopper, give, silence

__all__ = ["Advice", "Checkpoint", "Facts", "Plateau", "Stopper", "give", "silence"]
