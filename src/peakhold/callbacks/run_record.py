"""Write what a run is, and all that happens in it, into its folder.

Rules of this file:

1. The folder is owned from train begin to the end: one record, one run at a time.
2. Nothing is written before the first epoch begins: only then is it known how the run starts.
3. A fit that raises calls nobody. That it has is noticed as an alert notices it (`alerts/failure`),
   at the latest by the next fit; a run that is killed says nothing, and its folder is nobody's.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, final

from peakhold import process
from peakhold._core.decisions import Decision
from peakhold._core.moments import Moment
from peakhold._core.observation import Event
from peakhold.advice import Folder, RunSettings
from peakhold.disk.local_path import local_path
from peakhold.errors import InvalidArgumentError
from peakhold.runtime.loop_thread import LoopThread
from peakhold.runtime.participant import CONTINUES, Keeper, Needs, Participant, Start
from peakhold.runtime.participating import Participating, Setting
from peakhold.runtime.run_view import RunView
from peakhold.runtime.summary import Ending, cause

if TYPE_CHECKING:
    from peakhold.alerts.failure import OpenRun
    from peakhold.ledger.folder import OwnedFolder, RunFolder
    from peakhold.runtime.recording import Recording

__all__ = ["RunRecord"]

_HINT = "pass a path such as 'runs/digits'."
_NEXT = "it had not ended when the next run began"


class RunRecord(Participating):
    """Write what a run is, and all that happens in it, into its folder, as `peakhold.Run` does.

    `run.json` says what the run is, `events.jsonl` what happens: each moment, each decision with
    its reason, what became of it. `heartbeat` says that it is alive. `peakhold.ledger` reads all of
    it, in any process, while the run is going on; docs/reference/run-folder.md has what it means.

    With `BackupAndRestore` in the list, a run that was killed goes on with its record where its
    backup has it. Without, each run adds to the record of the one before; what is read as history
    is the last one's. Of several workers the first writes.

    Args:
        folder: The folder; made if need be. One run at a time.
        settings: What is to be said of the run in `run.json`, as plain JSON; what looks like a
            secret is masked. Defaults to `None`.

    Raises:
        InvalidArgumentError: If `folder` is a file.
        RunOwnedError: On train begin, if another run writes there.
        SaveError: On train begin, if the folder cannot be made or written.

    Example:
        >>> import tempfile
        >>> from peakhold import CallbackList
        >>> from peakhold.ledger import RunFolder
        >>> folder = tempfile.mkdtemp()
        >>> callbacks = CallbackList(RunRecord(folder), epochs=1, verbose=0)
        >>> callbacks.on_train_begin()
        >>> callbacks.on_epoch_begin(0)
        >>> callbacks.on_epoch_end(0, {"loss": 0.5})
        >>> callbacks.on_train_end()
        >>> RunFolder(folder).history().history, str(RunFolder(folder).status())
        ({'loss': [0.5]}, 'ended: all epochs were run')
    """

    _peakhold_unshown = ("settings",)

    folder = Setting[str]("The folder.")
    settings = Setting["Mapping[str, Any] | None"]("What is said of the run in `run.json`.")

    def __init__(
        self, folder: str | os.PathLike[str], *, settings: Mapping[str, Any] | None = None
    ) -> None:
        path = local_path("folder", folder, "the path of a folder", hint=_HINT)
        if os.path.lexists(path) and not os.path.isdir(path):
            raise InvalidArgumentError.for_argument(
                "folder", path, "the path of a folder, not of a file", hint=_HINT
            )
        if settings is not None and not isinstance(settings, Mapping):
            raise InvalidArgumentError.for_argument("settings", settings, "a dict of plain values")
        super().__init__(_RecordKeeping(path, settings))


@final
class _RecordKeeping(Participant):
    """Writes the record; see `RunRecord` for the arguments."""

    reads_steps = False
    adds_to_files = True
    records_only = True

    def __init__(self, folder: str, settings: Mapping[str, Any] | None) -> None:
        self.folder, self.settings = folder, settings
        self._open: _OpenRecord | None = None
        self._loaded: Mapping[str, Any] | None = None
        self._within_epoch = False

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_open": None}

    # The start

    def needs(self, run: RunView) -> Needs:
        """Own the folder, and open the record where the run goes on with it.

        Raises:
            RunOwnedError: If another run writes there.
            SaveError: If it cannot be written.
        """
        if self._open is not None:
            self._open.fail(_NEXT)
        if not self.is_loaded:
            self._loaded = None
        offset = None if self._loaded is None else int(self._loaded["offset"])
        self._open, self._within_epoch = _OpenRecord(self.folder, offset, run), False
        return Needs()

    def advise(self, settings: RunSettings) -> RunSettings:
        """Say where it writes."""
        folder = Folder(self.name, os.path.abspath(self.folder))
        return replace(settings, folders=(*settings.folders, folder))

    def begin(self, run: RunView, start: Start) -> None:
        """It is known how this run starts: the first line is written."""
        loaded, self._loaded = self._loaded, None
        record = self._open
        if record is None:
            return
        record.say_what_it_is(run, self.settings)
        recording, epoch = record.recording, run.epoch
        if loaded is None:
            goes_on = start is CONTINUES and not recording.is_empty
            recording.begin(epoch if goes_on else None, starts=not goes_on)
        elif loaded["begun"]:
            recording.begin(epoch, starts=False, n_again=2 if loaded["within_epoch"] else 1)
        else:
            recording.begin(epoch, starts=True)

    # What happens

    def record(self, moment: Moment, logs: dict[str, Any], decided: Sequence[Decision]) -> None:
        """Note that the run gets on; moments reach the record as they reach all who listen."""
        if moment.event is Event.EPOCH_BEGIN:
            self._within_epoch = True
        elif moment.event is Event.EPOCH_END:
            self._within_epoch = False
        if self._open is not None:
            self._open.recording.progressed()

    def finish_by(self, deadline: float) -> None:
        """SIGTERM came: the process ends, and nobody else will say so."""
        if self._open is not None:
            self._open.interrupt("SIGTERM")

    def end(self, ending: Ending) -> None:
        """All is on disk: say why the run has ended, and whether the next start goes on."""
        record, self._open = self._open, None
        if record is None:
            return
        keeps = any(isinstance(one, Keeper) for one in self.run.others)
        goes_on = ending.interrupted or (keeps and self.run.state_unusable)
        record.end("interrupted" if goes_on else "end", cause(ending))

    # State

    def state_dict(self) -> dict[str, Any]:
        """Where the record stands; all before it is durable ahead of what is saved next."""
        record = self._open
        if record is not None:
            record.recording.make_durable()
        return {
            **self.header(),
            "offset": 0 if record is None else record.recording.offset,
            "begun": record is not None and record.recording.has_begun,
            "within_epoch": self._within_epoch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the record from there."""
        self.check_header(state)
        offset, flags = state["offset"], (state["begun"], state["within_epoch"])
        if type(offset) is not int or offset < 0 or any(type(one) is not bool for one in flags):
            raise ValueError("it says nowhere where the record stood")
        self._loaded, self.is_loaded = dict(state), True


@final
class _OpenRecord:
    """The record of a run that has begun and not ended.

    Args:
        folder: Of the run.
        offset: Where a backup has the record; None: it goes on at its end.
        run: The run.
    """

    def __init__(self, folder: str, offset: int | None, run: RunView) -> None:
        # Here, for they load NumPy: importing Peakhold does not.
        from peakhold.alerts.failure import OpenRun
        from peakhold.ledger.folder import RunFolder
        from peakhold.runtime.recording import Recording

        path = os.path.realpath(folder)
        self._loop = LoopThread(run.trained.owns_frame)
        earlier = _open.get(path)
        if earlier is not None and not earlier._loop.runs_elsewhere():
            earlier.fail(_NEXT)
        self._at: RunFolder = RunFolder(folder)
        self._lock = process.lock_free_in_child()
        self._is_over = False
        owned: OwnedFolder = self._at.own()
        try:
            self.recording: Recording = Recording(self._at, owned, offset, run.id, [])
        except BaseException:
            owned.release()
            raise
        self._watch: OpenRun | None = None
        if run.driver is not None:
            failed = partial(self._close, "interrupted", waits=False)
            self._watch = OpenRun(run.driver, failed)
        _open[path] = self

    def say_what_it_is(self, run: RunView, settings: Mapping[str, Any] | None) -> None:
        """Write `run.json`, when the run begins for the first time."""
        from peakhold.ledger.run_file import read_run_file, write_run_file

        if read_run_file(self._at.path) is None:
            callbacks = [type(one).__name__ for one in run.callbacks]
            write_run_file(
                self._at.path,
                run_id=run.id,
                versions=run.trained.versions(),
                settings={**(settings or {}), "epochs": run.epochs, "callbacks": callbacks},
            )

    def interrupt(self, reason: str) -> None:
        """Say that this start of the run ends; it may go on all the same."""
        with self._lock:
            if not self._is_over and self.recording.has_begun:
                self.recording.write({"kind": "interrupted", "reason": reason})
                self.recording.flush()

    def end(self, kind: str, reason: str) -> None:
        """Say why it has ended, and let the folder go."""
        if self._watch is not None:
            self._watch.close()
        self._close(kind, reason)

    def fail(self, reason: str) -> None:
        """It has not ended, and will not any more."""
        if self._watch is not None:
            self._watch.fail(reason)
        self._close("interrupted", reason)

    def _close(self, kind: str, reason: str, *, waits: bool = True) -> None:
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
            try:
                if self.recording.has_begun:
                    self.recording.write({"kind": kind, "reason": reason})
            finally:
                self.recording.close(reason, waits=waits)


_open: weakref.WeakValueDictionary[str, _OpenRecord] = weakref.WeakValueDictionary()
"""By the folder."""
