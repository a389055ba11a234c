"""What the epochs before have logged, in a form that is small and quick to write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peakhold.host.contract import to_number
from peakhold.host.resume import EpochRecord

__all__ = ["pack", "unpack"]


def pack(passed: EpochRecord | None) -> dict[str, Any] | None:
    """A record as a tree; what are floats all along, as arrays: small and quick to write."""
    import numpy as np

    if passed is None:
        return None
    return {
        "epochs": np.array(passed.epochs, np.int64),
        "metrics": {
            key: np.array(values, np.float64)
            if all(type(value) is float for value in values)
            else [_plain(value) for value in values]
            for key, values in passed.metrics.items()
        },
    }


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    number = to_number(value)
    if number is not None and not hasattr(value, "dtype"):
        return number
    try:
        import numpy as np

        array = np.array(value)  # a copy: whoever logged it may go on changing it
    except (TypeError, ValueError, RuntimeError):
        return repr(value)
    return repr(value) if array.dtype.kind == "O" else array


def unpack(packed: Mapping[str, Any] | None) -> EpochRecord | None:
    """The record that `pack` made this of."""
    if packed is None:
        return None
    return EpochRecord(
        packed["epochs"].tolist(),
        {k: v.tolist() if hasattr(v, "tolist") else list(v) for k, v in packed["metrics"].items()},
    )
