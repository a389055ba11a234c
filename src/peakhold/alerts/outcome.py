"""What became of one try to send a message, and what a sender is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar, final

__all__ = ["Outcome", "Sender"]

Message_contra = TypeVar("Message_contra", contravariant=True)


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """One try. Nothing in it comes from the address: it is said aloud."""

    delivered: bool
    reason: str = ""
    """Why not, in a few words."""
    retry: bool = False
    """Whether another try may help."""
    wait_s: float | None = None
    """Seconds the receiver asked us to wait; None if it asked for nothing."""


class Sender(Protocol[Message_contra]):
    """What carries messages to one place. It raises nothing, and shows no secret.

    A message is a text, or what the sender takes.
    """

    @property
    def where(self) -> str:
        """The place, as it may be shown: a host, or the kind of service."""

    def send(self, text: Message_contra, timeout_s: float) -> Outcome:
        """Try once, for so many seconds at most. Called in the outbox's thread."""
