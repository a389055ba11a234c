"""A run's record, `events.jsonl`: a line for each event, added at the end, nothing ever changed.

Rules of this file:

1. Whoever has one open owns the folder (`folder.py`). A line is whole when its end is there: what a
   kill has torn is cut off by the next owner, and passed over by readers.
2. To open it costs the same whatever its length: only its tail is looked at.
3. `append` puts a line into memory; `flush` writes what is there with one call, so that no kill
   loses it, and with `durable` has the writer thread flush it to the disk: what that thread is
   handed later, a checkpoint that holds `offset`, is durable later.
4. Nothing that the disk does ends training. What could not be written stays in memory and comes
   with the next flush; what does not fit there is counted, and a line says so. It is said once, and
   again only after it has worked meanwhile.
5. Its name is looked at before each write. If it is gone, what was written is put back from the
   open file, so that offsets in checkpoints stay true; if another file stands there, that one goes
   on.
6. A forked child has neither the file nor the lines that were not written: its parent writes them.
7. From any thread, but not from a signal's handler, which may come in the middle of a write.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, final

from peakhold import process, speech
from peakhold.disk.disk import Disk, let_go, let_go_after
from peakhold.errors import (
    InvalidArgumentError,
    SaveError,
    SaveWarning,
    StoreClosedError,
    StoreForkedError,
)
from peakhold.files import background, make_folder
from peakhold.files.open_files import DISK, HeldDescriptors
from peakhold.files.standing import check_replaceable
from peakhold.ledger.lines import LONGEST, to_line
from peakhold.ledger.masking import Masking
from peakhold.ledger.told import Chains, is_quiet, line_of
from peakhold.store.part_writer import write_all

__all__ = ["Ledger"]

_PIECE: Final = 1 << 16
"""Bytes that are read at once, and that are kept before they are written."""
_MOST: Final = 1 << 22
"""Bytes that are kept in memory while the disk takes none."""
_HINT: Final = "free the disk, or make the folder writable: what is kept is written then."


@final
class Ledger:
    """The record of one run, to add to.

    Args:
        path: The file; its folder exists, and the caller owns it.
        offset: Where the run goes on from, as a checkpoint has it; None: from the end.
        disk: The calls to the system. Defaults to the real ones.
        before_remade: Called when the folder is gone, before it is made anew: by who owns it.

    Attributes:
        missing_bytes: How much shorter the file is than `offset` says.

    Raises:
        SaveError: If it cannot be written, or something else stands there.

    Example:
        >>> import tempfile
        >>> ledger = Ledger(os.path.join(tempfile.mkdtemp(), "events.jsonl"), None)
        >>> ledger.append({"kind": "note", "text": "begins"})
        >>> ledger.close()
        >>> from peakhold.ledger.reader import read_events
        >>> [event["text"] for event in read_events(ledger.path)]
        ['begins']
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        offset: int | None,
        *,
        disk: Disk | None = None,
        before_remade: Callable[[], object] | None = None,
    ) -> None:
        self.path = os.path.abspath(path)
        self._disk = DISK if disk is None else disk
        self._before_remade = before_remade
        self._pid = os.getpid()
        self._held = HeldDescriptors(self._disk)
        self._lock = process.lock_free_in_child()
        self._masking = Masking.of_this_process()
        self._book: tuple[int, list[bytes], int] = 0, [], 0
        """Where the file ends, and with it a whole line; the lines that come next; and how many
        there was no room for. One assignment changes them: Ctrl-C comes between any two."""
        self._under_way: tuple[int, bytes, int] | None = None
        """Of a write that has begun: where, what, and how many lines that is."""
        self._kept = 0
        """Bytes of the lines, about."""
        self._chains = Chains()
        self._fd = -1
        self._place: tuple[int, int] | None = None
        """Which file it is, on which device."""
        self._is_new = True
        """Whether its name is still to be flushed."""
        self._is_said = False
        self._is_closed = False
        self._flushes: list[background.Task[None]] = []
        try:
            self._open()
        except OSError as error:
            self._held.release()
            raise SaveError.because_of(
                error,
                self.path,
                expected="a file that the run's events can be written to",
                hint="pass another folder, or make this one writable.",
            ) from error
        _alive.add(self)
        end = self._book[0]
        self.missing_bytes = 0 if offset is None else max(0, offset - end)
        self._from = end if offset is None else max(0, min(offset, end))

    # Opening

    def _open(self) -> None:
        folder, name = os.path.split(self.path)
        disk = self._disk
        with let_go_after(disk, disk.open_root(folder)) as root:
            fd = self._held.hold(disk.open_log(name, root))
        try:
            status = disk.status(fd)
            end = self._whole(fd, status)
        except BaseException:
            self._held.open.remove(fd)
            let_go(disk, fd)
            raise
        self._fd, self._place, self._is_new = fd, (status.st_dev, status.st_ino), True
        self._book, self._under_way = (end, *self._book[1:]), None

    def _whole(self, fd: int, status: os.stat_result) -> int:
        """See that a file ends with a whole line; where."""
        disk = self._disk
        check_replaceable(status, self.path)
        whole = _whole_end(disk, fd, status.st_size)
        if whole is None:  # no line that we wrote is as long: it stays, and ours begins a new one
            _write(disk, fd, b"\n", status.st_size)
            return status.st_size + 1
        if whole < status.st_size:
            disk.truncate(fd, whole)
        return whole

    # Adding

    @property
    def offset(self) -> int:
        """Where the next line begins, in bytes: for a checkpoint."""
        end, lines, _ = self._book
        return end + sum(map(len, lines))

    def append(self, event: Mapping[str, Any]) -> None:
        """Add an event.

        Args:
            event: What JSON can hold; `kind` says what it is. `time` is added, in seconds since
                1970, where it is missing.

        Raises:
            InvalidArgumentError: If it holds something else.
            StoreForkedError: In a forked child.
            StoreClosedError: After `close`.
        """
        self._check()
        self._add(self._line(event))

    def _add(self, line: bytes) -> None:
        with self._lock:
            if self._kept + len(line) > _MOST:
                self._write_kept()
            if self._kept + len(line) > _MOST:
                end, lines, lost = self._book
                self._book = end, lines, lost + 1
                return
            self._book[1].append(line)
            self._kept += len(line)
            if self._kept >= _PIECE:
                self._write_kept()

    def _line(self, event: Mapping[str, Any]) -> bytes:
        if "time" not in event:
            kind = event.get("kind")
            if not isinstance(kind, str):
                raise InvalidArgumentError.for_argument(
                    "event", event, "a mapping whose 'kind' is a string"
                )
            event = {"kind": kind, "time": round(time.time(), 3), **event}
        line = to_line(event)
        if self._masking.may_concern(line):
            line = to_line(self._masking.of_tree(event))
        return line

    def go_on(self, **more: Any) -> None:
        """Add that the run goes on from `offset`: readers drop what stands between.

        Args:
            more: What else there is to say of it.
        """
        self.append({"kind": "goes_on", "from": self._from, **more})

    def told(self, told: Any) -> None:
        """Add a moment: for `peakhold.extend.listening`.

        Moments within an epoch are added only if a decision or a fact came of them; all others are
        written at once. In a forked child nothing is.

        Args:
            told: A `Told`.
        """
        if os.getpid() != self._pid or self._is_closed:
            return
        if is_quiet(told):
            self._chains.skip(told)
            return
        try:
            line = self._line(line_of(told, self._chains))
        except Exception as error:  # of a participant that is not ours
            self._chains.skip(told)
            self._say(f"a moment is not in {self.path}: {error}")
            return
        self._add(line)
        if told.moment.at.batch is None:
            self.flush()

    def pass_over(self, told: Any) -> None:
        """A moment comes again, in a run that goes on: the record has it."""
        self._chains.skip(told)

    # Writing

    def flush(self, durable: bool = False) -> None:
        """Write what was added. What fails is said, and tried again with the next flush.

        Args:
            durable: Whether the writer thread flushes it to the disk, too, ahead of what it is
                handed later. Nobody waits for that but `wait`.

        Raises:
            StoreForkedError: In a forked child.
        """
        self._check()
        with self._lock:
            self._write_kept()
            if durable and self._fd >= 0:
                self._flush_later()

    def _flush_later(self) -> None:
        failed = [task.error for task in self._flushes if task.error is not None]
        self._flushes = [task for task in self._flushes if not task.done]
        if failed:
            self._say(f"what was written to {self.path} may not be durable ({failed[0]})")
        disk = self._disk
        held = HeldDescriptors(disk)  # of its own: this one may be let go before
        held.hold(os.dup(self._fd))
        if self._is_new:
            held.open_folder(os.path.dirname(self.path))
            self._is_new = False

        def sync() -> None:
            try:
                for descriptor in held.open:
                    disk.sync(descriptor)
            finally:
                held.release()

        self._flushes.append(background.submit(sync))

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until what was flushed is durable, or cannot be; False if it takes longer.

        Args:
            timeout_s: Seconds; None waits as long as it takes.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        for task in [*self._flushes]:
            if not task.wait(None if until is None else max(until - time.monotonic(), 0.0)):
                return False
        return True

    def _write_kept(self) -> None:
        """Write all that is kept, with one call; after that nothing is, or all still."""
        if not self._book[1]:
            return
        try:
            self._look_at_the_name()
            end, lines, lost = self._book
            n, data = len(lines), b"".join(lines)
            if lost:
                data += self._line({"kind": "lost", "lines": lost})
            self._under_way = end, data, n
            _write(self._disk, self._fd, data, end)
        except OSError as error:
            self._say(f"the run's events cannot be written to {self.path} ({error})")
            self._under_way = None
            return
        self._book = end + len(data), lines[n:], 0
        self._under_way, self._kept, self._is_said = None, 0, False

    def _finish(self) -> None:
        """Ctrl-C came in the middle of a write: see how far it had got."""
        (began, data, n), self._under_way = self._under_way or (-1, b"", 0), None
        end, lines, _ = self._book
        if began != end:  # it was written, and booked
            return
        there = _read(self._disk, self._fd, end, len(data))
        if there == data:
            self._book = end + len(data), lines[n:], 0
        elif there and data.startswith(there):
            self._disk.truncate(self._fd, end)

    def _look_at_the_name(self) -> None:
        """See that the file is still the one that the path means, and as long as it was left."""
        if self._under_way is not None and self._fd >= 0:
            self._finish()
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            if self._place is not None:
                self._put_back()
                self._say(f"somebody has removed {self.path}; it was put back, as it was")
            self._reopen()
            return
        place = there.st_dev, there.st_ino
        if place != self._place:
            self._say(f"somebody has replaced {self.path}; the run's events go on at its end")
            self._reopen()
        elif there.st_size != self._book[0]:
            self._say(f"somebody has changed {self.path}; the run's events go on at its end")
            self._reopen()

    def _put_back(self) -> None:
        """Write the file anew, from what is still open."""
        folder, name = os.path.split(self.path)
        if not os.path.isdir(folder) and self._before_remade is not None:
            self._before_remade()
        make_folder(folder, disk=self._disk)
        new = HeldDescriptors(self._disk)
        try:
            root, hidden, fd, _ = new.begin(folder, name)
            at = 0
            while piece := _read(self._disk, self._fd, at, 16 * _PIECE):
                _write(self._disk, fd, piece, at)
                at += len(piece)
            self._disk.rename(hidden, name, root, root)
        finally:
            new.release()

    def _reopen(self) -> None:
        """Go on in the file that has the name now; the one before stays open until that is done."""
        old = self._fd
        self._open()
        if old >= 0:
            self._held.open.remove(old)
            let_go(self._disk, old)

    def _say(self, text: str) -> None:
        if not self._is_said:
            self._is_said = True
            speech.warn(f"{text}. Training goes on.\nHint: {_HINT}", SaveWarning)

    # The end

    def close(self) -> None:
        """Write what is left, and let the file go; again, or in a forked child, nothing."""
        if self._is_closed or os.getpid() != self._pid:
            return
        try:
            self.flush(durable=True)
        finally:
            self._is_closed = True
            self._held.release()
            self._fd = -1

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise StoreForkedError.for_path(self.path)
        if self._is_closed:
            raise StoreClosedError.for_path(self.path)

    def _abandon(self) -> None:
        """In a forked child: what is kept is the parent's."""
        self._book, self._fd = (0, [], 0), -1


_alive = process.each_in_forked_child(Ledger._abandon)


def _whole_end(disk: Disk, fd: int, size: int) -> int | None:
    """Where the last whole line ends; None: farther from the end than any line of ours is long."""
    at = size
    while at > 0 and size - at < LONGEST:
        begin = max(0, at - _PIECE)
        found = _read(disk, fd, begin, at - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        at = begin
    return None if at > 0 else 0


def _read(disk: Disk, fd: int, offset: int, size: int) -> bytes:
    buffer = bytearray(size)
    done = 0
    while done < size:
        count = disk.read_into(fd, [memoryview(buffer)[done:]], offset + done)
        if count == 0:
            break
        done += count
    return bytes(buffer[:done])


def _write(disk: Disk, fd: int, data: bytes, end: int) -> None:
    """Add all of it to a file that ends there, or nothing."""
    try:
        write_all(disk, fd, data)
    except OSError:
        with contextlib.suppress(OSError):  # else a torn line stays, which is seen the next time
            if disk.status(fd).st_size > end:
                disk.truncate(fd, end)
        raise
