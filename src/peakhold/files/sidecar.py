"""What is known of the files beside it: one small JSON file per template and folder.

Rules of this file:

1. An entry counts only for the file whose checksum it holds. A new entry is on disk *before* its
   file gets its final name, next to the entry of the file that is still there. So after a crash
   between the two, whichever file stands under the name, its entry is true.
2. A sidecar that is damaged or missing costs knowledge, never a file.
3. What has no valid entry was not written by Peakhold, or was changed since: it is never deleted.
4. A file is deleted before its entry is: an entry without a file is harmless, and goes with the
   next record; a file without an entry would be a stranger's for ever.
"""

from __future__ import annotations

import itertools
import math
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter, methodcaller
from typing import Any, Final, final

from peakhold import files
from peakhold._core.monitor import Criterion, Direction
from peakhold._core.numbers import numbers_from_json, numbers_to_json
from peakhold._core.observation import is_finite
from peakhold._core.policies.keep import CheckpointInfo
from peakhold.disk.disk import Disk
from peakhold.files.open_files import shortened

__all__ = ["PREVIOUS", "SUFFIX", "SavedFile", "Sidecar", "infos_of"]

FORMAT = 1
SUFFIX = ".peakhold.json"
PREVIOUS = ".previous"
_LARGEST = 64 << 20  # bytes; a sidecar of ten thousand files has about 5 MB


@final
@dataclass(frozen=True, slots=True)
class SavedFile:
    """One file that was written."""

    checksum: str
    """xxh3-128 of the file's content, in hexadecimal."""
    size: int
    """Bytes."""
    epoch: int
    """Index of the epoch, from 0."""
    monitor: str
    mode: str | None
    """`min` or `max`; None if nothing was ranked."""
    value: float | None
    """The monitored metric; None if it was not logged or not finite."""
    saved_at: str
    """UTC, ISO 8601."""
    run_id: str
    batch: int | None = None
    """Index of the batch, from 0, if the save came inside an epoch."""
    metrics: dict[str, float] = field(default_factory=dict)
    """All metrics of that moment, NaN and infinite ones, too; only finite ones in old sidecars."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of Peakhold and of the framework."""
    order: int = 0
    """Running number of the commit, over all names of the template; 0 in old sidecars."""
    mtime_ns: int | None = None
    """When the file was last changed, in nanoseconds; None in old sidecars."""
    finite: bool = True
    """False if the loss or a variable was NaN or infinite when it was saved."""

    def is_worse_than(self, other: SavedFile) -> bool:
        """Whether both were ranked by the same metric, and the other one is better."""
        if self.mode is None or (self.monitor, self.mode) != (other.monitor, other.mode):
            return False
        return Criterion(Direction(self.mode)).better(other.value, self.value)


def infos_of(saved: Sequence[SavedFile]) -> list[CheckpointInfo]:
    """What keep policies may know of files, in the order given.

    Commits are numbered from 1 by age, for old sidecars do not number theirs: there the epoch says
    which is older. Nobody counts steps here, so the step is the same number.
    """

    def age(place: int) -> tuple[int, int, bool, int]:
        file = saved[place]
        at_epoch_end = file.batch is None
        return file.order, file.epoch, at_epoch_end, -1 if file.batch is None else file.batch

    def metrics(file: SavedFile) -> dict[str, float]:
        value = file.value
        return {} if value is None or not is_finite(value) else {file.monitor: value}

    commits = {place: n for n, place in enumerate(sorted(range(len(saved)), key=age), start=1)}
    return [
        CheckpointInfo(
            step=commits[place],
            commit=commits[place],
            epoch=file.epoch,
            metrics=metrics(file),
            finite=file.finite,
        )
        for place, file in enumerate(saved)
    ]


_FIELDS: Final = tuple(one.name for one in fields(SavedFile))
_values_of: Final = attrgetter(*_FIELDS)


def _read_entry(raw: Any) -> SavedFile | None:
    if not isinstance(raw, dict):
        return None
    value = raw.get("value")
    rankable = value is None or (isinstance(value, (int, float)) and math.isfinite(value))
    numbers = [raw.get("epoch"), raw.get("order", 0), raw.get("batch") or 0]
    if not (isinstance(raw.get("checksum"), str) and rankable):
        return None
    if not isinstance(raw.get("monitor"), str) or raw.get("mode") not in (None, *Direction):
        return None
    if not all(isinstance(number, int) for number in numbers):
        return None
    try:
        known = {name: raw[name] for name in _FIELDS if name in raw}
        return SavedFile(**{**known, "metrics": numbers_from_json(raw.get("metrics", {}))})
    except (TypeError, AttributeError):
        return None


@final
class Sidecar:
    """The sidecar of one template in one folder.

    Args:
        folder: Where the files are.
        template: Base name of the template, braces and all; it names the sidecar.
        plain: The template without braces, for the sidecar's own name.
        disk: The calls to the system. Defaults to the real ones.
    """

    def __init__(self, folder: str, template: str, plain: str, *, disk: Disk | None = None) -> None:
        self.folder, self.template, self._disk = folder, template, disk
        self.path = os.path.join(folder, shortened(plain, len(SUFFIX)) + SUFFIX)
        self.damaged = False
        self._entries: dict[str, list[SavedFile]] = self._read()
        self._identified: dict[tuple[str, int, int], SavedFile | None] = {}

    def _read(self) -> dict[str, list[SavedFile]]:
        import json

        try:
            status = os.stat(self.path)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
                self.damaged = True
                return {}
            with open(self.path, encoding="utf-8") as file:
                content = json.load(file)
            if content["format"] != FORMAT or content["template"] != self.template:
                return {}
            return {
                name: [entry for raw in entries if (entry := _read_entry(raw)) is not None]
                for name, entries in content["files"].items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.damaged = True
            return {}

    def entry_for(self, name: str) -> SavedFile | None:
        """The entry of the file that stands under `name` now; reads the file to know."""
        entries = self._entries.get(name)
        if not entries:
            return None
        digest = files.hash_file(os.path.join(self.folder, name))
        return next((entry for entry in entries if entry.checksum == digest), None)

    def entry_by_look(self, name: str) -> SavedFile | None:
        """Like `entry_for`, but a file of the recorded size and time is believed unread.

        That is enough to count what there is, not to delete it.
        """
        try:
            status = os.stat(os.path.join(self.folder, name))
        except OSError:
            return None
        sized = [e for e in self._entries.get(name, ()) if e.size == status.st_size]
        if not sized or not stat.S_ISREG(status.st_mode):
            return None
        known = next((e for e in sized if e.mtime_ns == status.st_mtime_ns), None)
        if known is not None:
            return known
        key = name, status.st_size, status.st_mtime_ns  # copied, or of an old sidecar: read it once
        if key not in self._identified:
            self._identified[key] = self.entry_for(name)
        return self._identified[key]

    def entries(self, name: str) -> list[SavedFile]:
        """All entries of a name, the newest first; at most one of them is of the file there."""
        return list(self._entries.get(name, ()))

    def names(self) -> list[str]:
        """Names that have entries, sorted."""
        return sorted(self._entries)

    def record(
        self, name: str, entry: SavedFile, *, standing: SavedFile | None = None, after: int = 0
    ) -> SavedFile:
        """Add an entry, durably, and keep the one of the file that stands there now.

        An entry of the same name and epoch is replaced, unless it is that of the file that stands
        there: then it goes with the record after this one.

        Args:
            name: Base name of the file.
            entry: What is about to stand under it. It gets its `order`, if it has none.
            standing: The valid entry of the file it replaces, if that is known already.
            after: An `order` that the new one must come after.

        Returns:
            The entry as recorded.
        """
        import json

        known = self._read() or self._entries  # another callback may write the same template
        if not entry.order:
            orders = [e.order for entries in known.values() for e in entries]
            entry = replace(entry, order=1 + max([after, *orders]))
        old = [e for e in known.get(name, []) if e.epoch != entry.epoch]
        old = old if standing is None else [standing]
        merged = {
            other: entries
            for other, entries in known.items()
            if other != name and os.path.lexists(os.path.join(self.folder, other))
        }
        merged[name] = [entry, *(e for e in old[:2] if e.checksum != entry.checksum)]
        rows: dict[str, list[dict[str, Any]]] = {key: [] for key in sorted(merged)}
        for key, row in rows.items():
            for saved in merged[key]:
                members = dict(zip(_FIELDS, _values_of(saved), strict=True))
                row.append({**members, "metrics": numbers_to_json(saved.metrics)})
        content = {"format": FORMAT, "template": self.template, "files": rows}
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        files.commit(self.path, methodcaller("write", text.encode()), disk=self._disk)
        self._entries = merged
        return entry

    def set_aside(self, name: str, suffix: str) -> str | None:
        """Keep the file under `name` before it is replaced: `best.keras` as `best.previous.keras`.

        At most one file of ours is kept aside for a name, the better one if both were ranked by the
        same metric, else the newer; a file that is not ours keeps its place, and gets one of its
        own.

        Args:
            name: Base name of the file that is about to be replaced.
            suffix: Its suffix, `.weights.h5` included.

        Returns:
            The name it is kept under; None if a better one is kept aside already.
        """
        standing = self.entry_for(name)
        stem = name.removesuffix(suffix)
        aside = f"{stem}{PREVIOUS}{suffix}"
        for number in itertools.count(2):
            if not os.path.lexists(os.path.join(self.folder, aside)):
                break
            held = self.entry_for(aside)
            if held is None or standing is None:
                if held is standing and self._is_same(name, aside):
                    return aside  # by a run that was killed before its save
                aside = f"{stem}{PREVIOUS}-{number}{suffix}"
                continue
            if standing.is_worse_than(held):
                return None
            break
        if standing is not None:
            self.record(aside, standing)
        files.keep_aside(
            os.path.join(self.folder, name), os.path.join(self.folder, aside), disk=self._disk
        )
        return aside

    def _is_same(self, name: str, other: str) -> bool:
        """Whether two files hold the same content."""
        digest = files.hash_file(os.path.join(self.folder, name))
        return digest is not None and digest == files.hash_file(os.path.join(self.folder, other))
