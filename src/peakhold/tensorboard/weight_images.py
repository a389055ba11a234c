"""A weight as images that TensorBoard can show: Keras's shapes, zero in the middle of the grey."""

from __future__ import annotations

import numpy as np

__all__ = ["as_images"]


def as_images(weight: np.ndarray, channels_last: bool) -> np.ndarray | None:
    """A weight as `(n, height, width, channels)`, floats from 0 to 1; None if it has no such form.

    A vector is one column, a matrix lies on its side, a kernel is one image for each channel.

    Args:
        weight: The values.
        channels_last: Whether the channels of a kernel are its last axis.
    """
    array = np.squeeze(np.asarray(weight, np.float32))
    if array.ndim == 1:
        array = array.reshape(1, -1, 1, 1)
    elif array.ndim == 2:
        array = array.T if array.shape[0] > array.shape[1] else array
        array = array[None, :, :, None]
    elif array.ndim == 3:
        array = np.transpose(array, (2, 0, 1)) if channels_last else array
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3, 4) or array.size == 0:
        return None
    array = np.nan_to_num(array, posinf=0.0, neginf=0.0)
    largest = float(np.abs(array).max())
    return array / (2 * largest) + 0.5 if largest else np.full_like(array, 0.5)
