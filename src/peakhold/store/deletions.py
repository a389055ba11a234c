"""What leaves a store's folder, and what comes back: deletions, and retention.

Rules of this file:

1. All of it runs in the writer thread, one job after the other: no deletion meets a commit.
2. Retention looks at the manifests on disk. What goes wrong there is a warning.
3. What was brought back is left alone by the keep policy from then on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import final

from peakhold._core.policies.keep import KeepPolicy, missing
from peakhold._core.policies.keep import keep as commits_to_keep
from peakhold.disk.disk import Disk
from peakhold.errors import CheckpointDamagedError, CheckpointNotFoundError
from peakhold.store import manifest as manifests
from peakhold.store.entry import Entry
from peakhold.store.owner import Ownership
from peakhold.store.reader import Reader
from peakhold.store.trash import Trash

__all__ = ["Deletions"]


@final
class Deletions:
    """Deletions of one store; only its writer thread calls this.

    Args:
        disk: The calls.
        own: The folder.
        reader: Its listing.
        trash: Where they go.
        notices: For what the next call of the store warns of.
    """

    def __init__(
        self, disk: Disk, own: Ownership, reader: Reader, trash: Trash, notices: deque[str]
    ) -> None:
        self._disk, self._own, self._reader, self._trash = disk, own, reader, trash
        self._folder = reader.folder
        self._notices = notices
        self._pinned: set[str] = set()
        self._refused: set[str] = set()
        self._said: set[str] = set()

    def retain(self, keep: KeepPolicy | None) -> None:
        """Delete what the policy does not keep, durably, then unlink it."""
        if self._own.released:  # the next owner sees to it
            return
        try:
            entries, damaged = self._reader.scan()
            if self._is_news(damaged):
                return
            infos = [entry.info for entry in entries]
            for words in missing(keep, infos):
                if words not in self._said:
                    self._said.add(words)
                    self._notices.append(f"{self._folder}: {words}")
            kept = commits_to_keep(keep, infos)
            victims = [
                entry.name
                for entry in entries
                if entry.commit not in kept and entry.name not in self._pinned
            ]
            failed = self._trash.put(victims) if victims else self._trash.empty()
            self._tell_undeleted(failed)
        except OSError as exc:
            self._notices.append(f"{self._folder}: old checkpoints could not be deleted: {exc}")
        except Exception as exc:  # the policy may be the user's: nobody else would hear of this
            self._notices.append(
                f"{self._folder}: old checkpoints could not be deleted, for keep={keep!r} "
                f"raised {type(exc).__name__}: {exc}"
            )

    def _tell_undeleted(self, failed: Mapping[str, OSError]) -> None:
        for name, error in failed.items():
            self._notices.append(f"{self._folder / name} could not be deleted: {error}")

    def _is_news(self, damaged: Iterable[CheckpointDamagedError]) -> bool:
        """Whether the medium refuses one that it gave before.

        It may be what another one refers to, or be there again the next time: nothing is deleted
        until it has been refused twice.
        """
        refused = {error.path for error in damaged if isinstance(error.__cause__, OSError)}
        news, self._refused = refused - self._refused, refused
        return bool(news)

    def delete(self, names: Sequence[str], which: object) -> None:
        """Delete folders of checkpoints, one after the other.

        Raises:
            CheckpointNotFoundError: If one is not there.
            OSError: If one cannot be deleted.
        """
        if any(self._disk.identity(name, self._own.root) is None for name in names):
            raise CheckpointNotFoundError.for_step(str(self._folder), which, self.steps())
        self._pinned.difference_update(names)
        failed = self._trash.put(names, in_turn=True)
        for name in names:
            if name in failed:
                raise failed[name]
        self._tell_undeleted(failed)  # the deletion itself is durable

    def bring_back(self, which: Entry | int | str | None) -> Entry:
        """See `Store.undelete`."""
        held = [(name, e) for name, e in self._trash.held(self._folder) if _means(which, name)]
        for name, entry in reversed(held):
            if isinstance(entry, Entry):
                self._trash.take_out(name, self._folder)
                self._pinned.add(name)
                return replace(entry, path=self._folder / name)
        for _, damage in reversed(held):
            if not isinstance(damage, Entry):
                raise damage
        steps = [e.step for _, e in self._trash.held(self._folder) if isinstance(e, Entry)]
        raise CheckpointNotFoundError.for_step(str(self._folder), which, steps)

    def steps(self) -> tuple[int, ...]:
        """The newest steps, for a message."""
        return tuple(entry.step for entry in self._reader.list()[:-6:-1])


def _means(which: object, name: str) -> bool:
    """Whether an entry, a step, a folder's name or None (any) means the checkpoint of this name."""
    key = manifests.parse_folder_name(name)
    step = None if key is None or isinstance(which, bool) else key[0]
    return (
        which is None or which in (step, name) or (isinstance(which, Entry) and which.name == name)
    )
