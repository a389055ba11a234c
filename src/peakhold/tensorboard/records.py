"""Event files: records with checksums, one after the other.

Rules of this file:

1. What was handed to the system stays: a killed process loses no more than what it buffered in the
   last second. A write that fails half-way is cut off again, so that later ones can be read.
2. A file is never gone on with: each writer makes its own, under a name that sorts after all that
   are there. TensorBoard reads the files of a folder by name, and leaves one for the next.
3. Only the process that made a file writes to it: a forked child has a copy of the buffer and must
   not write it a second time.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import IO, Protocol, final

from peakhold import files
from peakhold.errors import SaveWarning
from peakhold.files import background
from peakhold.files.open_files import DISK, HeldDescriptors
from peakhold.speech import warn
from peakhold.tensorboard import crc32c, proto

__all__ = ["EventFile", "Sink", "event_files", "newest_second", "read_records"]

_BUFFER = 1 << 16  # bytes: a system call for about 700 scalars
_AGE = 1.0  # seconds that an event waits at most for the next one to take it along
_SYNC_EVERY = 1.0  # seconds between flushes to the disk for which a thread is started
_KEEP = 1 << 26  # bytes kept for a disk that is full and may have room again
_NAME = re.compile(r"^events\.out\.tfevents\.(\d{10})\.")
_COUNT = itertools.count()


class Sink(Protocol):
    """Where events go."""

    path: str | None
    """The event file; None where something else chooses it."""

    def write(self, event: bytes, state: int | None = None) -> None:
        """Take a serialized `Event`; `state` is its CRC's, where that is known already."""

    def flush(self, *, durable: bool = False) -> None:
        """Hand everything to the system; `durable`: to the disk."""

    def flush_later(self) -> None:
        """Hand everything to the system now, and soon, in another thread, to the disk."""

    def close(self) -> None:
        """Flush, and take nothing more."""


def _checked_length(size: int) -> bytes:
    length = struct.pack("<Q", size)
    return length + crc32c.mask(crc32c.update(crc32c.START, length))


@final
class EventFile:
    """A new event file in a folder.

    If the file is deleted or moved meanwhile, alone or with its folder, what comes next is in
    another new one under the same folder's path, and a warning says so.

    Args:
        folder: The folder; it is made.

    Raises:
        OSError: If the file cannot be made. Of `write`, `flush`, `flush_later` and `close`: if the
            disk refuses; what was not written is kept for the next attempt.
    """

    def __init__(self, folder: str) -> None:
        self._folder = os.path.abspath(folder)
        self.path: str | None = None
        self.path, self._file = _create(folder)
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._pending: list[bytes] = []
        self._n_pending = 0
        self._written = 0
        self._flushed = time.time()
        self._lengths: dict[int, bytes] = {}
        self._syncs: list[_Sync] = []
        """Those of which nothing was heard yet."""
        self._synced = -math.inf
        """When a thread was last asked for a flush to the disk, by `time.monotonic()`."""
        self.write(proto.version_event(time.time()))
        self.flush()

    def write(self, event: bytes, state: int | None = None) -> None:
        """Add an event; `state` is its CRC's, where that is known already."""
        record = self._record(event, state)
        # No lock: an append is whole in every thread, and a size that is a little wrong because two
        # added to it at once is made right by the next flush.
        self._pending.append(record)
        self._n_pending += len(record)
        if self._n_pending >= _BUFFER or time.time() - self._flushed > _AGE:
            self.flush()

    def _record(self, event: bytes, state: int | None = None) -> bytes:
        size = len(event)
        length = self._lengths.get(size)
        if length is None:
            length = self._lengths[size] = _checked_length(size)
        if state is None:
            state = crc32c.update(crc32c.START, event)
        return length + event + crc32c.mask(state)

    def flush(self, *, durable: bool = False) -> None:
        """Hand everything to the system; `durable`: to the disk, and hear what was put off."""
        with self._lock:
            self._write_pending()
            if not durable or self._file.closed or not self._is_ours():
                return
            for one in self._syncs:
                if one.task.begun:
                    one.task.wait()
            files.flush(self._file.fileno())
            self._hear()

    def flush_later(self) -> None:
        """Hand everything to the system now, and soon, in the writer thread, to the disk.

        Raises:
            OSError: If the disk refuses, or did so the last time.
        """
        with self._lock:
            self._write_pending()
            if self._file.closed or not self._is_ours():
                return
            now = time.monotonic()
            may_wait = now - self._synced < _SYNC_EVERY
            if not may_wait:
                self._synced = now
            if not any(one.path == self.path and not one.task.begun for one in self._syncs):
                sync = _Sync(self.path, self._file.fileno())
                self._syncs.append(sync)
                background.submit(sync.task, may_wait=may_wait)
            elif not may_wait:
                background.nudge()
            self._hear()

    def _hear(self) -> None:
        done = [one.task.error for one in self._syncs if one.task.done]
        self._syncs = [one for one in self._syncs if not one.task.done]
        for error in filter(None, done):
            raise error

    def close(self) -> None:
        """Flush to the disk, and take nothing more."""
        with self._lock:
            if self._file.closed:
                return
            try:
                self._write_pending()
                if self._is_ours():
                    files.flush(self._file.fileno())
            finally:
                self._file.close()

    def _is_ours(self) -> bool:
        return os.getpid() == self._pid

    def _write_pending(self) -> None:
        self._flushed = time.time()
        if not self._is_ours() or self._file.closed:
            self._drop(len(self._pending))
        if not self._pending:
            return
        self._follow()
        n = len(self._pending)  # what another thread adds meanwhile stays for the next time
        content = b"".join(self._pending[:n])
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._written)
                self._file.seek(self._written)
            if len(content) > _KEEP:
                self._drop(n)
            raise
        self._written += len(content)
        self._drop(n)

    def _follow(self) -> None:
        """Whoever looks at the folder sees what comes, though the file was taken away."""
        gone = self.path
        if gone is None:
            return
        if DISK.is_at(self._file.fileno(), os.path.join(self._folder, os.path.basename(gone))):
            return
        path, file = _create(self._folder)
        self._file.close()
        self.path, self._file, self._written = path, file, 0
        self._pending.insert(0, self._record(proto.version_event(time.time())))
        warn(
            f"{gone!r} was deleted or moved while it was written; what comes next is in {path!r}.",
            SaveWarning,
        )

    def _drop(self, n: int) -> None:
        del self._pending[:n]
        self._n_pending = 0


@final
class _Sync:
    """One flush to the disk by the writer thread: of all that was written when it begins.

    Args:
        path: Of which file.
        descriptor: Of that file. It gets one of its own: the file may be closed before.
    """

    def __init__(self, path: str | None, descriptor: int) -> None:
        self.path, self._held = path, HeldDescriptors(DISK)
        self._held.hold(os.dup(descriptor))
        self.task = background.Task(self._run)

    def _run(self) -> None:
        try:
            for descriptor in self._held.open:
                files.flush(descriptor)
        finally:
            self._held.release()


def _create(folder: str) -> tuple[str, IO[bytes]]:
    os.makedirs(folder, exist_ok=True)
    newest = newest_second(folder)
    seconds = int(time.time()) if newest is None else max(int(time.time()), newest + 1)
    host = re.sub(r"[^\w.-]", "_", socket.gethostname()) or "localhost"
    while True:
        name = f"events.out.tfevents.{seconds:010d}.{host}.{os.getpid()}.{next(_COUNT)}.v2"
        path = os.path.join(folder, name)
        with contextlib.suppress(FileExistsError):
            return path, open(path, "xb", buffering=0)


def newest_second(folder: str) -> int | None:
    """The latest time, in seconds since 1970, that an event file in a folder has in its name."""
    found = (_NAME.match(name) for name in event_files(folder))
    return max((int(match.group(1)) for match in found if match is not None), default=None)


# Reading


def event_files(folder: str) -> list[str]:
    """Names of the event files in a folder, in the order in which TensorBoard reads them.

    What is no file is none: a FIFO is never opened.
    """
    try:
        found = sorted(name for name in os.listdir(folder) if "tfevents" in name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [name for name in found if os.path.isfile(os.path.join(folder, name))]


def read_records(path: str) -> Iterator[tuple[int, bytes]]:
    """Offset and content of each whole event of a file, up to the first that is not.

    The length's checksum is looked at, the content's is not: a damaged event is left out by
    whoever reads it next, too.
    """
    with open(path, "rb") as file:
        offset, end = 0, os.fstat(file.fileno()).st_size
        while True:
            head = file.read(12)
            if len(head) < 12:
                return
            (size,) = struct.unpack_from("<Q", head)
            if head != _checked_length(size) or size + 4 > end - offset - 12:
                return  # nothing is asked of memory for what is not there
            body = file.read(size + 4)
            if len(body) < size + 4:
                return
            yield offset, body[:size]
            offset += size + 16
