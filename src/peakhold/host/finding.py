"""What only a framework's own package can tell: which host knows a model, whose a callback is.

That package is found by name, and only if the framework is already imported: whoever passes a model
or a callback of Keras has imported Keras.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from peakhold.host.contract import CallbackTraits, Host
from peakhold.host.loop import LoopHost

__all__ = ["host_for", "is_frameworks_list", "traits_of"]

_FRAMEWORKS = ("keras",)


def _loaded(module: str) -> Iterator[ModuleType]:
    """Our module of this name, for each framework that is imported."""
    for framework in _FRAMEWORKS:
        if framework in sys.modules:
            yield importlib.import_module(f"peakhold.{framework}{module}")


def host_for(model: Any, optimizer: Any = None) -> Host:
    """The host that knows this model."""
    for package in _loaded(""):
        host: Host | None = package.host_for(model, optimizer)
        if host is not None:
            return host
    return LoopHost(model, optimizer=optimizer)


def traits_of(callback: Any) -> CallbackTraits | None:
    """What a callback of a framework's own is known for; None for ours and users'."""
    for module in _loaded(".host.own_callbacks"):
        traits: CallbackTraits | None = module.traits_of(callback)
        if traits is not None:
            return traits
    return None


def is_frameworks_list(owner: Any) -> bool:
    """Whether this is the list with which a framework's own loop calls its callbacks."""
    return any(module.is_list(owner) for module in _loaded(".host.own_callbacks"))
