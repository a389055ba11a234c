"""What a program has set an optimizer to, told from what training has left in it.

An optimizer that was trained in this process shows the rate that its last run ended with. Of such a
one only what has been changed since is the program's, and that only if it is known how the run
ended: one that raised tells nobody.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["note_end", "set_by_program"]

_ended: weakref.WeakKeyDictionary[Any, Mapping[str, Any]] = weakref.WeakKeyDictionary()


def note_end(optimizer: Any, settings: Mapping[str, Any]) -> None:
    """A run has ended, and has left an optimizer set like this."""
    try:
        _ended[optimizer] = settings
    except TypeError:  # None, and what takes no weak reference
        return


def set_by_program(
    optimizer: Any, settings: Mapping[str, Any], changing: Collection[str], *, trained: bool
) -> dict[str, Any]:
    """Of what an optimizer is set to, what the program has set.

    Args:
        optimizer: Which.
        settings: What it is set to now.
        changing: What training may change.
        trained: Whether it has been trained.
    """
    if not trained:
        return dict(settings)
    try:
        left = _ended.get(optimizer)
    except TypeError:
        left = None
    return {
        name: value
        for name, value in settings.items()
        if name not in changing or (left is not None and left.get(name) != value)
    }
