"""Images as PNG, without a package for it."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np

__all__ = ["encode", "to_bytes"]

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels: grey, grey with alpha, RGB, RGBA


def to_bytes(images: Any) -> np.ndarray[Any, Any]:
    """Images as 8-bit numbers: floats count from 0 to 1, as in `tf.summary.image`."""
    array = np.asarray(images)
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind in "biu":
        return np.asarray(np.clip(array, 0, 255), np.uint8)
    with np.errstate(invalid="ignore"):
        scaled = np.clip(np.nan_to_num(array.astype(np.float32)), 0, 1) * np.float32(255.5)
    return np.asarray(np.minimum(scaled, 255), np.uint8)


def encode(image: np.ndarray[Any, Any]) -> bytes:
    """One image, `(height, width, channels)` of 8-bit numbers."""
    height, width, channels = image.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with its filter: none
    rows[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 6))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
