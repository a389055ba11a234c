"""The few protobuf messages of an event file, encoded by hand.

Rules of this file:

1. Pure functions from values to bytes and back; no file, no clock.
2. Numbers of fields are those of TensorFlow's `event.proto`, `summary.proto` and `tensor.proto`,
   and never change: that is protobuf's promise.
3. What is written is what `tf.summary` writes (dtype, shape, content, plugin), so that every reader
   of its files reads ours.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import final

import numpy as np

__all__ = [
    "Cut",
    "delimited",
    "event",
    "fields",
    "graph_event",
    "read_event",
    "scalar_head",
    "session_event",
    "string_value",
    "tensor_value",
    "varint",
    "version_event",
]

START, STOP, CHECKPOINT = 1, 2, 3
"""`SessionLog.SessionStatus`."""
WALL_TIME_KEY, STEP_KEY = 9, 16
"""Number and wire type of two fields of `Event`."""
_FLOAT, _DOUBLE, _STRING = 1, 2, 7  # `DataType`
_OURS = b"peakhold"


class Cut(ValueError):  # noqa: N818 - a state of a file, told upwards
    """Bytes end in the middle of a message."""


# Encoding

_SMALL = tuple(bytes((number,)) for number in range(0x80))


def varint(number: int) -> bytes:
    """An integer as protobuf's `int64` writes it; negative ones take ten bytes."""
    if 0 <= number < 0x80:
        return _SMALL[number]
    if 0 <= number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    number &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _int(field: int, number: int) -> bytes:
    return varint(field << 3) + varint(number)


def delimited(field: int, content: bytes) -> bytes:
    """A field that holds bytes: a string or another message."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def _metadata(plugin: str, content: bytes) -> bytes:
    data = delimited(1, plugin.encode()) + (delimited(2, content) if content else b"")
    return delimited(9, delimited(1, data))


def _shape(shape: Sequence[int]) -> bytes:
    return delimited(2, b"".join(delimited(2, _int(1, size) if size else b"") for size in shape))


def tensor_value(tag: str, array: np.ndarray, plugin: str, content: bytes = b"") -> bytes:
    """A `Summary.Value` that holds numbers, as float32 or float64."""
    double = array.dtype == np.float64
    array = np.ascontiguousarray(array, "<f8" if double else "<f4").reshape(array.shape)
    tensor = _int(1, _DOUBLE if double else _FLOAT) + _shape(array.shape)
    tensor += delimited(4, array.tobytes())
    return delimited(
        1, delimited(1, tag.encode()) + delimited(8, tensor) + _metadata(plugin, content)
    )


def string_value(
    tag: str, strings: Sequence[bytes] | bytes, plugin: str, content: bytes = b""
) -> bytes:
    """A `Summary.Value` that holds one string, or a vector of them."""
    single = isinstance(strings, bytes)
    tensor = _int(1, _STRING) + _shape(() if single else (len(strings),))
    for one in [strings] if isinstance(strings, bytes) else strings:
        tensor += delimited(8, one)
    return delimited(
        1, delimited(1, tag.encode()) + delimited(8, tensor) + _metadata(plugin, content)
    )


def scalar_head(tag: str) -> bytes:
    """All of an `Event` with one scalar up to the four bytes of its value.

    The fields stand in an order that protobuf allows and nobody else uses: what differs from event
    to event comes last (value, wall time, step), so that the rest is encoded once for a tag.
    """
    tensor = _int(1, _FLOAT) + _shape(()) + varint(4 << 3 | 2) + b"\x04"
    value = delimited(1, tag.encode()) + _metadata("scalars", b"")
    value += varint(8 << 3 | 2) + varint(len(tensor) + 4) + tensor
    summary = b"\x0a" + varint(len(value) + 4) + value
    return b"\x2a" + varint(len(summary) + 4) + summary


def event(wall_time: float, step: int, values: bytes) -> bytes:
    """An `Event` with a summary of encoded values."""
    return _head(wall_time, step) + b"\x2a" + varint(len(values)) + values


def _head(wall_time: float, step: int) -> bytes:
    return b"\x09" + struct.pack("<d", wall_time) + b"\x10" + varint(step)


def version_event(wall_time: float) -> bytes:
    """The first event of a file."""
    head = b"\x09" + struct.pack("<d", wall_time)
    return head + delimited(3, b"brain.Event:2") + delimited(10, delimited(1, _OURS))


def session_event(wall_time: float, step: int, status: int) -> bytes:
    """A mark of a run's course; with `START`, readers drop what they hold from `step` on."""
    return _head(wall_time, step) + delimited(7, _int(1, status) + delimited(3, _OURS))


def graph_event(wall_time: float, graph_def: bytes) -> bytes:
    """An event that holds a serialized `GraphDef`."""
    return b"\x09" + struct.pack("<d", wall_time) + delimited(4, graph_def)


# Reading


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and content of each field.

    Raises:
        Cut: If the message ends in the middle of one, or is none.
    """
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _read_varint(message, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _read_varint(message, at)
        elif kind in {1, 5}:
            size = 8 if kind == 1 else 4
        else:
            raise Cut(f"wire type {kind}")
        if at + size > len(message):
            raise Cut("a field is longer than its message")
        yield key >> 3, message[at : at + size]
        at += size


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
    raise Cut("a number does not end")


@final
class EventHead:
    """What resuming asks of an event: its step, first tag, kind."""

    __slots__ = ("ours", "status", "step", "tag")

    def __init__(self) -> None:
        self.step = 0
        self.tag: str | None = None
        self.status: int | None = None
        self.ours = False


def read_event(message: bytes) -> EventHead:
    """The head of an event.

    Raises:
        Cut: If it is none.
    """
    head = EventHead()
    for number, content in fields(message):
        if number == 2 and isinstance(content, int):
            head.step = content - (1 << 64) if content >> 63 else content
        elif isinstance(content, int):
            continue
        elif number == 5 and head.tag is None:
            value = next((c for n, c in fields(content) if n == 1 and isinstance(c, bytes)), b"")
            tag = next((c for n, c in fields(value) if n == 1 and isinstance(c, bytes)), None)
            head.tag = None if tag is None else tag.decode(errors="replace")
        elif number == 7:
            log = dict(fields(content))
            status = log.get(1)
            head.status = status if isinstance(status, int) else None
            head.ours = log.get(3) == _OURS
        elif number == 10:
            head.ours = dict(fields(content)).get(1) == _OURS
    return head
