"""Write what TensorBoard shows, without TensorFlow and without TensorBoard.

Rules of this file:

1. Tags, plugins and tensors are those of `tf.summary`; what it writes and what this writes cannot
   be told apart by a reader.
2. No file before the first event: a run that has nothing to show leaves nothing.
"""

from __future__ import annotations

import os
import struct
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

import numpy as np

from peakhold.disk.local_path import local_path
from peakhold.errors import InvalidArgumentError
from peakhold.tensorboard import png, proto
from peakhold.tensorboard.histogram import histogram
from peakhold.tensorboard.records import EventFile, Sink
from peakhold.tensorboard.scalar import Line

__all__ = ["EventWriter"]


@final
class EventWriter:
    """Writes one folder that TensorBoard shows as a run.

    Each writer makes a new event file, at its first event. Events are buffered for at most a second
    or 64 KiB; `flush()` hands them to the system, `close()` (or the end of a `with` block, or of
    the process) to the disk.

    Args:
        log_dir: The folder, a string or path; it is made.

    Raises:
        OSError: From any method, if the disk refuses. What was not written is tried again with the
            next event; what stands in the file stays readable.

    Example:
        >>> import os, tempfile
        >>> with EventWriter(tempfile.mkdtemp()) as writer:
        ...     for step in range(100):
        ...         writer.scalar("loss", 1 / (step + 1), step)
        ...     writer.histogram("weights", [0.1, 0.2, 0.2, 0.7], step=99)
        >>> os.path.basename(writer.path).startswith("events.out.tfevents.")
        True

    Source:
        `tf.summary` of TensorFlow 2.21; TFRecord's framing.
    """

    def __init__(
        self, log_dir: str | os.PathLike[str], *, sink: Callable[[str], Sink] | None = None
    ) -> None:
        self.log_dir = local_path(
            "log_dir", log_dir, "the path of a folder", hint="pass a path such as 'logs/run-1'."
        )
        self._make_sink: Callable[[str], Sink] = sink or EventFile
        self._sink: Sink | None = None
        self._closer: weakref.finalize[..., Any] | None = None
        self._lines: dict[str, Line] = {}
        self._path: str | None = None

    @property
    def path(self) -> str | None:
        """The newest event file; None before the first event, and where something else writes."""
        return self._path if self._sink is None else self._sink.path

    def _open(self) -> Sink:
        if self._sink is None:
            self._sink = self._make_sink(self.log_dir)
            self._path = self._sink.path
            # Also at the end of the process: what is buffered is not lost with an exception.
            self._closer = weakref.finalize(self, _close_quietly, self._sink)
        return self._sink

    def go_on_in(self, sink: Sink) -> None:
        """What is written from now on goes there; the file so far is closed."""
        self.close()
        self._make_sink = lambda _folder: sink

    # What can be shown

    def scalar(self, tag: str, value: Any, step: int, *, wall_time: float | None = None) -> None:
        """Add a point to a line.

        Args:
            tag: Name of the line.
            value: A number; stored as float32.
            step: Its place on the axis, an int.
            wall_time: Seconds since 1970; None: now.
        """
        try:
            line = self._lines[tag]
        except KeyError:
            line = self._lines[tag] = Line(tag)
        if wall_time is None:
            wall_time = time.time()
        try:
            event, state = line.event(value, wall_time, step)
        except (struct.error, OverflowError):  # a tensor; or more than a float32 can hold
            event, state = line.event(_float32(value), wall_time, int(step))
        (self._sink or self._open()).write(event, state)

    def scalars(self, values: Mapping[str, Any], step: int) -> None:
        """Add a point to each of several lines, at one moment."""
        now = time.time()
        for tag, value in values.items():
            self.scalar(tag, value, step, wall_time=now)

    def histogram(self, tag: str, values: Any, step: int, *, buckets: int = 30) -> None:
        """Add the distribution of some values; NaN and infinity are left out.

        Args:
            tag: Name of the series.
            values: Numbers, an array of any shape.
            step: Its place on the axis.
            buckets: How many equally wide buckets.
        """
        self._add(step, proto.tensor_value(tag, histogram(values, buckets), "histograms"))

    def image(self, tag: str, images: Any, step: int, *, max_outputs: int = 3) -> None:
        """Add images.

        Args:
            tag: Name of the series.
            images: Of shape `(n, height, width, channels)`, with 1 to 4 channels; floats from 0 to
                1, or integers from 0 to 255.
            step: Their place on the axis.
            max_outputs: How many are written at most.

        Raises:
            InvalidArgumentError: If the shape is another.
        """
        array = np.asarray(images)
        if array.ndim != 4 or array.shape[-1] not in (1, 2, 3, 4):
            raise InvalidArgumentError.for_argument(
                "images",
                array.shape,
                "an array of shape (n, height, width, channels) with 1 to 4 channels",
                hint="for one grey image, pass image[None, :, :, None].",
            )
        _, height, width, _ = array.shape
        strings = [str(width).encode(), str(height).encode()]
        strings += [png.encode(one) for one in png.to_bytes(array[:max_outputs])]
        self._add(step, proto.string_value(tag, strings, "images"))

    def text(self, tag: str, text: str, step: int) -> None:
        """Add a text, in Markdown."""
        self._add(step, proto.string_value(tag, text.encode(), "text"))

    def keras_model(self, tag: str, config: str, step: int = 0) -> None:
        """Add the graph of a Keras model, from the JSON of `model.to_json()`."""
        self._add(step, proto.string_value(tag, config.encode(), "graph_keras_model", b"1"))

    def graph(self, graph_def: bytes) -> None:
        """Add a graph: a serialized `GraphDef`."""
        self._open().write(proto.graph_event(time.time(), graph_def))

    def run_metadata(self, tag: str, run_metadata: bytes, step: int) -> None:
        """Add what a traced batch did: a serialized `RunMetadata`."""
        plugin = "graph_run_metadata_graph"
        self._add(step, proto.string_value(tag, run_metadata, plugin, b"1"))

    def _add(self, step: int, value: bytes) -> None:
        self._open().write(proto.event(time.time(), int(step), value))

    # The course of a run

    def begin(self, purge_from: int | None = None, replay: Iterable[bytes] = ()) -> None:
        """Mark the beginning of a run that goes on from another one in this folder.

        Args:
            purge_from: TensorBoard drops what it holds from this step on; None: nothing.
            replay: Serialized events that were dropped by this, and count all the same.
        """
        sink, now = self._open(), time.time()
        if purge_from is None:
            sink.write(proto.session_event(now, 0, proto.CHECKPOINT))
        else:  # twice: TensorBoard takes the first one in a folder for no restart at all
            sink.write(proto.session_event(now, purge_from, proto.START))
            sink.write(proto.session_event(now, purge_from, proto.START))
        for event in replay:
            sink.write(event)

    def end(self) -> None:
        """Mark that the run has ended: a later one does not take it for one that was killed."""
        if self._sink is not None:
            self._sink.write(proto.session_event(time.time(), 0, proto.STOP))

    def flush(self, *, durable: bool = False) -> None:
        """Hand everything to the system, where a reader sees it; `durable`: to the disk."""
        if self._sink is not None:
            self._sink.flush(durable=durable)

    def flush_later(self) -> None:
        """Hand everything to the system now; to the disk soon, while the caller goes on.

        Raises:
            OSError: If the disk refuses, or did so the last time.
        """
        if self._sink is not None:
            self._sink.flush_later()

    def close(self) -> None:
        """Flush to the disk. A later event makes a new file."""
        if self._sink is not None:
            self._path = self._sink.path
            sink, self._sink = self._sink, None
            if self._closer is not None:
                self._closer.detach()
            sink.close()

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _float32(value: Any) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _close_quietly(sink: Sink) -> None:
    try:
        sink.close()
    except OSError:
        return  # nobody is left to be told
