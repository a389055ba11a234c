"""The one check of a path that somebody passes: it names something on this machine."""

from __future__ import annotations

import os
import re
from typing import Any, Final

from peakhold._core.arguments import check_text
from peakhold.errors import InvalidArgumentError

__all__ = ["local_path"]

_ELSEWHERE: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/")
"""A scheme has two letters at least: one is a drive of Windows. `pathlib.Path` drops a slash."""


def local_path(name: str, value: Any, expected: str, *, hint: str) -> str:
    """A path as text.

    Args:
        name: The argument.
        value: What the user passed: a string, or an object with `__fspath__`.
        expected: What it should be, for the message.
        hint: What to pass.

    Raises:
        InvalidArgumentError: If it is no path, or names another machine (`gs://…`): a system that
            knows no schemes would make a folder `gs:` here.

    Example:
        >>> local_path("log_dir", "runs/12:30", "the path of a folder", hint="pass 'logs'.")
        'runs/12:30'
    """
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else value
    text = check_text(name, path, expected, hint=hint)
    match = _ELSEWHERE.match(text)
    if match is not None:
        is_here = match["scheme"].lower() == "file"
        raise InvalidArgumentError.for_argument(
            name,
            text,
            "a path on this machine",
            hint=f"leave out {match[0]!r}."
            if is_here
            else f"write here, then copy; a folder of this name is './{text}'.",
        )
    return text
