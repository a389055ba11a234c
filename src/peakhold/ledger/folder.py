"""The folder of a run: what lies in it, who owns it, and how the run stands.

run.json         what the run is
events.jsonl     what happened
heartbeat        that it is alive
stop             put there by a person: the run ends at the next batch's border
checkpoints/     a store
metrics.csv  tensorboard/
.lock            the owner's
run-2/           the same of a later run (`numbered.py`)
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, final

from peakhold.disk.disk import Disk
from peakhold.disk.local_path import local_path
from peakhold.errors import RunOwnedError, SaveError, StoreOwnedError
from peakhold.files import sweep
from peakhold.files.open_files import DISK
from peakhold.ledger import heartbeat, run_file
from peakhold.ledger.numbered import (
    CHECKPOINTS,
    EVENTS,
    METRICS,
    TENSORBOARD,
    NumberedRun,
    history_of_log,
    numbered_runs,
)
from peakhold.ledger.reader import TELLING, RecordedHistory, history, last_event
from peakhold.store.lock import is_owned
from peakhold.store.owner import Ownership, make_root

__all__ = ["OwnedFolder", "RunFolder", "RunStatus"]

_LOOKS: Final = 5
_BETWEEN_LOOKS_S: Final = 0.02


@final
@dataclass(frozen=True, slots=True)
class RunStatus:
    """How a run stands.

    Example:
        >>> str(RunStatus("ended", "patience is over"))
        'ended: patience is over'
    """

    word: str
    """`empty`, `running`, `interrupted`, or `ended`."""
    reason: str | None = None
    """Why it has ended."""
    alive_at: float | None = None
    """When it gave a sign of life last, in seconds since 1970."""
    progressed_at: float | None = None
    """When it got on last: a hanging run is alive without."""
    owner: str | None = None
    """Process and host of the last sign of life."""

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}" if self.reason else self.word


@final
class OwnedFolder:
    """A run's folder that this process owns, until `release` or the end of a `with` block.

    Args:
        path: The folder; made if need be.
        disk: The calls to the system.
    """

    def __init__(self, path: str, disk: Disk) -> None:
        make_root(disk, path)
        for n in range(_LOOKS):
            try:
                self._ownership = Ownership(disk, path)
                break
            except StoreOwnedError as error:
                # Whoever looks at how the run stands holds the lock for an instant, too.
                if n + 1 == _LOOKS:
                    raise RunOwnedError.for_owner(path, error.owner) from None
                time.sleep(_BETWEEN_LOOKS_S)
            except OSError as error:
                raise SaveError.because_of(
                    error,
                    path,
                    expected="a folder that a run can be written to",
                    hint="pass a folder that is writable, on a file system with locks.",
                ) from error
        sweep(path, disk=disk)

    def check(self) -> None:
        """Raise `StoreForkedError` in a process that does not own the folder."""
        self._ownership.check()

    def follow(self) -> None:
        """Own the folder that the path means now, where the one that was owned is gone.

        Raises:
            OSError: If that cannot be.
        """
        if not self._ownership.is_there():
            self._ownership.follow()

    def release(self) -> None:
        """Let it go; again, or in a forked child, nothing."""
        self._ownership.release()

    def __enter__(self) -> OwnedFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


@final
class RunFolder:
    """What lies in the folder of a run, by name; to look costs nothing and changes nothing.

    Args:
        path: The folder; it need not be there.
        disk: The calls to the system. Defaults to the real ones.

    Example:
        >>> import tempfile
        >>> folder = RunFolder(tempfile.mkdtemp())
        >>> str(folder.status())
        'empty'
        >>> with folder.own():
        ...     pass
    """

    def __init__(self, path: str | os.PathLike[str], *, disk: Disk | None = None) -> None:
        self.path = local_path(
            "path", path, "the path of a folder", hint="pass a path such as 'runs/digits'."
        )
        self._disk = DISK if disk is None else disk

    def at(self, name: str) -> str:
        """The path of something in it.

        Args:
            name: Its name.
        """
        return os.path.join(self.path, name)

    @property
    def run_file(self) -> str:
        """What the run is."""
        return self.at(run_file.NAME)

    @property
    def events(self) -> str:
        """What happened."""
        return self.at(EVENTS)

    @property
    def heartbeat(self) -> str:
        """That it is alive."""
        return self.at(heartbeat.NAME)

    @property
    def stop_file(self) -> str:
        """What a person puts there to end the run."""
        return self.at("stop")

    @property
    def checkpoints(self) -> str:
        """The store."""
        return self.at(CHECKPOINTS)

    @property
    def metrics(self) -> str:
        """The metrics of each epoch, for spreadsheets."""
        return self.at(METRICS)

    @property
    def tensorboard(self) -> str:
        """What TensorBoard shows."""
        return self.at(TENSORBOARD)

    def own(self) -> OwnedFolder:
        """Own it: nobody else writes into it until it is let go.

        Returns:
            What lets it go; also at the end of a `with` block.

        Raises:
            RunOwnedError: If another process owns it; it is named.
            SaveError: If it cannot be made, or locked.
        """
        return OwnedFolder(self.path, self._disk)

    def numbered(self) -> list[NumberedRun]:
        """The runs that lie in it, as `production_callbacks` writes them, the newest last."""
        try:
            return numbered_runs(self.path)
        except OSError:  # nobody may look into it
            return []

    def newest(self) -> RunFolder:
        """The folder of the newest run: a later one has a folder within this one."""
        later = [
            run.folder
            for run in self.numbered()
            if run.kinds and run.folder is not None and run.folder != self.path
        ]
        return RunFolder(later[-1], disk=self._disk) if later else self

    # What is asked of a folder is answered for the newest run in it.

    def about(self) -> dict[str, Any] | None:
        """What the run is; None if nothing says so."""
        return run_file.read_run_file(self.newest().path)

    def history(self) -> RecordedHistory:
        """What was measured at the end of each epoch."""
        newest = self.newest()
        runs = [] if os.path.lexists(newest.events) else newest.numbered()
        return history_of_log(runs[-1].log) if runs else history(newest.events)

    def status(self) -> RunStatus:
        """How the run stands; reads the end of the record only."""
        return self.newest()._status()

    def _status(self) -> RunStatus:
        beat = heartbeat.read_heartbeat(self.heartbeat)
        last = last_event(self.events, TELLING)
        word, reason = self._stands(last, beat)
        if beat is None:
            return RunStatus(word, reason)
        return RunStatus(
            word,
            reason,
            beat["alive_at"],
            beat.get("progressed_at"),
            f"process {beat['pid']} on {beat['host']}",
        )

    def _stands(
        self, last: dict[str, Any] | None, beat: dict[str, Any] | None
    ) -> tuple[str, str | None]:
        if last is not None and last["kind"] == "end":
            return "ended", str(last.get("reason") or "") or None
        owned = is_owned(self._disk, self.path)
        if owned if owned is not None else heartbeat.is_beating(beat):
            return "running", None
        if last is not None or beat is not None or self._has_run_file():
            return "interrupted", None
        runs = self.numbered()
        return (self._newest_stands(runs[-1]), None) if runs else ("empty", None)

    def _has_run_file(self) -> bool:
        return run_file.read_run_file(self.path) is not None

    def _newest_stands(self, run: NumberedRun) -> str:
        if is_owned(self._disk, run.backup):
            return "running"
        return "interrupted" if run.is_unfinished else "ended"
