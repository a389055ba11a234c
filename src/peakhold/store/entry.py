"""What a store tells about its checkpoints: entries, loaded checkpoints, findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias, final

from peakhold._core.policies.keep import CheckpointInfo
from peakhold.errors import CheckpointDamagedError
from peakhold.store.manifest import Manifest

__all__ = ["Checkpoint", "Entries", "Entry", "Finding", "Findings"]


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """One committed checkpoint, as its manifest describes it."""

    step: int
    """Steps done when the state was taken."""
    epoch: int | None
    """0-based index of the epoch, if one was given."""
    metrics: Mapping[str, float]
    """Values at that step."""
    reason: str | None
    """Why it was saved."""
    path: Path
    """Its folder."""
    committed_at: datetime
    """When it was written, UTC."""
    revision: int
    """1, or higher if the step was saved before."""
    commit: int
    """Running number; the larger, the newer."""
    parts: tuple[str, ...]
    """Names of its parts."""
    nbytes: int
    """Bytes of its files."""
    finite: bool
    """False if a tensor holds NaN or an infinity."""
    refers_to: tuple[int, ...] = ()
    """Steps of other checkpoints that it needs, as it was saved."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def info(self) -> CheckpointInfo:
        """What a keep policy may know of it."""
        return CheckpointInfo(
            self.step, self.commit, self.epoch, self.metrics, self.finite, self.refers_to
        )

    @classmethod
    def of(cls, manifest: Manifest, folder: Path) -> Entry:
        """Describe what `manifest` describes, in the store at `folder`."""
        return cls(
            step=manifest.step,
            epoch=manifest.epoch,
            metrics=MappingProxyType(manifest.metrics),
            reason=manifest.reason,
            path=folder / manifest.name,
            committed_at=manifest.committed_at,
            revision=manifest.revision,
            commit=manifest.commit,
            parts=manifest.parts,
            nbytes=manifest.nbytes,
            finite=manifest.finite,
            refers_to=manifest.refers_to,
        )


@final
@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint's content, verified."""

    entry: Entry
    """Which checkpoint this is: not the one asked for, if that one was damaged."""
    parts: dict[str, Any]
    """The parts that were asked for, as they were saved."""
    passed_over: tuple[CheckpointDamagedError, ...] = field(default=())
    """Newer checkpoints that were damaged, the newest first."""

    def __getitem__(self, part: str) -> Any:
        return self.parts[part]


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """What `verify` found in one folder."""

    name: str
    """The folder's name."""
    entry: Entry | None
    """The checkpoint, or None if not even its manifest can be trusted."""
    damage: tuple[CheckpointDamagedError, ...]
    """All that is wrong with it; empty if nothing is."""

    @property
    def ok(self) -> bool:
        """True if every byte is as it was saved."""
        return not self.damage


# For classes with a method `list`, in whose annotations that name is the method.
Entries: TypeAlias = list[Entry]
Findings: TypeAlias = list[Finding]
