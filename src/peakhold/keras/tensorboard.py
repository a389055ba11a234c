"""What only Keras's models have for TensorBoard: a graph, embedding layers, a profiler."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, final

import keras
from peakhold import callbacks as neutral
from peakhold._core.decisions import Decision
from peakhold._core.moments import Moment
from peakhold._core.observation import Event
from peakhold.callbacks.tensorboard import Boarding
from peakhold.errors import ExtraMissingError, InvalidArgumentError
from peakhold.keras import profiler, tf_summary
from peakhold.keras.callback import KerasCallback
from peakhold.keras.host.keras_host import KerasHost
from peakhold.keras.lending import lends
from peakhold.runtime.callback import Shown
from peakhold.runtime.participant import Needs
from peakhold.runtime.run_view import RunView
from peakhold.speech import warn
from peakhold.tensorboard import TRAIN, VALIDATION, Embedding

__all__ = ["TensorBoard"]


@final
class _Numbers:
    """The number of a batch in a run, from 1, out of all that is told of it: its index.

    The optimizer's count is none of batches where gradients are accumulated, and a hook may stand
    for several (`steps_per_execution`): it is told of the first that begins and the last that ends.
    """

    def __init__(self) -> None:
        self.last = 0
        self._before = 0

    def begin(self) -> None:
        """The index begins anew."""
        self._before = self.last

    def of(self, batch: int) -> int:
        """The number of the batch with this index."""
        self.last = self._before + batch + 1
        return self.last


class KerasBoarding(Boarding):
    """What the session asks, with all that only Keras's models have."""

    # Of the class, for a participant made for a loop may be taken over by `adapt`.
    _summaries: tf_summary.Summaries | None = None
    _profiler: Any = None
    _own: tf_summary.OwnWriters | None = None
    """Writers that a user's subclass has asked for."""

    def _forget_run(self) -> None:
        super()._forget_run()
        self._numbers, self._test_numbers = _Numbers(), _Numbers()
        self._has_profiled = False

    def needs(self, run: RunView) -> Needs:
        """As for a loop; and the names of layers must be right."""
        self._leave_summaries()
        self._close_own()  # an exception broke the last run
        needs = super().needs(run)
        self._check_labels()
        return needs

    # The model

    @property
    def _host(self) -> Any:
        """A Keras model's, which can do more than the contract says; or that of a loop's."""
        return self.run.host

    def _model_json(self) -> str | None:
        model = self._host.model
        if type(model).__name__ not in {"Functional", "Sequential"}:  # what TensorBoard can draw
            return None
        try:
            return str(model.to_json())
        except Exception as error:  # of any layer's own get_config
            warn(f"Model failed to serialize as JSON. Ignoring... {error}")
            return None

    def _channels_last(self) -> bool:
        return bool(keras.config.image_data_format() == "channels_last")

    # Embeddings

    def _layers(self) -> list[Any]:
        layers = getattr(self._host.model, "layers", ())
        return [layer for layer in layers if isinstance(layer, keras.layers.Embedding)]

    def _embeddings(self) -> list[Embedding]:
        if isinstance(self._host, KerasHost):  # some other loop may have Keras's layers, too
            self._host.synced()
        labels = self.embeddings_metadata
        return [
            Embedding(
                layer.name,
                keras.ops.convert_to_numpy(layer.embeddings),
                labels.get(layer.name) if isinstance(labels, Mapping) else labels,
            )
            for layer in self._layers()
            if layer.built
        ]

    def _check_labels(self) -> None:
        labels = self.embeddings_metadata
        if self.embeddings_freq and isinstance(labels, Mapping):
            known = [layer.name for layer in self._layers()]
            unknown = [name for name in labels if name not in known]
            if unknown:
                raise InvalidArgumentError.for_argument(
                    "embeddings_metadata",
                    unknown,
                    f"names of Embedding layers, of which there are {known}",
                    hint="Unrecognized `Embedding` layer names passed to `TensorBoard`.",
                )

    # At each event

    def listens(self, event: Event) -> bool:
        """Batches that are profiled have hooks, too, and those that `tf.summary` may write in."""
        if event is Event.TRAIN_BATCH_END:
            return super().listens(event) or self.profiles
        if event is Event.TRAIN_BATCH_BEGIN:
            return self.profiles or self._summarizes
        return event is Event.TEST_BATCH_BEGIN and self._summarizes

    def record(self, moment: Moment, logs: dict[str, Any], decided: Sequence[Decision]) -> None:
        """Write the moment down."""
        if moment.event is Event.TRAIN_BATCH_BEGIN:
            self._batch_begins(moment.at.batch or 0)
        elif moment.event is Event.TEST_BATCH_BEGIN:
            self._test_batch_begins(moment.at.batch or 0)
        else:
            if moment.event is Event.TRAIN_BATCH_END and self.profiles:  # then all come here
                self._numbers.of(moment.at.batch or 0)
            super().record(moment, logs, decided)

    def _epoch_begins(self, epoch: int) -> None:
        super()._epoch_begins(epoch)
        self._numbers.begin()

    def _batch_begins(self, batch: int) -> None:
        first = self.profile_batch[0]
        if self.profiles and not self._has_profiled and self._numbers.of(batch) >= first:
            self._has_profiled = True
            self._profiler = profiler.start(self._runs().path(TRAIN))
        if self._summaries is not None:
            self._summaries.step(self._done + 1)

    def is_due(self) -> bool:
        """Each batch is, as long as some are profiled."""
        return super().is_due() or self.profiles

    def _batch_ends(self, logs: Mapping[str, Any]) -> None:
        super()._batch_ends(logs)
        if self._profiler is not None and self._numbers.last >= self.profile_batch[1]:
            self._stop_profile()

    def _test_batch_begins(self, batch: int) -> None:
        runs = self._runs()
        if self._summaries is not None:
            if batch == 0:
                self._test_numbers.begin()
                runs.of(VALIDATION)
                self._summaries.enter(runs.path(VALIDATION))
            self._summaries.step(self._test_numbers.of(batch))

    def _test_ends(self, logs: Mapping[str, Any]) -> None:
        if self._summaries is not None:
            self._summaries.leave(self._runs().path(VALIDATION))
        super()._test_ends(logs)
        if not self._in_epochs:  # `evaluate` alone
            self._close_own()

    def _train_ends(self) -> None:
        if self._profiler is not None:  # training ended before the last batch to profile
            self._stop_profile()
        self._leave_summaries()
        super()._train_ends()
        self._close_own()

    # For a user's subclass

    def own_writer(self, kind: str) -> Any:
        """A `tf.summary` writer onto a folder of this run; closed when training ends.

        Raises:
            ExtraMissingError: Where TensorFlow is not installed.
        """
        tf = tf_summary.loaded()
        if tf is None:
            error = ExtraMissingError(
                f"{self.name}._{'train' if kind == TRAIN else 'val'}_writer is a writer of "
                "tf.summary, and TensorFlow is not installed.\nHint: pip install tensorflow-cpu, "
                "or write with peakhold.tensorboard.EventWriter(log_dir), which needs nothing."
            )
            error.package = "tensorflow"
            raise error
        folder = os.path.join(self.log_dir, kind)
        if self._summaries is not None:  # of batches, which layers write in, too
            return self._summaries.of(folder)
        if self._own is None:
            self._own = tf_summary.OwnWriters(tf)
        is_new = folder not in self._own.writers
        if is_new and self.has_run:
            self._runs().flush()  # ahead of a newer file
        writer, sink = self._own.of(folder)
        if is_new and self.has_run:
            self._runs().go_on_in(kind, sink)
        return writer

    def own_writers(self) -> dict[str, Any]:
        """Those that were asked for, under Keras's names."""
        writers = {} if self._own is None else self._own.writers
        names = {os.path.join(self.log_dir, TRAIN): "train"}
        return {names.get(folder, "val"): writer for folder, writer in writers.items()}

    def newest_step(self) -> int:
        """The step of the batch that ended last."""
        return self._steps() if self.has_run else 0

    def _close_own(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            own.close()

    # The profiler

    @property
    def profiles(self) -> bool:
        """Whether batches are profiled."""
        return self.profile_batch != (0, 0)

    def profilable(self, batches: tuple[int, int]) -> tuple[int, int]:
        """The batches that can be profiled on this backend; warns, or raises, if not."""
        return batches if batches == (0, 0) or profiler.usable(batches) else (0, 0)

    def _check_profiler(self) -> None:
        pass  # at construction

    def _stop_profile(self) -> None:
        running, self._profiler = self._profiler, None
        run_metadata = profiler.stop(running)
        if run_metadata is not None:
            last = self.profile_batch[1]
            with self._writing() as folders:
                folders.of(TRAIN).run_metadata(f"batch_{last}", run_metadata, last)

    # `tf.summary` inside layers

    def _make_sink(self) -> Any:
        if self.update_freq == "epoch" or not tf_summary.is_loaded():
            return None
        self._summaries = tf_summary.Summaries(self._host.model, int(self.update_freq))
        return self._summaries.sink

    def _go_on_from(self, epoch: int) -> None:
        super()._go_on_from(epoch)
        if self._summaries is not None:
            self._summaries.enter(self._runs().path(TRAIN))

    @property
    def _summarizes(self) -> bool:
        if self._in_epochs:
            return self._summaries is not None
        return self.update_freq != "epoch" and tf_summary.is_loaded()

    def _leave_summaries(self) -> None:
        if self._summaries is not None:
            self._summaries.leave()
            self._summaries = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_summaries": None, "_profiler": None, "_own": None}


@lends
class TensorBoard(neutral.TensorBoard, KerasCallback, keras.callbacks.TensorBoard):  # type: ignore[misc]
    __doc__ = neutral.TensorBoard.__doc__

    _peakhold_kind = KerasBoarding

    @property
    def async_safe(self) -> bool:
        """Keras keeps asynchronous dispatch on: our list calls the hook of a batch that is due."""
        return not (self.update_freq in {"epoch", 1} or self.profile_batch != (0, 0))

    @property
    def on_test_batch_begin(self) -> Any:
        """Called before a batch of evaluation; a no-op unless `tf.summary` is in use."""
        return self._peakhold_batch_hook(Event.TEST_BATCH_BEGIN)

    # Under Keras's names, for subclasses that write themselves

    @property
    def _peakhold_boarding(self) -> KerasBoarding:
        participant: Any = self._peakhold_link.participant
        return participant  # type: ignore[no-any-return]

    @Shown
    def _train_writer(self) -> Any:
        """A `tf.summary` writer onto the folder of training; needs TensorFlow."""
        return self._peakhold_boarding.own_writer(TRAIN)

    @Shown
    def _val_writer(self) -> Any:
        """A `tf.summary` writer onto the folder of validation; needs TensorFlow."""
        return self._peakhold_boarding.own_writer(VALIDATION)

    @Shown
    def _writers(self) -> dict[str, Any]:
        """Those of the two that were asked for in this run: `train`, `val`."""
        return self._peakhold_boarding.own_writers()

    @Shown
    def _global_train_batch(self) -> int:
        """The step of the batch that ended last, as it is written: the optimizer's count."""
        return self._peakhold_boarding.newest_step()

    @Shown
    def _train_dir(self) -> str:
        """The folder of training."""
        return os.path.join(self.log_dir, TRAIN)

    @Shown
    def _val_dir(self) -> str:
        """The folder of validation."""
        return os.path.join(self.log_dir, VALIDATION)

    @Shown
    def _log_write_dir(self) -> str:
        """The folder of both."""
        return self.log_dir

    @Shown
    def summary(self) -> Any:
        """`tf.summary`, where TensorFlow is loaded already; reading it loads nothing."""
        if not tf_summary.is_loaded():
            raise AttributeError(
                "'summary' is tf.summary, and TensorFlow is not loaded.\nHint: import tensorflow "
                "in your program, or write with peakhold.tensorboard.EventWriter."
            )
        return tf_summary.loaded().summary
