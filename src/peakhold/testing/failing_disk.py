"""A disk that fails when it is told to: every call that the store makes can be the one."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from peakhold.disk.disk import Disk

__all__ = ["CALLS", "FailingDisk", "WatchedDisk"]

CALLS: Final = tuple(
    name for name, value in vars(Disk).items() if callable(value) and not name.startswith("_")
)
"""Names of all calls, in the order of `Disk`."""


class WatchedDisk(Disk):
    """A real disk that tells of each call before and after it is made; override `before`, `after`.

    May be called from several threads.
    """

    def before(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Called before each call; what it raises, the caller of the disk sees."""

    def after(self, name: str, arguments: tuple[Any, ...], result: Any) -> None:
        """Called after each call that succeeded."""


def _watched(name: str) -> Callable[..., Any]:
    real = getattr(Disk, name)

    def call(self: WatchedDisk, *arguments: Any, **named: Any) -> Any:
        self.before(name, arguments)
        result = real(self, *arguments, **named)
        self.after(name, arguments, result)
        return result

    call.__name__, call.__doc__ = name, real.__doc__
    return call


for _name in CALLS:
    setattr(WatchedDisk, _name, _watched(_name))


class FailingDisk(WatchedDisk):
    """A real disk on which the N-th call fails.

    A failing `close` still gives the descriptor back, as Linux does; every other failing call does
    nothing.

    Args:
        at: Which call fails, counted from 1 among `calls`; 0 fails none and only counts.
        error: The `errno` it fails with. Defaults to `ENOSPC`.
        calls: Names of the calls that count. Defaults to all of `CALLS`.
        forever: True if every later one fails too, as on a full disk. Defaults to False.
        short_writes: True if each write writes at most seven bytes. Defaults to False.

    Example:
        >>> import tempfile
        >>> from peakhold.store import Store
        >>> store = Store(tempfile.mkdtemp(), disk=FailingDisk(at=99, error=errno.EIO))
        >>> store.save(1, {"state": {"x": 1}}).result().step
        1
        >>> store.close()
    """

    def __init__(
        self,
        at: int = 0,
        error: int = errno.ENOSPC,
        *,
        calls: Iterable[str] = CALLS,
        forever: bool = False,
        short_writes: bool = False,
    ) -> None:
        self.at = at
        self.error = error
        self.calls = frozenset(calls)
        self.forever = forever
        self.short_writes = short_writes
        self.count = 0
        """Calls made so far, among `calls`."""
        self.failed: list[str] = []
        """Names of the calls that were made to fail."""
        self._lock = threading.Lock()

    def before(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Count, and fail if it is the one."""
        if name not in self.calls:
            return
        with self._lock:
            self.count += 1
            due = 0 < self.at <= self.count if self.forever else self.count == self.at
            if due:
                self.failed.append(name)
        if due:
            if name == "close":
                os.close(arguments[0])
            raise OSError(self.error, os.strerror(self.error))

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write, or a little of it."""
        return super().write(fd, data[:7] if self.short_writes else data)
