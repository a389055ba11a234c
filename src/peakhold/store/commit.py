"""Making one checkpoint: written under a hidden name, flushed, then renamed into being.

    mkdir   .tmp-step-00000042-3f2a1b            nobody looks at such names
    write   model.safetensors                    checksummed from memory on the way
    fsync   model.safetensors
    write   model.json, fsync                    … for each part
    write   manifest.json, fsync                 the last file
    fsync   .tmp-step-00000042-3f2a1b            the names in it
    rename  → step-00000042                      one atomic step; never over another checkpoint
    fsync   the parent folder                    through a descriptor opened long before
                                                 ← only now is it committed

What does not work, and why it is as it is: renaming file by file (a reader sees half of it); a
marker file or a LATEST file (a second commit point that can disagree with the first); flushing at
the end with `sync` (it reports no errors); trying `fsync` again (see `disk.py`).

What goes wrong before the rename leaves a `.tmp-` folder, which is removed at once if that is
possible and otherwise when the store is next opened. If the last flush fails the rename is taken
back: a save that was reported as failed must not turn up later.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, final

from peakhold.disk.disk import Disk, let_go
from peakhold.errors import DiskFullError
from peakhold.snapshots.host_buffers import Snapshot
from peakhold.snapshots.tree import to_json
from peakhold.store import manifest as manifests
from peakhold.store.manifest import FileRecord, Manifest, TensorRecord
from peakhold.store.part_writer import write_json, write_tensors

__all__ = ["MARGIN_BYTES", "TMP_PREFIX", "Label", "check_room", "commit", "remove_tree"]

TMP_PREFIX: Final = ".tmp-"
# Room for headers, part JSON, the manifest and the file system's own blocks.
MARGIN_BYTES: Final = 1 << 20


@final
@dataclass(frozen=True, slots=True)
class Label:
    """What a checkpoint says of itself, apart from its parts."""

    step: int
    revision: int
    commit: int
    epoch: int | None
    metrics: Mapping[str, float]
    reason: str | None
    refers_to: tuple[int, ...]


def check_room(disk: Disk, root: int, path: str, nbytes: int) -> None:
    """Raise `DiskFullError` if a checkpoint of this size does not fit."""
    needed, free = nbytes + MARGIN_BYTES, disk.free_bytes(root)
    if free < needed:
        raise DiskFullError.for_bytes(path, needed, free)


def commit(
    disk: Disk,
    root: int,
    path: str,
    label: Label,
    snapshot: Snapshot,
    check: Callable[[], object] = lambda: None,
) -> Manifest:
    """Write a checkpoint and make it durable under its final name.

    Args:
        disk: The calls.
        root: Descriptor of the store's folder.
        path: The folder's path, for messages.
        label: Step, metrics and the like.
        snapshot: What to write.
        check: Called before each part and once all is read from memory: what it raises, if the
            arrays may have changed, ends the save before anything can be seen of it.

    Returns:
        The manifest as written. When this returns, the checkpoint survives a power cut.

    Raises:
        OSError: If any call failed; nothing is left under the final name.
        DiskFullError: If it does not fit; nothing was written then.
    """
    name = manifests.folder_name(label.step, label.revision)
    hidden = f"{TMP_PREFIX}{name}-{os.urandom(4).hex()}"
    check_room(disk, root, path, snapshot.layout.data_bytes)
    try:
        manifest = _write(disk, root, hidden, label, snapshot, check)
        check()
        disk.rename(hidden, name, root, root)
    except BaseException:
        _discard(disk, root, hidden)
        raise
    try:
        disk.sync(root)
    except BaseException:
        _take_back(disk, root, name, hidden)
        raise
    return manifest


def _write(
    disk: Disk,
    root: int,
    hidden: str,
    label: Label,
    snapshot: Snapshot,
    check: Callable[[], object],
) -> Manifest:
    disk.make_folder(hidden, root)
    folder = disk.open_folder(hidden, root)
    try:
        files: list[FileRecord] = []
        tensors: list[TensorRecord] = []
        texts = [(part, to_json(skeleton)) for part, skeleton in snapshot.skeletons.items()]
        for part, text in texts:
            check()
            if snapshot.layout.specs[part]:
                file = f"{part}.safetensors"
                record, found = write_tensors(disk, folder, file, snapshot, part)
                files.append(record)
                tensors.extend(found)
            files.append(write_json(disk, folder, f"{part}.json", part, text))
        manifest = Manifest(
            step=label.step,
            revision=label.revision,
            commit=label.commit,
            epoch=label.epoch,
            metrics=dict(label.metrics),
            reason=label.reason,
            committed_at=datetime.now(UTC),
            required=tuple(snapshot.skeletons),
            files=tuple(files),
            tensors=tuple(tensors),
            refers_to=label.refers_to,
        )
        write_json(disk, folder, manifests.FILE_NAME, "", manifests.encode(manifest))
        disk.sync(folder)
    finally:
        disk.close(folder)
    return manifest


def remove_tree(disk: Disk, name: str, at: int) -> None:
    """Remove a folder of files that nobody sees; the manifest goes first.

    Without its manifest a half-removed checkpoint cannot be taken for a whole one. What cannot be
    removed holds up nothing else. Folders inside are not ours and not touched (`@eaDir`,
    `.ipynb_checkpoints`).

    Raises:
        OSError: What went wrong first, once all else is removed; it names the file.
    """
    wrong: list[OSError] = []
    folder = disk.open_folder(name, at)
    try:
        names = disk.names(folder)
        if manifests.FILE_NAME in names:
            names.remove(manifests.FILE_NAME)
            names.insert(0, manifests.FILE_NAME)
        for file in names:
            try:
                disk.remove(file, folder)
            except FileNotFoundError:
                continue
            except OSError as error:
                wrong.append(OSError(error.errno, error.strerror, f"{name}/{file}"))
                if file == manifests.FILE_NAME:
                    break  # with it, the rest must stay, too
    finally:
        let_go(disk, folder)
    if wrong:
        raise wrong[0]
    disk.remove_folder(name, at)


def _discard(disk: Disk, root: int, hidden: str) -> None:
    with contextlib.suppress(OSError):  # what stays is swept when the store is next opened
        remove_tree(disk, hidden, root)


def _take_back(disk: Disk, root: int, name: str, hidden: str) -> None:
    with contextlib.suppress(OSError):
        disk.rename(name, hidden, root, root)
        remove_tree(disk, hidden, root)
