"""Peakhold holds the peak of every training run."""

__version__ = "0.1.0"
