"""The files of one `ModelCheckpoint` in one run: committed, known by their sidecar, none lost."""

from __future__ import annotations

import os
from collections.abc import Callable as Function
from dataclasses import replace
from typing import Any, BinaryIO, final

from peakhold._core.file_template import FileTemplate
from peakhold.store import files
from peakhold.store.sidecar import Entry, Sidecar

__all__ = ["CheckpointFolder", "static_folder"]

Better = Function[[float | None, float | None], bool]


def static_folder(filepath: str) -> str:
    """The part of a template's folder that is the same for every save."""
    folder = os.path.dirname(filepath)
    while "{" in folder:
        folder = os.path.dirname(folder)
    return folder or "."


@final
class CheckpointFolder:
    """Writes the files of one template.

    Args:
        filepath: The template.
        suffix: Its suffix, `.weights.h5` included.
        run_id: The run that writes.
    """

    def __init__(self, filepath: str, suffix: str, run_id: str) -> None:
        self.filepath, self.suffix, self.run_id = filepath, suffix, run_id
        self.resumed = False
        self._template = os.path.basename(filepath)
        self._sidecars: dict[str, Sidecar] = {}
        self._written: dict[str, Entry] = {}

    def sidecar(self, folder: str) -> Sidecar:
        """The sidecar of a folder, read once."""
        if folder not in self._sidecars:
            plain = FileTemplate.parse(self._template).plain()
            self._sidecars[folder] = Sidecar(folder, self._template, plain)
        return self._sidecars[folder]

    def sweep(self) -> None:
        """Delete what killed writers left behind."""
        files.sweep(static_folder(self.filepath))

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
        os.makedirs(folder, exist_ok=True)
        sidecar = self.sidecar(folder)
        standing = self._written.get(path)
        aside = None

        def before_rename(committed: files.Committed) -> None:
            nonlocal aside, standing
            if standing is None and os.path.exists(path):
                standing = sidecar.entry_for(name)
                # After a failed save it may be this run's own.
                own = standing is not None and standing.run_id == self.run_id
                if standing is None or not (goes_on or own):
                    aside = sidecar.set_aside(name, self.suffix, better)
            full = replace(entry, checksum=committed.checksum, size=committed.size)
            sidecar.record(name, full, standing=standing)
            self._written[path] = full

        try:
            files.commit(path, lambda file: write(file, folder), before_rename=before_rename)
        except BaseException:
            # The entry may be recorded, the file is not there: what stands now must be looked up.
            self._written.pop(path, None)
            raise
        return None if aside is None else os.path.join(folder, aside) if folder != "." else aside

    def best(self, monitor: str, mode: str, better: Better) -> tuple[str, Entry] | None:
        """The best file that is there and whole, by its entry; reads files to know."""
        folder = static_folder(self.filepath)
        sidecar = self.sidecar(folder)
        ranked: list[tuple[str, Entry]] = []
        for name in sidecar.names():
            for entry in sidecar.entries(name):
                if (entry.monitor, entry.mode) == (monitor, mode) and ".previous" not in name:
                    place = next(
                        (i for i, (_, o) in enumerate(ranked) if better(entry.value, o.value)),
                        len(ranked),
                    )
                    ranked.insert(place, (name, entry))
        for name, entry in ranked:
            standing = sidecar.entry_for(name)
            if standing is not None and standing.checksum == entry.checksum:
                return (name if folder == "." else os.path.join(folder, name)), entry
        return None
