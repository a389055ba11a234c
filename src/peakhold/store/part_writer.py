"""Writing the files of a part: its tensors as plain safetensors, its structure as JSON.

Rules of this file:

1. Each byte is checksummed from the memory it is written from, just before: what goes wrong on the
   way to the disk, or on it, is found when the file is read (`tensor_file.py`).
2. A file is flushed, and closed with its errors heard, before anybody is told that it is there.
3. Large arrays are written from where they are, in pieces; small ones are put together first, for a
   call to the system costs more than the copy.
"""

from __future__ import annotations

import errno
import itertools
import json
import mmap
import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final, cast, final

import numpy as np

from peakhold.disk.disk import Disk, let_go
from peakhold.errors import SaveError
from peakhold.files.checksum import begin_checksum, checksum_of
from peakhold.snapshots.arrays import Array
from peakhold.snapshots.host_buffers import Snapshot, TensorSpec
from peakhold.store.manifest import MAX_JSON_BYTES, FileRecord, TensorRecord

__all__ = ["LENGTH", "header_members", "write_all", "write_json", "write_tensors"]

LENGTH: Final = struct.Struct("<Q")
_NOTHING: Final = "the file system wrote nothing and gave no reason"
_BLOCK: Final = 8 << 20  # one write; larger ones are not faster here, smaller ones cost calls
_TOGETHER: Final = 1 << 20  # copied, at most, to be written by one call
_PAGE: Final = mmap.PAGESIZE
_DIRECT_BYTES: Final = 1 << 20  # less is not worth the page that the header is padded to
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
            raise OSError(_NOTHING)
        view = view[written:]


def _new_file(
    disk: Disk, at: int, name: str, pieces: Iterable[memoryview], *, large: bool = False
) -> None:
    """Create a file; durable when this returns.

    Args:
        disk: The calls.
        at: Descriptor of its folder.
        name: Its name there.
        pieces: Its bytes, each piece asked for when it is due.
        large: Whether all that comes after the first piece, which fills pages, is to be written
            past the cache, as far as that can be had.
    """
    fd = disk.create(name, at)
    try:
        position, direct = 0, False
        for piece in pieces:
            rest = piece
            if direct:
                rest = _write_direct(disk, fd, rest)
                if rest:
                    disk.bypass_cache(fd, on=False)
                    direct = False
            n_rest = len(rest)
            while rest:
                written = disk.write(fd, rest)
                if written <= 0:
                    raise OSError(_NOTHING)  # noqa: TRY301 - the file is closed below, as it is
                rest = rest[written:]
            if n_rest == _BLOCK:
                disk.start_writeback(fd, position, n_rest)
            if large and not position:
                direct = disk.bypass_cache(fd, on=True)
            position += len(piece)
        disk.sync(fd)
    except BaseException:
        let_go(disk, fd)
        raise
    disk.close(fd)  # a file system may report a lost write only here


def write_json(disk: Disk, at: int, name: str, part: str, data: bytes) -> FileRecord:
    """Write a JSON file; durable when this returns.

    Raises:
        SaveError: If no reader would take it, for it is too large.
    """
    if len(data) > MAX_JSON_BYTES:
        raise SaveError.for_path(
            name,
            f"it would have {len(data):,} bytes of JSON, readers take {MAX_JSON_BYTES:,}",
            expected="a part with less beside its arrays",
            hint="put long lists of numbers into an array.",
        )
    _new_file(disk, at, name, [memoryview(data)])
    return FileRecord(name, part, len(data), len(data), checksum_of(data))


def header_members(tensors: Iterable[TensorSpec | TensorRecord]) -> dict[str, Any]:
    """What the header of a file of tensors says of each."""
    return {
        tensor.name: {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [tensor.begin, tensor.end],
        }
        for tensor in tensors
    }


def _header_bytes(specs: list[TensorSpec], align: int) -> bytes:
    """Length and JSON header; padded so that the data begins at a multiple of `align`."""
    text = json.dumps(header_members(specs), separators=(",", ":")).encode("ascii")
    text += b" " * (-(LENGTH.size + len(text)) % align)
    return LENGTH.pack(len(text)) + text


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
        self.hash = begin_checksum()
        self.finite = True

    def update(self, block: Array) -> None:
        checked = self.spec.dtype in _EXPONENT
        for at in range(0, len(block), _HOT):
            hot = block[at : at + _HOT]
            self.hash.update(hot)
            if checked and self.finite:
                self.finite = _is_finite(hot, self.spec.dtype)


def _scattered(arrays: list[Array], digests: list[_Digest]) -> Iterator[memoryview]:
    """The bytes of arrays that lie apart, each hashed just before it is yielded."""
    for digest, array in zip(digests, arrays, strict=True):
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        data = little.reshape(-1).view(np.uint8)
        for at in range(0, len(data), _BLOCK):
            digest.update(data[at : at + _BLOCK])
            yield _bytes_of(data[at : at + _BLOCK])


def _in_one_piece(region: Array, digests: list[_Digest]) -> Iterator[memoryview]:
    """The bytes of arrays that lie one after the other, hashed just before they are yielded."""
    index = 0
    for at in range(0, len(region), _BLOCK):
        stop = min(at + _BLOCK, len(region))
        while index < len(digests) and digests[index].spec.begin < stop:
            spec = digests[index].spec
            digests[index].update(region[max(at, spec.begin) : min(stop, spec.end)])
            if spec.end > stop:
                break  # it goes on in the next block
            index += 1
        yield _bytes_of(region[at:stop])


def _write_direct(disk: Disk, fd: int, block: memoryview) -> memoryview:
    """Write whole pages past the cache and return what is left: the last, unaligned bytes.

    If the file system takes the flag but not the write (`EINVAL`), all that is left is returned.
    """
    while len(block) >= _PAGE:
        try:
            written = disk.write(fd, block[: len(block) // _PAGE * _PAGE])
        except OSError as exc:
            if exc.errno == errno.EINVAL:
                break
            raise
        if written <= 0 or written % _PAGE:
            return block[max(written, 0) :]  # not aligned any more: the rest goes through the cache
        block = block[written:]
    return block


def _together(header: bytes, blocks: Iterable[memoryview]) -> Iterator[memoryview]:
    """The same bytes, the small pieces of a row put together."""
    waiting, n_waiting = [memoryview(header)], len(header)
    for block in blocks:
        if n_waiting + len(block) > _TOGETHER:
            yield memoryview(b"".join(waiting))
            waiting, n_waiting = [], 0
        if len(block) < _TOGETHER:
            waiting.append(block)
            n_waiting += len(block)
        else:
            yield block
    yield memoryview(b"".join(waiting))


def write_tensors(
    disk: Disk, at: int, file: str, snapshot: Snapshot, part: str
) -> tuple[FileRecord, list[TensorRecord]]:
    """Write the tensors of a part to a new file; durable when this returns."""
    specs, region = snapshot.layout.specs[part], snapshot.regions.get(part)
    large = region is not None and len(region) >= _DIRECT_BYTES
    header = _header_bytes(specs, _PAGE if large else 64)
    digests = [_Digest(spec) for spec in specs]
    if region is None:
        blocks = _scattered(snapshot.arrays[part], digests)
    else:
        blocks = _in_one_piece(region, digests)
    pieces: Iterable[memoryview]
    pieces = itertools.chain([memoryview(header)], blocks) if large else _together(header, blocks)
    size = len(header) + (specs[-1].end if specs else 0)
    if size <= _TOGETHER:
        pieces = list(pieces)  # it is one; what is there already need not be asked for in between
    _new_file(disk, at, file, pieces, large=large)
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
    return FileRecord(file, part, size, len(header), checksum_of(header)), records
