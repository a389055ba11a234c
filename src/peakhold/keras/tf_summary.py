"""`tf.summary` inside layers, in the same run as ours.

Rules of this file:

1. Only where TensorFlow is loaded already: nothing here loads it.
2. While batches are written, TensorFlow's writer is the default one, as with Keras, and our events
   go through it. Two files that grow at a time would not do: TensorBoard leaves a file for good
   once it has seen a newer one, and what is added to it later is lost to who watches.
3. A training function that TensorFlow has traced holds the writer that was the default one then.
   A writer therefore lives as long as the model; for another `log_dir` the function is traced anew.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import weakref
from typing import Any, final

import keras
from peakhold.tensorboard.records import newest_second

__all__ = ["OwnWriters", "Summaries", "is_loaded", "loaded"]

# What a traced function of a model holds on to.
_writers: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()
_steps: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def is_loaded() -> bool:
    """Whether somebody has loaded TensorFlow."""
    return hasattr(sys.modules.get("tensorflow"), "summary")


def loaded() -> Any:
    """TensorFlow, which is loaded now if nobody has; None where it is not installed."""
    try:
        import tensorflow
    except ImportError:
        return None
    return tensorflow


@final
class OwnWriters:
    """TensorFlow's writers for a user's own code in a subclass, in the folders of one run.

    One file grows at a time (rule 2): from then on, our events go through such a writer, too.

    Args:
        tf: TensorFlow.
    """

    def __init__(self, tf: Any) -> None:
        self._tf = tf
        self.writers: dict[str, Any] = {}
        """By folder."""

    def of(self, folder: str) -> tuple[Any, _SummarySink]:
        """The writer of a folder, and where our events go."""
        if folder not in self.writers:
            _wait_for_a_name(folder)
            self.writers[folder] = self._tf.summary.create_file_writer(folder)
        writer = self.writers[folder]
        return writer, _SummarySink(self._tf, writer)

    def close(self) -> None:
        """Close them all: what was written is on disk."""
        for writer in self.writers.values():
            writer.close()
        self.writers = {}


@final
class _Entered:
    """A default writer; of several, the last one must be left first."""

    def __init__(self, owner: Summaries, folder: str, stack: contextlib.ExitStack) -> None:
        self.owner, self.folder, self.stack, self.left = owner, folder, stack, False


_entered: list[_Entered] = []


@final
class Summaries:
    """TensorFlow's writers for one model, and which of them is the default one.

    Args:
        model: The model whose layers may write.
        freq: Batches between two that are written.
    """

    def __init__(self, model: Any, freq: int) -> None:
        self._tf = sys.modules["tensorflow"]
        self._model = weakref.ref(model)
        self._freq = freq
        self._step = 0
        self._variable: Any = None
        if keras.backend.backend() == "tensorflow":  # read inside the traced function
            if model not in _steps:
                _steps[model] = self._tf.Variable(0, dtype="int64", trainable=False)
            self._variable = _steps[model]

    def of(self, folder: str) -> Any:
        """The writer of a folder, made where the model has none yet."""
        model = self._model()
        writers = _writers.setdefault(model, {})
        if folder not in writers:
            if self._variable is not None and any(_is_elsewhere(folder, one) for one in writers):
                _trace_anew(model)
            _wait_for_a_name(folder)
            writers[folder] = self._tf.summary.create_file_writer(folder)
        return writers[folder]

    def sink(self, folder: str) -> _SummarySink:
        """Where our events go."""
        return _SummarySink(self._tf, self.of(folder))

    def enter(self, folder: str) -> None:
        """Make the writer of a folder the default one."""
        if any(one.owner is self and one.folder == folder for one in _entered):
            return
        stack = contextlib.ExitStack()
        step = self._step if self._variable is None else self._variable
        stack.enter_context(self.of(folder).as_default(step))
        stack.enter_context(self._tf.summary.record_if(self._is_due))
        _entered.append(_Entered(self, folder, stack))

    def leave(self, folder: str | None = None) -> None:
        """Make the default one what it was before; without a folder, leave all of ours."""
        for one in _entered:
            if one.owner is self and folder in {None, one.folder}:
                one.left = True
        while _entered and _entered[-1].left:
            # Keras's own TensorBoard beside ours may have put back what was before both.
            with contextlib.suppress(AttributeError):
                _entered.pop().stack.close()

    def step(self, step: int) -> None:
        """The step of what layers write next."""
        self._step = step
        if self._variable is None:
            self._tf.summary.experimental.set_step(step)
        else:
            self._variable.assign(step)

    def _is_due(self) -> Any:
        if self._freq == 1:
            return True
        step = self._step if self._variable is None else self._variable
        return step % self._freq == 0


def _wait_for_a_name(folder: str) -> None:
    """TensorBoard reads files by name, and TensorFlow names them by the second: end this one."""
    newest = newest_second(folder)
    while newest is not None and int(time.time()) <= newest:
        time.sleep(0.05)


def _is_elsewhere(folder: str, other: str) -> bool:
    return os.path.dirname(folder) != os.path.dirname(other)


def _trace_anew(model: Any) -> None:
    for name in ("train", "test"):
        if getattr(model, f"{name}_function", None) is not None:
            getattr(model, f"make_{name}_function")(force=True)


@final
class _SummarySink:
    """Hands our events to TensorFlow's writer, in whose file they stand in order."""

    path: str | None = None

    def __init__(self, tf: Any, writer: Any) -> None:
        self._tf, self._writer = tf, writer

    def write(self, event: bytes, state: int | None = None) -> None:
        with self._tf.device("cpu:0"):
            self._tf.raw_ops.ImportEvent(writer=self._writer._resource, event=event)

    def flush(self, *, durable: bool = False) -> None:
        self._writer.flush()

    def flush_later(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.flush()
