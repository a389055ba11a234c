"""The folder of one `BackupAndRestore`, for the time of one run.

Rules of this file:

1. The two newest backups stay, and what they refer to. Each has everything that a resume needs.
2. One that was not written well is not referred to, nor one that was deleted with the folder.
3. Only what is ours is ever deleted; a folder that still holds something else stays.
4. A fit that raised cannot close its folder. The next one may take it over, unless it is going on.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final, final

from peakhold._core.policies.keep_backups import KeepBackups
from peakhold.errors import (
    CheckpointNotFoundError,
    SaveError,
    SaveWarning,
    StoreError,
    StoreOwnedError,
)
from peakhold.runtime.loop_thread import LoopThread
from peakhold.snapshots.pool import Held
from peakhold.speech import warn
from peakhold.store import Checkpoint, Entry, Pending, Store, drain, submit
from peakhold.store import manifest as manifests
from peakhold.store.commit import TMP_PREFIX
from peakhold.store.lock import LOCK_NAME
from peakhold.store.trash import TRASH_NAME

__all__ = ["BackupFolder", "Place", "file_in"]

Place = tuple[int, str]
"""Step and part of a backup."""

_open: weakref.WeakValueDictionary[str, BackupFolder] = weakref.WeakValueDictionary()


@final
class BackupFolder:
    """The backups of one run.

    Args:
        path: The folder.
        owns_frame: Whether a frame is the loop of the run that this is for.

    Raises:
        StoreOwnedError: If a run that is still going on, here or elsewhere, writes backups there.
        SaveError: If the folder cannot be made or written.
    """

    is_followed: Final = False
    in_pieces: Final = False

    def __init__(self, path: str, owns_frame: Callable[[FrameType], bool]) -> None:
        self.path = os.path.realpath(path)
        self._loop, self._closed = LoopThread(owns_frame), False
        self._pending: Pending | None = None
        self._failed: set[int] = set()
        self._gone, self._n_followed = -1, 0
        """The newest step that is not there any more, for somebody has taken the folder away."""
        self._told: object = None
        earlier = _open.get(self.path)
        if earlier is not None and (earlier._closed or not earlier._loop.runs_elsewhere()):
            earlier.close()
        self._store = _opened(self.path)
        _open[self.path] = self
        keys = map(manifests.parse_folder_name, self._names())  # a damaged one has a step, too
        self.last_step = max((key[0] for key in keys if key), default=-1)

    # Reading

    def newest(self) -> Checkpoint | None:
        """The newest good backup, or None if there is none at all.

        Raises:
            CheckpointDamagedError: If all there are are damaged.
        """
        try:
            return self._store.load("latest")
        except CheckpointNotFoundError:
            return None

    def part(self, place: Place) -> Any:
        """One part of a backup that the newest refers to."""
        return self._store.load(place[0], [place[1]])[place[1]]

    # Writing

    def save(
        self,
        parts: Mapping[str, Any],
        held: list[Held],
        *,
        epoch: int,
        refers_to: list[int],
        reason: str,
    ) -> None:
        """Begin to write a backup from memory that `held` keeps from being changed.

        Args:
            parts: What to write; must not change before it is written.
            held: Released when it is written.
            epoch: 0-based index of the epoch to go on with.
            refers_to: Steps of earlier backups that this one needs.
            reason: Why, for people.
        """
        step = self.last_step + 1
        try:
            self._pending = self._store.save(
                step,
                parts,
                epoch=epoch,
                reason=reason,
                refers_to=[other for other in refers_to if other != step],
                immutable=True,
            )
        finally:
            self.last_step = step
            # The writer does one job after the other: when this one runs, the files are written.
            submit(partial(_release, held))

    @property
    def is_durable(self) -> bool:
        """Whether the last backup of this run is on disk; waits for it."""
        pending = self._pending
        return self.wait() and pending is not None and pending.failure is None

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever written there."""
        return self.last_step < 0

    def at(self, step: int) -> Checkpoint:
        """The backup of a step."""
        return self._store.load(step)

    def has(self, step: int) -> bool:
        """Whether a backup of this run, or of the one before, was written well; waits for it."""
        self.wait()
        return step not in self._failed and step > self._gone

    def wait(self, deadline: float | None = None) -> bool:
        """Wait until what was begun is durable, or until the deadline (`time.monotonic()`)."""
        pending = self._pending
        if pending is None:
            return True
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        done = pending.task.wait(left)
        if done:
            if pending.failure is not None:
                self._failed.add(pending.step)
            self._see_what_is_gone(pending.step)
        return done

    def _see_what_is_gone(self, newest: int) -> None:
        store = self._store
        if self._n_followed != store._n_followed:
            self._n_followed, self._gone = store._n_followed, newest - 1
        if not self._closed and not store._is_there():
            self._gone = newest

    def trouble(self) -> str | None:
        """Why the last backup failed, if that is news: the same reason is told once."""
        pending = self._pending
        if pending is None or not pending.done:
            return None
        failure = pending.failure
        cause = None if failure is None else failure.__cause__ or failure
        reason = getattr(cause, "errno", None) or (cause and str(cause))
        news, self._told = reason != self._told, reason
        if failure is None:
            return None
        pending.told = True
        if not news:
            return None
        return (
            f"the backup in {self.path!r} failed: {failure} Training goes on, and each next backup "
            "tries anew; until one succeeds, nothing more is said."
        )

    # The end

    def close(self) -> None:
        """Wait for the last backup, and let the folder go."""
        if self._closed:
            return
        self._closed = True
        try:
            self._store.close()
        except SaveError as error:
            warn(f"the last backup failed: {error}", SaveWarning)

    def remove(self, others: tuple[str, ...] = ()) -> None:
        """Delete all backups, and the folder if nothing else is in it.

        Args:
            others: Further files that were a backup.
        """
        with contextlib.suppress(SaveError):
            self._store.wait()
        try:
            # The newest first: as long as one is there, all that it refers to is.
            names = sorted(self._names(), reverse=True) if os.path.isdir(self.path) else []
            if names:
                self._store._delete(names, names[0])
        except (OSError, StoreError) as error:  # training has ended well all the same
            warn(f"the backup in {self.path!r} could not be deleted: {error}", SaveWarning)
        with contextlib.suppress(OSError):
            os.rmdir(os.path.join(self.path, TRASH_NAME))
        for path in (*others, os.path.join(self.path, LOCK_NAME)):
            with contextlib.suppress(OSError):
                os.unlink(path)
        self.close()
        with contextlib.suppress(OSError):  # something else is in it
            os.rmdir(self.path)

    def _names(self) -> list[str]:
        """Folders of backups, damaged ones, too."""
        return [
            name
            for name in os.listdir(self.path)
            if manifests.parse_folder_name(name) and not name.startswith(TMP_PREFIX)
        ]

    # For people, and for Keras's own tests

    def file(self, which: int, name: str) -> str:
        """Path of a file of the newest (0) or the one before (1), as far as there is one."""
        self.wait()
        return file_in([] if self._closed else self._store.list(), self.path, which, name)


def file_in(entries: Sequence[Entry], path: str, which: int, name: str) -> str:
    """Path of a file of the newest backup (0) or the one before (1), as far as there is one."""
    folders = [entry.path for entry in reversed(entries)]
    folder = folders[which] if which < len(folders) else Path(path, "step-00000000")
    return str(folder / name)


def _release(held: list[Held]) -> None:
    for one in held:
        one.release()


def _opened(path: str) -> Store:
    keep = KeepBackups(2)
    with contextlib.suppress(StoreOwnedError):
        return Store(path, keep=keep, undo=0)
    # A fit that raised and that nobody holds any more lets the folder go with its last save.
    drain()
    try:
        return Store(path, keep=keep, undo=0)
    except StoreOwnedError as error:
        error.add_note("Each fit that runs at a time needs a backup_dir of its own.")
        raise
