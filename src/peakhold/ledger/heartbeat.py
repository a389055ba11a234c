"""That a run is alive, and when it got on last: a small file, replaced every ten seconds.

    {"kind": "heartbeat", "alive_at": 1764343025.1, "progressed_at": 1764343024.9, "pid": 4711,
     "host": "node3", "since": 1764340000.0, "ended": null}

Rules of this file:

1. The record of a run never holds a sign of life: a killed run would read as running. This file is
   replaced, and says by when it was.
2. A thread of its own writes it, so that a run that hangs in its framework is alive without
   progress. It is a daemon: nothing waits for it, and no process lives because of it.
3. It is replaced by a rename, and not flushed: after a power cut nobody is alive.
4. It never ends training, and never holds it up. That it cannot be written is said once, by the
   thread that trains.
5. A forked child has no part in it: its process is not the one that began.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import Any, Final, final

from peakhold import speech
from peakhold.disk.disk import Disk
from peakhold.errors import SaveWarning
from peakhold.files.open_files import DISK, HeldDescriptors
from peakhold.ledger.lines import from_line, to_line
from peakhold.ledger.masking import Masking
from peakhold.ledger.reading import read_small

__all__ = ["NAME", "STALE_S", "Heartbeat", "is_beating", "read_heartbeat"]

NAME: Final = "heartbeat"
_EVERY_S: Final = 10.0
STALE_S: Final = 60.0
"""Seconds without a beat after which nobody is taken to be alive, where nothing better is known."""


@final
class Heartbeat:
    """The sign of life of one run.

    Args:
        path: The file; its folder exists, and the caller owns it.
        every_s: Seconds between two.
        disk: The calls to the system. Defaults to the real ones.

    Example:
        >>> import tempfile
        >>> beat = Heartbeat(os.path.join(tempfile.mkdtemp(), "heartbeat"))
        >>> beat.start()
        >>> beat.progressed()
        >>> beat.close("finished")
        >>> read_heartbeat(beat.path)["ended"]
        'finished'
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        every_s: float = _EVERY_S,
        disk: Disk | None = None,
    ) -> None:
        self.path = os.path.abspath(path)
        self._every_s = every_s
        self._disk = DISK if disk is None else disk
        self._pid = os.getpid()
        self._host = socket.gethostname()
        self._since = time.time()
        self._progressed_at: float | None = None
        self._ended: str | None = None
        self._trouble: str | None = None
        self._is_said = False
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Write it, and go on writing it."""
        if self._thread is not None or os.getpid() != self._pid:
            return
        self._beat()
        self._say()
        self._thread = threading.Thread(target=self._run, name="peakhold-heartbeat", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the system is out of threads
            self._trouble = str(error)
            self._say()

    def progressed(self) -> None:
        """The run has got on: at each batch's border; costs a look at the clock."""
        self._progressed_at = time.time()
        if self._trouble is not None:
            self._say()

    def close(self, reason: str) -> None:
        """Write that the run has ended, and stop; again, or in a forked child, nothing.

        Args:
            reason: Why it has ended, for people.
        """
        if self._is_over.is_set() or os.getpid() != self._pid:
            return
        self._is_over.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(self._every_s)  # a disk that hangs holds nobody up for longer
        self._ended = Masking.of_this_process().of_text(reason)
        self._beat()
        self._say()

    def _run(self) -> None:
        while not self._is_over.wait(self._every_s):
            self._beat()

    def _beat(self) -> None:
        try:
            self._replace(to_line(self._now()))
        except OSError as error:
            self._trouble = self._trouble or str(error)
        else:
            if self._trouble is None:
                self._is_said = False

    def _now(self) -> dict[str, Any]:
        progressed = self._progressed_at
        return {
            "kind": "heartbeat",
            "alive_at": round(time.time(), 3),
            "progressed_at": None if progressed is None else round(progressed, 3),
            "pid": self._pid,
            "host": self._host,
            "since": round(self._since, 3),
            "ended": self._ended,
        }

    def _replace(self, line: bytes) -> None:
        folder, name = os.path.split(self.path)
        held = HeldDescriptors(self._disk)
        try:
            root, hidden, fd, _ = held.begin(folder, name)
            try:
                self._disk.write(fd, line)
                self._disk.rename(hidden, name, root, root)
            except BaseException:
                with contextlib.suppress(OSError):  # what stays is swept when the next run begins
                    self._disk.remove(hidden, root)
                raise
        finally:
            held.release()

    def _say(self) -> None:
        trouble, self._trouble = self._trouble, None
        if trouble is not None and not self._is_said:
            self._is_said = True
            speech.warn(
                f"{self.path} cannot be written ({trouble}): others cannot see that this run is "
                "alive. Training goes on.",
                SaveWarning,
            )


def read_heartbeat(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What was written last; None if there is nothing, or it is damaged.

    Args:
        path: The file.
    """
    data = read_small(path)
    beat = None if data is None else from_line(data)
    if beat is None or beat["kind"] != "heartbeat":
        return None
    kinds: dict[str, Any] = {"alive_at": (int, float), "pid": int, "host": str}
    return beat if all(isinstance(beat.get(name), kind) for name, kind in kinds.items()) else None


def is_beating(beat: dict[str, Any] | None) -> bool:
    """Whether the run that wrote it is likely to be alive, where no lock tells.

    Args:
        beat: As `read_heartbeat` gives it.
    """
    if beat is None or beat.get("ended") is not None:
        return False
    silent_s = abs(time.time() - beat["alive_at"])
    if silent_s > STALE_S:
        return False
    if beat["host"] != socket.gethostname():
        return True
    try:
        os.kill(beat["pid"], 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
