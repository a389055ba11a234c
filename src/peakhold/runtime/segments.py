"""Which callbacks act together: pure bookkeeping, no run needed.

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
from typing import TYPE_CHECKING, Any, final

from peakhold._core.observation import Event
from peakhold.host.finding import traits_of
from peakhold.runtime.callback import has_own_hooks, is_unaltered, link_of

if TYPE_CHECKING:
    from peakhold.runtime.turn import Cast

__all__ = ["Segment", "Segments"]


@final
class Segment:
    """Callbacks that act together, and who of them was called for an event."""

    def __init__(self) -> None:
        self.callbacks: list[Any] = []
        """In the order of the list."""
        self.event: Event | None = None
        """Of which event it is."""
        self.called: set[int] = set()
        """Who was called for it, by `id`."""
        self.cast: Cast
        """Its participants, in the same order; the session, which knows them, sets it."""


@final
class Segments:
    """The segments of one list.

    Args:
        callbacks: All callbacks, users' too, in the order of the list.
    """

    def __init__(self, callbacks: Iterable[Any]) -> None:
        self._callbacks = list(callbacks)
        self._segments = _segments_of(self._callbacks)

    def of(self, callback: Any) -> Segment:
        """The segment of a callback of ours."""
        return self._segments[id(callback)]

    def cut_before(self, callbacks: Iterable[Any]) -> None:
        """Begin a segment before each of these."""
        cuts = {id(callback) for callback in callbacks}
        segments: dict[int, Segment] = {}
        before: Segment | None = None
        row = Segment()
        for callback in self._callbacks:
            segment = self._segments.get(id(callback))
            if segment is None:
                continue
            if segment is not before or id(callback) in cuts:
                row = Segment()
            before = segment
            row.callbacks.append(callback)
            segments[id(callback)] = row
        self._segments = segments

    @property
    def has_user_callbacks(self) -> bool:
        """Whether a user's callback could add to `logs` or change the model."""
        return any(map(has_own_hooks, self._callbacks))

    def user_callbacks_follow(self, callback: Any) -> bool:
        """Whether a user's hook is called after, or by, this callback in the same event."""
        mine = next((i for i, one in enumerate(self._callbacks) if one is callback), 0)
        return any(map(has_own_hooks, self._callbacks[mine:]))


def _segments_of(callbacks: Iterable[Any]) -> dict[int, Segment]:
    segments: dict[int, Segment] = {}
    row = Segment()
    for callback in callbacks:
        if link_of(callback) is not None:
            alone = not is_unaltered(callback)
            if alone:
                row = Segment()
            row.callbacks.append(callback)
            segments[id(callback)] = row
            if not alone:
                continue
        elif (traits := traits_of(callback)) is not None and traits.silent:
            continue
        row = Segment()
    return segments
