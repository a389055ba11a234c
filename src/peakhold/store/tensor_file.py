"""A part's tensor file: plain safetensors, every byte of it checked when it is read.

The file is `8 bytes: length of the header | header: JSON | data`. The manifest's checksum of such a
file covers its first two pieces; every byte of the third belongs to exactly one tensor and is
covered by that tensor's own checksum. So each byte is hashed once, and damage has a name.
"""

from __future__ import annotations

import errno
import json
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from stat import S_ISREG
from typing import Any, Final, cast, final

import numpy as np

from peakhold.disk.disk import Disk
from peakhold.errors import CheckpointDamagedError
from peakhold.files.checksum import Checksum, checksum_of
from peakhold.snapshots.arrays import Array, RawTensor, build, byte_count
from peakhold.snapshots.host_buffers import Snapshot, TensorSpec
from peakhold.snapshots.tree import TreeError, parse_json
from peakhold.store.manifest import FileRecord, TensorRecord

__all__ = ["TensorFile", "open_regular", "read_exactly", "write_all", "write_tensors"]

_LENGTH: Final = struct.Struct("<Q")
_BLOCK: Final = 8 << 20  # one write; larger ones are not faster here, smaller ones cost calls
_PAGE: Final = mmap.PAGESIZE
_DIRECT_BYTES: Final = 1 << 20  # less is not worth the page that the header is padded to
_READ_BLOCK: Final = 1 << 20  # hashed out of the cache it was read into
_HOT: Final = 512 << 10  # one step of hashing and checking: half of a core's second-level cache
# dtype -> how to see its bits, and the smallest pattern, sign bit aside, that is not finite.
_EXPONENT: Final[dict[str, tuple[np.dtype[Any], int]]] = {
    "F16": (np.dtype("<i2"), 0x7C00),
    "BF16": (np.dtype("<i2"), 0x7F80),
    "F32": (np.dtype("<i4"), 0x7F80_0000),
    "C64": (np.dtype("<i4"), 0x7F80_0000),
    "F64": (np.dtype("<i8"), 0x7FF0_0000_0000_0000),
}


def _bytes_of(data: Array | bytes) -> memoryview:
    return memoryview(cast("bytes", data)).cast("B") if len(data) else memoryview(b"")


def write_all(disk: Disk, fd: int, data: Array | bytes) -> None:
    """Write every byte; a short write goes on where it stopped, writing nothing is an error."""
    view = _bytes_of(data)
    while view:
        written = disk.write(fd, view)
        if written <= 0:
            raise OSError("the file system wrote nothing and gave no reason")
        view = view[written:]


def header_bytes(specs: list[TensorSpec], align: int) -> bytes:
    """Length and JSON header; padded so that the data begins at a multiple of `align`."""
    members = {
        spec.name: {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [spec.begin, spec.end],
        }
        for spec in specs
    }
    text = json.dumps(members, separators=(",", ":")).encode("ascii")
    text += b" " * (-(_LENGTH.size + len(text)) % align)
    return _LENGTH.pack(len(text)) + text


def _is_finite(block: Array, dtype: str) -> bool:
    """Look at exponents as integers: two fast passes, no warnings, right for every pattern."""
    signed, limit = _EXPONENT[dtype]
    bits = block.view(signed)
    if int(bits.max()) >= limit:  # a positive infinity or NaN
        return False
    sign = 1 << (8 * signed.itemsize - 1)  # a negative one is at the top when seen as unsigned
    top = int(bits.view(np.dtype(signed.str.replace("i", "u"))).max())
    return top < limit | sign


@final
class _Digest:
    """Checksum and finiteness of one tensor, block by block as it is written."""

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.hash = Checksum()
        self.finite = True

    def update(self, block: Array) -> None:
        checked = self.spec.dtype in _EXPONENT
        for at in range(0, len(block), _HOT):
            hot = block[at : at + _HOT]
            self.hash.update(hot)
            if checked and self.finite:
                self.finite = _is_finite(hot, self.spec.dtype)


def _blocks(snapshot: Snapshot, part: str, digests: list[_Digest]) -> Iterator[Array]:
    """Yield the part's bytes in large pieces, each hashed just before it is yielded."""
    region = snapshot.region(part)
    if region is None:
        for digest, (_, data) in zip(digests, snapshot.tensors(part), strict=True):
            for at in range(0, len(data), _BLOCK):
                digest.update(data[at : at + _BLOCK])
                yield data[at : at + _BLOCK]
        return
    index = 0
    for at in range(0, len(region), _BLOCK):
        stop = min(at + _BLOCK, len(region))
        while index < len(digests) and digests[index].spec.begin < stop:
            spec = digests[index].spec
            digests[index].update(region[max(at, spec.begin) : min(stop, spec.end)])
            if spec.end > stop:
                break  # it goes on in the next block
            index += 1
        yield region[at:stop]


def _write_direct(disk: Disk, fd: int, block: Array) -> Array:
    """Write whole pages past the cache and return what is left: the last, unaligned bytes.

    If the file system takes the flag but not the write (`EINVAL`), all that is left is returned.
    """
    while len(block) >= _PAGE:
        pages = block[: len(block) // _PAGE * _PAGE]
        try:
            written = disk.write(fd, _bytes_of(pages))
        except OSError as exc:
            if exc.errno == errno.EINVAL:
                break
            raise
        if written <= 0 or written % _PAGE:
            return block[max(written, 0) :]  # not aligned any more: the rest goes through the cache
        block = block[written:]
    return block


def write_tensors(
    disk: Disk, fd: int, file: str, snapshot: Snapshot, part: str
) -> tuple[FileRecord, list[TensorRecord]]:
    """Write a part's tensors to an empty file and flush it.

    Each block is checksummed from the memory it is written from, just before: what goes wrong on
    the way to the disk, or on it, is found when the file is read.
    """
    specs, region = snapshot.layout.specs[part], snapshot.region(part)
    direct = region is not None and len(region) >= _DIRECT_BYTES
    header = header_bytes(specs, _PAGE if direct else 64)
    write_all(disk, fd, header)
    direct = direct and disk.bypass_cache(fd, on=True)
    digests = [_Digest(spec) for spec in specs]
    position = len(header)
    for block in _blocks(snapshot, part, digests):
        rest = block
        if direct:
            rest = _write_direct(disk, fd, block)
            if len(rest):
                disk.bypass_cache(fd, on=False)
                direct = False
        if len(rest):
            write_all(disk, fd, rest)
            if len(rest) == _BLOCK:
                disk.start_writeback(fd, position, len(rest))
        position += len(block)
    disk.sync(fd)
    records = [
        TensorRecord(
            name=spec.name,
            dtype=spec.dtype,
            stored_as=spec.stored_as,
            shape=spec.shape,
            file=file,
            begin=spec.begin,
            end=spec.end,
            checksum=digest.hash.hexdigest(),
            finite=digest.finite,
        )
        for spec, digest in zip(specs, digests, strict=True)
    ]
    checksum = checksum_of(header)
    return FileRecord(file, part, position, len(header), checksum), records


def open_regular(disk: Disk, file: FileRecord, at: int, path: str) -> int:
    """Open a file of a checkpoint; anything but a regular file of the right size is damage."""
    try:
        fd = disk.open(file.name, at)
    except FileNotFoundError:
        raise CheckpointDamagedError.for_path(path, "the file is missing", file=file.name) from None
    except OSError as exc:
        reason = f"it cannot be opened ({exc.strerror})"
        raise CheckpointDamagedError.for_path(path, reason, file=file.name) from exc
    status = disk.status(fd)
    reason = ""
    if not S_ISREG(status.st_mode):
        reason = "it is not a regular file"
    elif status.st_size != file.size:
        reason = f"it has {status.st_size:,} bytes, the manifest says {file.size:,}"
    if reason:
        disk.close(fd)
        raise CheckpointDamagedError.for_path(path, reason, file=file.name)
    return fd


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
            disk.close(fd)

    def damaged(self, reason: str, tensor: str | None = None) -> CheckpointDamagedError:
        """Name this file."""
        return CheckpointDamagedError.for_path(
            self.path, reason, file=self.file.name, tensor=tensor
        )

    def _check_header(self, tensors: list[TensorRecord]) -> None:
        header: Array = np.empty(self.file.covered, np.uint8)
        if not read_exactly(self.disk, self.fd, header, 0):
            raise self.damaged("it ends inside its header")
        if checksum_of(header) != self.file.checksum:
            raise self.damaged("its header is not the one that was written")
        data = header.tobytes()
        if len(data) < _LENGTH.size or _LENGTH.unpack_from(data)[0] != len(data) - _LENGTH.size:
            raise self.damaged("its header has another length than it says")
        try:
            members = parse_json(data[_LENGTH.size :])
        except TreeError as exc:
            raise self.damaged(f"its header: {exc}") from exc
        if not isinstance(members, dict):
            raise self.damaged("its header is not an object")
        members.pop("__metadata__", None)
        expected = {
            tensor.name: {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "data_offsets": [tensor.begin, tensor.end],
            }
            for tensor in tensors
        }
        if members != expected:
            raise self.damaged("its header and the manifest describe different tensors")

    def _verified(self, tensor: TensorRecord, checksum: str) -> None:
        if checksum != tensor.checksum:
            raise self.damaged("its bytes are not those that were written", tensor.name)

    def read(self, tensor: TensorRecord) -> Array | RawTensor:
        """Read one tensor into memory of its own and verify it."""
        target: Array = np.empty(tensor.end - tensor.begin, np.uint8)
        digest = Checksum()
        start = self.file.covered + tensor.begin
        for at in range(0, len(target), _BLOCK):
            block = target[at : at + _BLOCK]
            if not read_exactly(self.disk, self.fd, block, start + at):
                raise self.damaged("the file ends inside it", tensor.name)
            digest.update(block)
        self._verified(tensor, digest.hexdigest())
        return build(target, tensor.dtype, tensor.stored_as, tensor.shape)

    def read_all(self, tensors: list[TensorRecord]) -> dict[str, Array | RawTensor]:
        """Read and verify all tensors of the file, into one block of memory.

        One block: large pages, few calls, and each piece is hashed while it is in the cache.
        """
        region: Array = np.empty(self.file.size - self.file.covered, np.uint8)
        ordered = sorted(tensors, key=lambda tensor: (tensor.begin, tensor.end))
        index, digest = 0, Checksum()
        for at in range(0, len(region), _READ_BLOCK):
            stop = min(at + _READ_BLOCK, len(region))
            if not read_exactly(self.disk, self.fd, region[at:stop], self.file.covered + at):
                raise self.damaged("it ends early")
            while index < len(ordered) and ordered[index].begin < stop:
                tensor = ordered[index]
                digest.update(region[max(at, tensor.begin) : min(stop, tensor.end)])
                if tensor.end > stop:
                    break  # it goes on in the next block
                self._verified(tensor, digest.hexdigest())
                index, digest = index + 1, Checksum()
        for tensor in ordered[index:]:  # empty ones at the very end
            self._verified(tensor, Checksum().hexdigest())
        return {
            tensor.name: build(
                region[tensor.begin : tensor.end], tensor.dtype, tensor.stored_as, tensor.shape
            )
            for tensor in tensors
        }

    def check(self, tensor: TensorRecord, scratch: Array) -> None:
        """Verify one tensor without keeping it; `scratch` is reused for its blocks."""
        digest = Checksum()
        start, length = self.file.covered + tensor.begin, tensor.end - tensor.begin
        for at in range(0, length, len(scratch)):
            block = scratch[: min(len(scratch), length - at)]
            if not read_exactly(self.disk, self.fd, block, start + at):
                raise self.damaged("the file ends inside it", tensor.name)
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
