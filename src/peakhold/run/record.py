"""What a `Run` writes into its folder besides checkpoints, and what people see of it.

How a record is written is in `runtime/recording.py`; the folder is owned as long as the run is in
its `with`.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast, final

from peakhold.callbacks import EarlyStopping
from peakhold.errors import InvalidArgumentError, SaveError
from peakhold.ledger.folder import RunFolder
from peakhold.ledger.reader import RecordedHistory
from peakhold.ledger.run_file import read_run_file, write_run_file
from peakhold.run.display import display_for
from peakhold.runtime.recording import Recording
from peakhold.runtime.session import Session, session_of
from peakhold.sinks.tracker import Tracker, end_all

if TYPE_CHECKING:
    from peakhold.run.place import DataPass, RunPlace

__all__ = ["Record", "set_aside"]


@final
class Record:
    """The record of one run; what its loop tells (`loop.py: Around`).

    Args:
        folder: The run's.
        callbacks: Of the run, as soon as they are made.
        settings: What the user has set, plain values.
        versions: Of what trains.
        verbose: 0 says nothing.

    Raises:
        RunOwnedError: If another process owns the folder.
        InvalidArgumentError: If the run in it has ended, and is not to be extended.
    """

    def __init__(
        self,
        folder: RunFolder,
        callbacks: Sequence[Any],
        settings: Mapping[str, Any],
        versions: Callable[[], Mapping[str, str]],
        verbose: int,
        *,
        extends: bool,
    ) -> None:
        self._at, self._callbacks, self._verbose = folder, callbacks, verbose
        self._settings, self._versions = dict(settings), versions
        self.folder = folder.path
        self.reason: str | None = None
        """Why the run has ended."""
        self.failed = False
        """Whether an exception has ended it."""
        self.sinks: list[Callable[[Mapping[str, Any]], Any]] = []
        self._goes_on_from: int | None = None
        self._recording: Recording | None = None
        self._display = display_for(0)
        self._n_epochs: int | None = None
        self._n_steps: int | None = None
        self._shows_steps = False
        status = folder.status()
        self._owned = folder.own()
        if status.word == "ended" and not extends:
            self._owned.release()
            raise InvalidArgumentError.for_argument(
                "folder",
                folder.path,
                "the folder of a run that can go on",
                hint=f"that run has ended ({status.reason}); resume='extend' goes on with it (more "
                "epochs, more patience), resume='new' sets it aside and begins anew.",
            )

    @property
    def _session(self) -> Session:
        return session_of(self._callbacks[0])

    @property
    def history(self) -> RecordedHistory:
        """What was logged at each epoch."""
        if self._recording is not None:
            self._recording.flush()
        return self._at.history()

    # What the loop tells

    def begins(self, n_epochs: int | None, n_steps: int | None) -> None:
        """Training begins: of so many epochs, or of so many steps."""
        self._settings |= {"epochs": n_epochs, "steps": n_steps}
        self._n_epochs, self._n_steps = n_epochs, n_steps

    def has_begun(
        self, saved: Mapping[str, Any] | None, place: RunPlace, *, within_epoch: bool
    ) -> None:
        """It is known where the loop goes on: what is written from now on is this run's.

        Args:
            saved: Where the loop was, as the checkpoint has it; None: it begins.
            place: Where it is.
            within_epoch: Whether it goes on in the midst of an epoch.
        """
        session, known = self._session, read_run_file(self.folder)
        if known is None:
            write_run_file(
                self.folder,
                run_id=session.run_id,
                versions=self._versions(),
                settings=self._settings,
            )
        elif saved is None:  # it was killed before its first checkpoint
            session.identity.take_over(str(known["id"]), session.identity.timestamp)
        offset = None if known is None else 0 if saved is None else int(saved["ledger"])
        recording = Recording(self._at, self._owned, offset, session.run_id, self.sinks)
        self._recording = recording
        n_again = 0 if saved is None else 2 if within_epoch else 1
        if known is not None:
            self._goes_on_from = place.epoch + (saved is not None and not within_epoch)
        recording.begin(
            None if known is None else place.epoch,
            starts=known is None,
            n_again=n_again,
            ahead=self._tell_begins,
        )
        self._display = display_for(self._verbose)
        self._display.begin(self.folder, self._n_epochs, place.epoch)

    def notice(self, text: str, *, always: bool = False) -> None:
        """Say something of the run."""
        if self._verbose or always:
            self._display.say(f"Peakhold: {text}")

    def looks(self, place: RunPlace, running: DataPass) -> None:
        """Told now and then how far it is."""
        if self._recording is not None:
            self._recording.progressed()
        in_steps = self._n_steps is not None and running.is_first
        done = place.step if in_steps else running.n_batches
        self._display.batch_done(done - 1)

    def epoch_begins(self, epoch: int) -> None:
        """An epoch begins."""
        if self._n_steps is None:
            self._display.epoch_begins(epoch)

    def pass_begins(self, one: DataPass) -> None:
        """A pass over data begins."""
        if not one.is_first:
            self._display.part_begins(one.name, one.source.n_batches)
        elif self._n_steps is None:
            self._display.epoch_begins(self._session.progress.epoch, one.source.n_batches)
        elif not self._shows_steps:
            self._shows_steps = True
            self._display.epoch_begins(None, self._n_steps)

    def pass_ends(self, one: DataPass) -> None:
        """It is over."""
        if not one.is_first:
            self._display.part_ends()

    def epoch_ends(self, place: RunPlace, metrics: Mapping[str, Any]) -> None:
        """An epoch has ended, or a check was made."""
        if self._recording is not None:
            self._recording.progressed()
        if not self._verbose:
            return
        shown = {name: one for name, one in metrics.items() if isinstance(one, (int, float))}
        best, left = best_so_far(self._callbacks)
        if self._n_steps is None:
            self._display.epoch_ends(place.epoch, shown, best, left)
        else:
            self._display.checked(place.step, shown, best, left)

    def is_ending(self, reason: str, *, failed: bool) -> None:
        """Training ends, for a reason that is not the callbacks'."""
        self._session.stop(reason, bad=failed)

    def ends(self, reason: str, *, is_over: bool) -> None:
        """Training has ended: it is over, or it is interrupted."""
        reasons = self._session.stop_reasons
        self.reason = reason or (reasons[0] if reasons else "all was run")
        if self._recording is not None:
            kind = "end" if is_over else "interrupted"
            event = {"kind": kind, "reason": self.reason}
            self._recording.write({**event, "error": True} if self.failed else event)

    def offset(self) -> int:
        """Where the record stands."""
        return 0 if self._recording is None else self._recording.offset

    def make_durable(self) -> None:
        """What stands in the record is on the disk when this returns."""
        if self._recording is not None:
            self._recording.make_durable()

    def add_sink(self, sink: Callable[[Mapping[str, Any]], Any]) -> None:
        """Tell somebody else, too; one that comes late is told of the run first."""
        self.sinks.append(sink)
        self._tell_begin(sink)

    def _tell_begins(self) -> None:
        for sink in [*self.sinks]:
            self._tell_begin(sink)

    def _tell_begin(self, sink: Any) -> None:
        if isinstance(sink, Tracker) and self._recording is not None:
            self._recording.flush()  # what counts of earlier starts is read from it
            sink.begins(self._session.run_id, self.folder, self._goes_on_from)

    # The end

    def close(self) -> None:
        """Write what is left, and let the folder go; again, nothing."""
        self._display.end()
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.close(self.reason or "")
        else:
            self._owned.release()
        end_all(sink for sink in self.sinks if isinstance(sink, Tracker))
        self.sinks.clear()


def best_so_far(callbacks: Sequence[Any]) -> tuple[str | None, int | None]:
    """What stopping has for the best, in words, and the checks that it still waits for.

    As it stands: nobody waits here until it is known whether the last epoch's weights are finite.
    """
    for one in callbacks:
        if isinstance(one, EarlyStopping):
            stopping = one._peakhold_stopping
            state, patience = stopping.state, stopping.patience
            counts = isinstance(patience, (int, float)) and math.isfinite(patience)
            left = max(0, int(cast("float", patience)) - state.wait) if counts else None
            if state.best is None:
                return None, left
            monitor = stopping.watches[0].monitor
            return f"{monitor} {state.best:.4g} (epoch {state.best_epoch + 1})", left
    return None, None


def set_aside(folder: RunFolder) -> None:
    """Put what is in a run's folder beside it, under the time of now; nothing is deleted.

    Raises:
        RunOwnedError: If a run that is going on owns it.
        SaveError: If it cannot be renamed.
    """
    if not os.path.isdir(folder.path) or not os.listdir(folder.path):
        return
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    with folder.own():
        names = (f"{folder.path}.{stamp}" + (f"-{n}" if n else "") for n in itertools.count())
        aside = next(name for name in names if not os.path.lexists(name))
        try:
            os.rename(folder.path, aside)
        except OSError as error:
            raise SaveError.because_of(
                error,
                folder.path,
                expected="a folder that can be renamed",
                hint="pass another folder, or move this one away.",
            ) from error
