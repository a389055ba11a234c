"""What states of policies, and moments, have in common: they are frozen, and little changes.

A state that comes from a file may be anything. `checked` sees that each field holds what its
annotation says before a policy counts with it: a wait of "3" would raise at the end of an epoch.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import (
    Any,
    ClassVar,
    Final,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from peakhold._core.numbers import (
    number_from_json,
    number_to_json,
    numbers_from_json,
    numbers_to_json,
)

__all__ = ["UNUSABLE", "checked", "moved", "quickly_made", "state_from_json", "state_to_json"]

UNUSABLE: Final = (
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip
"""What comes of using a state that is not as we write it."""

_MOST: Final = 2**62
"""No count of ours is higher, and no int above can become a float safely."""

S = TypeVar("S")
Kind = TypeVar("Kind", bound=type[Any])


def quickly_made(kind: Kind) -> Kind:
    """A frozen dataclass with slots, and without `__post_init__`, made in less than half the time.

    What `dataclass` writes for a frozen one goes around its `__setattr__` for each field, by a
    call. Here the fields are set while the object is of a class that has the same slots, and is not
    frozen; moments and states of policies are made anew at each end of an epoch.

    Example:
        >>> from dataclasses import dataclass
        >>> @quickly_made
        ... @dataclass(frozen=True, slots=True)
        ... class Count:
        ...     n: int = 0
        >>> Count(), Count(n=3)
        (Count(n=0), Count(n=3))
        >>> Count().n = 3
        Traceback (most recent call last):
            ...
        dataclasses.FrozenInstanceError: cannot assign to field 'n'
    """
    fields, written = dataclasses.fields(kind), kind.__init__
    names = tuple(field.name for field in fields)
    open_kind = type(kind.__name__, (), {"__slots__": names})
    known: dict[str, Any] = {
        "_open": open_kind,
        "_kind": kind,
        "_set_class": object.__dict__["__class__"].__set__,
    }
    lines = [f"def __init__(self, {', '.join(names)}):", " _set_class(self, _open)"]
    defaults = dict(zip(reversed(names), reversed(written.__defaults__ or ()), strict=False))
    for field in fields:
        value = name = field.name
        if field.default_factory is not dataclasses.MISSING:
            known[f"_make_{name}"], known["_unset"] = field.default_factory, defaults[name]
            value = f"_make_{name}() if {name} is _unset else {name}"
        lines.append(f" self.{name} = {value}")
    lines.append(" self.__class__ = _kind")
    exec("\n".join(lines), known)  # noqa: S102 - as `dataclass` does: names of fields, nothing else
    made = known["__init__"]
    made.__defaults__, made.__annotations__ = written.__defaults__, written.__annotations__
    made.__qualname__, made.__module__ = written.__qualname__, kind.__module__
    kind.__init__ = made
    return kind


def moved(state: S, **changes: Any) -> S:
    """The state with these fields; itself if they are so already, which costs a tenth.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Count:
        ...     n: int = 0
        >>> count = Count(3)
        >>> moved(count, n=3) is count, moved(count, n=4)
        (True, Count(n=4))
    """
    for name, value in changes.items():
        now = getattr(state, name)
        if now is not value and (type(now) is not type(value) or now != value):
            kind: Any = type(state)
            return cast(
                "S", kind(*[changes.get(f, getattr(state, f)) for f in kind.__match_args__])
            )
    return state


def checked(state: S) -> S:
    """The state, if each field holds what its annotation says.

    Raises:
        TypeError: If one does not; it is named.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Count:
        ...     n: int = 0
        >>> checked(Count(3))
        Count(n=3)
        >>> checked(Count("3"))
        Traceback (most recent call last):
            ...
        TypeError: n is a str
    """
    kind: Any = type(state)
    if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"):
        for name, annotation in _fields(kind):
            value = getattr(state, name)
            if not _fits(value, annotation):
                raise TypeError(f"{name} is a {type(value).__name__}")
    return state


_known_fields: dict[type, tuple[tuple[str, Any], ...]] = {}


def _fields(kind: Any) -> tuple[tuple[str, Any], ...]:
    """Names and annotations of what is looked at; to work them out costs more than the look."""
    if kind not in _known_fields:
        _known_fields[kind] = tuple(
            (name, annotation)
            for name, annotation in get_type_hints(kind).items()
            if not name.startswith("_") and get_origin(annotation) is not ClassVar
        )
    return _known_fields[kind]


def _fits(value: Any, annotation: Any) -> bool:  # noqa: PLR0911 - one for each kind
    """Goes down the annotation, and beside it the value."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in {Union, types.UnionType}:
        return any(_fits(value, one) for one in inner)
    if annotation is float or annotation is int:
        if isinstance(value, float):
            return annotation is float
        return type(value) is int and -_MOST < value < _MOST
    if origin is tuple:
        if inner[1:] != (...,):
            return (
                isinstance(value, tuple)
                and len(value) == len(inner)
                and all(map(_fits, value, inner))
            )
        return isinstance(value, tuple) and all(_fits(one, inner[0]) for one in value)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            _fits(key, inner[0]) and _fits(one, inner[1]) for key, one in value.items()
        )
    if annotation is None or annotation is type(None):
        return value is None
    if isinstance(annotation, type):
        return isinstance(value, annotation) and checked(value) is value
    return True  # a kind of annotation that no state of ours has


def state_to_json(state: Any) -> Any:
    """A policy's state as plain JSON: by its own way, or field by field; a number as it is.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Best:
        ...     value: float
        >>> state_to_json(Best(float("nan")))
        {'value': 'NaN'}
    """
    if hasattr(state, "to_json"):
        return state.to_json()
    if dataclasses.is_dataclass(state):
        return numbers_to_json(dataclasses.asdict(cast("Any", state)))
    return number_to_json(state)


def state_from_json(kind: Any, plain: Any) -> Any:
    """What `state_to_json` returned, as a state of a class.

    Args:
        kind: The class.
        plain: Plain JSON; to be checked with `checked`, if it comes from a file.
    """
    if hasattr(kind, "from_json"):
        return kind.from_json(plain)
    if dataclasses.is_dataclass(kind):
        return cast("Any", kind)(**numbers_from_json(plain))
    return number_from_json(plain)
