"""Random generators: the process's, and those that a loader, its sampler and its data have.

Rules of this file:

1. The process's are Python's, NumPy's and PyTorch's (`runtime/random_state.py`).
2. A loader's own are found where people keep them: in attributes, lists and dicts of the loader and
   of what it holds, a few steps deep. A generator in a closure is seen by nobody.
3. Nothing is called on a user's object; what it holds is read from its `__dict__`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from peakhold.run.sources.plain import from_plain_state, to_plain_state
from peakhold.runtime.random_state import (
    python_state,
    random_state,
    set_python_state,
    set_random_state,
)
from peakhold.trees import kind_of, members

__all__ = ["Generators"]

_DEEPEST: Final = 6
"""loader, batch sampler, sampler, data set, transform, generator."""
_MOST: Final = 2000
"""Objects that are looked at: a data set may hold a list of a million names."""
_WIDEST: Final = 64
"""Longer lists and dicts hold data."""
_CONTAINERS: Final = frozenset({list, tuple, dict})
"""Of these types alone: to walk a mapping of a user's may load data."""


class Generators:
    """The process's random generators, and those of a loader.

    Args:
        loader: Whose own ones are meant.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def state(self) -> dict[str, Any]:
        """All of them now, as a tree that a store can save."""
        return {"process": random_state(), "own": self._own_state()}

    def _own_state(self) -> dict[str, Any]:
        return {path: _state_of(one) for path, one in _own(self._loader)}

    def put_back(self, state: Mapping[str, Any]) -> None:
        """Set all of them to what they were."""
        set_random_state(state["process"])
        self.put_back_own(state)

    def put_back_own(self, state: Mapping[str, Any]) -> None:
        """Set the loader's own to what they were; one that is not there any more is passed over."""
        kept = state["own"]
        for path, one in _own(self._loader):
            if path in kept:
                _set_state(one, kept[path])


def _own(loader: Any) -> Iterator[tuple[str, Any]]:
    """Each generator that is found, by the path to it; the shortest path to each."""
    seen: set[int] = set()
    level: list[tuple[str, Any]] = [("", loader)]
    for _ in range(_DEEPEST):
        below: list[tuple[str, Any]] = []
        for path, one in level:
            if id(one) in seen or len(seen) >= _MOST:
                continue
            seen.add(id(one))
            if _kind_of(one) is not None:
                yield path, one
                continue
            below += ((f"{path}.{key}" if path else key, child) for key, child in _held(one))
        level = below


def _held(one: Any) -> list[tuple[str, Any]]:
    if isinstance(one, type) or callable(getattr(type(one), "__array__", None)):
        return []  # classes, and arrays of any library
    if type(one) not in _CONTAINERS:
        return list(getattr(one, "__dict__", {}).items())
    if len(one) > _WIDEST:
        return []
    return [(str(key), child) for key, child in zip(*members(one, kind_of(one)), strict=True)]


def _kind_of(one: Any) -> str | None:
    if isinstance(one, random.Random):
        return None if isinstance(one, random.SystemRandom) else "python"
    for module, name, kind in (
        ("numpy", "Generator", "numpy"),
        ("numpy", "RandomState", "numpy_legacy"),
    ):
        home = sys.modules.get(module)
        if home is not None and isinstance(one, getattr(home.random, name)):
            return kind
    torch = sys.modules.get("torch")
    return "torch" if torch is not None and isinstance(one, torch.Generator) else None


def _state_of(one: Any) -> dict[str, Any]:
    kind = _kind_of(one)
    if kind == "python":
        kept = python_state(one)
    elif kind == "numpy":
        kept = to_plain_state(one.bit_generator.state, one)
    elif kind == "numpy_legacy":
        kept = to_plain_state(one.get_state(legacy=False), one)
    else:
        kept = one.get_state().numpy()
    return {"kind": kind, "state": kept}


def _set_state(one: Any, kept: Mapping[str, Any]) -> None:
    kind, state = kept["kind"], kept["state"]
    if kind != _kind_of(one):
        return
    if kind == "python":
        set_python_state(one, state)
    elif kind == "numpy":
        one.bit_generator.state = from_plain_state(state)
    elif kind == "numpy_legacy":
        one.set_state(from_plain_state(state))
    else:
        one.set_state(sys.modules["torch"].from_numpy(state.copy()))
