"""News of saves that nobody asks for any more: the run raised, and its callback is gone.

Rules of this file:

1. What went well needs no words. What went wrong is a warning, whatever `on_save_error` says: there
   is no training left to end.
2. A callback goes away at any moment, in any thread: nobody waits here, and no lock is taken. Who
   comes last, the save's end or the callback's, tells; by one `setdefault` it is told once.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol, final

from peakhold.checkpoint_files import words
from peakhold.checkpoint_files.requests import SaveOutcome
from peakhold.errors import SaveWarning
from peakhold.speech import UserLine, line_of_user, say, warn

__all__ = ["Unheard", "told_at_its_end"]


@final
class Unheard:
    """What became of one save, if nobody hears of it.

    Whose save it is sets the outcome, and then looks whether anybody is still there.
    """

    outcome: SaveOutcome | None = None
    is_alone = False
    """Whether nobody will ask for it."""
    _name = ""
    _line: UserLine | None = None
    """Where the user's code let go of it: the writer's thread is on no line of it."""

    def is_left_alone(self, name: str) -> None:
        """Nobody will ask.

        Args:
            name: The class of the callback that would have.
        """
        self._name, self._line = name, line_of_user()
        self.is_alone = True
        if self.outcome is not None:
            self.tell()

    def tell(self) -> None:
        """Tell what became of it, unless the other thread has."""
        text = None if self.outcome is None else words.lost(self._name, self.outcome)
        me = object()
        if text is None or vars(self).setdefault("_teller", me) is not me:
            return
        try:
            warn(text, SaveWarning, line=self._line)
        except SaveWarning:  # as an error it would end in a thread where nobody sees it
            say(text, partial(print, file=sys.stderr))


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
