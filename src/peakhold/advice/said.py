"""What the rules say: advice, how strongly it is given, and which of it nobody wants to hear."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, final

__all__ = ["Advice", "Level", "is_silenced", "silence", "spoken"]

Level: TypeAlias = Literal["summary", "notice", "warning", "error"]


@final
@dataclass(frozen=True, slots=True)
class Advice:
    """One sentence for the user."""

    code: str
    level: Level
    """`error`: training there fails. No run says that, for the error itself comes; the doctor does.
    """
    text: str
    once: bool = False
    """Whether it is enough to say anything of this code once in a process."""
    again: bool = False
    """Whether it is worth saying when the run is resumed, too."""

    def __str__(self) -> str:
        return f'{self.text} (silence with peakhold.silence("{self.code}"))'


_silenced: set[str] = set()


def silence(*codes: str) -> None:
    """Do not give this advice any more in this process.

    Args:
        codes: Such as `"E6"`; the table is in the documentation under "Advice".
    """
    _silenced.update(codes)


def is_silenced(code: str) -> bool:
    """Whether nobody wants to hear it.

    Args:
        code: Such as `"E6"`.
    """
    return code in _silenced


def spoken(found: Iterable[Advice]) -> list[Advice]:
    """What is to be said: without repeats, silenced codes left out.

    Args:
        found: What rules have found.
    """
    return list(dict.fromkeys(advice for advice in found if not is_silenced(advice.code)))
