"""What an earlier run left in a folder, and what of it a run that goes on must take back.

Rules of this file:

1. Nothing is deleted or rewritten. A new file begins with a `SessionLog START`, at which readers
   drop what they hold from its step on, in all tags.
2. Tags count differently: some by epochs, some by batches. The step of the mark is the lowest that
   is superseded in either; what it drops beyond that is written again, as it was.
3. Only a run of ours is taken for an unfinished one, by its missing `SessionLog STOP`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import final

from peakhold.tensorboard import proto
from peakhold.tensorboard.records import event_files, read_records

__all__ = ["Left", "Restart", "left_by"]


@final
@dataclass(frozen=True, slots=True)
class _EventFound:
    path: str
    offset: int
    step: int
    tag: str


@final
@dataclass(frozen=True, slots=True)
class Restart:
    """Where a run goes on.

    Args:
        epoch: The first epoch that it will run.
        step: Batches done so far; None: not known, then batches are left alone.
        has_evaluated: Whether an evaluation behind the last of them is done, too.
    """

    epoch: int
    step: int | None
    has_evaluated: bool = True


@final
@dataclass(slots=True)
class Left:
    """What a reader of a folder holds now, after all that was taken back already."""

    events: list[_EventFound] = field(default_factory=list)
    unfinished: bool = False
    """Whether the last run was ours and did not end: killed, or broken by an exception."""

    def tags_that_count(self, place: Restart) -> frozenset[str]:
        """Tags with an event that is not superseded by a run that goes on from here."""
        return frozenset(e.tag for e in self.events if not _is_stale(e, place))

    def superseded_from(self, place: Restart) -> int | None:
        """The step of the mark for a run that goes on; None if nothing is superseded."""
        stale = [e.step for e in self.events if _is_stale(e, place)]
        return min(stale) if stale else None

    def replay(self, purge_from: int, place: Restart) -> Iterator[bytes]:
        """Events that the mark drops, and that count all the same; in their order."""
        wanted: dict[str, set[int]] = {}
        for event in self.events:
            if event.step >= purge_from and not _is_stale(event, place):
                wanted.setdefault(event.path, set()).add(event.offset)
        for path, offsets in wanted.items():
            for offset, content in read_records(path):
                if offset in offsets:
                    yield content


def _is_stale(event: _EventFound, place: Restart) -> bool:
    if _counts_epochs(event.tag):
        return event.step >= place.epoch
    if place.step is None:
        return False
    if event.step == place.step and event.tag.startswith("evaluation_"):
        return not place.has_evaluated
    return event.step > place.step


def _counts_epochs(tag: str) -> bool:
    """Whether the steps of a tag are epochs, or batches."""
    return tag.startswith("epoch_") or tag.endswith(("/histogram", "/image")) or tag == "keras"


def left_by(log_dir: str) -> Left:
    """Read what runs left in a folder.

    Args:
        log_dir: The folder of one TensorBoard run; it need not exist.

    Example:
        >>> import tempfile
        >>> left_by(tempfile.mkdtemp()).unfinished
        False
    """
    left = Left()
    for name in event_files(log_dir):
        path = os.path.join(log_dir, name)
        for offset, content in read_records(path):
            try:
                head = proto.read_event(content)
            except proto.Cut:
                continue
            if head.ours:
                left.unfinished = head.status != proto.STOP
            if head.status == proto.START:
                left.events = [event for event in left.events if event.step < head.step]
            if head.tag is not None:
                left.events.append(_EventFound(path, offset, head.step, head.tag))
    return left
