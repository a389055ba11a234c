"""How Peakhold speaks: what it prints, and what it warns of. Neither ends training.

Rules of this file:

1. What a stream, a console, a handler of `logging` or somebody's `warnings.showwarning` raises ends
   here: a closed pipe, a program without a console, letters that a console does not have.
2. A warning that somebody has made an error (`python -W error`) is one: that is what was asked for.
   It comes up where the warning would have, which may be in the middle of training.
3. A warning points at the user's own line.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["depth_of_user", "listed", "say", "warn"]

_BETWEEN = frozenset({"contextlib", "functools"})
"""Modules of Python's whose frames lie between ours."""


def say(text: str, show: Callable[[str], Any] | None = None) -> None:
    """Show a text to the person who watches; never raises.

    Args:
        text: What to say.
        show: What shows it; None: `print`, at once.

    Example:
        >>> say("Peakhold: saved")
        Peakhold: saved
        >>> def broken(text):
        ...     raise BrokenPipeError
        >>> say("Peakhold: saved", broken)
    """
    with contextlib.suppress(Exception):
        text = _in_its_letters(text, sys.stdout)
        if show is not None:
            show(text)
        else:
            print(text, flush=True)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, as from the user's own line.

    Raises:
        Warning: If the user's filters make an error of it; nothing else is raised.
    """
    try:
        warnings.warn(message, category, stacklevel=depth_of_user())
    except category:
        raise
    except Exception:  # noqa: S110 - of what shows it: there is nowhere left to say so
        pass


def depth_of_user() -> int:
    """The `stacklevel` of the first frame that is neither ours nor the framework's.

    To be called by the function that warns.
    """
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_globals.get("__name__", "")
        ours = name.startswith(("peakhold.", "keras.")) or name in _BETWEEN
        if not ours or name.startswith("peakhold.demo"):
            break
        depth, frame = depth + 1, frame.f_back
    return depth


def listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    Example:
        >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
        ('a', 'a and b', 'a, b and c')
    """
    return " and ".join([", ".join(names[:-1]), *names[-1:]] if len(names) > 1 else names)


def _in_its_letters(text: str, stream: Any) -> str:
    r"""The text as this stream can show it: what it has no letter for becomes `\xe9`."""
    encoding = getattr(stream, "encoding", None)
    if text.isascii() or not isinstance(encoding, str):
        return text
    return text.encode(encoding, "backslashreplace").decode(encoding)
