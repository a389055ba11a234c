"""Which arrays hold NaN or infinity."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from peakhold.trees import to_host

__all__ = ["nonfinite_names"]


def nonfinite_names(
    arrays: Iterable[tuple[str, Any]], exempt: Collection[str] = ()
) -> frozenset[str]:
    """Names of float arrays that hold NaN or infinity; those that may are not looked at."""
    import numpy as np

    bad = set()
    for name, array in arrays:
        if name in exempt:
            continue
        values = array if type(array) is np.ndarray else np.asarray(to_host(array))
        # ml_dtypes (bfloat16, float8) are not of kind "f", but know isfinite all the same.
        if values.dtype.kind not in "fcV" or values.size == 0:
            continue
        if values.dtype.name == "bfloat16":
            # As bits, which does not keep other threads out; all ones in the exponent is no number.
            if any((piece & 0x7F80 == 0x7F80).any() for piece in _pieces(values, np.uint16)):
                bad.add(name)
            continue
        if values.dtype.kind == "V":
            values = values.astype(np.float32)
        with np.errstate(all="ignore"):
            # A finite sum has finite terms; only a sum that is not needs the look at each of them.
            finite = bool(np.isfinite(values.sum())) or bool(np.isfinite(values).all())
        if not finite:
            bad.add(name)
    return frozenset(bad)


def _pieces(values: Any, bits: Any) -> Iterable[Any]:
    """An array as bits, a piece at a time."""
    import numpy as np

    flat = np.ascontiguousarray(values).reshape(-1).view(bits)
    return (flat[start : start + (1 << 20)] for start in range(0, flat.size, 1 << 20))
