"""Who may write to a folder: one open store, in one process.

The lock is the kernel's (`flock` on `.lock`), so it ends with its owner however the owner ends, and
a copied folder is owned by nobody. What is written in the file only names the owner for a message.

A forked child inherits the open file, and with it the lock: a DataLoader worker that outlives its
killed parent would lock the folder for ever. So the child closes the descriptor right after the
fork (closing does not unlock; only the last holder's close does) and its store refuses to work.

Somebody may remove `.lock` between our opening and our locking it; what we hold then is a lock that
nobody else will ever ask for. So its name is looked at again once it is locked.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import final

from peakhold import process
from peakhold.disk.disk import Disk, let_go
from peakhold.errors import SaveError, StoreForkedError, StoreOwnedError
from peakhold.store.lock import LOCK_NAME, check_is_file, read_note
from peakhold.store.part_writer import write_all

__all__ = ["Ownership", "make_root"]


@final
class Ownership:
    """The lock on a folder and the descriptors that go with it."""

    def __init__(self, disk: Disk, path: str) -> None:
        self._disk = disk
        self._path = path
        self.pid = os.getpid()
        self.root = disk.open_root(path)
        """Descriptor of the folder, open as long as the store is."""
        self._lock = -1
        self._closed = False
        try:
            while not self._take():
                pass
        except BaseException:
            self.release()
            raise
        _alive.add(self)

    @property
    def released(self) -> bool:
        """Whether the folder is somebody else's to write to."""
        return self._closed

    def is_there(self) -> bool:
        """Whether the path still means the folder that is locked."""
        return self._disk.is_at(self.root, self._path)

    def follow(self) -> None:
        """Lock the folder that the path means now, and let the one go that it meant; made anew.

        Raises:
            OSError: If that cannot be; then the one that was locked stays so.
        """
        make_root(self._disk, self._path)
        before = self._lock, self.root
        root = self._disk.open_root(self._path)
        try:
            self.root = root
            while not self._take():
                pass
        except BaseException:
            self._lock, self.root = before
            let_go(self._disk, root)
            raise
        for fd in before:
            let_go(self._disk, fd)

    def _take(self) -> bool:
        """Lock the folder; False if the lock file was removed meanwhile."""
        fd = self._open_lock()
        try:
            status = self._disk.status(fd)
            check_is_file(status)
            self._disk.lock(fd)
            if self._disk.identity(LOCK_NAME, self.root) != (status.st_dev, status.st_ino):
                self._disk.close(fd)
                return False
        except BlockingIOError:
            owner = read_note(self._disk, fd)
            let_go(self._disk, fd)
            raise StoreOwnedError.for_owner(self._path, owner) from None
        except BaseException:
            let_go(self._disk, fd)
            raise
        self._lock = fd
        if status.st_nlink <= 1:  # else it is somebody's file, or a copy's lock, by another name
            self._let_colleagues_in(fd, status.st_mode)
            self._write_note(fd)
        return True

    def _open_lock(self) -> int:
        try:
            return self._disk.open_lock(LOCK_NAME, self.root)
        except PermissionError:
            # Another user's, from before colleagues were let in: what can be read can be locked.
            with contextlib.suppress(OSError):
                return self._disk.open(LOCK_NAME, self.root)
            raise

    def _let_colleagues_in(self, fd: int, mode: int) -> None:
        """Whoever may write to the folder may lock it, whatever the umask of who came first."""
        with contextlib.suppress(OSError):  # it is another user's
            wanted = mode | (self._disk.status(self.root).st_mode & 0o666)
            if wanted != mode:
                self._disk.set_mode(fd, wanted & 0o777)

    def _write_note(self, fd: int) -> None:
        note = {
            "pid": self.pid,
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        # On a full disk, or where another user's file may only be read, the owner is nameless.
        with contextlib.suppress(OSError):
            self._disk.truncate(fd)
            write_all(self._disk, fd, (json.dumps(note) + "\n").encode("ascii"))

    def check(self) -> None:
        """Raise `StoreForkedError` in a process that does not own the folder."""
        if os.getpid() != self.pid:
            raise StoreForkedError.for_path(self._path)

    def release(self) -> None:
        """Let the folder go; calling it again, or in a forked child, does nothing.

        Called when nothing is under way any more: the numbers of these descriptors are somebody
        else's at once.
        """
        if self._closed or os.getpid() != self.pid:
            return
        self._closed = True
        descriptors, self._lock, self.root = (self._lock, self.root), -1, -1
        for fd in descriptors:
            if fd >= 0:
                let_go(self._disk, fd)

    def abandon(self) -> None:
        """In a forked child: close the inherited descriptors, leave the parent's lock alone."""
        for fd in (self._lock, self.root):
            if fd >= 0 and not self._closed:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._closed = True


_alive = process.each_in_forked_child(Ownership.abandon)


def make_root(disk: Disk, path: str) -> None:
    """Create the folder and what is missing above it, each flushed into its parent.

    Raises:
        SaveError: If the folder cannot be made, or something else has its name.
    """
    if os.name != "posix":
        raise SaveError.for_path(
            path,
            "this system cannot flush a folder",
            expected="a POSIX system, where a commit can be made durable",
            hint="write from Linux or macOS; the Keras drop-ins write single files anywhere.",
        )
    missing: list[Path] = []
    at = Path(path).absolute()
    while not at.is_dir() and at.parent != at:
        missing.append(at)
        at = at.parent
    for folder in reversed(missing):
        try:
            parent = disk.open_root(str(folder.parent))
            try:
                with contextlib.suppress(FileExistsError):  # another process made it meanwhile
                    disk.make_folder(folder.name, parent)
                disk.sync(parent)
            finally:
                disk.close(parent)
        except OSError as exc:
            raise SaveError.for_path(
                str(folder),
                exc.strerror or str(exc),
                expected="a folder that can be created",
                hint="pass a folder whose parent is writable.",
            ) from exc
