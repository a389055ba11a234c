"""What is known of the files beside it: one small JSON file per template and folder.

Rules of this file:

1. An entry counts only for the file whose checksum it holds. A new entry is on disk *before* its
   file gets its final name, next to the entry of the file that is still there. So after a crash
   between the two, whichever file stands under the name, its entry is true.
2. A sidecar that is damaged or missing costs knowledge, never a file.
3. What has no valid entry was not written by Peakhold, or was changed since: it is never deleted.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, final

from peakhold.store import files

__all__ = ["Entry", "Sidecar"]

FORMAT = 1
SUFFIX = ".peakhold.json"
_LARGEST = 64 << 20  # bytes; a sidecar of ten thousand files has about 5 MB


@final
@dataclass(frozen=True, slots=True)
class Entry:
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
    """All finite metrics of that moment."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of Peakhold and of the framework."""


def _read_entry(raw: Any) -> Entry | None:
    known = {f.name for f in fields(Entry)}
    if not isinstance(raw, dict):
        return None
    value = raw.get("value")
    rankable = value is None or (isinstance(value, (int, float)) and math.isfinite(value))
    if not (
        isinstance(raw.get("checksum"), str) and isinstance(raw.get("epoch"), int) and rankable
    ):
        return None
    try:
        return Entry(**{key: value for key, value in raw.items() if key in known})
    except TypeError:
        return None


@final
class Sidecar:
    """The sidecar of one template in one folder.

    Args:
        folder: Where the files are.
        template: Base name of the template, braces and all; it names the sidecar.
        plain: The template without braces, for the sidecar's own name.
    """

    def __init__(self, folder: str, template: str, plain: str) -> None:
        self.folder, self.template = folder, template
        self.path = os.path.join(folder, plain + SUFFIX)
        self.damaged = False
        self._entries: dict[str, list[Entry]] = self._read()

    def _read(self) -> dict[str, list[Entry]]:
        import json

        try:
            if os.path.getsize(self.path) > _LARGEST:
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

    def entry_for(self, name: str) -> Entry | None:
        """The entry of the file that stands under `name` now; reads the file to know."""
        entries = self._entries.get(name)
        if not entries:
            return None
        digest = files.checksum(os.path.join(self.folder, name))
        return next((entry for entry in entries if entry.checksum == digest), None)

    def entries(self, name: str) -> list[Entry]:
        """All entries of a name, the newest first; at most one of them is of the file there."""
        return list(self._entries.get(name, ()))

    def names(self) -> list[str]:
        """Names that have entries, sorted."""
        return sorted(self._entries)

    def record(self, name: str, entry: Entry, *, standing: Entry | None = None) -> None:
        """Add an entry, durably, and keep the one of the file that stands there now.

        Args:
            name: Base name of the file.
            entry: What is about to stand under it.
            standing: The valid entry of the file it replaces, if that is known already.
        """
        import json

        known = self._read() or self._entries  # another callback may write the same template
        old = [standing] if standing is not None else known.get(name, [])
        merged = {
            other: entries
            for other, entries in known.items()
            if other != name and os.path.lexists(os.path.join(self.folder, other))
        }
        merged[name] = [entry, *(e for e in old[:2] if e.checksum != entry.checksum)]
        content = {
            "format": FORMAT,
            "template": self.template,
            "files": {key: [asdict(e) for e in merged[key]] for key in sorted(merged)},
        }
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        files.commit(self.path, lambda file: file.write(text.encode()))
        self._entries = merged

    def set_aside(
        self, name: str, suffix: str, better: Callable[[float | None, float | None], bool] | None
    ) -> str | None:
        """Keep the file under `name` before it is replaced: `best.keras` as `best.previous.keras`.

        At most one file of ours is kept aside for a name, the better one; a file that is not ours
        keeps its place, and gets one of its own.

        Args:
            name: Base name of the file that is about to be replaced.
            suffix: Its suffix, `.weights.h5` included.
            better: Ranks two values, or None if values cannot be ranked (then the newer is kept).

        Returns:
            The name it is kept under; None if a better one is kept aside already.
        """
        standing = self.entry_for(name)
        stem = name.removesuffix(suffix)
        aside = f"{stem}.previous{suffix}"
        for number in itertools.count(2):
            if not os.path.lexists(os.path.join(self.folder, aside)):
                break
            held = self.entry_for(aside)
            if held is None or standing is None:
                if held is standing and self._is_same(name, aside):
                    return aside  # by a run that was killed before its save
                aside = f"{stem}.previous-{number}{suffix}"
                continue
            same = (held.monitor, held.mode) == (standing.monitor, standing.mode)
            if same and better is not None and better(held.value, standing.value):
                return None
            break
        if standing is not None:
            self.record(aside, standing)
        files.keep_aside(os.path.join(self.folder, name), os.path.join(self.folder, aside))
        return aside

    def _is_same(self, name: str, other: str) -> bool:
        """Whether two files hold the same content."""
        digest = files.checksum(os.path.join(self.folder, name))
        return digest is not None and digest == files.checksum(os.path.join(self.folder, other))
