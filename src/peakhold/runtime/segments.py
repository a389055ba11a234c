"""Which callbacks act together: rows of ours with no user's callback between them.

Rules of this file:

1. A *segment* is a row of participants (our callbacks) with no user's callback between them. Across
   a user's callback, the order of the list means what it means in Keras.
2. A user's subclass that overrides one of the hooks is a segment of its own: what its override does
   after `super()` may rely on the work being done, and what it does before, on its not being done.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peakhold.host.finding import traits_of
from peakhold.runtime.callback import Participant, is_ours

__all__ = ["is_strange", "reports_end", "segments_of"]

_SEGMENT_HOOKS = (
    "on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end", "on_test_begin",
    "on_test_end",
)  # fmt: skip


def reports_end(member: Participant) -> bool:
    """Whether the end of training comes to the session from this participant, unaltered."""
    return type(member).on_train_end is Participant.on_train_end and "on_train_end" not in vars(
        member
    )


def _is_plain(callback: Any) -> bool:
    """Whether all hooks of a participant are the session's own."""
    return all(
        getattr(type(callback), hook) is getattr(Participant, hook) and hook not in vars(callback)
        for hook in _SEGMENT_HOOKS
    )


def segments_of(callbacks: Iterable[Any]) -> dict[int, list[Participant]]:
    """By the participant's `id`: the segment it belongs to, in the order of the list."""
    segments: dict[int, list[Participant]] = {}
    row: list[Participant] = []
    for callback in callbacks:
        if isinstance(callback, Participant):
            if _is_plain(callback):
                row.append(callback)
                segments[id(callback)] = row
                continue
            segments[id(callback)] = [callback]
        elif (traits := traits_of(callback)) is not None and traits.silent:
            continue
        row = []
    return segments


def is_strange(callback: Any) -> bool:
    """Whether hooks of this callback are a user's: of a class, or set on the object."""
    if isinstance(callback, Participant):
        return not _is_plain(callback)
    known = is_ours(type(callback)) or traits_of(callback) is not None
    return not known or any(hook in vars(callback) for hook in _SEGMENT_HOOKS)
