"""Who acts when a callback of ours is called: pure bookkeeping, no run needed.

Rules of this file:

1. A *segment* is a row of callbacks of ours with no user's callback between them. Across a user's
   callback, the order of the list means what it means in Keras.
2. A user's subclass that overrides one of the hooks is a segment of its own: what its override does
   after `super()` may rely on the work being done, and what it does before, on its not being done.
3. The first of a segment to be called for an event acts for the whole segment; when the others are
   called, their part is done. A callback that is called again for the same event begins it anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

from peakhold._core.observation import Event
from peakhold.host.finding import traits_of
from peakhold.runtime.callback import has_own_hooks, is_unaltered, link_of

__all__ = ["Dispatch"]


@final
class Dispatch:
    """The segments of one list, and who of each was called.

    Args:
        callbacks: All callbacks, users' too, in the order of the list.
    """

    def __init__(self, callbacks: Iterable[Any]) -> None:
        self._callbacks = list(callbacks)
        self._segments = _segments_of(self._callbacks)
        self._arrived: dict[int, tuple[Event, set[int]]] = {}

    def segment_of(self, callback: Any) -> list[Any]:
        """The callbacks that act together with this one, in the order of the list."""
        return self._segments[id(callback)]

    def arrive(self, callback: Any, event: Event) -> bool:
        """A callback was called; whether it is the first of its segment for this event."""
        segment = id(self._segments[id(callback)][0])
        current, arrived = self._arrived.get(segment, (None, set()))
        if current is event and id(callback) not in arrived:
            arrived.add(id(callback))
            return False
        self._arrived[segment] = (event, {id(callback)})
        return True

    @property
    def has_user_callbacks(self) -> bool:
        """Whether a user's callback could add to `logs` or change the model."""
        return any(map(has_own_hooks, self._callbacks))

    def user_callbacks_follow(self, callback: Any) -> bool:
        """Whether a user's hook is called after, or by, this callback in the same event."""
        mine = next((i for i, one in enumerate(self._callbacks) if one is callback), 0)
        return any(map(has_own_hooks, self._callbacks[mine:]))


def _segments_of(callbacks: Iterable[Any]) -> dict[int, list[Any]]:
    segments: dict[int, list[Any]] = {}
    row: list[Any] = []
    for callback in callbacks:
        if link_of(callback) is not None:
            if is_unaltered(callback):
                row.append(callback)
                segments[id(callback)] = row
                continue
            segments[id(callback)] = [callback]
        elif (traits := traits_of(callback)) is not None and traits.silent:
            continue
        row = []
    return segments
