"""The profiler of whichever framework Keras runs on. One that fails ends no training."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any

import keras
from peakhold.errors import InvalidArgumentError
from peakhold.speech import warn

__all__ = ["start", "stop", "usable"]

_log = logging.getLogger("peakhold")


def usable(profile_batch: tuple[int, int]) -> bool:
    """Whether batches can be profiled here; warns, or raises, if not.

    Raises:
        InvalidArgumentError: If the backend has no profiler.
    """
    backend = keras.backend.backend()
    if backend == "jax" and sys.version_info < (3, 12):
        warn(
            f"Profiling with the {backend} backend requires python >= 3.12. "
            f"profile_batch={profile_batch} is ignored; training runs as without it."
        )
        return False
    if backend not in {"jax", "tensorflow", "torch"}:
        raise InvalidArgumentError.for_argument(
            "profile_batch",
            profile_batch,
            f"0: the {backend} backend has no profiler",
            hint="leave profile_batch out.",
        )
    return True


def start(folder: str) -> Any:
    """Start profiling into a folder; returns what `stop` wants, None if it failed."""
    try:
        if keras.backend.backend() == "torch":
            import torch

            running = torch.profiler.profile(
                on_trace_ready=torch.profiler.tensorboard_trace_handler(folder)
            )
            running.start()
            return running
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.summary.trace_on(graph=True, profiler=False)
        from keras.src import backend

        backend.tensorboard.start_trace(folder)
    except Exception as error:
        _complain("Failed to start profiler: %s", error)
        return None
    return True


def stop(running: Any) -> bytes | None:
    """Stop it, and write what it saw; returns TensorFlow's `RunMetadata`, serialized."""
    if running is None:
        return None
    run_metadata = None
    try:
        if running is not True:
            running.stop()
            return None
        if keras.backend.backend() == "tensorflow":
            run_metadata = _run_metadata()
        from keras.src import backend

        backend.tensorboard.stop_trace(save=True)
    except Exception as error:
        _complain("Failed to stop profiler: %s", error)
    return run_metadata


def _run_metadata() -> bytes:
    import tensorflow as tf
    from tensorflow.python.eager import context

    metadata = context.context().export_run_metadata()
    tf.summary.trace_off()
    return bytes(metadata.SerializeToString())


def _complain(text: str, error: Exception) -> None:
    with contextlib.suppress(Exception):  # of a handler of logging
        _log.error(text, error)
