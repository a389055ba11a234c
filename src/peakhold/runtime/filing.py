"""The states of all callbacks of a run, filed so that the next process finds whose each is.

A state is filed under the callback's class, what it monitors and what it writes, and a number where
two agree in all of that. The order of the list does not matter otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Callable as Function
from collections.abc import Iterable, Mapping
from typing import Any

from peakhold.runtime.callback import Callback, link_of
from peakhold.trees import TooDeepError, map_tree

__all__ = ["collect", "filed", "without_state"]


def filed(callbacks: Iterable[Any]) -> dict[str, Any]:
    """The callbacks by the name that their state is filed under."""
    names: dict[str, Any] = {}
    for callback in callbacks:
        base, number = _name(callback), 1
        name = base
        while name in names:
            number += 1
            name = f"{base} #{number}"
        names[name] = callback
    return names


def _name(callback: Any) -> str:
    link = link_of(callback)
    if link is None:
        return f"{type(callback).__module__}.{type(callback).__qualname__}"
    header = {str(key): value for key, value in link.participant.header().items()}
    path, root = link.participant.place(), getattr(link.driver, "root", None)
    if path is not None and root is not None:
        path = path.removeprefix(os.path.join(root, ""))  # the folder of a run may be moved
    words = [str(value) for key, value in sorted(header.items()) if key != "class"]
    return f"{header['class']}({', '.join(words if path is None else [*words, path])})"


def has_state(callback: Any) -> bool:
    """Whether a callback says what its state is."""
    own = getattr(type(callback), "state_dict", None)
    return callable(own) and own is not Callback.state_dict and hasattr(callback, "load_state_dict")


def collect(callbacks: Mapping[str, Any]) -> dict[str, Any]:
    """The states there are, by name, each as it is at the moment at which it is asked for."""
    states = {name: _as_of_now(cb.state_dict()) for name, cb in callbacks.items() if has_state(cb)}
    return {name: state for name, state in states.items() if state}


def _as_of_now(state: Any) -> Any:
    """A copy of a state, its arrays included: a callback may return what it goes on changing.

    What cannot be saved stays in it; the store, which knows its path, refuses it.
    """
    from peakhold.snapshots.arrays import NotStorableError, copy_of, source_of  # loads NumPy

    copies: dict[object, Any] = {}

    def own(leaf: Any) -> Any:
        if leaf is None or isinstance(leaf, (bool, int, float, str, bytes)):
            return leaf
        try:
            source = source_of(leaf)
        except NotStorableError:
            return leaf
        if source is None:
            return leaf
        # One array in two places stays one: it is written once.
        if source.memory not in copies:
            copies[source.memory] = copy_of(source), leaf
        return copies[source.memory][0]

    try:
        return map_tree(state, own)
    except TooDeepError:  # a circle, or deeper than what the store takes
        return state


def without_state(
    callbacks: Iterable[Any], stateless_base: Function[[Any], type | None]
) -> list[Any]:
    """Callbacks that may have a state and do not say what it is; one of each class.

    Args:
        callbacks: All of the run.
        stateless_base: Gives the class below a user's own that has no state; None if it has one.
    """
    from peakhold.runtime.remembering import may_remember  # of backups alone

    found: dict[type, Any] = {}
    for callback in callbacks:
        if link_of(callback) is None and not has_state(callback):
            base = stateless_base(callback)
            if base is None or may_remember(callback, base):
                found.setdefault(type(callback), callback)
    return list(found.values())
