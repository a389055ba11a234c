"""The two folders of a training run, `train` and `validation`, and the point it goes on from."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import final

from peakhold.tensorboard.records import Sink
from peakhold.tensorboard.resume import Restart, left_by
from peakhold.tensorboard.writer import EventWriter

__all__ = ["TRAIN", "VALIDATION", "RunFolders"]

TRAIN, VALIDATION = "train", "validation"


@final
class RunFolders:
    """Opens each writer when it is first needed, on what an earlier run left there.

    Args:
        log_dir: The folder that is passed to TensorBoard.
        sink: Where events go, if not to a file of our own; called with a folder.
    """

    def __init__(self, log_dir: str, sink: Callable[[str], Sink] | None = None) -> None:
        self.log_dir, self._sink = log_dir, sink
        self._writers: dict[str, EventWriter] = {}
        self._from: Restart | None = None
        self._first_epoch, self._resumes = 0, False
        self._known: dict[str, frozenset[str]] = {}

    def go_on_from(
        self,
        epoch: int,
        step: int | None,
        first_epoch: int = 0,
        *,
        resumes: bool = False,
        has_evaluated: bool = True,
    ) -> None:
        """A training run begins: at this epoch, after so many batches.

        Args:
            epoch: The epoch it begins with.
            step: Batches so far; None: not known.
            first_epoch: What such a run calls its first epoch.
            resumes: Whether it is one that was interrupted, whatever the files say of their end.
            has_evaluated: Whether an evaluation behind the last of these batches is done, too.
        """
        self._from = Restart(epoch, step, has_evaluated)
        self._first_epoch, self._resumes = first_epoch, resumes
        for kind, writer in self._writers.items():
            self._begin(kind, writer)

    def path(self, kind: str) -> str:
        """The folder of a kind of events."""
        return os.path.join(self.log_dir, kind)

    def of(self, kind: str) -> EventWriter:
        """The writer of a folder."""
        writer = self._writers.get(kind)
        if writer is None:
            writer = EventWriter(self.path(kind), sink=self._sink)
            if self._from is not None:
                self._begin(kind, writer)
            self._writers[kind] = writer
        return writer

    def go_on_in(self, kind: str, sink: Sink) -> None:
        """What is written into a folder from now on goes there, until the files are closed."""
        self.of(kind).go_on_in(sink)

    def holds(self, kind: str, tag: str) -> bool:
        """Whether a run that this one goes on from has written a tag, and it still counts.

        Known once the writer of this kind is open.
        """
        return tag in self._known.get(kind, ())

    def _begin(self, kind: str, writer: EventWriter) -> None:
        place = self._from or Restart(0, None)
        left = left_by(self.path(kind))
        if place.epoch <= self._first_epoch and not left.unfinished and not self._resumes:
            writer.begin()  # a run of its own: TensorBoard shows it beside what is there
            return
        mark = left.superseded_from(place)
        writer.begin(mark, () if mark is None else left.replay(mark, place))
        self._known[kind] = left.tags_that_count(place)

    def flush(self) -> None:
        """Show readers all that was written."""
        for writer in self._writers.values():
            writer.flush()

    def flush_later(self) -> None:
        """Show it now, and have it on disk soon: whoever trains does not wait for the disk."""
        for writer in self._writers.values():
            writer.flush_later()

    def end(self) -> None:
        """The training run has ended."""
        self._from = None
        try:
            for writer in self._writers.values():
                writer.end()
                writer.flush(durable=True)
        finally:
            self.close()

    def close(self) -> None:
        """Close all files."""
        writers, self._writers = self._writers, {}
        for writer in writers.values():
            writer.close()
