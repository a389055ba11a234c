"""Which files of a template may go, by the keep policies that also serve the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from peakhold._core.policies.keep import KeepBest, KeepPolicy, keep
from peakhold.files.sidecar import SavedFile, infos_of

__all__ = ["Retention", "best_of", "files_to_delete"]


@final
@dataclass(frozen=True, slots=True)
class Retention:
    """Which files of a template stay when one more has been written."""

    policy: KeepPolicy | None
    """None: all of them, for what ranks is not known yet."""
    goes_on: bool
    """Whether files of earlier runs count, too, and may go."""
    ranks: KeepBest | None = None
    """By what the best is told, where that is asked for and its direction is known."""


def best_of(files: Mapping[str, SavedFile], ranks: KeepBest) -> tuple[str, SavedFile] | None:
    """The path of the best file, and what it is; None if none can be ranked."""
    infos = infos_of(list(files.values()))
    paths = {info.commit: path for path, info in zip(files, infos, strict=True)}
    ranked = ranks.ranked(infos)
    return (paths[ranked[0].commit], files[paths[ranked[0].commit]]) if ranked else None


def files_to_delete(files: Mapping[str, SavedFile], policy: KeepPolicy | None) -> list[str]:
    """The paths that a policy does not keep, the oldest first.

    Args:
        files: All there are, by path.
        policy: What stays; None keeps everything. The newest file stays whatever it says.
    """
    by_commit = {
        info.commit: (path, info)
        for path, info in zip(files, infos_of(list(files.values())), strict=True)
    }
    kept = keep(policy, [info for _, info in by_commit.values()])
    return [by_commit[commit][0] for commit in sorted(by_commit.keys() - kept)]
