"""Reading a part's tensor file: plain safetensors, every byte of it checked.

The file is `8 bytes: length of the header | header: JSON | data`. The manifest's checksum of such a
file covers its first two pieces; every byte of the third belongs to exactly one tensor and is
covered by that tensor's own checksum. So each byte is hashed once, and damage has a name.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from stat import S_ISREG
from typing import Any, Final, cast, final

import numpy as np

from peakhold.disk.disk import Disk, let_go
from peakhold.errors import CheckpointDamagedError
from peakhold.files.checksum import begin_checksum, checksum_of
from peakhold.snapshots.arrays import Array, RawTensor, build, byte_count
from peakhold.snapshots.tree import TreeError, parse_json
from peakhold.store.manifest import FileRecord, TensorRecord
from peakhold.store.part_writer import LENGTH, header_members
from peakhold.store.trouble import as_it_is, is_damage

__all__ = ["TensorFile", "check_tiling", "open_regular", "read_exactly"]

_BLOCK: Final = 8 << 20  # one read of one tensor
_READ_BLOCK: Final = 1 << 20  # hashed out of the cache it was read into
_LARGE: Final = 64 << 20  # less may be asked for without a look at what is really there
_SPARSE: Final = 64  # no file system makes anything but zeros smaller than that


def _bytes_of(data: Array) -> memoryview:
    return memoryview(cast("bytes", data)).cast("B") if len(data) else memoryview(b"")


def open_regular(disk: Disk, file: FileRecord, at: int, path: str) -> int:
    """Open a file of a checkpoint; anything but a regular file of the right size is damage."""
    try:
        fd = disk.open(file.name, at)
    except FileNotFoundError:
        raise CheckpointDamagedError.for_path(path, "the file is missing", file=file.name) from None
    except OSError as exc:
        if not is_damage(exc):
            raise as_it_is(exc, os.path.join(path, file.name)) from exc
        reason = f"it cannot be opened ({exc.strerror})"
        raise CheckpointDamagedError.for_path(path, reason, file=file.name) from exc
    try:
        _check_kind(disk.status(fd), file, path)
    except BaseException:
        let_go(disk, fd)
        raise
    return fd


def _check_kind(status: os.stat_result, file: FileRecord, path: str) -> None:
    if not S_ISREG(status.st_mode):
        reason = "it is not a regular file"
    elif status.st_size != file.size:
        reason = f"it has {status.st_size:,} bytes, the manifest says {file.size:,}"
    elif file.size > _memory_bytes() and 0 < _on_disk(status) < file.size // _SPARSE:
        reason = f"it has {file.size:,} bytes, of which {_on_disk(status):,} are on the disk"
    else:
        return
    raise CheckpointDamagedError.for_path(path, reason, file=file.name)


def _on_disk(status: os.stat_result) -> int:
    """Bytes that a file takes; 0 where the file system does not say."""
    return int(getattr(status, "st_blocks", 0)) * 512


def _memory_bytes() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def read_exactly(disk: Disk, fd: int, target: Array, offset: int) -> bool:
    """Fill `target` from the file; False if the file ends before."""
    view = _bytes_of(target)
    while view:
        count = disk.read_into(fd, [view], offset)
        if count == 0:
            return False
        view, offset = view[count:], offset + count
    return True


@final
@dataclass(frozen=True, slots=True)
class TensorFile:
    """An open tensor file whose header has been checked against the manifest."""

    disk: Disk
    fd: int
    file: FileRecord
    path: str

    @classmethod
    @contextmanager
    def opened(
        cls, disk: Disk, file: FileRecord, tensors: list[TensorRecord], at: int, path: str
    ) -> Iterator[TensorFile]:
        """Open, check type, size and header, and close at the end."""
        fd = open_regular(disk, file, at, path)
        try:
            opened = cls(disk, fd, file, path)
            opened._check_header(tensors)
            yield opened
        finally:
            let_go(disk, fd)

    def damaged(self, reason: str, tensor: str | None = None) -> CheckpointDamagedError:
        """Name this file."""
        return CheckpointDamagedError.for_path(
            self.path, reason, file=self.file.name, tensor=tensor
        )

    def _check_header(self, tensors: list[TensorRecord]) -> None:
        header: Array = np.empty(self.file.covered, np.uint8)
        self._fill(header, 0, "it ends inside its header")
        if checksum_of(header) != self.file.checksum:
            raise self.damaged("its header is not the one that was written")
        data = header.tobytes()
        if len(data) < LENGTH.size or LENGTH.unpack_from(data)[0] != len(data) - LENGTH.size:
            raise self.damaged("its header has another length than it says")
        try:
            members = parse_json(data[LENGTH.size :])
        except TreeError as exc:
            raise self.damaged(f"its header: {exc}") from exc
        if not isinstance(members, dict):
            raise self.damaged("its header is not an object")
        members.pop("__metadata__", None)
        if members != header_members(tensors):
            raise self.damaged("its header and the manifest describe different tensors")

    def _fill(self, target: Array, offset: int, short: str, tensor: str | None = None) -> None:
        """Read; a file that ends before, or cannot be read, is damage to this tensor."""
        try:
            whole = read_exactly(self.disk, self.fd, target, offset)
        except OSError as exc:
            if not is_damage(exc):
                raise as_it_is(exc, os.path.join(self.path, self.file.name)) from exc
            raise self.damaged(f"it cannot be read ({exc.strerror or exc})", tensor) from exc
        if not whole:
            raise self.damaged(short, tensor)

    def _verified(self, tensor: TensorRecord, checksum: str) -> None:
        if checksum != tensor.checksum:
            raise self.damaged("its bytes are not those that were written", tensor.name)

    def read(self, tensor: TensorRecord) -> Array | RawTensor:
        """Read one tensor into memory of its own and verify it."""
        target: Array = np.empty(tensor.end - tensor.begin, np.uint8)
        digest = begin_checksum()
        start = self.file.covered + tensor.begin
        for at in range(0, len(target), _BLOCK):
            block = target[at : at + _BLOCK]
            self._fill(block, start + at, "the file ends inside it", tensor.name)
            digest.update(block)
        self._verified(tensor, digest.hexdigest())
        return build(target, tensor.dtype, tensor.stored_as, tensor.shape)

    def read_all(self, tensors: list[TensorRecord]) -> dict[str, Array | RawTensor]:
        """Read and verify all tensors of the file, into one block of memory.

        One block: large pages, few calls, and each piece is hashed while it is in the cache.
        """
        if self._has_holes():  # a stranger's zeros cost nothing on the disk, here they would
            scratch: Array = np.empty(_READ_BLOCK, np.uint8)
            for tensor in tensors:
                self.check(tensor, scratch)
        region: Array = np.empty(self.file.size - self.file.covered, np.uint8)
        ordered = sorted(tensors, key=lambda tensor: (tensor.begin, tensor.end))
        index, digest = 0, begin_checksum()
        for at in range(0, len(region), _READ_BLOCK):
            stop = min(at + _READ_BLOCK, len(region))
            self._fill(region[at:stop], self.file.covered + at, "it ends early")
            while index < len(ordered) and ordered[index].begin < stop:
                tensor = ordered[index]
                digest.update(region[max(at, tensor.begin) : min(stop, tensor.end)])
                if tensor.end > stop:
                    break  # it goes on in the next block
                self._verified(tensor, digest.hexdigest())
                index, digest = index + 1, begin_checksum()
        for tensor in ordered[index:]:  # empty ones at the very end
            self._verified(tensor, begin_checksum().hexdigest())
        return {
            tensor.name: build(
                region[tensor.begin : tensor.end], tensor.dtype, tensor.stored_as, tensor.shape
            )
            for tensor in tensors
        }

    def _has_holes(self) -> bool:
        """Whether most of a large file is not on the disk, as zeros are not on some."""
        if self.file.size < _LARGE:
            return False
        return 0 < _on_disk(self.disk.status(self.fd)) < self.file.size // _SPARSE

    def check(self, tensor: TensorRecord, scratch: Array) -> None:
        """Verify one tensor without keeping it; `scratch` is reused for its blocks."""
        digest = begin_checksum()
        start, length = self.file.covered + tensor.begin, tensor.end - tensor.begin
        for at in range(0, length, len(scratch)):
            block = scratch[: min(len(scratch), length - at)]
            self._fill(block, start + at, "the file ends inside it", tensor.name)
            digest.update(block)
        self._verified(tensor, digest.hexdigest())

    def map(self, tensors: list[TensorRecord]) -> dict[str, Array | RawTensor]:
        """Map the file into memory and verify these tensors there; the arrays are read-only."""
        mapped: Any = mmap.mmap(self.fd, 0, access=mmap.ACCESS_READ)
        whole: Array = np.frombuffer(mapped, np.uint8)
        arrays = {}
        for tensor in tensors:
            data = whole[self.file.covered + tensor.begin : self.file.covered + tensor.end]
            self._verified(tensor, checksum_of(data))
            arrays[tensor.name] = build(data, tensor.dtype, tensor.stored_as, tensor.shape)
        return arrays


def check_tiling(file: FileRecord, tensors: list[TensorRecord]) -> str | None:
    """Return what is wrong with the offsets of a file's tensors, or None.

    Every byte after the header must belong to exactly one tensor: then the checksums cover the
    whole file, and what is allocated can never exceed what is on disk.
    """
    spans = sorted((tensor.begin, tensor.end, tensor.name) for tensor in tensors)
    for tensor in tensors:
        try:
            size = byte_count(tensor.dtype, tensor.stored_as, tensor.shape)
        except ValueError as exc:
            return f"tensor {tensor.name!r:.100}: {exc}"
        if tensor.end - tensor.begin != size:
            return f"tensor {tensor.name!r:.100} has offsets that do not fit its shape"
    for (_, end, name), (begin, _, other) in pairwise([(0, 0, "the header"), *spans]):
        if begin != end:
            return f"tensors {name!r:.100} and {other!r:.100} overlap or leave a hole"
    last = spans[-1][1] if spans else 0
    if file.covered + last != file.size:
        return "its tensors do not fill it"
    return None
