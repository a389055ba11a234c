"""What can be wrong with the arguments of `ModelCheckpoint`, said before anything is trained."""

from __future__ import annotations

import os
from typing import Any

from peakhold._core.arguments import check_count, check_number
from peakhold._core.file_template import FileTemplate, TemplateError
from peakhold.disk.local_path import local_path
from peakhold.errors import InvalidArgumentError

__all__ = [
    "check_background",
    "check_budget",
    "check_filepath",
    "check_keep",
    "check_on_save_error",
    "check_sigterm_timeout",
]


def check_filepath(filepath: Any, suffixes: tuple[str, ...] | None, *, weights_only: bool) -> str:
    """The path of a file on this machine, with names of metrics between its braces.

    Args:
        filepath: What the user passed.
        suffixes: Those that the host is known to write; None: it is not known yet.
        weights_only: Whether weights alone are to be saved.
    """
    example = "best.weights.h5" if weights_only else f"best{(suffixes or ('.safetensors',))[0]}"
    text = local_path(
        "filepath", filepath, "the path of a file", hint=f"pass a path such as {example!r}."
    )
    if os.path.isdir(text):
        raise InvalidArgumentError.for_argument(
            "filepath",
            text,
            "a non-directory filepath",
            hint=f"pass a file in it: {os.path.join(text, example)!r}.",
        )
    try:
        FileTemplate.parse(text)
    except TemplateError as error:
        raise InvalidArgumentError.for_argument(
            "filepath",
            text,
            f"names of metrics between braces, with their formats ({error})",
            hint="write {epoch:02d} or {val_loss:.4f}; a literal brace is written twice.",
        ) from error
    if suffixes is not None:
        wanted = [suffix for suffix in suffixes if (suffix == ".weights.h5") == weights_only]
        weights = text.endswith(".weights.h5")
        if not text.endswith(tuple(wanted)) or weights != weights_only:
            raise InvalidArgumentError.for_argument(
                "filepath",
                text,
                f"a name that ends in {' or '.join(wanted)} for save_weights_only={weights_only}",
                hint="weights alone need '.weights.h5' and save_weights_only=True; "
                "whole models '.keras' (or the legacy '.h5').",
            )
    return text


def check_on_save_error(value: Any) -> str:
    """`"warn"` or `"raise"`."""
    if value not in {"warn", "raise"}:
        raise InvalidArgumentError.for_argument(
            "on_save_error", value, "'warn' or 'raise'", hint="pass 'warn' to go on."
        )
    return str(value)


def check_background(value: Any) -> bool | None:
    """True, False, or None: decided when training begins."""
    if value is None or isinstance(value, bool):
        return value
    raise InvalidArgumentError.for_argument(
        "background", value, "None, True or False", hint="leave it out to have it decided."
    )


def check_budget(value: Any) -> int | None:
    """A number of bytes, or None."""
    hint = "pass bytes: memory_budget=2 * 1024**3."
    return None if value is None else check_count("memory_budget", value, at_least=1, hint=hint)


def check_sigterm_timeout(value: Any) -> float:
    """Seconds, 0 or more."""
    return check_number("sigterm_timeout", value, at_least=0.0, hint="pass seconds, 0 not to wait.")


def check_buffers(value: Any) -> str:
    """Whose statistics count."""
    if value not in {"rank0", "mean"}:
        raise InvalidArgumentError.for_argument(
            "buffers",
            value,
            "'rank0' or 'mean'",
            hint="'mean' puts the mean of all workers' statistics into the model.",
        )
    return str(value)


def check_keep(name: str, value: Any, filepath: str) -> int | None:
    """A number of files; only a name with placeholders makes several."""
    if value is None:
        return None
    if FileTemplate.parse(filepath).is_fixed:
        raise InvalidArgumentError.for_argument(
            name,
            value,
            "a filepath with placeholders beside it",
            hint=f"{filepath!r} is one file; put {{epoch:02d}} into the name to have several.",
        )
    return check_count(name, value, at_least=1, hint=f"leave {name} out to keep all files.")
