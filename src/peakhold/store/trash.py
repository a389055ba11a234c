"""Deleting in one atomic step, with a way back.

A checkpoint is renamed into `.trash/`, and both folders are flushed before anything is unlinked.
Without that flush a power cut can bring the name back while its blocks belong to another file
already (seen on ext4 in writeback mode). What is in the trash is nobody's checkpoint: readers never
look there, and half of one there is harmless.

Names in the trash carry a running number, so that the order of deletions survives a restart and a
copy: `.trash/000007.step-00000042.r2`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, final

from peakhold.disk.disk import Disk
from peakhold.errors import CheckpointDamagedError
from peakhold.store import manifest as manifests
from peakhold.store.commit import remove_tree
from peakhold.store.entry import Entry
from peakhold.store.opened import GoneError, open_checkpoint

__all__ = ["TRASH_NAME", "Trash"]

TRASH_NAME: Final = ".trash"
_ITEM: Final = re.compile(r"(\d{6,18})\.(step-.+)")


@final
class Trash:
    """The trash of one store; only its owner calls this."""

    def __init__(self, disk: Disk, root: int, undo: int) -> None:
        self._disk = disk
        self._root = root
        self._undo = undo

    def _open(self) -> int:
        try:
            return self._disk.open_folder(TRASH_NAME, self._root)
        except FileNotFoundError:
            self._disk.make_folder(TRASH_NAME, self._root)
            return self._disk.open_folder(TRASH_NAME, self._root)

    def _items(self, trash: int) -> list[tuple[int, str, str]]:
        """Number, original name and name in the trash; the oldest deletion first."""
        found = []
        for name in self._disk.names(trash):
            match = _ITEM.fullmatch(name)
            if match and manifests.parse_folder_name(match[2]):
                found.append((int(match[1]), match[2], name))
        return sorted(found)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        trash = self._open()
        try:
            yield trash
        finally:
            self._disk.close(trash)

    def names(self) -> list[str]:
        """Original names of what is in the trash, the oldest deletion first."""
        if self._disk.identity(TRASH_NAME, self._root) is None:
            return []
        with self._opened() as trash:
            return [original for _, original, _ in self._items(trash)]

    def held(self, folder: Path) -> list[tuple[str, Entry | None]]:
        """Name and entry of what is in the trash, oldest deletion first; None if half removed."""
        if self._disk.identity(TRASH_NAME, self._root) is None:
            return []
        found: list[tuple[str, Entry | None]] = []
        with self._opened() as trash:
            for _, original, held in self._items(trash):
                try:
                    with open_checkpoint(
                        self._disk, trash, held, folder / TRASH_NAME, deleted_from=original
                    ) as opened:
                        found.append((original, opened.entry))
                except (CheckpointDamagedError, GoneError):
                    found.append((original, None))
        return found

    def put(self, names: Iterable[str], *, in_turn: bool = False) -> None:
        """Take checkpoints out of sight, durably: when this returns, they are deleted.

        Then all but the latest `undo` deletions are unlinked.

        Args:
            names: What to delete.
            in_turn: Whether none may be gone, after a power cut, while one before it is there.
        """
        trash = self._open()
        try:
            items = self._items(trash)
            number = items[-1][0] + 1 if items else 1
            for name in names:
                held = f"{number:06d}.{name}"
                self._disk.rename(name, held, self._root, trash)
                items.append((number, name, held))
                number += 1
                if in_turn:
                    self._flush(trash)
            if not in_turn:
                self._flush(trash)
            self._unlink(trash, items, self._undo)
        finally:
            self._disk.close(trash)

    def _flush(self, trash: int) -> None:
        self._disk.sync(trash)
        self._disk.sync(self._root)

    def _unlink(self, trash: int, items: list[tuple[int, str, str]], leave: int) -> None:
        for _, _, held in items[: max(0, len(items) - leave)]:
            remove_tree(self._disk, held, trash)

    def take_out(self, name: str, folder: Path) -> None:
        """Verify the latest deletion of this name and bring it back, durably.

        Raises:
            CheckpointDamagedError: If it is no longer whole.
        """
        with self._opened() as trash:
            held = [item for item in self._items(trash) if item[1] == name][-1][2]
            with open_checkpoint(
                self._disk, trash, held, folder / TRASH_NAME, deleted_from=name
            ) as opened:
                for damage in opened.all_damage():
                    raise damage
            self._disk.rename(held, name, trash, self._root)
            self._disk.sync(self._root)
            self._disk.sync(trash)

    def empty(self, *, leave: int | None = None) -> None:
        """Unlink all but the latest deletions.

        Args:
            leave: How many stay; defaults to the store's `undo`.
        """
        if self._disk.identity(TRASH_NAME, self._root) is None:
            return
        leave = self._undo if leave is None else leave
        with self._opened() as trash:
            self._unlink(trash, self._items(trash), leave)
