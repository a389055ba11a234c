"""Which host knows a model.

A framework's own host is found by name, and only if the framework is already imported: whoever
passes a Keras model has imported Keras.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from peakhold.host.contract import Host
from peakhold.host.loop import LoopHost

__all__ = ["host_for"]


def host_for(model: Any, optimizer: Any = None) -> Host:
    """The host that knows this model."""
    for framework in ("keras",):
        if framework in sys.modules:
            package = importlib.import_module(f"peakhold.{framework}")
            host: Host | None = package.host_for(model, optimizer)
            if host is not None:
                return host
    return LoopHost(model, optimizer=optimizer)
