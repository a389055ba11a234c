"""Who drives a run: a list of callbacks, or, where none can be found, the model they were given.

The problem. People put callbacks of ours into a callback of their own that forwards its hooks, or
call hooks one by one. No list is in sight then, and each callback would be a run of its own: a
backup without the states of its neighbours, and a resume that forgets them.

The solution. Callbacks that begin without a list, and were given one model, share a run. It begins
with the first train begin; whoever begins before its first epoch is taken in; it ends when one of
them begins again, or all have ended. The model is held weakly, and so is the run. Nobody is waited
for who has not begun.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["implicit_session", "remember_implicit", "run_ahead"]

_implicit: weakref.WeakKeyDictionary[Any, weakref.ref[Any]] = weakref.WeakKeyDictionary()
"""The run of a model whose callbacks have no list."""


def implicit_session(callback: Any) -> Any:
    """The run that callbacks with this one's model have begun without a list; None if none has."""
    try:
        reference = _implicit.get(callback._model)
    except TypeError:  # no model, or one that cannot be referred to weakly
        return None
    return None if reference is None else reference()


def remember_implicit(callback: Any, session: Any) -> None:
    """A run has begun without a list."""
    if callback._model is not None:
        try:
            _implicit[callback._model] = weakref.ref(session)
        except TypeError:
            return


def run_ahead(driver: Any, hook: str, work: Callable[..., Any]) -> None:
    """Have work done before a list calls its callbacks for a hook the next time, once.

    Args:
        driver: The list.
        hook: Name of the hook.
        work: Is given what the hook is given.
    """
    before = vars(driver).get(hook)
    own = getattr(driver, hook)

    def ahead(*args: Any, **kwargs: Any) -> Any:
        if before is None:
            vars(driver).pop(hook, None)
        else:
            setattr(driver, hook, before)
        work(*args, **kwargs)
        return own(*args, **kwargs)

    setattr(driver, hook, ahead)
