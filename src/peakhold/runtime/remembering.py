"""Whether a user's callback may remember something from epoch to epoch.

Nobody can know that without running it; but a class none of whose methods sets an attribute of its
own, and which holds no list or other thing that can be changed, has nothing to remember. It is then
no reason to say that a resume will not bring it back.
"""

from __future__ import annotations

import dis
import os
from collections.abc import Container, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

__all__ = ["may_remember"]

_FIXED = (
    type(None), bool, int, float, complex, str, bytes, os.PathLike, type, FunctionType, MethodType,
    BuiltinFunctionType, ModuleType,
)  # fmt: skip
"""What cannot change while a callback holds it."""


def may_remember(callback: Any, base: type) -> bool:
    """Whether what a user's classes add to `base` may be changed while training goes on.

    Args:
        callback: An object of a user's class.
        base: The class below the user's own, which has nothing to remember.

    Example:
        >>> class Base: ...
        >>> class Every(Base):
        ...     def __init__(self, n): self.n = n
        ...     def on_epoch_end(self, epoch, logs=None): print(epoch % self.n)
        >>> class Counts(Every):
        ...     def on_epoch_end(self, epoch, logs=None): self.n += 1
        >>> may_remember(Every(2), Base), may_remember(Counts(2), Base)
        (False, True)
    """
    mro = type(callback).__mro__
    own = mro[: mro.index(base)] if base in mro else mro[:-1]
    at_first, held = set[str](), vars(callback)
    for cls in own:
        for name, member in vars(cls).items():
            code = getattr(getattr(member, "fget", member), "__code__", None)
            if not isinstance(code, CodeType):
                continue
            names = set(_set(code, held))
            if names and name != "__init__":
                return True
            at_first |= names
    return any(name in held and not _is_fixed(held[name]) for name in at_first)


def _set(code: CodeType, held: Container[str]) -> Iterator[str]:
    """The attributes of its own object that a method sets, as far as that can be seen.

    `self.model.stop_training = True` sets one of another: no attribute of this name is held.
    """
    first = code.co_varnames[:1]
    before: Any = None
    for one in dis.get_instructions(code):
        if one.opname == "STORE_ATTR" and (one.argval in held or before in first):
            yield one.argval
        before = one.argval if one.opname.startswith("LOAD_") else None


def _is_fixed(value: Any) -> bool:
    """Whether it cannot change. Only what cannot change itself is gone into, sets among them."""
    if isinstance(value, (tuple, frozenset)):
        return all(map(_is_fixed, value))
    return isinstance(value, _FIXED)
