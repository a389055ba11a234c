"""What only a write shows: a probe is made in a folder, and taken away again.

The calls are those of a commit (a file is written and flushed, takes another's place, and the
folder is flushed), and those of an owner (a file is locked, and the lock holds). The probes are
hidden, and named so that a sweep takes away what a killed doctor has left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, final

from peakhold.advice import Advice
from peakhold.advice.folders import size_of
from peakhold.disk.disk import Disk, let_go, let_go_after
from peakhold.disk.volume import existing
from peakhold.files.open_files import NEW, hidden_name

__all__ = ["Speed", "measured", "tried_out"]

_CURES: Final = {
    errno.EROFS: "mount it for writing, or write elsewhere",
    errno.EACCES: "give this user the right to write there (chown; in Kubernetes fsGroup)",
    errno.EPERM: "give this user the right to write there (chown; in Kubernetes fsGroup)",
    errno.ENOSPC: "free some space or inodes, or write elsewhere",
    errno.EDQUOT: "your quota is used up: free some space, or write elsewhere",
}
_OLD, _NEW = b"old", b"new"
_BLOCK: Final = 1 << 20
_BLOCKS: Final = 16
_ROUNDS: Final = 5
_FLUSHES: Final = 4
"""Of one checkpoint: weights, optimizer, the manifest, and the folder that is renamed."""


def tried_out(folder: str, disk: Disk) -> list[Advice]:
    """E9: what a run does to a folder, done to a probe; what fails, with what to do.

    Args:
        folder: The folder; of one that is not there, where it would be made.
        disk: The calls to the system.
    """
    there = existing(folder)
    if not os.path.isdir(there):
        return [_error(f"{there!r} is no folder; move it away, or write elsewhere")]
    try:
        with _probing(there, disk) as (root, one, other):
            _write(disk, one, root, _NEW)
            _write(disk, other, root, _OLD)
            return [
                *_place_taken(there, disk, root, one, other),
                *_locked(there, disk, root, other),
            ]
    except OSError as failure:
        cure = _CURES.get(failure.errno or 0, "write elsewhere")
        return [_error(f"{there!r} cannot be written: {_reason(failure)}; {cure}")]


@contextlib.contextmanager
def _probing(folder: str, disk: Disk) -> Iterator[tuple[int, str, str]]:
    """A folder that is open, and two names in it that nobody has, before or after."""
    names = hidden_name("doctor", NEW), hidden_name("doctor", NEW)
    with let_go_after(disk, disk.open_root(folder)) as root:
        try:
            yield root, *names
        finally:
            for name in names:
                with contextlib.suppress(OSError):
                    disk.remove(name, root)


def _write(disk: Disk, name: str, root: int, content: bytes) -> None:
    with let_go_after(disk, disk.create(name, root)) as fd:
        disk.write(fd, content)
        disk.sync(fd)


def _place_taken(there: str, disk: Disk, root: int, one: str, other: str) -> Iterator[Advice]:
    """Whether a file takes another's place, and the folder can be flushed then."""
    why = None
    try:
        disk.rename(one, other, root, root)
        with let_go_after(disk, disk.open(other, root)) as fd:
            found = bytearray(len(_NEW))
            disk.read_into(fd, [memoryview(found)], 0)
            why = None if found == _NEW else "the old one is still there"
    except OSError as failure:
        why = _reason(failure)
    if why is not None:
        yield _error(
            f"in {there!r} a file cannot take another's place ({why}), so that nothing can be "
            "committed; write to another file system"
        )
        return
    try:
        disk.sync(root)
    except OSError as failure:
        yield Advice(
            "E9",
            "warning",
            f"{there!r} cannot be flushed ({_reason(failure)}), so that a file may be gone after a "
            "power cut; write to another file system.",
        )


def _locked(there: str, disk: Disk, root: int, name: str) -> Iterator[Advice]:
    """Whether a lock can be had, and keeps others out."""
    try:
        with (
            let_go_after(disk, disk.open_lock(name, root)) as fd,
            let_go_after(disk, disk.open_lock(name, root)) as others,
        ):
            disk.lock(fd)
            try:
                disk.share_lock(others)
            except BlockingIOError:
                return
            why = "two have the same lock"
    except OSError as failure:
        why = _reason(failure)
    yield _error(
        f"in {there!r} files cannot be locked ({why}), and BackupAndRestore, Run and a store need "
        "that; write to another file system, or mount it with locks"
    )


def _error(text: str) -> Advice:
    return Advice("E9", "error", f"{text}.")


def _reason(failure: OSError) -> str:
    return failure.strerror or str(failure)


@final
@dataclass(frozen=True, slots=True)
class Speed:
    """How quick a folder is; medians of a few rounds, in seconds."""

    write_bytes_per_s: float
    """Of a file of some MiB, its flush included."""
    flush_s: float
    """Of a small file."""
    rename_s: float
    """One file in another's place, and the flush of the folder."""
    lock_s: float
    """To open a file and lock it."""
    checkpoint_bytes: int | None = None
    """The size that was asked for."""

    @property
    def checkpoint_s(self) -> float | None:
        """What a checkpoint of that size will take; None if none was asked for."""
        if self.checkpoint_bytes is None:
            return None
        return (
            self.checkpoint_bytes / self.write_bytes_per_s + _FLUSHES * self.flush_s + self.rename_s
        )

    def lines(self) -> Iterator[str]:
        """The same, for people."""
        yield f"write        {size_of(int(self.write_bytes_per_s))} a second"
        yield (
            f"flush        {self.flush_s * 1e3:.2f} ms, rename {self.rename_s * 1e3:.2f} ms, "
            f"lock {self.lock_s * 1e3:.2f} ms"
        )
        if self.checkpoint_bytes is not None and self.checkpoint_s is not None:
            yield (
                f"a checkpoint of {size_of(self.checkpoint_bytes)} takes about "
                f"{self.checkpoint_s:.2g} s"
            )


def measured(folder: str, disk: Disk, nbytes: int | None) -> Speed | None:
    """Write to a folder, and say how quick it is; None if there is no room for that.

    Args:
        folder: The folder; of one that is not there, where it would be made.
        disk: The calls to the system.
        nbytes: Of a checkpoint that is to be reckoned, or None.
    """
    there = existing(folder)
    with contextlib.suppress(OSError), _probing(there, disk) as (root, one, other):
        n_blocks = min(_BLOCKS, disk.free_bytes(root) // (4 * _BLOCK))
        if not n_blocks:
            return None
        block = os.urandom(_BLOCK)  # what compresses would look quicker than weights are

        def write() -> None:
            fd = disk.create(one, root)
            try:
                for _ in range(n_blocks):
                    done = 0
                    while done < _BLOCK:
                        done += disk.write(fd, memoryview(block)[done:])
                disk.sync(fd)
            finally:
                let_go(disk, fd)

        def flush() -> None:
            disk.remove(other, root)
            _write(disk, other, root, _NEW)

        def rename() -> None:
            disk.rename(one, other, root, root)
            disk.sync(root)
            disk.rename(other, one, root, root)

        def lock() -> None:
            with let_go_after(disk, disk.open_lock(one, root)) as fd:
                disk.lock(fd)

        wrote = _seconds(write, 1)
        _write(disk, other, root, _OLD)
        return Speed(
            n_blocks * _BLOCK / wrote,
            _seconds(flush, _ROUNDS),
            _seconds(rename, _ROUNDS),
            _seconds(lock, _ROUNDS),
            nbytes,
        )
    return None


def _seconds(work: Callable[[], object], rounds: int) -> float:
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return sorted(took)[rounds // 2]
