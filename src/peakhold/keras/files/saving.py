"""Keras's own file formats, written to an open file by the thread that trains.

A file is planned, then written from the live variables, one at a time. What cannot be planned (a
model whose class overrides `save`, for one) is written by the model's own method, through a scratch
folder in the same place.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Any, BinaryIO, final, overload

import numpy as np

import keras
from peakhold.files.scratch import scratch_folder
from peakhold.host.contract import CannotPlanError
from peakhold.keras.files.plan import plan
from peakhold.keras.files.undistributed import undistributed

__all__ = ["SUFFIXES", "write"]

SUFFIXES = (".keras", ".h5", ".weights.h5")


def write(model: Any, file: BinaryIO, suffix: str, scratch: str) -> None:
    """Write a model (`.keras`, `.h5`) or its weights (`.weights.h5`)."""
    try:
        planned = plan(model, suffix)
    except CannotPlanError:
        _by_own_method(model, file, suffix, scratch)
    else:
        planned.write(file, _LiveArrays(planned.variables))


def _by_own_method(model: Any, file: BinaryIO, suffix: str, scratch: str) -> None:
    method = "save_weights" if suffix == ".weights.h5" else "save"
    name = f"model{suffix}"
    with scratch_folder(scratch, name) as folder:
        path = os.path.join(folder, name)
        undistributed(getattr(model, method), path)
        with open(path, "rb") as written:
            shutil.copyfileobj(written, file, 1 << 20)


@final
class _LiveArrays(Sequence[np.ndarray]):
    """The values of variables, each read when it is asked for."""

    def __init__(self, variables: Sequence[Any]) -> None:
        self._variables = variables

    def __len__(self) -> int:
        return len(self._variables)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | Sequence[np.ndarray]:
        if isinstance(index, slice):
            return _LiveArrays(self._variables[index])
        return _view(self._variables[index])


def _view(variable: Any) -> np.ndarray:
    """The values, without a copy where the framework gives a view of its memory."""
    value = variable.value
    try:
        if hasattr(value, "detach"):
            return np.asarray(value.detach().cpu().numpy())
        if hasattr(value, "unsafe_buffer_pointer"):  # JAX, on one device
            return np.asarray(value)
    except (TypeError, RuntimeError, ValueError):
        pass  # a dtype that NumPy does not have, a device that gives no view
    return np.asarray(keras.ops.convert_to_numpy(variable))
