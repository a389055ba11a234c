"""A file name with places to fill: `models/best_{epoch:02d}_{val_loss:.4f}.keras`.

Only names are allowed between braces. `str.format` would follow `{epoch.__class__}` and index
`{logs[0]}`: neither is a metric, and a template is not a program. Whatever else a metric is called
(`{val_recall@10}`, `{acc(%)}`, `{val/loss}`) is a name; a slash in it parts no folders.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

__all__ = ["BUILT_IN", "FileTemplate", "TemplateError", "split"]

BUILT_IN = ("epoch", "batch", "run_id", "timestamp", "worker")
"""Placeholders that a callback fills itself; a logged metric of the same name wins."""

_OF_A_RUN = frozenset({"run_id", "timestamp", "worker"})

MISSING = "NA"
"""Stands for a metric that this epoch did not log, as in Keras's CSV."""


class TemplateError(ValueError):
    """What stands between braces is no name, or no format that its value could have."""


@final
@dataclass(frozen=True, slots=True)
class FileTemplate:
    """A parsed template; build it with `FileTemplate.parse`.

    Example:
        >>> FileTemplate.parse("w_{epoch:02d}_{val_loss:.2f}.h5").fill(
        ...     {"epoch": 3, "val_loss": 0.125}
        ... )
        'w_03_0.12.h5'
        >>> FileTemplate.parse("w_{epoch}_{val_loss:.2f}.h5").fill({"epoch": 3})
        'w_3_NA.h5'
    """

    text: str
    fields: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> FileTemplate:
        """Read a template.

        Raises:
            TemplateError: If braces do not match, hold anything but a name and a format, or hold a
                format that no value of this name can have.
        """
        try:
            pieces = list(string.Formatter().parse(text))
        except ValueError as error:
            raise TemplateError(str(error)) from error
        fields = set()
        for _, name, spec, conversion in pieces:
            if name is None:
                continue
            plain = name.strip() and not name.isdigit() and not set(name) & set(".[]")
            if not plain or conversion not in {None, "r", "s"} or (spec and "{" in spec):
                message = f"{{{name}}} is not the name of a metric"
                raise TemplateError(message)
            if not any(_fits(value, spec, conversion) for value in _examples(name)):
                raise TemplateError(_no_format(name, spec, conversion, _examples(name)[0]))
            fields.add(name)
        return cls(text, frozenset(fields))

    @property
    def is_fixed(self) -> bool:
        """Whether every save has the same name."""
        return not self.fields

    @property
    def is_fixed_in_a_run(self) -> bool:
        """Whether every save of a run has the same name, another run's perhaps another."""
        return self.fields <= _OF_A_RUN

    def missing(self, values: Mapping[str, Any]) -> list[str]:
        """The places that `values` cannot fill, sorted."""
        return sorted(self.fields - values.keys())

    def fill(self, values: Mapping[str, Any]) -> str:
        """The name; a place without a value, or with one that is no number or text, reads `NA`.

        Raises:
            TemplateError: If a number does not fit the format of its place.
        """
        pieces = []
        for literal, name, spec, conversion in string.Formatter().parse(self.text):
            pieces.append(literal)
            if name is None:
                continue
            value = values.get(name)
            if value is None:
                pieces.append(MISSING)
            elif _fits(value, spec, conversion):
                pieces.append(_formatted(value, spec, conversion))
            elif isinstance(value, (int, float)):
                raise TemplateError(_no_format(name, spec, conversion, value))
            else:
                pieces.append(MISSING)
        return "".join(pieces)

    def plain(self, **known: Any) -> str:
        """The text without braces, for the name of a file beside it.

        Args:
            known: Values by place; at other places stands the bare name of the place.

        Example:
            >>> template = FileTemplate.parse("best_{worker}_{val/loss:.2f}.keras")
            >>> template.plain(), template.plain(worker=1)
            ('best_worker_val_loss.keras', 'best_1_val_loss.keras')
        """
        plain = ""
        for literal, place, spec, conversion in string.Formatter().parse(self.text):
            plain += literal
            if place is not None and place in known:
                plain += _formatted(known[place], spec, conversion)
            elif place is not None:
                plain += place.replace("/", "_").replace("\\", "_")
        return plain

    def matches(self, name: str, known: Mapping[str, Any]) -> bool:
        """Whether this is the name of a save in which some places had known values.

        Args:
            name: The name of a file.
            known: Values by place; what stands at other places may be anything.

        Example:
            >>> template = FileTemplate.parse("best_{worker}_{epoch:02d}.keras")
            >>> [template.matches(f"best_{n}_07.keras", {"worker": 1}) for n in (1, 11, 2)]
            [True, False, False]
        """
        pattern = ""
        for literal, place, spec, conversion in string.Formatter().parse(self.text):
            pattern += re.escape(literal)
            if place is None:
                continue
            value = known.get(place)
            told = value is not None and _fits(value, spec, conversion)
            pattern += re.escape(_formatted(value, spec, conversion)) if told else ".+"
        return re.fullmatch(pattern, name, re.DOTALL) is not None


def split(text: str, separators: str = "/") -> tuple[str, str]:
    """The folder and the name of a template; a slash between braces is part of a metric's name.

    Args:
        text: The template.
        separators: What parts folders on this system.

    Example:
        >>> split("runs/{epoch}/w_{val/loss:.2f}.keras"), split("best.keras"), split("/w.keras")
        (('runs/{epoch}', 'w_{val/loss:.2f}.keras'), ('', 'best.keras'), ('/', 'w.keras'))
    """
    depth, at = 0, -1
    for place, letter in enumerate(text.replace("{{", "..").replace("}}", "..")):
        depth += (letter == "{") - (letter == "}")
        if letter in separators and depth == 0:
            at = place
    return (text[:at] or text[: at + 1]) if at >= 0 else "", text[at + 1 :]


def _examples(name: str) -> tuple[Any, ...]:
    """Values such as this place may have."""
    if name in {"epoch", "batch", "worker"}:
        return (1, 0.5)
    if name in {"run_id", "timestamp"}:
        return ("a",)
    if name == "loss" or name.startswith("val_"):
        return (0.5,)
    return (0.5, 1, "a")


def _formatted(value: Any, spec: str | None, conversion: str | None) -> str:
    if conversion is not None:
        value = repr(value) if conversion == "r" else str(value)
    return format(value, spec or "")


def _fits(value: Any, spec: str | None, conversion: str | None) -> bool:
    try:
        _formatted(value, spec, conversion)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _no_format(name: str, spec: str | None, conversion: str | None, value: Any) -> str:
    place = name + (f"!{conversion}" if conversion else "") + f":{spec}"
    return f"{{{place}}} has no format for a value such as {value!r}"
