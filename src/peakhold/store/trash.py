"""Deleting in one atomic step, with a way back.

A checkpoint is renamed into `.trash/`, and both folders are flushed before anything is unlinked.
Without that flush a power cut can bring the name back while its blocks belong to another file
already (seen on ext4 in writeback mode). What is in the trash is nobody's checkpoint: readers never
look there, and half of one there is harmless.

One item that cannot be deleted or unlinked holds up no other. It is tried twice, told once, and
left until the store is next opened: a NAS that puts a folder of its own into every checkpoint must
not make each retention look at all that were ever deleted.

Names in the trash carry a running number, so that the order of deletions survives a restart and a
copy: `.trash/000007.step-00000042.r2`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, final

from peakhold.disk.disk import Disk, let_go_after
from peakhold.errors import CheckpointDamagedError
from peakhold.store import manifest as manifests
from peakhold.store.commit import remove_tree
from peakhold.store.entry import Entry
from peakhold.store.opened import GoneError, open_checkpoint
from peakhold.store.owner import Ownership

__all__ = ["TRASH_NAME", "Trash"]

TRASH_NAME: Final = ".trash"
_TRIES: Final = 2
_ITEM: Final = re.compile(r"(\d{6,18})\.(step-.+)")


@final
class Trash:
    """The trash of one store; only its owner calls this."""

    def __init__(self, disk: Disk, own: Ownership, undo: int) -> None:
        self._disk = disk
        self._own = own
        self._undo = undo
        self._tries: dict[str, int] = {}

    def _open(self) -> int:
        try:
            return self._disk.open_folder(TRASH_NAME, self._own.root)
        except FileNotFoundError:
            self._disk.make_folder(TRASH_NAME, self._own.root)
            return self._disk.open_folder(TRASH_NAME, self._own.root)

    def _open_if_there(self) -> int | None:
        try:
            return self._disk.open_folder(TRASH_NAME, self._own.root)
        except FileNotFoundError:
            return None

    def _items(self, trash: int) -> list[tuple[int, str, str]]:
        """Number, original name and name in the trash; the oldest deletion first."""
        found = []
        for name in self._disk.names(trash):
            match = _ITEM.fullmatch(name)
            if match and manifests.parse_folder_name(match[2]):
                found.append((int(match[1]), match[2], name))
        return sorted(found)

    def names(self) -> list[str]:
        """Original names of what is in the trash, the oldest deletion first."""
        there = self._open_if_there()
        if there is None:
            return []
        with let_go_after(self._disk, there) as trash:
            return [original for _, original, _ in self._items(trash)]

    def held(self, folder: Path) -> list[tuple[str, Entry | CheckpointDamagedError]]:
        """Name and entry, or damage, of what can be undeleted, the oldest deletion first.

        Raises:
            OSError: If one cannot be looked at.
        """
        there = self._open_if_there()
        if there is None:
            return []
        found: list[tuple[str, Entry | CheckpointDamagedError]] = []
        with let_go_after(self._disk, there) as trash:
            for _, original, held in self._items(trash):
                try:
                    found.append((original, self._entry(trash, held, original, folder)))
                except GoneError:
                    continue
                except CheckpointDamagedError as damage:
                    found.append((original, damage))
        return found

    def _entry(self, trash: int, held: str, original: str, folder: Path) -> Entry:
        """Raises `GoneError` if its manifest has been removed, which is the first of its files."""
        try:
            with open_checkpoint(
                self._disk, trash, held, folder / TRASH_NAME, deleted_from=original
            ) as opened:
                return opened.entry
        except CheckpointDamagedError as damage:
            if isinstance(damage.__cause__, FileNotFoundError):
                raise GoneError from damage
            raise

    def commits(self, folder: Path) -> list[int | None]:
        """Commit number of all that may be undeleted; None for one that cannot be looked at now."""
        found: list[int | None] = []
        try:
            there = self._open_if_there()
            if there is None:
                return []
            with let_go_after(self._disk, there) as trash:
                for _, original, held in self._items(trash):
                    try:
                        found.append(self._entry(trash, held, original, folder).commit)
                    except GoneError:
                        continue
                    except OSError:
                        found.append(None)
        except OSError:
            found.append(None)
        return found

    def put(self, names: Iterable[str], *, in_turn: bool = False) -> dict[str, OSError]:
        """Take checkpoints out of sight, durably: when this returns, they are deleted.

        Then all but the latest `undo` deletions are unlinked.

        Args:
            names: What to delete.
            in_turn: Whether none may be gone, after a power cut, while one before it is there.

        Returns:
            What could not be deleted, or unlinked, and why.

        Raises:
            OSError: If a deletion may not last.
        """
        failed: dict[str, OSError] = {}
        rows = [[name] for name in names] if in_turn else [list(names)]
        with let_go_after(self._disk, self._open()) as trash:
            items = self._items(trash)
            number = items[-1][0] if items else 0
            for row in rows:
                for name in row:
                    number += 1
                    held = f"{number:06d}.{name}"
                    try:
                        self._disk.rename(name, held, self._own.root, trash)
                    except OSError as error:
                        failed[name] = error
                    else:
                        items.append((number, name, held))
                if in_turn and failed:
                    break
                self._disk.sync(trash)
                self._disk.sync(self._own.root)
            return failed | self._unlink(trash, items, self._undo)

    def _unlink(
        self, trash: int, items: list[tuple[int, str, str]], leave: int
    ) -> dict[str, OSError]:
        failed: dict[str, OSError] = {}
        for _, _, held in items[: max(0, len(items) - leave)]:
            tries = self._tries.get(held, 0)
            if tries >= _TRIES:
                continue
            try:
                remove_tree(self._disk, held, trash)
            except OSError as error:
                self._tries[held] = tries + 1
                if not tries:
                    failed[f"{TRASH_NAME}/{held}"] = error
        return failed

    def take_out(self, name: str, folder: Path) -> None:
        """Verify the latest deletion of this name and bring it back, durably.

        Raises:
            CheckpointDamagedError: If it is no longer whole.
        """
        with let_go_after(self._disk, self._open()) as trash:
            held = [item for item in self._items(trash) if item[1] == name][-1][2]
            with open_checkpoint(
                self._disk, trash, held, folder / TRASH_NAME, deleted_from=name
            ) as opened:
                for damage in opened.all_damage():
                    raise damage
            self._disk.rename(held, name, trash, self._own.root)
            self._disk.sync(self._own.root)
            self._disk.sync(trash)

    def empty(self, *, leave: int | None = None) -> dict[str, OSError]:
        """Unlink all but the latest deletions.

        Args:
            leave: How many stay; defaults to the store's `undo`.

        Returns:
            Those that could not be, and why; each is told once.
        """
        there = self._open_if_there()
        if there is None:
            return {}
        leave = self._undo if leave is None else leave
        with let_go_after(self._disk, there) as trash:
            return self._unlink(trash, self._items(trash), leave)
