"""A file that grows at its end, while people and other programs look at it, and change it.

Rules of this file:

1. What was added is there, for every program, when `append` returns: one write at the end. The
   flush is the writer thread's: what that thread is handed later (a backup) is durable later. Of
   lines that come fast it is asked once a second, or by what it is handed next.
2. Nothing is added to a file that is not as we left it, before it was read again: `ChangedError`.
3. After a flush that failed nothing more is added: the kernel may have dropped what it had taken.
   `has_failed` says so, and `replace` writes all of it anew, as a new file.
4. What is no file (a FIFO, a device, what this process prints to) is a stream: written through,
   never read, never replaced. It stays open until `close`: its reader takes a gap for the end.
5. The path means what it meant when the run began, wherever the process goes.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import time
import weakref
from typing import Final, final

from peakhold.disk.disk import Disk, flags, let_go
from peakhold.files import background
from peakhold.files.one_file import commit, make_folder, probe
from peakhold.files.open_files import DISK, HeldDescriptors
from peakhold.files.standing import check_replaceable, printed_to, what_it_is

__all__ = ["ChangedError", "LogFile"]


_READ: Final = flags("O_RDONLY", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY")
_APPEND: Final = flags("O_WRONLY", "O_APPEND", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY")
_CREATE: Final = flags("O_WRONLY", "O_APPEND", "O_CREAT", "O_EXCL", "O_CLOEXEC", "O_BINARY")
_FLUSH_EVERY_S: Final = 1.0
"""The system writes by itself what is older than half a minute; a thread for each line that comes
sooner costs the end of a short epoch more than all else that is done there."""
_TAKES_ROWS: Final = ("a device", "a FIFO")


class ChangedError(OSError):
    """The file is not as it was left: somebody has been there."""


@final
class LogFile:
    r"""One such file, for one run.

    Args:
        given: Its path, as the user spelled it.
        disk: The calls to the system. Defaults to the real ones.

    Example:
        >>> import tempfile
        >>> log = LogFile(os.path.join(tempfile.mkdtemp(), "new", "log.csv"))
        >>> log.open()
        >>> log.create(b"epoch,loss\n")
        >>> log.append(b"0,0.5\n")
        >>> log.is_as_left, log.wait(), log.read()
        (True, True, b'epoch,loss\n0,0.5\n')
    """

    def __init__(self, given: str, *, disk: Disk | None = None) -> None:
        self.given, self.path = given, os.path.abspath(given)
        self.has_failed = False
        self.is_closed = False
        self._disk = DISK if disk is None else disk
        self._held = HeldDescriptors(self._disk)
        self._stream: int | None = None
        self._left: tuple[int, int, int] | None = None
        self._at: tuple[int, int] | None = None
        """Descriptor and inode of the file that lines are added to; it stays open meanwhile."""
        self._flushes: list[_Flush] = []
        self._flushed_at = -math.inf
        """When a flush was asked for that was not to wait, by `time.monotonic()`."""
        weakref.finalize(self, self._held.release)
        # What waits is done, also after an exception.
        weakref.finalize(self, background.nudge_from_anywhere)

    @property
    def is_stream(self) -> bool:
        """Whether it is no file."""
        return self._stream is not None

    @property
    def is_as_left(self) -> bool:
        """Whether nobody has changed it since it was read or written here."""
        if self._stream is not None:
            return True
        try:
            return _look_of(os.stat(self.path)) == self._left
        except OSError:
            return False

    def open(self) -> None:
        """See that it can be written; its folder is made.

        Raises:
            OSError: If it cannot be.
        """
        make_folder(os.path.dirname(self.path), disk=self._disk)
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            probe(os.path.dirname(os.path.realpath(self.path)))
            return
        printed, kind = printed_to(status), what_it_is(status)
        if printed is not None:  # its place in the file is shared with what is printed
            self._stream = self._held.hold(os.dup(printed))
        elif kind is not None:
            self._stream = self._held.hold(_open_through(self.path, kind))
        else:
            os.close(os.open(self.path, _APPEND))

    def read(self) -> bytes | None:
        """All of it, as it is now; None if it is not there.

        Raises:
            OSError: If it cannot be read, or is no file.
        """
        self._left = None
        if self.is_stream:
            return None
        try:
            descriptor = os.open(self.path, _READ)
        except FileNotFoundError:
            return None
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            check_replaceable(status, self.path)
            content = file.read()
            if len(content) == status.st_size:
                self._left = _look_of(status)
        return content

    def distrust(self) -> None:
        """Do not add to it as it is: `is_as_left` is False until it was read again."""
        self._left = None

    # Writing

    def append(self, data: bytes) -> None:
        """Add to the end.

        Raises:
            ChangedError: If it is not as it was left; nothing was written.
            OSError: If it cannot be written; then it is as before.
        """
        if self._stream is not None:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._stream, rest) :]
            return
        if not self.is_as_left:
            raise ChangedError(errno.EAGAIN, "somebody has changed it", self.path)
        self._write(self._opened(), data)
        self._flush_later()

    def create(self, data: bytes) -> None:
        """Make it, with its first content.

        Raises:
            ChangedError: If it is there already.
            OSError: If it cannot be made.
        """
        folder, name = os.path.split(os.path.realpath(self.path))
        make_folder(folder, disk=self._disk)
        try:
            descriptor = os.open(os.path.join(folder, name), _CREATE, 0o666)
        except FileExistsError as error:
            raise ChangedError(errno.EEXIST, "it is there again", self.path) from error
        self._let_go()
        self._left = self._hold(descriptor)
        held = HeldDescriptors(self._disk)
        try:
            held.open_folder(folder)
            self._write(descriptor, data)
        except OSError:
            held.release()
            self._let_go()
            os.unlink(os.path.join(folder, name))
            raise
        self._flush_later(held)

    def replace(self, data: bytes) -> None:
        """Commit it as a new file; this waits for the disk.

        Raises:
            ChangedError: If it is not as it was read.
            OSError: If it cannot be written; then it is as before.
        """
        if self._left is not None and not self.is_as_left:
            raise ChangedError(errno.EAGAIN, "somebody has changed it", self.path)
        self._left = None
        self._let_go()
        commit(self.path, lambda file: file.write(data), disk=self._disk)
        self.has_failed = False
        with contextlib.suppress(OSError):
            self._left = _look_of(os.stat(self.path))

    def _opened(self) -> int:
        """The file as it was left, to write to."""
        at, left = self._at, self._left
        if at is None or left is None or at[1] != left[0] or at[0] not in self._held.open:
            self._let_go()  # another file stands there now, or a fork has closed it
            descriptor = os.open(self.path, _APPEND)
            if self._hold(descriptor) != self._left:
                self._let_go()
                raise ChangedError(errno.EAGAIN, "somebody has changed it", self.path)
            check_replaceable(os.fstat(descriptor), self.path)
            return descriptor
        return at[0]

    def _hold(self, descriptor: int) -> tuple[int, int, int]:
        """Keep a file open, to add to it; how it looks."""
        look = _look_of(os.fstat(self._held.hold(descriptor)))
        self._at = descriptor, look[0]
        return look

    def _let_go(self) -> None:
        at, self._at = self._at, None
        if at is not None and at[0] in self._held.open:
            self._held.open.remove(at[0])
            let_go(self._disk, at[0])

    def _write(self, descriptor: int, data: bytes) -> None:
        size = 0 if self._left is None else self._left[1]
        self._left = None
        if self._disk.write(descriptor, data) < len(data):  # a full disk takes what fits
            self._disk.truncate(descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
        after = os.fstat(descriptor)
        if after.st_size == size + len(data):
            self._left = _look_of(after)

    # Flushing

    def _flush_later(self, held: HeldDescriptors | None = None) -> None:
        """Have it flushed, unless a flush of this file that has not begun will do it anyway.

        Args:
            held: What is to be flushed with it: the folder of a new file.
        """
        if self._at is None:
            return
        (descriptor, place), now = self._at, time.monotonic()
        may_wait = now - self._flushed_at < _FLUSH_EVERY_S
        if not may_wait:
            self._flushed_at = now
        pid = os.getpid()
        for flush in self._flushes:
            if flush.place == place and not flush.has_begun and flush.pid == pid:
                if not may_wait:
                    background.nudge()
                return
        self._hear()
        held = HeldDescriptors(self._disk) if held is None else held
        held.hold(os.dup(descriptor))  # of its own: this one may be let go before
        flush = _Flush(self._disk, held, place)
        self._flushes.append(flush)
        background.submit(flush.task, may_wait=may_wait)

    def _hear(self) -> None:
        mine = [flush for flush in self._flushes if flush.pid == os.getpid()]
        self.has_failed |= any(flush.task.error is not None for flush in mine)
        self._flushes = [flush for flush in mine if not flush.task.done]

    @property
    def takes_lines(self) -> bool:
        """Whether it is a file of which nothing may be lost, as far as any flush has told."""
        for flush in self._flushes:
            if flush.task.error is not None:
                return False
        return self._stream is None and not self.has_failed

    def failure(self) -> str | None:
        """Why a flush has failed, since the last time; then `has_failed` is set."""
        failed = [flush for flush in self._flushes if flush.task.error is not None]
        self._hear()
        return str(failed[0].task.error) if failed else None

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until what was written is durable, or cannot be; False if it takes longer."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        for flush in [one for one in self._flushes if one.pid == os.getpid()]:
            left = None if until is None else max(until - time.monotonic(), 0.0)
            if not flush.task.wait(left):
                return False
        return True

    def close(self) -> None:
        """Let a stream's reader go, and the file."""
        self.is_closed, self._stream, self._at = True, None, None
        self._held.release()


@final
class _Flush:
    """One flush by the writer thread."""

    def __init__(self, disk: Disk, held: HeldDescriptors, place: int) -> None:
        self.place, self.pid = place, os.getpid()
        self.has_begun = False
        self._disk, self._held = disk, held
        self.task = background.Task(self._run)

    def _run(self) -> None:
        self.has_begun = True  # what is written from here on takes a flush of its own
        try:
            for descriptor in self._held.open:
                self._disk.sync(descriptor)
        finally:
            self._held.release()


def _look_of(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _open_through(path: str, kind: str) -> int:
    if kind not in _TAKES_ROWS:
        raise OSError(errno.EINVAL, f"{kind} stands there, which takes no lines", path)
    try:
        descriptor = os.open(path, _APPEND)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(error.errno, f"it is {kind} that no program reads", path) from error
        raise
    os.set_blocking(descriptor, True)
    return descriptor
