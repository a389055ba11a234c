"""Who is called before an optimizer of PyTorch makes a step.

There is one hook for each optimizer, for all who ask, and it is never taken out: the collector
might do that while PyTorch goes through its hooks, whose number must not change then. While nobody
looks it costs a step nothing to speak of.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol, final

__all__ = ["StepHook", "Watcher", "step_hook"]


class Watcher(Protocol):
    """Who looks into each step."""

    def before_step(self, optimizer: Any) -> None:
        """An optimizer is about to make a step."""


@final
class StepHook:
    """What PyTorch calls before an optimizer's steps."""

    def __init__(self) -> None:
        self.watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()
        """Called before each step, as long as somebody else holds them."""
        self.at_next_step: list[Callable[[], Any]] = []
        """Called before the next one alone."""

    def __call__(self, optimizer: Any, *_: Any) -> None:
        """As PyTorch calls it."""
        while self.at_next_step:
            self.at_next_step.pop()()
        for watcher in list(self.watchers):
            watcher.before_step(optimizer)


_hooks: weakref.WeakKeyDictionary[Any, StepHook] = weakref.WeakKeyDictionary()


def step_hook(optimizer: Any) -> StepHook | None:
    """The hook of an optimizer, put in if need be; None if it calls nobody before its steps."""
    if not hasattr(optimizer, "register_step_pre_hook"):
        return None
    hook = _hooks.get(optimizer)
    if hook is None:
        hook = _hooks[optimizer] = StepHook()
        optimizer.register_step_pre_hook(hook)
    return hook
