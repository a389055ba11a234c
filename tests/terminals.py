"""What a person would see of what a program has written to a terminal."""

import io
import re

__all__ = ["Terminal", "screen"]

_PARTS = re.compile(r"\x1b\[2K|\x1b\[[0-9;]*m|\r|\n|[^\x1b\r\n]+|\x1b")


class Terminal(io.StringIO):
    """A stream with somebody before it."""

    encoding = "utf-8"

    def isatty(self):
        return True

    @property
    def seen(self):
        return screen(self.getvalue())


def screen(text):
    """The lines of a screen of any height, without the spaces at their ends."""
    lines, column = [""], 0
    for part in _PARTS.findall(text):
        if part == "\x1b[2K":
            lines[-1] = ""
        elif part == "\r":
            column = 0
        elif part == "\n":
            lines.append("")
            column = 0
        elif part == "\x1b":
            raise AssertionError(f"a sequence that is not known, in {text!r}")
        elif not part.startswith("\x1b"):
            before = lines[-1].ljust(column)
            lines[-1] = before[:column] + part + before[column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]
