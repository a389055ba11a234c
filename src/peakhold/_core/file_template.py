"""A file name with places to fill: `models/best_{epoch:02d}_{val_loss:.4f}.keras`.

Only plain names are allowed between braces. `str.format` would follow `{epoch.__class__}` and
index `{logs[0]}`: neither is a metric, and a template is not a program.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

__all__ = ["BUILT_IN", "FileTemplate", "TemplateError"]

BUILT_IN = ("epoch", "batch", "run_id", "timestamp", "worker")
"""Placeholders that a callback fills itself; a logged metric of the same name wins."""

_OF_A_RUN = frozenset({"run_id", "timestamp", "worker"})

MISSING = "NA"
"""Stands for a metric that this epoch did not log, as in Keras's CSV."""


class TemplateError(ValueError):
    """The text between braces is not a plain name."""


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
            TemplateError: If braces do not match, or hold anything but a name and a format.
        """
        try:
            pieces = list(string.Formatter().parse(text))
        except ValueError as error:
            raise TemplateError(str(error)) from error
        fields = set()
        for _, name, spec, conversion in pieces:
            if name is None:
                continue
            plain = re.fullmatch(r"[^\W\d][\w/\- ]*", name) and conversion in {None, "r", "s"}
            if not plain or (spec and "{" in spec):
                message = f"{{{name}}} is not the name of a metric"
                raise TemplateError(message)
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
        """The name; a place without a value, or one that its format does not fit, reads `NA`."""
        pieces = []
        for literal, name, spec, conversion in string.Formatter().parse(self.text):
            pieces.append(literal)
            if name is None:
                continue
            value = values.get(name)
            if conversion == "r":
                value = repr(value)
            elif conversion == "s":
                value = str(value)
            try:
                pieces.append(MISSING if value is None else format(value, spec or ""))
            except (TypeError, ValueError):
                pieces.append(MISSING)
        return "".join(pieces)

    def plain(self) -> str:
        """The text with bare names in place of the braces, for the name of a file beside it."""
        return "".join(
            literal + (name or "") for literal, name, _, _ in string.Formatter().parse(self.text)
        )
