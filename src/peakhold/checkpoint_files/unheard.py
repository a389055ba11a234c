"""News of saves that nobody asks for any more: the run raised, and its callback is gone.

Rules of this file:

1. What went well needs no words. What went wrong is a warning, whatever `on_save_error` says: there
   is no training left to end.
2. A callback goes away at any moment, in any thread: nobody waits here, and no lock is taken. Who
   comes last, the save's end or the callback's, tells; by one `pop` it is told once.
"""

from __future__ import annotations

import os
import sys
import warnings
import weakref
from collections.abc import Sequence
from typing import Any, Protocol, final

from peakhold.checkpoint_files import words
from peakhold.checkpoint_files.requests import SaveOutcome
from peakhold.errors import SaveWarning

__all__ = ["Unheard", "told_at_its_end"]


@final
class Unheard:
    """What became of one save, if nobody hears of it."""

    def __init__(self) -> None:
        self._outcome: SaveOutcome | None = None
        self._name: str | None = None
        self._untold = [True]

    def ends(self, outcome: SaveOutcome) -> None:
        """The save is over; in the thread that wrote it."""
        self._outcome = outcome
        if self._name is not None:
            self._tell(self._name)

    def is_left_alone(self, name: str) -> None:
        """Nobody will ask.

        Args:
            name: The class of the callback that would have.
        """
        self._name = name
        if self._outcome is not None:
            self._tell(name)

    def _tell(self, name: str) -> None:
        outcome = self._outcome
        text = None if outcome is None else words.lost(name, outcome)
        if text is None:
            return
        try:
            self._untold.pop()
        except IndexError:  # the other thread has
            return
        try:
            warnings.warn(text, SaveWarning, stacklevel=2)
        except SaveWarning:  # as an error it would end in a thread where nobody sees it
            print(text, file=sys.stderr)


class _AcceptedSave(Protocol):
    unheard: Unheard


def told_at_its_end(owner: Any, name: str, saves: Sequence[_AcceptedSave]) -> None:
    """When `owner` goes away, or the process ends, tell what nobody has heard of its saves.

    Args:
        owner: Who asks for the news as long as it is there.
        name: The class of its callback.
        saves: Those that nobody has heard of; the list changes as they come and go.
    """
    weakref.finalize(owner, _leave_alone, name, saves, os.getpid())


def _leave_alone(name: str, saves: Sequence[_AcceptedSave], pid: int) -> None:
    if pid != os.getpid():  # a forked child ends: they are its parent's
        return
    for save in list(saves):
        save.unheard.is_left_alone(name)
