"""One file, committed whole: the old one or the new one is there, never neither, never half.

Rules of this file:

1. Everything is written under a temporary name *in the same folder* (a rename across file systems
   is a copy), flushed, renamed over the final name, and then the folder is flushed, through a
   descriptor that was opened before: without that a power cut can take the rename back.
2. A flush that fails is a save that failed. Nothing is retried on the same file: after a failed
   `fsync` the kernel may have dropped the pages and report success the next time.
3. The temporary file carries the kernel's lock while it is being written. Whoever finds one without
   a lock knows that its writer is dead, on this host or another, and may sweep it.
4. A symbolic link under the final name is followed, as `open(path, "wb")` would: the link stays.

What still fails: a file system that lies about `fsync`; Windows, where a folder cannot be flushed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, final

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows: no kernel lock to see, so nothing is swept there
    fcntl = None

__all__ = ["Committed", "checksum", "commit", "keep_aside", "sweep"]

_TEMPORARY = ".peakhold-tmp"
_CHUNK = 1 << 22  # hashing and copying in pieces of 4 MiB: past the point where size matters


@final
@dataclass(frozen=True, slots=True)
class Committed:
    """What is known of a file at the moment of its commit."""

    path: str
    size: int
    """Bytes."""
    checksum: str
    """xxh3-128 of the content, in hexadecimal."""


def flush(descriptor: int) -> None:
    """Make a file's content durable (on macOS: down to the platter)."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        fcntl.fcntl(descriptor, full)
    else:
        os.fsync(descriptor)


@contextlib.contextmanager
def _open_folder(folder: str) -> Iterator[int | None]:
    if os.name == "nt":
        yield None
        return
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _hash_of(file: BinaryIO) -> tuple[int, str]:
    import xxhash  # here: whoever only imports Peakhold hashes nothing

    digest, size = xxhash.xxh3_128(), 0
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()


def checksum(path: str) -> str | None:
    """xxh3-128 of a file's content in hexadecimal; None if there is no such regular file."""
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file:
            return _hash_of(file)[1]
    except FileNotFoundError:
        return None


def commit(
    path: str,
    write: Callable[[BinaryIO], Any],
    *,
    before_rename: Callable[[Committed], Any] | None = None,
) -> Committed:
    """Write a file so that its final name always shows a whole one.

    Args:
        path: The final name. Its folder exists.
        write: Writes the content to an open file (seekable, readable too).
        before_rename: Called when the content is durable under its temporary name; what it records
            is on disk before the file is.

    Raises:
        OSError: If anything failed; then the old file is as it was and the temporary one is gone.
            One case is worse: if only the last flush, of the folder, failed, the new file stands
            there, whole, but a power cut may take it back.
    """
    path = os.path.realpath(path)
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.urandom(4).hex()}{_TEMPORARY}")
    with _open_folder(folder) as folder_descriptor:
        descriptor = _create_locked(temporary)
        try:
            with os.fdopen(descriptor, "w+b") as file:
                _keep_mode(path, file.fileno())
                write(file)
                file.flush()
                flush(file.fileno())
                file.seek(0)
                committed = Committed(path, *_hash_of(file))
                if before_rename is not None:
                    before_rename(committed)
                if os.name != "nt":  # still locked: nobody sweeps it in its last moment
                    os.replace(temporary, path)
            if os.name == "nt":  # an open file cannot be renamed there
                os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        if folder_descriptor is not None:
            os.fsync(folder_descriptor)
    return committed


def keep_aside(path: str, aside: str) -> None:
    """Give a file a second name, so that the next commit to the first one loses nothing.

    The first name stays where it is: there is no moment without a file under it. Where the file
    system knows no hard links, the content is copied. `aside` is replaced if it exists.
    """
    path = os.path.realpath(path)
    folder, name = os.path.split(aside)
    temporary = os.path.join(folder, f".{name}.{os.urandom(4).hex()}{_TEMPORARY}")
    with _open_folder(folder) as folder_descriptor:
        try:
            os.link(path, temporary)
            os.replace(temporary, aside)
        except OSError:  # no hard links here, or another run has swept this one
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            commit(aside, lambda file: _copy_into(path, file))
            return
        # Replacing one link by another to the same file does nothing and leaves both names.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if folder_descriptor is not None:
            os.fsync(folder_descriptor)


def sweep(folder: str) -> list[str]:
    """Delete temporary files whose writer is dead; returns their names."""
    if fcntl is None or not os.path.isdir(folder):
        return []
    swept = []
    for name in os.listdir(folder):
        if not (name.startswith(".") and name.endswith(_TEMPORARY)):
            continue
        path = os.path.join(folder, name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
            swept.append(name)
        except OSError:  # somebody is writing it
            continue
        finally:
            os.close(descriptor)
    return swept


def _copy_into(path: str, file: BinaryIO) -> None:
    with open(path, "rb") as source:
        while chunk := source.read(_CHUNK):
            file.write(chunk)


def _create_locked(path: str) -> int:
    """Create a file and lock it; another run may sweep it between the two, then it is made anew."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    while True:
        descriptor = os.open(path, flags, 0o666)
        if fcntl is None:
            return descriptor
        # A file system without locks (some network ones) costs us the sweep, not the save.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # waits for a sweep that has it, no longer
        if os.path.lexists(path):
            return descriptor
        os.close(descriptor)


def _keep_mode(path: str, descriptor: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        os.fchmod(descriptor, os.stat(path).st_mode & 0o7777)
