"""Losses that are scripted, for runs whose decisions are known beforehand."""

CURVE = (0.9, 0.5, 0.20, 0.3, 0.31, 0.32, 0.33, 0.34, 0.25, 0.24, 0.23, 0.22)
"""Validation losses of K-R1: best at epoch 2, cut at 7, stopped at 8; an 8 that looks like a best to
who has forgotten. Patience is 6, that of the plateau 5."""
