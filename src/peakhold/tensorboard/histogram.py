"""Buckets of a histogram, as `tf.summary.histogram` counts them."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["histogram"]

_CHUNK = 1 << 15  # values at a time: what is computed of them stays in the processor's cache


def histogram(values: Any, buckets: int = 30) -> np.ndarray[Any, Any]:
    """Left edge, right edge and count of equally wide buckets: float64 of shape `(buckets, 3)`.

    Values that are NaN or infinite are in no bucket. With none left, all is zero; with a single
    value, all buckets have no width and the last one counts.

    Args:
        values: Numbers, an array of any shape.
        buckets: How many.

    Example:
        >>> histogram([0.0, 1.0, 1.0, 4.0], buckets=2).tolist()
        [[0.0, 2.0, 3.0], [2.0, 4.0, 1.0]]
    """
    flat = np.asarray(values).ravel()
    if flat.dtype.kind not in "fiu" or flat.dtype.itemsize < 4:
        flat = flat.astype(np.float32)  # bool; float16 and what NumPy only knows from elsewhere
    table = np.zeros((buckets, 3))
    if flat.size == 0 or buckets == 0:
        return table
    low, high = float(flat.min()), float(flat.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        return histogram(flat[np.isfinite(flat)], buckets)
    if high - low == float("inf"):  # two float64 of opposite sign, near the end of their range
        return histogram(flat / 2, buckets) * [2.0, 2.0, 1.0]
    width = (high - low) / buckets
    if width == 0:  # one value, or values nearer to each other than floats can tell apart
        table[:, :2] = low
        table[-1, 2] = flat.size
        return table
    counts = np.zeros(buckets, np.int64)
    for begin in range(0, flat.size, _CHUNK):
        offsets = flat[begin : begin + _CHUNK].astype(np.float64)
        offsets -= low
        offsets /= width
        # Cut to whole numbers: none is negative. The highest value falls out at the right end.
        counts += np.bincount(
            np.minimum(offsets, buckets - 1, out=offsets).astype(np.intp), minlength=buckets
        )
    edges = np.linspace(low, high, buckets + 1)
    table[:, 0], table[:, 1], table[:, 2] = edges[:-1], edges[1:], counts
    return table
