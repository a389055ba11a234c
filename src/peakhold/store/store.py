"""The store: what a user holds. It ties snapshot, writer thread, commit and retention together.

Rules for this file:

1. `save` raises only what the caller got wrong. What the disk gets wrong comes out of
   `Pending.result()`, `wait()` and `close()`, once; if nobody asks, the next `save` warns of it.
2. Everything that changes the folder runs in the writer thread, one job after the other: a deletion
   cannot meet a commit. (Opening is the exception: then there is nothing to meet.) Letting the
   folder go is the last of these jobs: whoever was interrupted while he waited for one of them, by
   Ctrl-C, cannot take the descriptors away from under it.
3. Retention looks at the manifests on disk, after the commit is durable and has been reported. What
   goes wrong there is a warning: the new checkpoint is safe.
4. Commit numbers never go back. What cannot be read when the store is opened may be the newest, so
   the numbers go on well beyond it.
5. A checkpoint is where the path says. Where the folder was deleted, moved or replaced meanwhile,
   the next save makes and locks the one that the path means then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, Literal, TypeAlias, final

from peakhold._core.policies.keep import KeepPolicy
from peakhold.disk.disk import Disk
from peakhold.disk.local_path import local_path
from peakhold.errors import (
    CheckpointDamagedError,
    CheckpointNotFoundError,
    InvalidArgumentError,
    SaveError,
    SaveReplacedError,
    SaveWarning,
    StoreBusyError,
    StoreClosedError,
    StoreOwnedError,
)
from peakhold.files import background
from peakhold.snapshots.arrays import Array, RawTensor
from peakhold.snapshots.host_buffers import Layout, PartDraft, Snapshot
from peakhold.snapshots.plan import Planner
from peakhold.speech import warn
from peakhold.store import manifest as manifests
from peakhold.store.commit import MARGIN_BYTES, TMP_PREFIX, Label, check_room, commit, remove_tree
from peakhold.store.deletions import Deletions
from peakhold.store.entry import Checkpoint, Entries, Entry, Findings
from peakhold.store.lock import LOCK_NAME
from peakhold.store.opened import open_checkpoint
from peakhold.store.owner import Ownership, make_root
from peakhold.store.reader import Reader, Which
from peakhold.store.saving import Pending, Request, Slot, StoreStats, check_parts
from peakhold.store.trash import Trash
from peakhold.store.trouble import as_it_is, is_damage

__all__ = ["Store"]

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_GAP: Final = 1_000_000  # more commits than anybody makes beyond one that cannot be read
_NO_MEMORY: Final = "there is no memory for a copy: the state is written before save returns"
# Inside the class, `list` is the method.
_Pendings: TypeAlias = list[Pending]


@final
class Store:
    """A folder of checkpoints that can be trusted: crash-safe, verified, asynchronous.

    Opening it makes the folder if need be, takes its lock and sweeps what an earlier process left
    half done. One store at a time writes to a folder; any number of `Reader`s look on. Methods are
    called from one thread.

    Args:
        folder: The folder of checkpoints.
        keep: Which checkpoints stay, for example `KeepLast(3) | KeepBest("val_loss", "min")`; the
            newest always does. Defaults to None, which keeps all.
        when_busy: What `save` does while an earlier save is being written. `"wait"` waits for it.
            `"replace"` copies at once, into a second set of buffers, and takes the place of a save
            that has not begun to be written. Defaults to `"wait"`.
        memory_limit: Bytes of host memory for snapshots at most. A state that needs more is written
            before `save` returns, without a copy. Defaults to None, no limit.
        undo: How many of the latest deletions can be taken back. At least 0. Defaults to 1.
        disk: The calls to the operating system; another one is for tests.

    Raises:
        InvalidArgumentError: If an argument cannot mean anything.
        SaveError: If the folder cannot be made or written to.
        StoreOwnedError: If another store has it open for writing.
        OSError: If what is there cannot be looked at now (`PermissionError`, no descriptor left,
            …): it is raised as what it is.

    Example:
        >>> import numpy as np, tempfile
        >>> with Store(tempfile.mkdtemp()) as store:
        ...     pending = store.save(10, {"model": {"w": np.ones(3)}}, metrics={"loss": 0.25})
        ...     entry = pending.result()  # durable now
        ...     store.best("loss", "min").step
        10
    """

    def __init__(
        self,
        folder: str | Path,
        keep: KeepPolicy | None = None,
        *,
        when_busy: Literal["wait", "replace"] = "wait",
        memory_limit: int | None = None,
        undo: int = 1,
        disk: Disk | None = None,
    ) -> None:
        _check_options(when_busy, memory_limit, undo)
        self.folder = Path(
            local_path("folder", folder, "the path of a folder", hint="pass 'checkpoints'.")
        ).absolute()
        self._keep = keep
        self._memory_limit = memory_limit
        self._disk = disk or Disk()
        self._reader = Reader(self.folder, disk=self._disk)
        self._stats = StoreStats()
        self._stats_lock = threading.Lock()
        self._notices: deque[str] = deque()
        self._pendings: list[Pending] = []
        self._planner = Planner()
        self._slots = [Slot() for _ in range(1 if when_busy == "wait" else 2)]
        self._retention: background.Task[None] | None = None
        self._n_followed = 0
        self._closed = False
        make_root(self._disk, str(self.folder))
        try:
            self._own = Ownership(self._disk, str(self.folder))
        except OSError as exc:
            is_taken = exc.filename == LOCK_NAME and is_damage(exc)
            raise SaveError.for_path(
                str(self.folder),
                str(exc),
                expected="a folder that can be written to",
                hint=f"move away what is called {LOCK_NAME}: that is the lock's name."
                if is_taken
                else None,
            ) from exc
        self._farewell = weakref.finalize(
            self, _farewell, weakref.ref(self), self._own, self._pendings, str(self.folder)
        )
        self._trash = Trash(self._disk, self._own, undo)
        self._deletions = Deletions(self._disk, self._own, self._reader, self._trash, self._notices)
        try:
            self._last_commit = self._recover()
        except OSError as exc:
            self._own.release()
            raise as_it_is(exc, self.folder) from exc
        except BaseException:
            self._own.release()
            raise

    def _recover(self) -> int:
        """Sweep what a dead process left unfinished, and find where the numbering goes on.

        Nobody else can be writing: the lock is ours.
        """
        root = self._own.root
        for name in self._disk.names(root):
            if name.startswith(TMP_PREFIX):
                try:
                    remove_tree(self._disk, name, root)
                except OSError as exc:
                    self._notices.append(f"{self.folder / name} could not be swept: {exc}")
        entries, damaged = self._reader.scan()
        self._reader.tell(damaged)
        if entries:
            self._check_newest(entries[-1])
        commits = [entry.commit for entry in entries]
        deleted = self._trash.commits(self.folder)
        known = [*commits, *(number for number in deleted if number is not None)]
        # Numbers are only an order: a gap costs nothing, one that is given out twice a checkpoint.
        unknown = bool(damaged) or None in deleted
        return max(known, default=0) + (_GAP if unknown else 0)

    def _check_newest(self, newest: Entry) -> None:
        """Say at once if the newest checkpoint has lost a file; loading verifies its bytes."""
        try:
            with open_checkpoint(self._disk, self._own.root, newest.name, self.folder) as opened:
                opened.check_files()
        except CheckpointDamagedError as error:
            self._notices.append(f"the newest checkpoint is damaged: {error}")

    # -- saving ------------------------------------------------------------------------------------

    def prepare(self, parts: Mapping[str, Any]) -> None:
        """Get ready for saves of such a state, before training starts. Writes nothing.

        Checks that the parts can be saved and that there is room on the disk, and allocates and
        touches the host memory, so that the first save costs what the tenth costs.

        Args:
            parts: What will be saved. Arrays may change later; if names, dtypes or shapes do, the
                next save prepares itself again and takes longer.

        Raises:
            InvalidArgumentError: If something in `parts` cannot be saved.
            DiskFullError: If not even one checkpoint fits.
        """
        self._check_open()
        self._check_not_interrupted(sys._getframe(1))
        drafts = check_parts(parts, self._planner)
        layout = Layout(drafts)
        check_room(self._disk, self._own.root, str(self.folder), layout.data_bytes)
        bound = self._keep.at_most if self._keep is not None else None
        if bound is not None:
            more = (bound + 1 - len(self._reader.list())) * layout.data_bytes
            free = self._disk.free_bytes(self._own.root)
            if more > free:
                self._notices.append(
                    f"{self._keep} may come to need {more:,} more bytes, the disk has {free:,} free"
                )
        self.wait()
        if self._fits_memory(layout):
            try:
                for slot in self._slots:
                    slot.buffers.take(drafts)
            except MemoryError as exc:
                self._notices.append(f"{self.folder}: {_NO_MEMORY} ({exc})")
        self._give_notices()

    def save(
        self,
        step: int,
        parts: Mapping[str, Any],
        *,
        epoch: int | None = None,
        metrics: Mapping[str, float] | None = None,
        reason: str | None = None,
        refers_to: Iterable[int] = (),
        immutable: bool = False,
    ) -> Pending:
        """Save a state: copied, and free to change, when this returns; durable later.

        Args:
            step: Steps done, at least 0. Saved again, a step gets a new revision.
            parts: The state by part (`"model"`, `"optimizer"`, …): trees of dicts, lists and tuples
                with arrays and plain values. Each part can be loaded alone; all are required.
            epoch: 0-based index of the epoch.
            metrics: Values at this step; numbers, or arrays with one element.
            reason: Why it is saved, for people.
            refers_to: Steps of earlier checkpoints that this one needs. The manifest and the entry
                name them; whether they stay is for `keep` to say, which sees them, too.
            immutable: True if nobody will change the arrays before the save is durable: they are
                then written from where they are, without a copy.

        Returns:
            The save; its `result()` is the durable entry.

        Raises:
            InvalidArgumentError: If something cannot be saved; nothing has happened then.
            StoreForkedError: In a forked child.
            StoreClosedError: After `close()`.
            StoreBusyError: In a signal's handler that has come in the middle of a `save` of this
                store. Elsewhere a handler may save.
        """
        started = time.perf_counter()
        self._check_open()
        self._check_not_interrupted(sys._getframe(1))
        if self._notices or self._pendings:
            self._give_notices()
        request = Request.checked(step, epoch, metrics, reason, refers_to)
        drafts = check_parts(parts, self._planner)
        copied = not immutable and self._fits_memory(drafts)
        waiting = time.perf_counter()
        slot, waited = self._free_slot()
        wait_s = time.perf_counter() - waiting if waited else 0.0
        snapshot = self._copy(drafts, slot) if copied else None
        copied = snapshot is not None
        if snapshot is None:
            snapshot = Snapshot.of_immutable(drafts)
        pending = self._pending(request, snapshot)
        try:
            self._hand_over(pending, slot)
            if not (copied or immutable):  # the arrays must not change before they are written
                pending.task.wait()
            if sys.is_finalizing():
                self._tell_at_the_end(pending)
            blocked_s = time.perf_counter() - started
            self._count(
                asked=1,
                waited=int(waited),
                blocked_s=blocked_s,
                last_blocked_s=blocked_s,
                last_wait_s=wait_s,
            )
            return pending  # noqa: TRY300 - an interrupt at this line, too, leaves nobody to ask
        except BaseException:
            pending.abandon(copied=copied)
            raise

    def _fits_memory(self, state: Layout | list[PartDraft]) -> bool:
        if self._memory_limit is None:
            return True
        layout = state if isinstance(state, Layout) else Layout(state)
        return len(self._slots) * layout.nbytes <= self._memory_limit

    def _free_slot(self) -> tuple[Slot, bool]:
        """A slot whose buffers nobody uses, and whether it had to be waited for."""
        for slot in self._slots:
            if slot.free:
                return slot, False
        newest = self._slots[-1].pending
        if len(self._slots) > 1 and newest is not None:
            # The writer is busy with one slot; whichever it is, the other can be had.
            for slot in self._slots:
                pending = slot.pending
                if pending and pending.task.cancel(SaveReplacedError.for_step(pending.step)):
                    self._count(replaced=1)
                    return slot, False
                if slot.free:
                    return slot, False
        slot = self._slots[0]
        if slot.pending is not None:
            slot.pending.task.wait()
        return slot, True

    def _copy(self, drafts: list[PartDraft], slot: Slot) -> Snapshot | None:
        """The snapshot, or None if there is no memory for one."""
        try:
            return slot.buffers.take(drafts)
        except MemoryError as exc:
            self._notices.append(f"{self.folder}: {_NO_MEMORY} ({exc})")
            return None

    def _pending(self, request: Request, snapshot: Snapshot) -> Pending:
        # No closure: an error would keep it, and with it a store that nobody else holds.
        return Pending(request.step, partial(self._commit, request, snapshot))

    def _hand_over(self, pending: Pending, slot: Slot) -> None:
        # Wherever Ctrl-C comes in between: whoever waits for the task has it done.
        slot.pending = pending
        self._pendings.append(pending)
        background.submit(pending.task)

    def _tell_at_the_end(self, pending: Pending) -> None:
        """In a `__del__` at the end of the interpreter nobody can ask for the outcome any more."""
        if pending.failure is not None:
            pending.told = True
            warn(f"the save of step {pending.step} failed: {pending.failure}", SaveWarning)

    def _commit(self, request: Request, snapshot: Snapshot, pending: Pending) -> Entry:
        """In the writer thread: make the checkpoint durable, then see to retention."""
        started = time.perf_counter()
        try:
            manifest = self._write(request, snapshot, pending)
        except OSError as exc:
            self._count(failed=1)
            if isinstance(exc, SaveError):
                raise
            raise SaveError.for_path(
                str(self.folder / manifests.folder_name(request.step, 1)),
                exc.strerror or str(exc),
                expected="a checkpoint that can be written",
                hint="free some space." if exc.errno in _FULL else None,
            ) from exc
        except BaseException:
            self._count(failed=1)
            raise
        self._count(committed=1, last_write_s=time.perf_counter() - started)
        entry = Entry.of(manifest, self.folder)
        if self._keep is not None:
            self._reader.remember(self._own.root, entry)
            self._retention = background.submit(self._retain)
        return entry

    def _write(self, request: Request, snapshot: Snapshot, pending: Pending) -> manifests.Manifest:
        root, path = self._own.root, str(self.folder)
        self._own.check()
        if self._own.released:  # by a handler that came before this was handed over
            raise StoreClosedError.for_path(path)
        if not self._own.is_there():
            self._follow()
            root = self._own.root
        needed = snapshot.layout.data_bytes + MARGIN_BYTES
        if self._disk.free_bytes(root) < needed:
            with contextlib.suppress(OSError):  # an undo is worth less than a checkpoint
                self._trash.empty(leave=0)
        if self._last_commit >= manifests.MAX_COUNT:
            raise SaveError.for_path(
                path,
                f"a checkpoint there has commit number {self._last_commit}, which is the last",
                expected="a folder with a commit number left",
                hint="delete that checkpoint, or save into another folder.",
            )
        self._last_commit += 1  # a failed save's number is not used again
        label = Label(
            step=request.step,
            revision=self._next_revision(request.step),
            commit=self._last_commit,
            epoch=request.epoch,
            metrics=request.metrics,
            reason=request.reason,
            refers_to=request.refers_to,
        )
        return commit(self._disk, root, path, label, snapshot, partial(pending.check, path))

    def _follow(self) -> None:
        """In the writer thread: go on in the folder that the path means now (rule 5)."""
        try:
            self._own.follow()
        except StoreOwnedError:
            raise
        except OSError as exc:
            reason = exc.__cause__ or exc
            raise SaveError.for_path(
                str(self.folder),
                "it was deleted, moved or replaced, and cannot be made anew: "
                f"{getattr(reason, 'strerror', None) or reason}",
                expected="the folder that the store was opened in",
                hint="move away what stands there; the next save makes the folder anew.",
            ) from exc
        self._n_followed += 1
        self._notices.append(
            f"{self.folder} was deleted, moved or replaced since the last save. The new one goes "
            "to the folder that is there now; what was saved before may not be in it."
        )
        self._last_commit = max(self._last_commit, self._recover())

    def _is_there(self) -> bool:
        """Whether what was saved is still under the path, as far as can be seen."""
        try:
            return self._own.is_there()
        except OSError:
            return True

    def _next_revision(self, step: int) -> int:
        """One more than any in the folder, damaged or not, or in the trash."""
        names = [*self._disk.names(self._own.root), *self._trash.names()]
        return manifests.next_revision(names, step)

    def _retain(self) -> None:
        """In the writer thread: delete what the policy does not keep."""
        self._deletions.retain(self._keep)

    # -- waiting and closing ---------------------------------------------------------------------

    def wait(self) -> None:
        """Wait until every save is durable and the folder is tidy.

        Raises:
            SaveError: What went wrong with a save, if nobody has seen it yet; further ones are
            notes.
        """
        self._check_open()
        failures = self._settle()
        self._give_notices()
        _raise_first(failures)

    def _settle(self) -> list[BaseException]:
        while waiting := [pending for pending in self._pendings if not pending.done]:
            waiting[0].task.wait()
        if self._retention is not None:
            self._retention.wait()
        over = self._take_finished()
        return [p.failure for p in over if not p.told and p.failure is not None]

    def _take_finished(self) -> _Pendings:
        """What is over, and has not been taken by a signal's handler meanwhile."""
        over = []
        for pending in [one for one in self._pendings if one.done]:
            with contextlib.suppress(ValueError):
                self._pendings.remove(pending)
                over.append(pending)
        return over

    def close(self) -> None:
        """Wait for every save, then let the folder go. Closing again does nothing.

        If Ctrl-C ends the wait, the saves go on, and the folder is let go when they are over;
        another call of `close` waits for that.

        Raises:
            SaveError: What went wrong with a save, if nobody has seen it yet.
        """
        if self._closed:
            if not self._own.released:  # the wait was interrupted
                background.submit(self._own.release).wait()
            return
        self._own.check()
        try:
            failures = self._settle()
        finally:
            self._closed = True
            released = background.submit(self._own.release)
        released.wait()
        self._farewell.detach()
        self._give_notices()
        _raise_first(failures)

    def __enter__(self) -> Store:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            self.close()
        except SaveError as failure:
            if error is None:
                raise
            error.add_note(f"and a save failed: {failure}")  # the first error is the one to see

    def __repr__(self) -> str:
        s = self._stats
        return (
            f"Store({str(self.folder)!r}: {s.committed} committed, {s.failed} failed, "
            f"{s.replaced} replaced, {s.waited} waited; training lost {s.blocked_s:.3f} s)"
        )

    @property
    def stats(self) -> StoreStats:
        """What has been done so far."""
        return self._stats

    def _count(self, **changes: float) -> None:
        with self._stats_lock:
            new: dict[str, Any] = {}
            for name, value in changes.items():
                new[name] = (
                    value if name.startswith("last_") else getattr(self._stats, name) + value
                )
            self._stats = replace(self._stats, **new)

    def _check_not_interrupted(self, caller: FrameType | None) -> None:
        """Raise if the caller's handler of a signal has come in the middle of a save of ours.

        The stack says so; a flag would be wrong for good after a Ctrl-C at the wrong line.
        """
        while caller is not None:
            if caller.f_code in _COPYING and caller.f_locals.get("self") is self:
                raise StoreBusyError.for_path(str(self.folder))
            caller = caller.f_back

    def _check_open(self) -> None:
        self._own.check()
        if self._closed:
            raise StoreClosedError.for_path(str(self.folder))

    def _give_notices(self) -> None:
        """Warn, in the caller's thread, of what went wrong in ours."""
        for pending in self._take_finished():
            if pending.failure is not None and not pending.told:
                self._notices.append(f"the save of step {pending.step} failed: {pending.failure}")
        with contextlib.suppress(IndexError):
            while True:
                warn(self._notices.popleft(), SaveWarning)

    # -- reading ---------------------------------------------------------------------------------

    def list(self) -> Entries:
        """Return all committed checkpoints, oldest commit first; see `Reader.list`."""
        self._check_open()
        return self._reader.list()

    @property
    def latest(self) -> Entry | None:
        """The newest commit, or None if there is none."""
        self._check_open()
        return self._reader.latest

    def best(self, metric: str, mode: Literal["min", "max"]) -> Entry | None:
        """Return the checkpoint with the best value of a metric; see `Reader.best`."""
        self._check_open()
        return self._reader.best(metric, mode)

    def load(
        self,
        which: Which = "latest",
        parts: Iterable[str] | None = None,
        *,
        if_damaged: Literal["older", "error"] | None = None,
        mmap: bool = False,
    ) -> Checkpoint:
        """Load a checkpoint, verifying every byte that is returned; see `Reader.load`."""
        self._check_open()
        return self._reader.load(which, parts, if_damaged=if_damaged, mmap=mmap)

    def load_tensor(self, which: Which, part: str, name: str) -> Array | RawTensor:
        """Load one tensor, verified; see `Reader.load_tensor`."""
        self._check_open()
        return self._reader.load_tensor(which, part, name)

    def verify(self, which: Which | None = None) -> Findings:
        """Read every byte and say what is damaged; see `Reader.verify`."""
        self._check_open()
        return self._reader.verify(which)

    # -- deleting --------------------------------------------------------------------------------

    def delete(self, which: Which | str) -> None:
        """Delete a checkpoint, atomically and durably. The latest `undo` deletions can be undone.

        Args:
            which: An entry, a step (its newest revision), `"latest"`, or the name of a folder as
                `verify` gives it, damaged or not.

        Raises:
            CheckpointNotFoundError: If there is no such checkpoint.
            SaveError: If it cannot be deleted.
        """
        self._check_open()
        self._delete([self._name_of(which)], which)

    def _delete(self, names: Sequence[str], which: object) -> None:
        """Delete folders of checkpoints, one after the other."""
        try:
            # A job holds the store, which is not let go before, whoever interrupts the wait.
            background.submit(lambda: self._deletions.delete(names, which)).result()
        except OSError as exc:
            raise SaveError.for_path(
                str(self.folder / names[0]), str(exc), expected="a checkpoint that can be deleted"
            ) from exc

    def undelete(self, which: Entry | int | str | None = None) -> Entry:
        """Bring a deleted checkpoint back, verified. This store's keep policy leaves it alone then.

        Args:
            which: The entry, step or folder name; None takes the latest deletion.

        Returns:
            Its entry.

        Raises:
            CheckpointNotFoundError: If it is not in the trash any more.
            CheckpointDamagedError: If it is not whole any more.
        """
        self._check_open()

        return background.submit(lambda: self._deletions.bring_back(which)).result()

    def _name_of(self, which: Which | str) -> str:
        if isinstance(which, Entry):
            return which.name
        if isinstance(which, str) and which != "latest":
            if manifests.parse_folder_name(which) is None:
                raise InvalidArgumentError.for_argument(
                    "which", which, "an entry, a step, 'latest' or a name such as 'step-00000042'"
                )
            return which
        entries = [e for e in self._reader.list() if which in ("latest", e.step)]
        if not entries:
            raise CheckpointNotFoundError.for_step(str(self.folder), which, self._deletions.steps())
        return entries[-1].name


_COPYING: Final = (Store.save.__code__, Store.prepare.__code__)


def _check_options(when_busy: Any, memory_limit: Any, undo: Any) -> None:
    if when_busy not in ("wait", "replace"):
        raise InvalidArgumentError.for_argument("when_busy", when_busy, "'wait' or 'replace'")
    if memory_limit is not None and memory_limit < 0:
        raise InvalidArgumentError.for_argument(
            "memory_limit",
            memory_limit,
            "a number of bytes or None",
            hint="0 writes every state before save returns, without a copy.",
        )
    if isinstance(undo, bool) or not isinstance(undo, int) or undo < 0:
        raise InvalidArgumentError.for_argument("undo", undo, "an int of at least 0")


def _raise_first(failures: list[BaseException]) -> None:
    if failures:
        first, *others = failures
        for other in others:
            first.add_note(f"and: {other}")
        raise first


def _farewell(
    store: weakref.ref[Store], own: Ownership, pendings: list[Pending], folder: str
) -> None:
    """When a store that was never closed goes away: let the folder go, and never be silent."""
    if own.pid != os.getpid():
        return  # a forked child ends; the saves are its parent's
    if store() is None:  # collected: a save that is under way would hold it, so that none is
        own.release()
    else:  # the process ends, and somebody's `__del__` may save yet
        for pending in pendings:
            pending.task.wait()
    for pending in pendings:
        if pending.failure is not None and not pending.told:
            pending.told = True
            warn(
                f"{folder}: the save of step {pending.step} failed: {pending.failure}", SaveWarning
            )
