"""Reading a folder of checkpoints: no lock, no write, nothing believed that is not verified.

"There is none" is said only when there is none: a folder where everything is damaged is an error,
and so is one that cannot be looked into now (`trouble.py`). A checkpoint that is deleted while it
is read is neither: the listing is made anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TypeAlias, final

from peakhold._core.policies.keep import KeepBest
from peakhold.disk.disk import Disk, let_go_after
from peakhold.disk.local_path import local_path
from peakhold.errors import (
    CheckpointDamagedError,
    CheckpointDamagedWarning,
    CheckpointNotFoundError,
    InvalidArgumentError,
    PartMissingError,
)
from peakhold.snapshots.arrays import Array, RawTensor
from peakhold.speech import warn
from peakhold.store import manifest as manifests
from peakhold.store.entry import Checkpoint, Entries, Entry, Finding, Findings
from peakhold.store.opened import GoneError, OpenCheckpoint, open_checkpoint
from peakhold.store.trouble import as_it_is

__all__ = ["Reader", "Which"]

Which: TypeAlias = "Entry | int | Literal['latest']"
# Inside the class, `list` is the method.
_Damage: TypeAlias = list[CheckpointDamagedError]
_Names: TypeAlias = list[str]
_StepNumbers: TypeAlias = list[int]
_Stamp: TypeAlias = tuple[int, int, int, int]


@final
class Reader:
    """Look into a folder of checkpoints, while another process may be writing to it.

    Takes no lock and writes nothing, so it works on read-only media and never makes the writer
    wait. Every answer is made from the manifests on disk; those that have not changed are not
    parsed again.

    Args:
        folder: The folder of checkpoints.
        disk: The calls to the operating system; another one is for tests.

    Raises:
        CheckpointNotFoundError: From a call, if `folder` does not exist.
        CheckpointDamagedError: From a call, if there are checkpoints and all of them are damaged.
        OSError: From a call, if what is there cannot be looked at now (`PermissionError`, no
            descriptor left, …): it is raised as what it is, never taken for damage or emptiness.

    Example:
        >>> import numpy as np, tempfile
        >>> from peakhold.store import Store
        >>> folder = tempfile.mkdtemp()
        >>> with Store(folder) as store:
        ...     _ = store.save(10, {"model": {"w": np.arange(3)}}, metrics={"loss": 0.5})
        >>> Reader(folder).load("latest")["model"]["w"]
        array([0, 1, 2])
    """

    def __init__(self, folder: str | Path, *, disk: Disk | None = None) -> None:
        self.folder = Path(
            local_path("folder", folder, "the path of a folder", hint="pass 'checkpoints'.")
        ).absolute()
        self._disk = disk or Disk()
        self._cache: dict[str, tuple[_Stamp, Entry]] = {}
        self._told: set[str] = set()

    def __repr__(self) -> str:
        return f"Reader({str(self.folder)!r})"

    def _open_root(self) -> int:
        try:
            return self._disk.open_root(str(self.folder))
        except FileNotFoundError:
            raise CheckpointNotFoundError.for_step(str(self.folder), "any", ()) from None
        except OSError as error:
            raise as_it_is(error, self.folder) from error

    def _stamp(self, root: int, name: str) -> _Stamp | None:
        """What changes when a checkpoint's folder or manifest is another one."""
        disk = self._disk
        try:
            with let_go_after(disk, disk.open_folder(name, root)) as folder:
                fd = disk.open(manifests.FILE_NAME, folder)
                with let_go_after(disk, fd):
                    status = disk.status(fd)
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size

    def _entry(self, root: int, name: str, seen: dict[str, tuple[_Stamp, Entry]]) -> Entry:
        stamp = self._stamp(root, name)
        cached = self._cache.get(name)
        if cached is None or cached[0] != stamp:
            with open_checkpoint(self._disk, root, name, self.folder) as opened:
                entry = opened.entry
        else:
            entry = cached[1]
        if stamp is not None:
            seen[name] = stamp, entry
        return entry

    def remember(self, root: int, entry: Entry) -> None:
        """What was just committed need not be read back to be listed.

        Args:
            root: Descriptor of the folder.
            entry: What its manifest says.
        """
        with contextlib.suppress(OSError):  # then it is read
            name = entry.name
            stamp = self._stamp(root, name)
            if stamp is not None:
                self._cache[name] = stamp, entry

    def scan(self, step: int | None = None) -> tuple[Entries, _Damage]:
        """Return the entries, oldest commit first, and what has a bad manifest.

        Between listing the names and opening the last of them a busy writer may have deleted all
        that were listed, and committed others: if one is gone, the listing is made anew.

        Args:
            step: Look at the checkpoints of this step alone; None looks at all.

        Raises:
            OSError: If one of them cannot be looked at: whether it is the newest, or the best,
            nobody can tell.
        """
        with let_go_after(self._disk, self._open_root()) as root:
            while True:
                found = self._scan_once(root, step)
                if found is not None:
                    return found

    def _scan_once(self, root: int, step: int | None) -> tuple[Entries, _Damage] | None:
        entries: Entries = []
        damaged: _Damage = []
        # A new one takes the place of the old at the end: two threads may scan at a time.
        seen: dict[str, tuple[_Stamp, Entry]] = {} if step is None else dict(self._cache)
        for name in sorted(self._names(root, step), reverse=True):
            try:
                entries.append(self._entry(root, name, seen))
            except CheckpointDamagedError as error:
                damaged.append(error)
            except GoneError:
                return None
        self._cache = seen
        return sorted(entries, key=attrgetter("commit")), damaged

    def _names(self, root: int, step: int | None) -> _Names:
        try:
            names = self._disk.names(root)
        except OSError as error:
            raise as_it_is(error, self.folder) from error
        return manifests.checkpoints_in(names, step)

    def list(self) -> Entries:
        """Return all checkpoints whose manifest is sound, oldest commit first.

        One whose manifest is damaged is left out, with a `CheckpointDamagedWarning` the first time.

        Raises:
            CheckpointDamagedError: If all of them are: the folder is not empty.
            OSError: If one cannot be looked at.
        """
        entries, damaged = self.scan()
        if damaged and not entries:
            raise _all(damaged)
        self.tell(error for error in damaged if error.path not in self._told)
        return entries

    def tell(self, errors: Iterable[CheckpointDamagedError]) -> None:
        """Warn of damaged checkpoints that are passed over."""
        for error in errors:
            self._told.add(error.path)
            warn(f"passed over a damaged checkpoint: {error}", CheckpointDamagedWarning)

    @property
    def latest(self) -> Entry | None:
        """The newest commit with a sound manifest, or None if there is no checkpoint at all.

        Raises what `list` raises.
        """
        entries = self.list()
        return entries[-1] if entries else None

    def best(self, metric: str, mode: Literal["min", "max"]) -> Entry | None:
        """Return the checkpoint with the best value of a metric.

        NaN and infinities are never best; of equal values the earlier commit wins.

        Args:
            metric: Name of the metric.
            mode: `"min"` if smaller is better, `"max"` if larger is.

        Returns:
            The best entry, or None if no checkpoint has a finite value of the metric.

        Raises:
            InvalidArgumentError: If `mode` is neither, or checkpoints exist and none has the
            metric.
        """
        policy = KeepBest(metric, mode)
        entries = {entry.commit: entry for entry in self.list()}
        ranked = policy.ranked([entry.info for entry in entries.values()])
        if ranked:
            return entries[ranked[0].commit]
        known = sorted({name for entry in entries.values() for name in entry.metrics})
        if entries and metric not in known:
            raise InvalidArgumentError.for_argument(
                "metric", metric, f"a metric that was saved, one of {known[:5]}"
            )
        return None

    def _candidates(self, which: Which, *, older: bool) -> tuple[Entries, _Damage]:
        """What to try, in this order, and what cannot even be tried."""
        # Trouble with one checkpoint is in nobody's way who has asked for another.
        entries, damaged = self.scan(None if older else _step_of(which))
        newest_first = entries[::-1]
        if which == "latest":
            if not entries and damaged:
                raise _all(damaged)
            chosen = newest_first
        else:
            chosen, damaged = self._starting_at(which, newest_first, damaged)
        if not chosen and damaged:
            raise damaged[0]
        if not chosen:
            raise CheckpointNotFoundError.for_step(str(self.folder), which, self._steps())
        return chosen if older else chosen[:1], damaged

    def _steps(self) -> _StepNumbers:
        """The newest steps, for a message."""
        with contextlib.suppress(OSError):
            return [entry.step for entry in self.scan()[0][:-6:-1]]
        return []

    def _starting_at(
        self, which: object, newest_first: Entries, damaged: _Damage
    ) -> tuple[Entries, _Damage]:
        """From what was asked for on, and what is damaged but may be what was meant."""
        if isinstance(which, Entry):
            same = [i for i, entry in enumerate(newest_first) if entry.name == which.name]
        elif isinstance(which, int) and not isinstance(which, bool):
            same = [i for i, entry in enumerate(newest_first) if entry.step == which]
        else:
            raise InvalidArgumentError.for_argument("which", which, "an entry, a step or 'latest'")
        if isinstance(which, Entry):
            damaged = [error for error in damaged if Path(error.path).name == which.name]
        else:  # a later revision that is damaged is what the step means
            at_least = newest_first[same[0]].revision if same else 0
            keys = [(e, manifests.parse_folder_name(Path(e.path).name)) for e in damaged]
            damaged = [e for e, key in keys if key and key[0] == which and key[1] > at_least]
        return newest_first[same[0] :] if same else [], damaged

    def load(
        self,
        which: Which = "latest",
        parts: Iterable[str] | None = None,
        *,
        if_damaged: Literal["older", "error"] | None = None,
        mmap: bool = False,
    ) -> Checkpoint:
        """Load a checkpoint, verifying every byte that is returned.

        Args:
            which: An entry, a step (its newest revision), or `"latest"`, the newest commit.
            parts: Names of the parts to load; the rest is not read. None loads all.
            if_damaged: `"older"` loads the next older good commit instead, with a
                `CheckpointDamagedWarning` for each that is passed over; `"error"` raises. Defaults
                to `"older"` for `"latest"`, and to `"error"` for one that was asked for by name:
                another step's weights are not what was meant.
            mmap: Map tensor files into memory instead of reading them. They are verified now; a
            file
                that is changed later changes the arrays, one that is cut ends the process.

        Returns:
            The content, and which checkpoint it is of. Arrays are NumPy arrays, `RawTensor` where
            NumPy has no dtype, and read-only with `mmap`. They belong to the caller; those of one
            part lie in one block of memory, which lives as long as any of them.

        Raises:
            CheckpointNotFoundError: If there is no such checkpoint.
            CheckpointDamagedError: If it, or everything, is damaged; also if it lacks a part that
                it says itself is required, and all were asked for.
            PartMissingError: If it lacks a part that was asked for.
        """
        wanted = None if parts is None else tuple(parts)

        def content(opened: OpenCheckpoint) -> dict[str, Any]:
            names = wanted if wanted is not None else opened.manifest.parts
            missing = [part for part in names if part not in opened.manifest.parts]
            if missing:
                raise PartMissingError.for_parts(opened.path, missing, opened.manifest.parts)
            incomplete = opened.incomplete() if wanted is None else None
            if incomplete is not None:
                raise incomplete
            return {part: opened.load_part(part, mmap) for part in names}

        older = which == "latest" if if_damaged is None else if_damaged == "older"
        return self._read(which, older=older, content=content)

    def load_tensor(self, which: Which, part: str, name: str) -> Array | RawTensor:
        """Load one tensor, verified; nothing else of the checkpoint's data is read.

        Args:
            which: An entry, a step or `"latest"`; a damaged one is an error.
            part: Name of the part.
            name: Name of the tensor: the path of its keys, joined with `/`.

        Raises:
            CheckpointDamagedError: If the tensor is not as it was saved.
        """

        def content(opened: OpenCheckpoint) -> dict[str, Any]:
            if part not in opened.manifest.parts:
                raise PartMissingError.for_parts(opened.path, [part], opened.manifest.parts)
            return {part: opened.load_tensor(part, name)}

        array: Array | RawTensor = self._read(which, older=False, content=content).parts[part]
        return array

    def _read(
        self, which: Which, *, older: bool, content: Callable[[OpenCheckpoint], Mapping[str, Any]]
    ) -> Checkpoint:
        passed_over: dict[str, CheckpointDamagedError] = {}
        while True:
            candidates, damaged = self._candidates(which, older=older)
            if damaged and not older:
                raise damaged[0]  # it may be the newest: nobody can tell
            self.tell(error for error in damaged if error.path not in self._told)
            passed_over |= {error.path: error for error in damaged}
            try:
                return self._first_good(candidates, older, content, passed_over)
            except GoneError:
                continue  # one was deleted while we read it: the list has changed, look again

    def _first_good(
        self,
        candidates: Entries,
        older: bool,
        content: Callable[[OpenCheckpoint], Mapping[str, Any]],
        passed_over: dict[str, CheckpointDamagedError],
    ) -> Checkpoint:
        with let_go_after(self._disk, self._open_root()) as root:
            for entry in candidates:
                try:
                    with open_checkpoint(self._disk, root, entry.name, self.folder) as opened:
                        loaded = dict(content(opened))
                        return Checkpoint(opened.entry, loaded, tuple(passed_over.values()))
                except CheckpointDamagedError as error:
                    if not older:
                        raise
                    if error.path not in passed_over:
                        passed_over[error.path] = error
                        self.tell([error])
        raise _all([*passed_over.values()])

    def verify(self, which: Which | None = None) -> Findings:
        """Read every byte of one checkpoint, or of all, and say what is damaged.

        Args:
            which: An entry, a step or `"latest"`; None verifies everything.

        Returns:
            One finding for each checkpoint, oldest commit first, then those without a sound
            manifest.
        """
        entries, damaged = self.scan()
        if which is not None:
            entries, damaged = self._candidates(which, older=False)[0], []
        findings = []
        with let_go_after(self._disk, self._open_root()) as root:
            for entry in entries:
                damage = self._damage(root, entry)
                if damage is not None:
                    findings.append(Finding(entry.name, entry, damage))
        findings.extend(Finding(Path(e.path).name, None, (e,)) for e in damaged)
        return findings

    def _damage(self, root: int, entry: Entry) -> tuple[CheckpointDamagedError, ...] | None:
        """All that is wrong with a checkpoint; None if it was deleted meanwhile."""
        try:
            with open_checkpoint(self._disk, root, entry.name, self.folder) as opened:
                damage = tuple(opened.all_damage())
                if damage and isinstance(opened.unless_gone(damage[0]), GoneError):
                    return None
                return damage
        except GoneError:
            return None
        except CheckpointDamagedError as error:
            return (error,)


def _step_of(which: object) -> int | None:
    if isinstance(which, Entry):
        return which.step
    return which if isinstance(which, int) and not isinstance(which, bool) else None


def _all(damaged: _Damage) -> CheckpointDamagedError:
    """The first, to be raised where there is nothing else."""
    first = damaged[0]
    first.add_note(f"{len(damaged)} checkpoints were tried, all of them are damaged")
    return first
