"""CRC-32C, as TFRecord wants it, without a package for it.

Rules of this file:

1. A *state* is the sum before its final inversion. It can be kept, and gone on from: what is equal
   at the beginning of many records is summed once.
2. Short data goes byte by byte through a table. Long data is cut into lanes that NumPy takes
   through the table side by side. A CRC is linear: the lanes' states are joined, two neighbours at
   a time, by shifting the left one past the bytes of the right one.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

__all__ = ["START", "by_place", "crc32c", "mask", "update"]

START = 0xFFFFFFFF
_POLYNOMIAL = 0x82F63B78
_LONG = 1024  # bytes from which lanes are faster than a loop
_LANE = 16  # bytes


def _table() -> tuple[int, ...]:
    entries = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        entries.append(value)
    return tuple(entries)


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C of bytes."""
    return update(START, data) ^ 0xFFFFFFFF


def mask(state: int) -> bytes:
    """The form in which TFRecord stores it: a CRC of data that holds CRCs would be weak."""
    crc = state ^ 0xFFFFFFFF
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def update(state: int, data: bytes) -> int:
    """The state after more bytes."""
    if len(data) >= _LONG:
        return _in_lanes(state, data)
    table = _TABLE
    for byte in data:
        state = table[(state ^ byte) & 0xFF] ^ (state >> 8)
    return state


def by_place(length: int) -> list[tuple[int, ...]]:
    """For each place in so many bytes, what a byte adds to the state after them, were it alone."""
    tables = [_TABLE]
    for _ in range(length - 1):
        tables.append(tuple(_TABLE[state & 0xFF] ^ (state >> 8) for state in tables[-1]))
    return tables[::-1]


def _in_lanes(state: int, data: bytes) -> int:
    n_levels = (len(data) // _LANE).bit_length() - 1
    size = _LANE << n_levels
    columns = np.frombuffer(data, np.uint8, size).reshape(-1, _LANE).T
    table = np.array(_TABLE, np.uint32)
    states = np.zeros(1 << n_levels, np.uint32)
    states[0] = state
    for column in columns:
        states = table[(states ^ column) & 0xFF] ^ (states >> np.uint32(8))
    for level in range(n_levels):
        tables, left, right = _shift_past(_LANE << level), states[0::2], states[1::2]
        for place in range(4):
            right = right ^ tables[place][left >> np.uint32(8 * place) & 0xFF]
        states = right
    return update(int(states[0]), data[size:])


@cache
def _shift_past(length: int) -> np.ndarray[Any, Any]:
    """For each byte of a state, what becomes of it when so many zero bytes follow; 4 x 256."""
    if length == 1:
        bits = [update(1 << bit, b"\0") for bit in range(32)]
    else:
        half = _shift_past(length // 2)
        bits = [_shift(half, _shift(half, 1 << bit)) for bit in range(32)]
    tables = np.zeros((4, 256), np.uint32)
    for place in range(4):
        for bit in range(8):
            tables[place, 1 << bit : 2 << bit] = tables[place, : 1 << bit] ^ bits[8 * place + bit]
    return tables


def _shift(tables: np.ndarray[Any, Any], state: int) -> int:
    shifted = 0
    for place in range(4):
        shifted ^= int(tables[place, state >> 8 * place & 0xFF])
    return shifted
