"""Whether what trains on this host gets on: `python -m peakhold.health /runs`, for a container.

Problem. A training that hangs in a collective, or in a read of a dead mount, is alive: its process
is there, and its heartbeat is written. What is missing is progress. But a check that kills whatever
has made none would kill a run that reads its data, or a checkpoint of 100 GB, each time anew.

Rules of this file:

1. Asked are runs that somebody owns now, on this host. What others do in a shared folder is
   theirs, and what an earlier container left is no fault of this one.
2. Where nothing runs, all is well: nothing has begun yet, or all has ended. `--begun` asks for
   more, that this host has begun a run: for the probe that waits for a start.
3. A run is given its time anew when its folder is owned anew: the heartbeat that lies there then is
   that of the process before.
4. To look changes nothing, and needs no framework.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from peakhold.files.open_files import DISK
from peakhold.ledger.folder import RunFolder
from peakhold.ledger.heartbeat import NAME, is_beating, read_heartbeat
from peakhold.store.lock import LOCK_NAME, is_owned

__all__ = ["Health", "health_of", "main"]

MAX_AGE_S: Final = 900.0
_DEPTH: Final = 3
_NO_RUNS: Final = frozenset({"checkpoints", "tensorboard"})


@final
@dataclass(frozen=True, slots=True)
class Health:
    """How what trains on this host is.

    Example:
        >>> print(Health((), ("/runs/a: no progress for 1200 s",), has_begun=True))
        /runs/a: no progress for 1200 s
    """

    getting_on: tuple[str, ...]
    """A line for each run that gets on."""
    hanging: tuple[str, ...]
    """A line for each that does not."""
    has_begun: bool
    """Whether this host has begun a run, be it over or not."""

    def __str__(self) -> str:
        return "\n".join([*self.hanging, *self.getting_on]) or "nothing runs here now"


def health_of(folder: str | os.PathLike[str], *, max_age: float = MAX_AGE_S) -> Health:
    """Look at the runs in a folder.

    Args:
        folder: That of a run, or one with runs at most three folders below.
        max_age: Seconds without progress after which a run hangs.

    Raises:
        OSError: If the folder is not there, or cannot be read.

    Example:
        >>> import tempfile
        >>> print(health_of(tempfile.mkdtemp()))
        nothing runs here now
    """
    getting_on, hanging, has_begun = [], [], False
    for path in _runs_below(os.fspath(folder), _DEPTH):
        run = RunFolder(path)
        beat = read_heartbeat(run.heartbeat)
        if beat is None or beat["host"] != socket.gethostname():
            continue
        has_begun = True
        if not _is_running(run, beat):
            continue
        age_s = max(time.time() - _got_on_at(run, beat), 0.0)
        if age_s <= max_age:
            getting_on.append(f"{path}: got on {age_s:.0f} s ago")
        else:
            hanging.append(f"{path}: no progress for {age_s:.0f} s")
    return Health(tuple(getting_on), tuple(hanging), has_begun)


def _runs_below(folder: str, depth: int) -> Iterator[str]:
    """Folders with a heartbeat; a run may have a later one within it."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    if any(entry.name == NAME for entry in entries):
        yield folder
    if not depth:
        return
    for entry in entries:
        hidden = entry.name.startswith(".") or entry.name in _NO_RUNS
        if hidden or not entry.is_dir(follow_symlinks=False):
            continue
        with contextlib.suppress(OSError):  # removed meanwhile, or somebody else's
            yield from _runs_below(entry.path, depth - 1)


def _is_running(run: RunFolder, beat: Mapping[str, Any]) -> bool:
    """Whether somebody owns this very folder, and has not said that it is over."""
    if beat.get("ended") is not None:
        return False
    owned = is_owned(DISK, run.path)
    return is_beating(dict(beat)) if owned is None else owned


def _got_on_at(run: RunFolder, beat: Mapping[str, Any]) -> float:
    """When a run got on last, or began, or its folder came to who owns it now."""
    times = (beat.get("since"), beat.get("progressed_at"), _owned_at(run))
    return max((float(one) for one in times if isinstance(one, (int, float))), default=0.0)


def _owned_at(run: RunFolder) -> float | None:
    """When its owner took it: whoever locks a folder writes its name into the lock."""
    try:
        return os.stat(run.at(LOCK_NAME)).st_mtime
    except OSError:
        return None


def main(argv: Sequence[str] | None = None) -> int:
    """Look, and say it; 1 if a run hangs, none has begun with `--begun`, or no folder is there."""
    parser = argparse.ArgumentParser(
        prog="python -m peakhold.health",
        description="Whether the runs of this host in a folder get on: a health check.",
    )
    parser.add_argument("folder", help="of a run, or of several")
    parser.add_argument(
        "--max-age",
        type=float,
        default=MAX_AGE_S,
        metavar="SECONDS",
        help="without progress, until a run hangs (default: %(default)s)",
    )
    parser.add_argument("--begun", action="store_true", help="fail, too, until a run has begun")
    options = parser.parse_args(argv)
    try:
        health = health_of(options.folder, max_age=options.max_age)
    except OSError as error:
        print(f"peakhold.health: {options.folder}: {error.strerror}", file=sys.stderr)
        return 1
    print(health)
    return 1 if health.hanging or (options.begun and not health.has_begun) else 0


if __name__ == "__main__":
    sys.exit(main())
