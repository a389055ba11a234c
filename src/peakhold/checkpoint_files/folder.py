"""The files of one `ModelCheckpoint` in one run: committed, known by their sidecar, none lost."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable as Function
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, final

from peakhold import files
from peakhold._core.file_template import FileTemplate
from peakhold._core.policies.keep_files import SavedFile, superfluous
from peakhold.disk.disk import Disk
from peakhold.files.deletion import delete
from peakhold.files.sidecar import PREVIOUS, SUFFIX, Entry, Sidecar

__all__ = ["CheckpointFolder", "Retained", "static_folder"]

Better = Function[[float | None, float | None], bool]


def static_folder(filepath: str) -> str:
    """The part of a template's folder that is the same for every save."""
    folder = os.path.dirname(filepath)
    while "{" in folder:
        folder = os.path.dirname(folder)
    return folder or "."


@final
@dataclass(frozen=True, slots=True)
class Retained:
    """What one clean-up did."""

    deleted: tuple[str, ...] = ()
    """Paths of files that are gone."""
    failures: Mapping[str, str] | None = None
    """By path, why one could not be deleted; None if nothing went wrong. Worth a warning."""


@final
class CheckpointFolder:
    """Writes the files of one template.

    Args:
        filepath: The template.
        suffix: Its suffix, `.weights.h5` included.
        run_id: The run that writes.
        disk: The calls to the system. Defaults to the real ones.
    """

    def __init__(
        self, filepath: str, suffix: str, run_id: str, *, disk: Disk | None = None
    ) -> None:
        self.filepath, self.suffix, self.run_id = filepath, suffix, run_id
        self._disk = disk
        self._order = 0
        self.resumed = False
        self._template = os.path.basename(filepath)
        self._sidecars: dict[str, Sidecar] = {}
        self._written: dict[str, Entry] = {}

    def sidecar(self, folder: str) -> Sidecar:
        """The sidecar of a folder, read once."""
        if folder not in self._sidecars:
            plain = FileTemplate.parse(self._template).plain()
            self._sidecars[folder] = Sidecar(folder, self._template, plain, disk=self._disk)
        return self._sidecars[folder]

    def sweep(self) -> None:
        """Delete what killed writers left behind."""
        for folder in self._folders(goes_on=True):
            files.sweep(folder, disk=self._disk)

    def was_written(self, path: str) -> bool:
        """Whether this run has written this file already."""
        return path in self._written

    def write(
        self,
        path: str,
        entry: Entry,
        write: Function[[BinaryIO, str], Any],
        *,
        goes_on: bool,
        better: Better | None,
    ) -> str | None:
        """Commit one file, its entry first.

        Args:
            path: Its final name.
            entry: What is known of it, but for checksum and size.
            write: Writes the content to an open file; gets a scratch folder, too.
            goes_on: Whether this run goes on from a file of ours under this name.
            better: Ranks two values, or None.

        Returns:
            Where the file that stood there was kept; None if there was none to keep.
        """
        folder, name = os.path.split(path)
        folder = folder or "."
        files.make_folder(folder, disk=self._disk)
        sidecar = self.sidecar(folder)
        standing = self._written.get(path)
        if standing is not None and sidecar.entry_by_look(name) != standing:
            standing = None  # somebody has been there since
        aside = None

        def before_rename(committed: files.Committed) -> None:
            nonlocal aside, standing
            if standing is None and os.path.exists(path):
                standing = sidecar.entry_for(name)
                # After a failed save it may be this run's own.
                own = standing is not None and standing.run_id == self.run_id
                if standing is None or not (goes_on or own):
                    aside = sidecar.set_aside(name, self.suffix, better)
            full = replace(
                entry,
                checksum=committed.checksum,
                size=committed.size,
                mtime_ns=committed.mtime_ns,
            )
            full = sidecar.record(name, full, standing=standing, after=self._order)
            self._written[path], self._order = full, full.order

        try:
            files.commit(
                path,
                lambda file: write(file, folder),
                before_rename=before_rename,
                disk=self._disk,
            )
        except BaseException:
            # The entry may be recorded, the file is not there: what stands now must be looked up.
            self._written.pop(path, None)
            raise
        return None if aside is None else _join(folder, aside)

    def best(self, monitor: str, mode: str, better: Better) -> tuple[str, Entry] | None:
        """The best file that is there and whole, by its entry; reads files to know."""
        folder = static_folder(self.filepath)
        sidecar = self.sidecar(folder)
        ranked: list[tuple[str, Entry]] = []
        for name in sidecar.names():
            for entry in sidecar.entries(name):
                if (entry.monitor, entry.mode) == (monitor, mode) and PREVIOUS not in name:
                    place = next(
                        (i for i, (_, o) in enumerate(ranked) if better(entry.value, o.value)),
                        len(ranked),
                    )
                    ranked.insert(place, (name, entry))
        for name, entry in ranked:
            standing = sidecar.entry_for(name)
            if standing is not None and standing.checksum == entry.checksum:
                return _join(folder, name), entry
        return None

    def retain(
        self,
        *,
        keep_last: int | None = None,
        keep_best: int | None = None,
        better: Better | None = None,
        protect: Iterable[str] = (),
        goes_on: bool = False,
    ) -> Retained:
        """Delete the files that no rule keeps; called when the newest one is durable.

        Only files are deleted that the sidecar lists and that hold, byte by byte, what it says;
        never what was kept aside. What cannot be deleted is told, not raised.

        Args:
            keep_last: How many of the newest stay, at least 1; None if that is no rule.
            keep_best: How many of the best stay, at least 1; None if that is no rule.
            better: Ranks two values, or None; then `keep_best` deletes nothing.
            protect: Paths that stay, whatever the rules say.
            goes_on: Whether files of earlier runs count too, and may go; otherwise only this run's.
        """
        found: dict[str, Entry] = {}
        for folder in self._folders(goes_on=goes_on):
            sidecar = self.sidecar(folder)
            for name in sidecar.names():
                entry = None if self._is_aside(name) else sidecar.entry_by_look(name)
                if entry is not None and (goes_on or entry.run_id == self.run_id):
                    found[_join(folder, name)] = entry
        known = [
            SavedFile(path, e.order, e.epoch, e.batch, e.value, e.finite)
            for path, e in found.items()
        ]
        safe = {os.path.abspath(path) for path in protect}
        going = superfluous(known, keep_last=keep_last, keep_best=keep_best, better=better)
        return self._delete(
            {
                file.name: found[file.name]
                for file in going
                if os.path.abspath(file.name) not in safe
            }
        )

    def _delete(self, going: Mapping[str, Entry]) -> Retained:
        deleted: list[str] = []
        failures: dict[str, str] = {}
        for folder in sorted({os.path.dirname(path) or "." for path in going}):
            paths = {
                os.path.basename(path): path
                for path in going
                if (os.path.dirname(path) or ".") == folder
            }
            checksums = {name: going[path].checksum for name, path in paths.items()}
            try:
                done = delete(folder, checksums, disk=self._disk)
            except OSError as error:
                failures |= dict.fromkeys(paths.values(), error.strerror or str(error))
                continue
            deleted += [paths[name] for name in done.names]
            for path in deleted:
                self._written.pop(path, None)
            failures |= {paths[name]: reason for name, reason in done.failures.items()}
        return Retained(tuple(deleted), failures or None)

    def _is_aside(self, name: str) -> bool:
        stem = name.removesuffix(self.suffix)
        return re.search(rf"{re.escape(PREVIOUS)}(-\d+)?$", stem) is not None

    def _folders(self, *, goes_on: bool) -> list[str]:
        """Where files of this template are: this run's and, if it goes on from them, earlier ones'.

        Spelled as in the paths that are written: one folder must not count twice.
        """
        static = static_folder(self.filepath)
        folders = [*self._sidecars, static]
        dynamic = os.path.dirname(self.filepath)
        if goes_on and "{" in dynamic:
            plain = FileTemplate.parse(self._template).plain()
            depth = len(os.path.relpath(dynamic, static).split(os.sep))
            pattern = os.path.join(glob.escape(static), *"*" * depth, glob.escape(plain + SUFFIX))
            folders += [os.path.dirname(path) for path in sorted(glob.glob(pattern))]
        spelled = {os.path.abspath(folder): folder for folder in reversed(folders)}
        return list(spelled.values())


def _join(folder: str, name: str) -> str:
    return name if folder == "." else os.path.join(folder, name)
