"""What a callback of ours holds: its participant, and the run it takes part in.

All of it lies under one name on the user's object, so that subclasses may take any other.
"""

from __future__ import annotations

import copy
import weakref
from typing import TYPE_CHECKING, Any, final

from peakhold.runtime.participant import Participant

if TYPE_CHECKING:
    from peakhold.runtime.seat import Seat
    from peakhold.runtime.session import Session

__all__ = ["Link"]


@final
class Link:
    """What a callback of ours holds.

    Args:
        participant: What the session asks.
    """

    def __init__(self, participant: Participant) -> None:
        self.participant = participant
        self.session: Session | None = None
        self.seat: Seat
        """Its place in that session, which sets it."""
        self._driver: weakref.ref[Any] | None = None

    @property
    def driver(self) -> Any:
        """The list that calls the callback, or None."""
        return None if self._driver is None else self._driver()

    @driver.setter
    def driver(self, driver: Any) -> None:
        self._driver = None if driver is None else weakref.ref(driver)

    def copied(self) -> Link:
        """For a copy of the callback: a participant of its own, in no run."""
        return Link(copy.copy(self.participant))

    def __getstate__(self) -> dict[str, Any]:
        return {"participant": self.participant}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.participant = state["participant"]
        self.session = self._driver = None
