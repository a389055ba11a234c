"""What a program has set an optimizer to, told from what training has left in it.

An optimizer that was trained in this process shows the rate that its last run ended with. Of such a
one only what has been changed since is the program's, and that only if it is known how the run
ended: one that raised tells nobody.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["note_end", "note_rate", "rate_by_program", "set_by_program", "set_once"]

_ended: weakref.WeakKeyDictionary[Any, Mapping[str, Any]] = weakref.WeakKeyDictionary()


_rates_left: set[Any] = set()
"""Rates that runs without an optimizer object have ended with in this process."""


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


def note_rate(rate: float) -> None:
    """A run has ended whose rate only functions of the user's know: no object can be remembered."""
    _rates_left.add(rate)


def rate_by_program(rate: float) -> bool:
    """Whether a program has set such a rate, as far as is known: no run has ended with it."""
    return rate not in _rates_left


def set_once(rate: str, epoch: int) -> str:
    """What to write for a rate to go on with, which a plateau may still lower."""
    return f"add `LearningRateScheduler(lambda epoch, rate: {rate} if epoch == {epoch} else rate)`"
