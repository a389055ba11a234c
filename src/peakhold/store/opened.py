"""One checkpoint, opened: its manifest checked, its files read only where their checksums agree.

Rules for this file:

1. A checkpoint is read through one descriptor of its folder, opened once. If the writer renames the
   folder away meanwhile, what we read is still that checkpoint; if files begin to vanish, the name
   is looked at again: gone means deleted (look for another), still there means damaged.
2. Names come from the listing or from a checked manifest, never from the user joined to a path.
3. Memory is bounded by what is on disk: sizes are compared before anything is allocated.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from peakhold.disk.disk import Disk, let_go
from peakhold.errors import CheckpointDamagedError, InvalidArgumentError
from peakhold.files.checksum import checksum_of
from peakhold.snapshots.arrays import Array, RawTensor
from peakhold.snapshots.tree import TreeError, parse_json, unflatten
from peakhold.store import manifest as manifests
from peakhold.store.entry import Entry
from peakhold.store.manifest import FileRecord, Manifest, ManifestError, TensorRecord
from peakhold.store.tensor_file import TensorFile, check_tiling, open_regular, read_exactly
from peakhold.store.trouble import as_it_is, is_damage

__all__ = ["GoneError", "OpenCheckpoint", "open_checkpoint"]

_SCRATCH_BYTES: Final = 1 << 20  # stays in a core's cache while it is hashed


class GoneError(Exception):
    """The checkpoint was deleted while it was read: not damage, and not the reader's fault."""


@final
class OpenCheckpoint:
    """One checkpoint whose folder is open and whose manifest has been checked."""

    def __init__(
        self, disk: Disk, root: int, name: str, folder: Path, deleted_from: str | None
    ) -> None:
        self.disk, self.root, self.name = disk, root, name
        self.true_name = deleted_from or name
        self.path = str(folder / name)
        try:
            self.fd = disk.open_folder(name, root)
        except FileNotFoundError:
            raise GoneError from None
        except OSError as exc:
            raise self.failed(exc, "its folder cannot be opened") from exc
        try:
            self.manifest = self._read_manifest()
            self.entry = Entry.of(self.manifest, folder)
        except BaseException:
            let_go(disk, self.fd)
            raise

    def damaged(self, reason: str, file: str | None = None) -> CheckpointDamagedError:
        """Name this checkpoint."""
        return CheckpointDamagedError.for_path(self.path, reason, file=file)

    def failed(self, error: OSError, what: str, file: str | None = None) -> OSError:
        """What a call that failed means: damage, or trouble as it is (`trouble.py`)."""
        if is_damage(error):
            return self.damaged(f"{what} ({error.strerror or error})", file)
        return as_it_is(error, os.path.join(self.path, file or ""))

    def unless_gone(self, error: OSError) -> Exception:
        """Tell damage and trouble from deletion (rule 1)."""
        status = self.disk.status(self.fd)
        if self.disk.identity(self.name, self.root) != (status.st_dev, status.st_ino):
            return GoneError()
        return error

    def _read_manifest(self) -> Manifest:
        file = manifests.FILE_NAME
        try:
            fd = self.disk.open(file, self.fd)
        except OSError as exc:
            raise self.unless_gone(self.failed(exc, "it cannot be opened", file)) from exc
        with self._reading(fd, file):
            size = self.disk.status(fd).st_size
            if not 0 < size <= manifests.MAX_JSON_BYTES:
                raise self.damaged(f"it has {size:,} bytes", file)
            data = self._bytes(fd, size, file)
        try:
            manifest = manifests.decode(data.tobytes())
        except ManifestError as exc:
            raise self.damaged(str(exc), file) from exc
        if manifest.name != self.true_name:
            raise self.damaged(f"it is the manifest of {manifest.name}", file)
        return manifest

    @contextmanager
    def _reading(self, fd: int, file: str) -> Iterator[None]:
        """Have an open file closed, and what goes wrong in reading it told of this file."""
        try:
            yield
        except CheckpointDamagedError:
            raise
        except OSError as exc:
            raise self.failed(exc, "it cannot be read", file) from exc
        finally:
            let_go(self.disk, fd)

    def _bytes(self, fd: int, size: int, file: str) -> Array:
        data: Array = np.empty(size, np.uint8)
        if not read_exactly(self.disk, fd, data, 0):
            raise self.damaged("it ends early", file)
        return data

    @cached_property
    def _files(self) -> dict[str, list[FileRecord]]:
        """The files of each part: looked up once, for a manifest may list many of both."""
        found: dict[str, list[FileRecord]] = {}
        for file in self.manifest.files:
            found.setdefault(file.part, []).append(file)
        return found

    @cached_property
    def _tensors(self) -> dict[str, list[TensorRecord]]:
        """The tensors of each file."""
        found: dict[str, list[TensorRecord]] = {}
        for tensor in self.manifest.tensors:
            found.setdefault(tensor.file, []).append(tensor)
        return found

    def trees(self, part: str) -> FileRecord:
        """The part's JSON file."""
        trees = [file for file in self._files.get(part, ()) if file.name.endswith(".json")]
        if len(trees) != 1 or trees[0].covered != trees[0].size:
            raise self.damaged(f"part {part!r} has not exactly one JSON file", manifests.FILE_NAME)
        return trees[0]

    def check_files(self) -> None:
        """Every file is there, regular and of its size; the content is not read."""
        for file in self.manifest.files:
            let_go(self.disk, open_regular(self.disk, file, self.fd, self.path))

    def tensors(self, file: FileRecord) -> list[TensorRecord]:
        """The tensors of one file, their offsets checked."""
        found = self._tensors.get(file.name, [])
        wrong = check_tiling(file, found)
        if wrong is not None:
            raise self.damaged(f"file {file.name!r}: {wrong}", manifests.FILE_NAME)
        return found

    def tensor_files(self, part: str | None = None) -> list[FileRecord]:
        """All files that hold tensors, or those of one part."""
        files = self.manifest.files if part is None else self._files.get(part, ())
        return [file for file in files if not file.name.endswith(".json")]

    def read_json(self, file: FileRecord) -> Any:
        """Read, verify and parse a part's JSON."""
        if file.size > manifests.MAX_JSON_BYTES:
            raise self.damaged(f"it has {file.size:,} bytes", file.name)
        fd = open_regular(self.disk, file, self.fd, self.path)
        with self._reading(fd, file.name):
            data = self._bytes(fd, file.size, file.name)
        if checksum_of(data) != file.checksum:
            raise self.damaged("its bytes are not those that were written", file.name)
        try:
            return parse_json(data.tobytes())
        except TreeError as exc:
            raise self.damaged(str(exc), file.name) from exc

    def opened_tensors(self, file: FileRecord) -> AbstractContextManager[TensorFile]:
        """Context manager: the tensor file, its header checked."""
        return TensorFile.opened(self.disk, file, self.tensors(file), self.fd, self.path)

    def load_part(self, part: str, mmap: bool) -> Any:
        """Read and verify one part; an array that was saved twice is one object again."""
        tree = self.trees(part)
        arrays: dict[str, Array | RawTensor] = {}
        for file in self.tensor_files(part):
            with self.opened_tensors(file) as opened:
                if mmap:
                    arrays.update(opened.map(self.tensors(file)))
                else:
                    arrays.update(opened.read_all(self.tensors(file)))

        def tensor_named(name: str) -> Array | RawTensor:
            if name not in arrays:
                raise TreeError(f"it names the tensor {name!r:.100}, which is not there")
            return arrays[name]

        try:
            return unflatten(self.read_json(tree), tensor_named)
        except TreeError as exc:
            raise self.damaged(str(exc), tree.name) from exc

    def load_tensor(self, part: str, name: str) -> Array | RawTensor:
        """Read and verify one tensor; the rest of its file is not read."""
        for file in self.tensor_files(part):
            for tensor in self.tensors(file):
                if tensor.name == name:
                    with self.opened_tensors(file) as opened:
                        return opened.read(tensor)
        names = [t.name for file in self.tensor_files(part) for t in self.tensors(file)]
        raise InvalidArgumentError.for_argument(
            "name", name, f"the name of a tensor of part {part!r}, one of {names[:5]}"
        )

    def all_damage(self) -> Iterator[CheckpointDamagedError]:
        """Read every byte and yield all that is wrong."""
        scratch: Array = np.empty(_SCRATCH_BYTES, np.uint8)
        parts = self.manifest.parts
        for part in parts:
            try:
                skeleton = self.read_json(self.trees(part))
                names = {t.name for file in self.tensor_files(part) for t in self.tensors(file)}
                _check_names(skeleton, names)
            except TreeError as exc:
                yield self.damaged(f"part {part!r}: {exc}")
            except CheckpointDamagedError as exc:
                yield exc
        for file in self.tensor_files():
            try:
                with self.opened_tensors(file) as opened:
                    for tensor in self.tensors(file):
                        try:
                            opened.check(tensor, scratch)
                        except CheckpointDamagedError as exc:
                            yield exc
            except CheckpointDamagedError as exc:
                yield exc
        incomplete = self.incomplete()
        if incomplete is not None:
            yield incomplete

    def incomplete(self) -> CheckpointDamagedError | None:
        """The damage, if it is not there whole by its own account."""
        known = set(self.manifest.parts)
        lost = [part for part in self.manifest.required if part not in known]
        if not lost:
            return None
        reason = f"the required parts {lost!s:.200} are not listed"
        return self.damaged(reason, manifests.FILE_NAME)


def _check_names(skeleton: Any, names: set[str]) -> None:
    def known(name: str) -> list[None]:
        if name not in names:
            raise TreeError(f"it names the tensor {name!r:.100}, which is not there")
        return []  # like an array, it can be no key

    unflatten(skeleton, known)


@contextmanager
def open_checkpoint(
    disk: Disk, root: int, name: str, folder: Path, *, deleted_from: str | None = None
) -> Iterator[OpenCheckpoint]:
    """Open one checkpoint and check its manifest.

    Args:
        disk: The calls.
        root: Descriptor of the folder it is in.
        name: Its name there.
        folder: The store's folder, for messages.
        deleted_from: The name it had, if it is in the trash.

    Raises:
        CheckpointDamagedError: If it cannot be trusted.
        GoneError: If it was deleted.
        OSError: If it could not be looked at.
    """
    opened = OpenCheckpoint(disk, root, name, folder, deleted_from)
    try:
        yield opened
    except OSError as exc:
        if isinstance(exc, CheckpointDamagedError):
            raise opened.unless_gone(exc) from exc.__cause__
        raise opened.unless_gone(opened.failed(exc, "it cannot be read")) from exc
    finally:
        let_go(disk, opened.fd)
