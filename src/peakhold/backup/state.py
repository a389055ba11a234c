"""What a backup's state must look like before anything of it is used.

A checksum says that a file is as it was written, not who wrote it: a backup of another program, of
a later version, or of somebody who means harm is as whole as ours. So everything is looked at
before it is used, and what nobody could look at beforehand (the states of callbacks, of random
generators) ends, if it cannot be used, in an error that names the backup, never in a bare KeyError.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from peakhold._core.states import UNUSABLE
from peakhold.errors import CheckpointDamagedError, PeakholdError

__all__ = [
    "FORMAT",
    "are_rates",
    "check_fields",
    "checked",
    "checked_extra",
    "is_count",
    "is_tree",
    "used",
]

FORMAT: Final = 2
_READABLE: Final = (1, 2)
"""In the first, a metric's values were an array of floats, or a list."""
_MOST: Final = 2**62
_RUN_ID: Final = re.compile(r"[0-9a-f]{8}")
_TIMESTAMP: Final = re.compile(r"\d{8}T\d{6}Z")


def checked(state: Any, path: str) -> Mapping[str, Any]:
    """The state, if it is one of ours.

    Args:
        state: What the backup's part held.
        path: The backup's folder, for messages.

    Raises:
        CheckpointDamagedError: If a field is missing, or holds something else than it should.
    """
    if not isinstance(state, Mapping):
        raise CheckpointDamagedError.for_path(path, f"its state is {_shown(state)}")
    if not (is_count(state.get("format")) and state["format"] in _READABLE):
        known = " and ".join(map(str, _READABLE))
        raise CheckpointDamagedError.for_path(
            path, f"its format is {_shown(state.get('format'))}, known are {known}"
        )
    try:
        check_fields(state, _BEGINNING if state.get("begins") is True else _ALL)
    except ValueError as error:
        raise CheckpointDamagedError.for_path(path, str(error)) from None
    return state


def check_fields(state: Mapping[str, Any], fields: Mapping[str, Callable[[Any], bool]]) -> None:
    """See that each field of a state holds what it should, before anything of it is used.

    Raises:
        ValueError: If one is missing, or holds something else; it is named.
    """
    for name, holds in fields.items():
        if not holds(state.get(name)):
            raise ValueError(f"its {name!r} is {_shown(state.get(name))}")


def checked_extra(states: Any, path: str) -> Mapping[str, Any]:
    """States by name of what a run took along; none where the backup has no such part.

    Raises:
        CheckpointDamagedError: If it is something else.
    """
    if states is not None and not is_tree(states):
        raise CheckpointDamagedError.for_path(path, f"its 'extra' is {_shown(states)}")
    return states or {}


@contextlib.contextmanager
def used(what: str, path: str) -> Iterator[None]:
    """Use what cannot be looked at beforehand.

    Args:
        what: A part of the state, for messages.
        path: The backup's folder.

    Raises:
        CheckpointDamagedError: In place of what using it raised; errors of ours pass.
    """
    try:
        yield
    except PeakholdError as error:
        error.add_note(f"It is from the backup {path!r}.")
        raise
    except UNUSABLE as error:
        raise CheckpointDamagedError.for_path(
            path, f"{what} cannot be used ({type(error).__name__}: {error})"
        ) from error


def _shown(value: Any) -> str:
    """A value for people, which may be a tree of any size, or one that cannot be shown."""
    if value is None:
        return "missing"
    if isinstance(value, (str, int, float)):
        try:
            text = repr(value)
        except ValueError:  # an int of more than 4,300 digits
            return "a huge number"
        return text if len(text) <= 60 else f"{text[:60]}…"
    return f"a {type(value).__name__}"


def _is_text(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def is_count(value: Any) -> bool:
    """Whether this is a count that may be one of ours."""
    return type(value) is int and 0 <= value < _MOST


def _is_first_epoch(value: Any) -> bool:
    return value is None or (type(value) is int and value in (0, 1))  # none of old backups


def _is_batch(value: Any) -> bool:
    return value is None or is_count(value)


def is_tree(value: Any) -> bool:
    """Whether this is a dict with names for keys."""
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _are_states(value: Any) -> bool:
    return is_tree(value) and all(map(is_tree, value.values()))


def _are_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)


def _are_names(value: Any) -> bool:
    return is_tree(value) and all(map(_are_texts, value.values()))


def _is_place(value: Any) -> bool:
    match value:
        case [step, str()]:
            return is_count(step)
    return False


def _are_places(value: Any) -> bool:
    """By callback, by what it calls a snapshot, by part."""
    return value is None or (
        _are_states(value)
        and all(
            is_tree(parts) and all(map(_is_place, parts.values()))
            for snapshots in value.values()
            for parts in snapshots.values()
        )
    )


def are_rates(value: Any) -> bool:
    """Whether these are numbers by name."""
    return is_tree(value) and all(isinstance(one, (int, float)) for one in value.values())


def _is_more(value: Any) -> bool:
    return is_tree(value) and are_rates(value.get("rates", {}))


def _is_record(value: Any) -> bool:
    return value is None or (
        is_tree(value) and hasattr(value.get("epochs"), "tolist") and is_tree(value.get("metrics"))
    )


_BEGINNING: Final[Mapping[str, Callable[[Any], bool]]] = {
    "begins": lambda value: isinstance(value, bool),
    "first_epoch": _is_first_epoch,
    "run_id": _is_text(_RUN_ID),
    "timestamp": _is_text(_TIMESTAMP),
    "callbacks": _are_states,
}
_ALL: Final[Mapping[str, Callable[[Any], bool]]] = {
    **_BEGINNING,
    "epoch": is_count,
    "batch": _is_batch,
    "stopped": _are_texts,
    "names": _are_names,
    "more": _is_more,
    "random": is_tree,
    "held": _are_places,
    "passed": _is_record,
    "configured": lambda value: value is None or _are_states(value),
    "stopped_by": lambda value: value is None or _are_texts(value),
    "place": lambda value: value is None or is_tree(value),
}
