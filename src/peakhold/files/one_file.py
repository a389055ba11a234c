"""One file, committed whole: the old one or the new one is there, never neither, never half.

    create  .best.keras.3f2a1b07.peakhold-tmp     locked while it is written
    write   …                                     hashed on the way
    fsync
            before_rename                         the sidecar's entry, durable
    link    best.keras → .best.keras.3f2a1b07.peakhold-old
    rename  .best.keras.3f2a1b07.peakhold-tmp → best.keras
    fsync   the folder                            through a descriptor opened long before
                                                  ← only now is it committed
    unlink  .best.keras.3f2a1b07.peakhold-old

Rules of this file, the same as those of a checkpoint folder (`commit.py`), through the same `Disk`:

1. Everything is written under a hidden name *in the same folder* (a rename across file systems is a
   copy), flushed, renamed over the final name, and then the folder is flushed: without that a power
   cut can take the rename back.
2. A flush that fails is a save that failed. Nothing is retried on the same file: after a failed
   `fsync` the kernel may have dropped the pages and report success the next time. If only the
   folder's flush fails, the rename is taken back, which is what the second link to the old file is
   for. Whether a rename was done is seen on the disk, not remembered.
3. What is hidden carries the kernel's lock while its writer lives. Whoever finds it without a lock
   knows that the writer is dead, on this host or another, and may sweep it. A link to an old file
   whose own name is gone (renames are not atomic everywhere) is given its name back.
4. A symbolic link under the final name is followed, as `open(path, "wb")` would: the link stays.
5. A file takes the place of a file. Where a device or a FIFO stands nothing is written; that is
   looked at before the first byte, and again before the rename.

What still fails: a file system that lies about `fsync`; Windows, where a folder cannot be flushed.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, cast, final

from peakhold.disk.disk import Disk, let_go
from peakhold.disk.path_disk import PathDisk
from peakhold.files.open_files import (
    DISK,
    HIDDEN,
    NEW,
    OLD,
    HeldDescriptors,
    hidden_name,
    holding,
    is_regular,
)
from peakhold.files.scratch import SCRATCH, sweep_scratch
from peakhold.files.standing import check_replaceable
from peakhold.files.written_file import WrittenFile, hash_of

__all__ = [
    "CommittedFile",
    "commit",
    "flush",
    "hash_file",
    "keep_aside",
    "make_folder",
    "probe",
    "sweep",
]

_CHUNK = 1 << 22  # copying in pieces of 4 MiB


@final
@dataclass(frozen=True, slots=True)
class CommittedFile:
    """What is known of a file at the moment of its commit."""

    path: str
    size: int
    """Bytes."""
    checksum: str
    """xxh3-128 of the content, in hexadecimal."""
    mtime_ns: int
    """When it was last changed, in nanoseconds, as `os.stat` tells it."""


def flush(descriptor: int) -> None:
    """Make a file's content durable (on macOS: down to the platter)."""
    DISK.sync(descriptor)


def probe(folder: str) -> int:
    """Make a file in a folder, and take it away again.

    Its name is its own: two runs of one process may ask at the same time.

    Returns:
        What time it is there, in nanoseconds: by another machine's clock, perhaps.

    Raises:
        OSError: If none can be made.
    """
    path = os.path.join(folder, f".{os.urandom(4).hex()}.peakhold-probe")
    with open(path, "xb") as file:
        now = os.fstat(file.fileno()).st_ctime_ns
    os.unlink(path)
    return now


def hash_file(path: str) -> str | None:
    """xxh3-128 of a file's content in hexadecimal; None if there is no such regular file."""
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file:
            return hash_of(DISK, file.fileno())[1]
    except FileNotFoundError:
        return None


def commit(
    path: str,
    write: Callable[[BinaryIO], Any],
    *,
    before_rename: Callable[[CommittedFile], Any] | None = None,
    disk: Disk | None = None,
) -> CommittedFile:
    """Write a file so that its final name always shows a whole one.

    Args:
        path: The final name. Its folder exists.
        write: Writes the content to an open file (seekable, readable too). The file is closed when
            the commit is over.
        before_rename: Called when the content is durable under its temporary name; what it records
            is on disk before the file is.
        disk: The calls to the system. Defaults to the real ones.

    Raises:
        OSError: If anything failed; then what stood under the name stands there. One case is worse,
            and has a note that says so: the folder's flush failed and the rename could not be taken
            back, because the file system has no hard links or refused that, too. Then the new file
            stands there, whole, but a power cut may take it back.
    """
    disk = DISK if disk is None else disk
    folder, name = os.path.split(os.path.realpath(path))
    held = HeldDescriptors(disk)
    try:
        new = _New(disk, held, name, *held.begin(folder, name))
        try:
            committed = new.fill(os.path.join(folder, name), write)
            if before_rename is not None:
                before_rename(committed)
            new.publish()
        except BaseException as error:
            if os.getpid() == held.pid and not new.take_back():
                error.add_note(
                    f"{path} is the new file, whole; a power cut may bring the old one back."
                )
            raise
        finally:
            new.close()
    finally:
        held.release()
    return committed


@final
class _New:
    """A file on its way to its name."""

    def __init__(
        self,
        disk: Disk,
        held: HeldDescriptors,
        name: str,
        root: int,
        hidden: str,
        fd: int,
        identity: tuple[int, int],
    ) -> None:
        self._disk, self._held, self._root, self._name = disk, held, root, name
        self._hidden, self._fd, self._identity = hidden, fd, identity
        self._file: WrittenFile | None = None
        self._old: os.stat_result | None = None
        self._backup: str | None = None
        self._asked = self._renamed = self._done = False

    def fill(self, path: str, write: Callable[[BinaryIO], Any]) -> CommittedFile:
        """Write the content and make it durable under the hidden name."""
        self._old = old = self._look()
        if old is not None:
            with contextlib.suppress(OSError, AttributeError):
                self._disk.set_mode(self._fd, stat.S_IMODE(old.st_mode))
        self._file = file = WrittenFile(self._disk, self._fd)
        buffered = io.BufferedRandom(file, 1 << 17)
        write(cast("BinaryIO", buffered))
        buffered.flush()
        return CommittedFile(path, *file.finish())

    def publish(self) -> None:
        """Give it its name, durably."""
        disk, root = self._disk, self._root
        self._old = self._look()
        if isinstance(disk, PathDisk):  # an open file cannot be renamed on Windows
            self.close()
            self._held.close(self._fd)
        else:
            self._keep_old()
        self._asked = True
        disk.rename(self._hidden, self._name, root, root)
        self._renamed = True
        disk.sync(root)
        self._done = True
        if self._backup is not None:
            with contextlib.suppress(OSError):  # what stays is swept when the next run begins
                disk.remove(self._backup, root)

    def _look(self) -> os.stat_result | None:
        """The file that stands under the name, if one does; an error if something else does."""
        status = self._disk.look(self._name, self._root)
        check_replaceable(status, self._name)
        return status

    def _keep_old(self) -> None:
        """Give what stands there a second, hidden name; locked, so that nobody sweeps it."""
        disk, root, old = self._disk, self._root, self._old
        if old is None:
            return
        if not self._hidden.startswith(f".{self._name}."):  # it was cut: no name could be read
            return
        with contextlib.suppress(OSError):
            fd = disk.open(self._name, root)
            self._held.open.append(fd)
            disk.lock(fd)
        self._backup = self._hidden.removesuffix(NEW) + OLD
        try:
            disk.link(self._name, self._backup, root, root)
        except OSError:  # no hard links here
            self._backup = None

    def take_back(self) -> bool:
        """Make it as it was, as far as that can be done; False if the new file stands there."""
        if isinstance(self._disk, PathDisk):  # nor can it be removed there
            self.close()
            with contextlib.suppress(OSError, ValueError):
                self._held.close(self._fd)
        done = self._done or not self._asked or self._take_back()
        self._clean()
        return done

    def _take_back(self) -> bool:
        backup, self._backup = self._backup, None  # what cannot be brought back is not removed
        try:
            standing = self._disk.identity(self._name, self._root)
        except OSError:
            return not self._renamed  # all that is known on a disk that tells nothing
        try:
            if standing not in {None, self._identity}:
                self._backup = backup  # the old file, or somebody else's
            elif backup is not None:
                self._disk.rename(backup, self._name, self._root, self._root)
            elif standing is not None and self._old is None:
                self._disk.remove(self._name, self._root)
            else:
                return standing is None
        except OSError:
            return False
        return True

    def _clean(self) -> None:
        """Remove what is hidden. What cannot be removed is swept when the next run begins."""
        for hidden in (self._backup, None if self._done else self._hidden):
            if hidden is not None:
                with contextlib.suppress(OSError):
                    self._disk.remove(hidden, self._root)

    def close(self) -> None:
        """From here on nothing can be written to it."""
        if self._file is not None:
            self._file.close()


def keep_aside(path: str, aside: str, *, disk: Disk | None = None) -> None:
    """Give a file a second name, so that the next commit to the first one loses nothing.

    The first name stays where it is: there is no moment without a file under it. Where the file
    system knows no hard links, the content is copied. `aside` is replaced if it exists.
    """
    disk = DISK if disk is None else disk
    origin, name = os.path.split(os.path.realpath(path))
    folder, target = os.path.split(aside)
    temporary = hidden_name(target, NEW)
    with holding(disk, folder) as (held, root):
        try:
            disk.link(name, temporary, held.open_folder(origin), root)
            disk.rename(temporary, target, root, root)
        except OSError:  # no hard links here, or another run has swept this one
            with contextlib.suppress(OSError):
                disk.remove(temporary, root)
            commit(aside, lambda file: _copy_into(path, file), disk=disk)
            return
        # Replacing one link by another to the same file does nothing and leaves both names.
        with contextlib.suppress(OSError):
            disk.remove(temporary, root)
        disk.sync(root)


def sweep(folder: str, inside: str | None = None, *, disk: Disk | None = None) -> list[str]:
    """Delete what dead writers left behind; returns its names.

    A second link to a file whose own name is gone is the last copy: it gets that name back.

    Args:
        folder: Where; a link is followed.
        inside: Name of a folder in it that is swept instead; a link is not followed, for what it
            leads to is not ours.
        disk: The calls to the system. Defaults to the real ones.
    """
    disk = DISK if disk is None else disk
    swept = []
    with contextlib.suppress(OSError), holding(disk, folder) as (held, outer):
        root = outer
        if inside is not None:
            status = disk.look(inside, outer)
            if status is None or not stat.S_ISDIR(status.st_mode):
                return []
            root = held.hold(disk.open_folder(inside, outer))
        for name in disk.names(root):
            try:
                if _sweep_one(disk, root, name):
                    swept.append(name)
            except OSError:  # somebody is writing it, or it has just been swept
                continue
    return swept


def _sweep_one(disk: Disk, root: int, hidden: str) -> bool:
    if SCRATCH.fullmatch(hidden):
        return sweep_scratch(disk, root, hidden)
    match = HIDDEN.fullmatch(hidden)
    if match is None:
        return False
    last_copy_of = match["name"] if match["kind"] == OLD else None
    if not is_regular(disk.look(hidden, root)):
        return False
    fd = disk.open(hidden, root)
    try:
        disk.lock(fd)
        if last_copy_of is not None and disk.identity(last_copy_of, root) is None:
            disk.link(hidden, last_copy_of, root, root)
            disk.sync(root)
        disk.remove(hidden, root)
    finally:
        let_go(disk, fd)
    return True


def make_folder(path: str, *, disk: Disk | None = None) -> None:
    """Create a folder and what is missing above it, durably; it may exist.

    Raises:
        NotADirectoryError: If something else stands there, or above it; its words say where.
        OSError: If it cannot be made.
    """
    disk = DISK if disk is None else disk
    missing, at = [], os.path.abspath(path)
    while not os.path.isdir(at) and os.path.dirname(at) != at:
        missing.append(at)
        at = os.path.dirname(at)
    for folder in reversed(missing):
        parent, name = os.path.split(folder)
        with holding(disk, parent) as (_, root):
            with contextlib.suppress(FileExistsError):  # another process made it meanwhile
                disk.make_folder(name, root)
            disk.sync(root)
        if not os.path.isdir(folder):
            reason = f"what stands at {folder!r} is no folder; move it away"
            raise NotADirectoryError(errno.ENOTDIR, reason)


def _copy_into(path: str, file: BinaryIO) -> None:
    with open(path, "rb") as source:
        while chunk := source.read(_CHUNK):
            file.write(chunk)
