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

__all__ = ["framework_of", "host_for", "how_to_import", "list_of", "stateless_base", "traits_of"]

_FRAMEWORKS = ("keras", "tf_keras")


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


def stateless_base(callback: Any) -> type | None:
    """The class below a user's own that has no state; None if it has one. `object`: nobody's."""
    for module in _loaded(".host.own_callbacks"):
        base: type | None = module.stateless_base(callback)
        if base is not object:
            return base
    return object


def list_of(owner: Any) -> str | None:
    """Whose list this is, if a framework's own loop calls its callbacks with it."""
    for module in _loaded(".host.own_callbacks"):
        if module.is_list(owner):
            return str(module.__name__.split(".")[1])
    return None


def framework_of(model: Any) -> str | None:
    """Which framework's model this is, by its classes alone."""
    packages = {cls.__module__.partition(".")[0] for cls in type(model).__mro__}
    return next((name for name in _FRAMEWORKS if name in packages), None)


def how_to_import(name: str, framework: str) -> str:
    """What to write for a callback of this name that is to work with a framework."""
    if hasattr(importlib.import_module(f"peakhold.{framework}"), name):
        return f"from peakhold.{framework} import {name}"
    return f"leave it out: peakhold.{framework} has no {name}."
