"""Points of a line: the one kind of event that may be written after every batch.

Problem. Most of the cost of a point is its checksum, byte by byte in Python.

Solution. Most bytes of a point are those of the point before, and a CRC is linear: the state after
an event is that of the event with zeros for what varies, XOR what each byte that varies adds where
it stands. The first is summed once for a line, the second is one look-up in a table of that place.
"""

from __future__ import annotations

import struct
from typing import final

from peakhold.tensorboard import crc32c
from peakhold.tensorboard.proto import STEP_KEY, WALL_TIME_KEY, scalar_head, varint

__all__ = ["Line"]

_FIXED = struct.Struct("<fBdB")
"""The value, the key of the wall time, the wall time, the key of the step."""
_ZEROS = _FIXED.pack(0.0, WALL_TIME_KEY, 0.0, STEP_KEY)
# Called by their place from the end. A name each, because a tuple of tables costs a look-up more.
_13, _12, _11, _10, _, _8, _7, _6, _5, _4, _3, _2, _1, _ = crc32c.by_place(len(_ZEROS))
(_TABLE,) = crc32c.by_place(1)


@final
class Line:
    """Makes the events of one tag.

    Args:
        tag: Name of the line.

    Example:
        >>> event, state = Line("loss").event(0.5, 12.25, 300)
        >>> state == crc32c.update(crc32c.START, event)
        True
    """

    __slots__ = ("_head", "_state")

    def __init__(self, tag: str) -> None:
        self._head = scalar_head(tag)
        self._state = crc32c.update(crc32c.START, self._head + _ZEROS)

    def event(self, value: float, wall_time: float, step: int) -> tuple[bytes, int]:
        """An `Event`, and the state of its checksum.

        Raises:
            struct.error: If a number is none, or a tensor.
            OverflowError: If the value is more than a float32 can hold.
        """
        fixed = _FIXED.pack(value, WALL_TIME_KEY, wall_time, STEP_KEY)
        v0, v1, v2, v3, _, t0, t1, t2, t3, t4, t5, t6, t7, _ = fixed
        state = (
            self._state ^ _13[v0] ^ _12[v1] ^ _11[v2] ^ _10[v3]
            ^ _8[t0] ^ _7[t1] ^ _6[t2] ^ _5[t3] ^ _4[t4] ^ _3[t5] ^ _2[t6] ^ _1[t7]
        )  # fmt: skip
        number = varint(step)
        for byte in number:
            state = _TABLE[(state ^ byte) & 0xFF] ^ (state >> 8)
        return self._head + fixed + number, state
