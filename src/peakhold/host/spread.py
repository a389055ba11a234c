"""Arrays of JAX of which each process holds a part, and no process the whole."""

from __future__ import annotations

from typing import Any

from peakhold.errors import HostError

__all__ = ["refuse_spread"]


def refuse_spread(name: str, array: Any, cause: BaseException | None = None) -> None:
    """Raise if an array cannot be read by one process.

    Args:
        name: What the model calls it.
        array: It.
        cause: What came of reading it.

    Raises:
        HostError: If it is spread over processes.
    """
    if getattr(array, "is_fully_addressable", True) or array.is_fully_replicated:
        return
    processes = len({device.process_index for device in array.sharding.device_set})
    raise HostError.spread(name, tuple(array.shape), processes) from cause
