"""What only Keras's models have for TensorBoard: a graph, embedding layers, a profiler."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import keras
from peakhold import callbacks as neutral
from peakhold.errors import InvalidArgumentError
from peakhold.keras import profiler, tf_summary
from peakhold.keras.callback import KerasCallback
from peakhold.tensorboard import TRAIN, VALIDATION, Embedding

__all__ = ["TensorBoard"]


class TensorBoard(neutral.TensorBoard, KerasCallback):
    __doc__ = neutral.TensorBoard.__doc__

    _summaries: tf_summary.Summaries | None = None
    _profiler: Any = None

    def _forget_run(self) -> None:
        super()._forget_run()
        self._test_batches = 0

    # The model

    def _model_json(self) -> str | None:
        model = self.host.model
        if type(model).__name__ not in {"Functional", "Sequential"}:  # what TensorBoard can draw
            return None
        try:
            return str(model.to_json())
        except Exception as error:  # of any layer's own get_config
            warnings.warn(f"Model failed to serialize as JSON. Ignoring... {error}", stacklevel=2)
            return None

    def _channels_last(self) -> bool:
        return bool(keras.config.image_data_format() == "channels_last")

    # Embeddings

    def _layers(self) -> list[Any]:
        layers = getattr(self.host.model, "layers", ())
        return [layer for layer in layers if isinstance(layer, keras.layers.Embedding)]

    def _embeddings(self) -> list[Embedding]:
        self.host._synced()
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

    def _check(self) -> None:
        super()._check()
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

    # The profiler

    def _profilable(self, batches: tuple[int, int]) -> tuple[int, int]:
        return batches if batches == (0, 0) or profiler.usable(batches) else (0, 0)

    def _check_profiler(self) -> None:
        pass  # at construction

    def _start_profile(self, folder: str) -> None:
        self._profiler = profiler.start(folder)

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
        self._summaries = tf_summary.Summaries(self.host.model, int(self.update_freq))
        return self._summaries.sink

    def _go_on_from(self, epoch: int) -> None:
        super()._go_on_from(epoch)
        if self._summaries is not None:
            self._summaries.enter(self._runs().path(TRAIN))

    def _batch_begin(self, batch: int, logs: Any = None) -> None:
        super()._batch_begin(batch, logs)
        if self._summaries is not None:
            self._summaries.step(self._done + 1)

    def _test_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._runs()
        if self._summaries is not None:
            if batch == 0:
                self._runs().of(VALIDATION)
                self._summaries.enter(self._runs().path(VALIDATION))
            self._test_batches += 1
            self._summaries.step(self._test_batches)

    @property
    def _summarizes(self) -> bool:
        if self._running:
            return self._summaries is not None
        return self.update_freq != "epoch" and tf_summary.is_loaded()

    @property
    def async_safe(self) -> bool:
        """Keras keeps asynchronous dispatch on: our list calls the hook of a batch that is due."""
        return not (self.update_freq in {"epoch", 1} or self._profiles)

    @property
    def on_train_batch_begin(self) -> Any:
        """The batch hook: a no-op unless batches are profiled or `tf.summary` is in use."""
        wanted = self._profiles or self._summarizes
        return self._batch_begin if wanted else self._no_batch_hook

    @property
    def on_test_batch_begin(self) -> Any:
        """The batch hook: a no-op unless `tf.summary` is in use."""
        return self._test_batch_begin if self._summarizes else self._no_batch_hook

    def _test_end(self) -> None:
        if self._summaries is not None:
            self._summaries.leave(self._runs().path(VALIDATION))
        super()._test_end()

    def _end(self, logs: Any) -> None:
        if self._profiler is not None:  # training ended before the last batch to profile
            self._stop_profile()
        self._leave_summaries()
        super()._end(logs)

    def _reset(self) -> None:
        self._leave_summaries()
        super()._reset()

    def _leave_summaries(self) -> None:
        if self._summaries is not None:
            self._summaries.leave()
            self._summaries = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_summaries": None, "_profiler": None}
