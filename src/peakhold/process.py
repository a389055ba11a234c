"""What happens when this process forks and when it ends: the one place that asks to be told.

Rules of this file:

1. The system is asked once, by the first who wants to know, and by nobody before.
2. Each has its turn, whatever the others raise; the last error reaches the system, which prints it.
3. In a forked child: in the order in which they asked. At the end: the last first, for what was
   built upon something has to end before it.
4. No lock is taken: one that some thread holds during a fork is held in the child for ever.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

__all__ = ["at_exit", "each_in_forked_child", "in_forked_child", "lock_free_in_child"]

T = TypeVar("T")

_for_child: list[Callable[[], object]] = []
_for_exit: list[Callable[[], object]] = []


def in_forked_child(work: Callable[[], object]) -> None:
    """Have something done in each forked child, right after the fork.

    Args:
        work: Called without arguments in the child's only thread. It is kept for good.
    """
    if not _for_child and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_begin_child)
    _for_child.append(work)


def each_in_forked_child(action: Callable[[T], object]) -> weakref.WeakSet[T]:
    """A set of objects that a forked child has no right to: something is done with each.

    Args:
        action: Called in a forked child, with every object of the set that is alive.

    Returns:
        The set, empty. It keeps nothing alive.
    """
    members: weakref.WeakSet[T] = weakref.WeakSet()
    in_forked_child(lambda: _call([partial(action, member) for member in members]))
    return members


def at_exit(work: Callable[[], object]) -> None:
    """Have something done at the end of the interpreter, when its threads have been joined.

    Args:
        work: Called without arguments, before all that asked earlier.
    """
    if not _for_exit:
        atexit.register(_end)
    _for_exit.append(work)


def lock_free_in_child() -> Any:
    """An `RLock` that a forked child finds open, whoever held it in the parent.

    Only for what a child may find half done: the thread that did it does not exist there.
    """
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def _begin_child() -> None:
    _call(_for_child)


def _end() -> None:
    works = _for_exit[::-1]
    _for_exit.clear()
    _call(works)


def _call(works: Iterable[Callable[[], object]]) -> None:
    with contextlib.ExitStack() as stack:
        for work in reversed(list(works)):  # the stack calls the last first
            stack.callback(work)


# What the standard library calls for its own locks (`logging`, `concurrent.futures`).
_locks: weakref.WeakSet[Any] = each_in_forked_child(lambda lock: lock._at_fork_reinit())
