"""The doctor: whether a folder is fit for a run, asked before one begins.

`python -m peakhold.doctor FOLDER` needs no framework and starts at once; `peakhold.diagnose` is the
same from a program, and takes callbacks. The rules are those of `advice/`, which speak up at the
start of every run, too; the doctor also tries what only a write shows (`probing.py`).

Rules of this folder:

1. Nothing is written but a probe, which is taken away again, however it ends.
2. Importing it loads neither NumPy nor a framework; given callbacks, it loads what they need.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, final

from peakhold._core.arguments import check_count
from peakhold.advice import Advice, Folder, RunSettings, located, on_folders, spoken
from peakhold.advice.folders import size_of
from peakhold.disk.local_path import local_path
from peakhold.disk.mounts import MountTable
from peakhold.disk.volume import Volume
from peakhold.doctor.probing import Speed, measured, tried_out
from peakhold.files.open_files import DISK
from peakhold.store.lock import owner_of

__all__ = ["Diagnosis", "diagnose"]

_LEVELS: Final = ("error", "warning", "notice", "summary")
_COPIES, _FILES = 4, 4
"""Backups that a run keeps at the same time at most, and files of each (`backup/keeping.py`)."""


@final
@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found out about a folder, and about the callbacks that are to write there."""

    folder: str
    """The folder, as it was named."""
    findings: tuple[Advice, ...]
    """What is wrong, the worst first; each has a `code`, a `level` and a `text`."""
    volume: Volume | None
    """The file system under it; None where nothing is known."""
    owner: str | None = None
    """Who writes there now; None if nobody does."""
    speed: Speed | None = None
    """How quick it is, if that was asked for."""

    @property
    def is_fine(self) -> bool:
        """Whether there is neither an error nor a warning."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """2 if a run there fails, 1 if there is a warning, else 0."""
        levels = {one.level for one in self.findings}
        return 2 if "error" in levels else 1 if "warning" in levels else 0

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        volume, mount = self.volume, None if self.volume is None else self.volume.mount
        return {
            "folder": self.folder,
            "fine": self.is_fine,
            "findings": [
                {"code": one.code, "level": one.level, "text": one.text} for one in self.findings
            ],
            "mount": mount and {"path": mount.path, "kind": mount.kind, "source": mount.source},
            "free_bytes": volume and volume.free_bytes,
            "free_files": volume and volume.free_files,
            "quota_bytes": volume and volume.quota_bytes,
            "owner": self.owner,
            "speed": self.speed and asdict(self.speed),
        }

    def __str__(self) -> str:
        """A few lines for people."""
        return "\n".join([self.folder, *self._facts(), *self._told()])

    def _facts(self) -> Iterator[str]:
        volume = self.volume
        if volume is not None:
            if volume.mount is not None:
                yield f"  file system  {volume.mount.kind}, mounted at {volume.mount.path}"
            files = "" if volume.free_files is None else f", {volume.free_files:,} files"
            quota = "" if volume.quota_bytes is None else f", quota {size_of(volume.quota_bytes)}"
            yield f"  free         {size_of(volume.free_bytes)}{files}{quota}"
        yield f"  written by   {self.owner or 'nobody'}"
        if self.speed is not None:
            yield from (f"  {line}" for line in self.speed.lines())

    def _told(self) -> Iterator[str]:
        for one in self.findings:
            yield f"{one.code} {one.level}: {one.text}"
        if not self.findings:
            yield "nothing is wrong"


def diagnose(
    folder: str | os.PathLike[str],
    callbacks: Any = (),
    *,
    model_bytes: int | None = None,
    measure: bool = False,
    mount_table: str | None = None,
) -> Diagnosis:
    """Find out whether a run can write to a folder, has room there, and finds it again.

    What is looked at is in the table of advice: E9 (writable, renames, locks, room, inodes, quota),
    E10 (a container's own layer, memory, network mounts), E12 (who writes there now); with
    callbacks all that is said before the first batch. Silenced codes are left out.

    Args:
        folder: The folder of a run, of checkpoints or of logs; it need not be there.
        callbacks: What is to be passed to `fit`, to `CallbackList` or to `Run`.
        model_bytes: Bytes of model and optimizer, for the room that they take. None: not looked at.
        measure: Whether to write 16 MiB to see how quick it is. Defaults to `False`.
        mount_table: Instead of the system's, in the form of `/proc/self/mountinfo`.

    Raises:
        InvalidArgumentError: For an empty path, or a negative number of bytes.

    Example:
        >>> import tempfile
        >>> diagnosis = diagnose(tempfile.mkdtemp(), model_bytes=1000)
        >>> [one.text for one in diagnosis.findings if one.level in {"warning", "error"}]
        []
    """
    path = local_path(
        "folder", folder, "the path of a folder", hint="pass a path such as 'runs/digits'."
    )
    if model_bytes is not None:
        check_count("model_bytes", model_bytes, at_least=0)
    is_alone = isinstance(callbacks, (tuple, list)) and not callbacks
    settings = RunSettings() if is_alone else _settings_of(callbacks)
    backups = [one.path for one in settings.folders if one.holds == "state"]
    held: Literal["state"] | None = "state" if model_bytes and not settings.folders else None
    copies, n_files = (_COPIES, _FILES) if held else (1, 1)
    own = Folder("a run", os.path.abspath(path), held, copies, n_files)
    settings = _with_folder(settings, own)
    size: Callable[[], int | None] = lambda: model_bytes  # noqa: E731 - one line says it
    table = MountTable.read() if mount_table is None else MountTable(mount_table)
    settings = located(settings, {"state": size, "weights": size}, table)
    owner, owned = _owners([own.path, os.path.join(own.path, "checkpoints"), *backups])
    rules = on_folders if is_alone else _all_rules
    findings = [*tried_out(own.path, DISK), *owned, *rules(settings)]
    findings.sort(key=lambda one: _LEVELS.index(one.level))
    is_writable = not any(one.code == "E9" and one.level == "error" for one in findings)
    return Diagnosis(
        path,
        tuple(spoken(findings)),
        settings.volumes.get(own.path),
        owner,
        measured(own.path, DISK, model_bytes) if measure and is_writable else None,
    )


def _with_folder(settings: RunSettings, own: Folder) -> RunSettings:
    known = any(one.path == own.path for one in settings.folders)
    return settings if known else replace(settings, folders=(*settings.folders, own))


def _settings_of(callbacks: Any) -> RunSettings:
    """What the callbacks are set to do; of their model nothing is known."""
    from peakhold.callbacks.callback_list import flatten
    from peakhold.host.finding import stateless_base
    from peakhold.host.loop import LoopHost
    from peakhold.runtime.callback import link_of
    from peakhold.runtime.narration import settings_of

    given = flatten(callbacks)
    participants = [link.participant for one in given if (link := link_of(one)) is not None]
    return settings_of(participants, given, LoopHost(), {}, stateless_base)


def _all_rules(settings: RunSettings) -> Iterable[Advice]:
    from peakhold.advice import advise_on

    return advise_on(settings)


def _owners(folders: Iterable[str]) -> tuple[str | None, list[Advice]]:
    """E12: who writes to folders now, and what that means for who wants to."""
    found: list[Advice] = []
    first: str | None = None
    own = f"process {os.getpid()} on {os.uname().nodename} " if hasattr(os, "uname") else None
    for path in dict.fromkeys(folders):
        try:
            owner = owner_of(DISK, path)
        except OSError:  # nobody may look, or there are no locks: that is said elsewhere
            continue
        if owner is None:
            continue
        first = first or owner
        if own is None or not owner.startswith(own):
            found.append(
                Advice(
                    "E12",
                    "warning",
                    f"{owner} writes to {path!r} now, and a run that starts there is refused; wait "
                    "for it to end, or use a folder of its own for each run.",
                )
            )
    return first, found
