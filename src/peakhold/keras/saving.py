"""Keras's own file formats, written to an open file.

HDF5 is written in memory first. Its library may end the process with a segmentation fault when a
write to a real file fails (seen on full disks); in memory nothing of the kind can happen, and the
bytes then reach the disk by plain writes that fail in plain words. This costs the size of the
weights in memory for the time of the save. `.keras` is a zip and goes straight to the file.

A model whose class overrides `save` or `save_weights` is written by its own method, through a
scratch file in the same folder.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from typing import Any, BinaryIO

__all__ = ["SUFFIXES", "write"]

SUFFIXES = (".keras", ".h5", ".weights.h5")


def write(model: Any, file: BinaryIO, suffix: str, scratch: str) -> None:
    """Write a model (`.keras`, `.h5`) or its weights (`.weights.h5`)."""
    own = "save_weights" if suffix == ".weights.h5" else "save"
    if _overrides(model, own):
        _by_own_method(model, own, file, suffix, scratch)
        return
    try:
        buffer = _in_memory(model, file, suffix)
    except ImportError:  # another version of Keras keeps these functions elsewhere
        _by_own_method(model, own, file, suffix, scratch)
        return
    if buffer is not None:
        file.write(buffer.getbuffer())


def _in_memory(model: Any, file: BinaryIO, suffix: str) -> io.BytesIO | None:
    if suffix == ".keras":
        from keras.src.saving.saving_lib import _save_model_to_fileobj

        _save_model_to_fileobj(model, file, "h5")
        return None
    buffer = io.BytesIO()
    if suffix == ".weights.h5":
        from keras.src.saving.saving_lib import H5IOStore, _save_state

        if not model.built:
            raise ValueError(
                "expected a model that has been built, got one without weights.\n"
                "Hint: call it on some data, or build(), before saving its weights."
            )
        store = H5IOStore(buffer, mode="w")
        try:
            _save_state(
                model,
                weights_store=store,
                assets_store=None,
                inner_path="",
                visited_saveables=set(),
            )
        finally:
            store.close()
        return buffer
    import h5py
    from keras.src.legacy.saving.legacy_h5_format import save_model_to_hdf5

    with h5py.File(buffer, "w") as hdf5:
        save_model_to_hdf5(model, hdf5)
    return buffer


def _overrides(model: Any, method: str) -> bool:
    defined = next(cls for cls in type(model).__mro__ if method in vars(cls))
    return not defined.__module__.startswith("keras.") or method in vars(model)


def _by_own_method(model: Any, method: str, file: BinaryIO, suffix: str, scratch: str) -> None:
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".peakhold-") as folder:
        path = os.path.join(folder, f"model{suffix}")
        getattr(model, method)(path)
        with open(path, "rb") as written:
            shutil.copyfileobj(written, file, 1 << 20)
