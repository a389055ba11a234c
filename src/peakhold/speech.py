"""How Peakhold speaks: what it prints, and what it warns of. Neither ends training.

Rules of this file:

1. What a stream, a console, a handler of `logging` or somebody's `warnings.showwarning` raises ends
   here: a closed pipe, a program without a console, letters that a console does not have.
2. A warning that somebody has made an error (`python -W error`) is one: that is what was asked for.
   It comes up where the warning would have, which may be in the middle of training.
3. A warning points at the user's own line; one from a thread of ours at the line where the user's
   part of it ended, or else at the program.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, TypeAlias

__all__ = ["UserLine", "depth_of_user", "line_of_user", "listed", "say", "tell_in_handler", "warn"]

_BETWEEN = frozenset({"contextlib", "functools", "threading", "weakref"})
"""Modules of Python's whose frames lie between ours, or below them."""

UserLine: TypeAlias = tuple[str, int]
"""A line of the user's: its file, and its number."""


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


def warn(
    message: str, category: type[Warning] = UserWarning, *, line: UserLine | None = None
) -> None:
    """Warn, as from the user's own line.

    Args:
        message: The text.
        category: Its class.
        line: The line, for a thread that has none of the user's; None: that of this call.

    Raises:
        Warning: If the user's filters make an error of it; nothing else is raised.
    """
    depth = depth_of_user()
    try:
        if depth is not None:
            warnings.warn(message, category, stacklevel=depth)
        else:
            warnings.warn_explicit(message, category, *(line or _program()))
    except category:
        raise
    except Exception:  # noqa: S110 - of what shows it: there is nowhere left to say so
        pass


def depth_of_user() -> int | None:
    """The `stacklevel` of the first frame that is neither ours nor the framework's; None: no such.

    To be called by the function that warns.
    """
    depth = 1
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_users(frame):
            return depth
        depth, frame = depth + 1, frame.f_back
    return None


def line_of_user() -> UserLine | None:
    """The user's own line that leads here, to be remembered for a thread of ours; None: no such."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_users(frame):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None


def _is_users(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__", "")
    ours = name.startswith(("peakhold.", "keras.", "tf_keras.")) or name in _BETWEEN
    return not ours or name.startswith("peakhold.demo")


def _program() -> UserLine:
    main = sys.modules.get("__main__")  # which at the end of the process has lost its names
    return getattr(main, "__file__", None) or sys.argv[0] or sys.executable, 1


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


def tell_in_handler(words: str) -> None:
    """Say something in a handler, which may have come in the middle of another line's writing.

    A console is written to past the buffers of Python, which allow nobody in twice, also where a
    progress bar stands before it. What cannot be said is not said: nothing that only talks may end
    training.
    """
    stream = sys.stderr
    with contextlib.suppress(Exception):
        if _is_console(stream):
            os.write(stream.fileno(), f"{words}\n".encode())
        else:  # a notebook's
            stream.write(f"{words}\n")
            stream.flush()


def _is_console(stream: Any) -> bool:
    """Whether a stream ends where the process's own does."""
    with contextlib.suppress(Exception):
        return bool(sys.__stderr__ and stream.fileno() == sys.__stderr__.fileno())
    return False
