"""Write what TensorBoard shows.

Rules of this file:

1. Tags, folders and steps are Keras's, but that the step of a batch is the optimizer's count of
   updates, which goes on from fit to fit.
2. A batch costs nothing where `update_freq` is `"epoch"`: there is no hook for it.
3. A disk that refuses ends no training: it is said once, and tried again with the next event.
4. What needs a framework (graph, embeddings, profiler) is asked of methods that a framework's own
   participant fills in (`_peakhold_kind`); here they have nothing to give.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from peakhold import files
from peakhold._core.arguments import check_count
from peakhold._core.decisions import Decision
from peakhold._core.moments import Moment
from peakhold._core.observation import Event
from peakhold.advice import Folder, RunSettings
from peakhold.disk.local_path import local_path
from peakhold.errors import AdviceWarning, HostError, InvalidArgumentError, SaveError, SaveWarning
from peakhold.host.contract import rate_key, to_number
from peakhold.host.gradients import GRADIENT_NORM
from peakhold.runtime.participant import Needs, Sparse
from peakhold.runtime.participating import BatchHooks, Setting
from peakhold.runtime.run_view import RunView

if TYPE_CHECKING:  # `import peakhold` loads no NumPy
    from peakhold.tensorboard import Embedding, RunFolders

__all__ = ["Boarding", "TensorBoard"]

TRAIN, VALIDATION = "train", "validation"


class Boarding(Sparse):
    """What the session asks: writes each moment down.

    Its settings are the arguments of `TensorBoard`, checked.
    """

    reads_steps = False
    log_dir = "logs"
    histogram_freq = 0
    write_graph = True
    write_images = False
    write_steps_per_second = False
    update_freq: str | int = "epoch"
    profile_batch = (0, 0)
    embeddings_freq = 0
    embeddings_metadata: str | Mapping[str, str] | None = None
    write_gradients = False

    records_only = True

    def __init__(self) -> None:
        self._steps_loaded: int | None = None
        self._evaluated: int | None = None
        """After how many batches an evaluation was drawn last."""
        self._forget_run()

    def _forget_run(self) -> None:
        """What belongs to one run, at its beginning."""
        self._folders: RunFolders | None = None
        self._in_epochs = False
        """Whether epochs of this run have begun, and it has not ended."""
        self._said = self._missed_gradients = False
        self._before = 0
        """Updates before the running epoch."""
        self._done = 0
        """Updates as far as batches tell."""
        self._last_due = 0
        """What that was at the batch that was written last, or at the epoch's beginning."""
        self._epoch_clock = self._clock = 0.0
        self._written_at = 0

    # What a framework's own class fills in

    def profilable(self, batches: tuple[int, int]) -> tuple[int, int]:
        """The batches that can be profiled, as far as that is known at construction."""
        return batches

    def _model_json(self) -> str | None:
        """The model's configuration, if TensorBoard can draw it."""

    def _embeddings(self) -> list[Embedding]:
        """The embedding layers as they are now."""
        return []

    def _make_sink(self) -> Any:
        """Where events go, if not to a file of our own: a function from a folder to a `Sink`."""

    def _channels_last(self) -> bool:
        return False

    def _check_profiler(self) -> None:
        if self.profile_batch != (0, 0):
            raise HostError.lacks(
                "TensorBoard(profile_batch=...)",
                "a profiler",
                self.run.host.describe(),
                hint="use torch.profiler or jax.profiler.trace around your loop, with "
                f"{self.log_dir!r} as folder.",
            )

    # Before the first batch

    def needs(self, run: RunView) -> Needs:
        """Forget an earlier run; find out that the folder can be written."""
        if self._folders is not None:  # an exception broke the last run
            with self._writing():
                self._folders.close()
        self._forget_run()
        self._check_profiler()
        if self.write_gradients:
            run.host.check_gradients(
                "TensorBoard(write_gradients=True)", arrays=bool(self.histogram_freq)
            )
        try:
            os.makedirs(self.log_dir, exist_ok=True)
            files.probe(self.log_dir)
        except OSError as error:
            raise SaveError.because_of(
                error, self.log_dir, expected="a folder that can be written"
            ) from error
        for path in (os.path.join(self.log_dir, kind) for kind in (TRAIN, VALIDATION)):
            if os.path.lexists(path) and not os.path.isdir(path):
                raise SaveError.for_path(
                    path,
                    "what stands there is no folder",
                    expected="a folder for events, or nothing",
                    hint="move it away, or pass another log_dir.",
                )
        return Needs(rates=True)

    def advise(self, settings: RunSettings) -> RunSettings:
        """Say where it writes."""
        path = os.path.abspath(self.log_dir)
        folder = Folder(self.name, path)
        return replace(settings, paths=(*settings.paths, path), folders=(*settings.folders, folder))

    # Batches

    def listens(self, event: Event) -> bool:
        """Whether the hook for this event of a batch does anything."""
        return event is Event.TRAIN_BATCH_END and self.update_freq != "epoch"

    def count(self, batch: int) -> None:
        """A batch of training has ended."""
        self._done = self._before + batch + 1

    def is_due(self) -> bool:
        """Whether the batch that was counted last is written."""
        return self._is_to_be_written()

    def _is_to_be_written(self) -> bool:
        if self.update_freq == "epoch":
            return False
        freq = int(self.update_freq)
        return self._done // freq != self._last_due // freq

    # At each event

    def record(self, moment: Moment, logs: dict[str, Any], decided: Sequence[Decision]) -> None:
        """Write the moment down."""
        if moment.event is Event.EPOCH_BEGIN:
            self._epoch_begins(moment.at.epoch)
        elif moment.event is Event.TRAIN_BATCH_END:
            self._batch_ends(logs)
        elif moment.event is Event.TEST_END:
            self._test_ends(logs)
        elif moment.event is Event.EPOCH_END:
            self._epoch_ends(moment, logs)
        elif moment.event is Event.TRAIN_END:
            self._train_ends()

    def _epoch_begins(self, epoch: int) -> None:
        # Not in `begin`: an evaluation may come ahead of the first epoch.
        within = self._steps_loaded or 0  # of a run that goes on inside an epoch: batches are there
        if not self._in_epochs:
            self._go_on_from(epoch)
        host = self.run.host
        steps = host.steps_done()
        self._before = self._done = self._done if steps is None else steps
        self._epoch_clock = self._clock = time.perf_counter()
        self._written_at = self._last_due = max(self._done, within)
        if self.write_gradients:
            host.forget_gradients()

    def _go_on_from(self, epoch: int) -> None:
        steps, first = self.run.host.steps_done(), self.run.first_epoch
        if steps is None:
            per_epoch = self.run.params.get("steps")
            counted = (epoch - first) * per_epoch if isinstance(per_epoch, int) else 0
            steps = counted if self._steps_loaded is None else self._steps_loaded
        written, resumes = max(steps, self._steps_loaded or 0), self._steps_loaded is not None
        self._done, self._steps_loaded, self._in_epochs = steps, None, True
        with self._writing() as folders:
            has_evaluated = self._evaluated is None or self._evaluated >= written
            folders.go_on_from(epoch, written, first, resumes=resumes, has_evaluated=has_evaluated)
            if self.write_graph:
                self._record_graph(folders)
            folders.flush()

    def _record_graph(self, folders: RunFolders) -> None:
        train = folders.of(TRAIN)
        config = None if folders.holds(TRAIN, "keras") else self._model_json()
        if config is not None:
            from peakhold.tensorboard import layer_graph

            train.graph(layer_graph(config))
            train.keras_model("keras", config)

    def _batch_ends(self, logs: Mapping[str, Any]) -> None:
        if self._is_to_be_written():
            self._last_due = self._done
            self._record_batch(logs)

    def _record_batch(self, logs: Mapping[str, Any]) -> None:
        steps = self._steps()
        points = _points("batch_", logs)
        if self.write_steps_per_second:
            now = time.perf_counter()
            points["batch_steps_per_second"] = _rate(steps - self._written_at, now - self._clock)
            self._clock, self._written_at = now, steps
        points |= self._gradient_points("batch_", points)
        with self._writing() as folders:
            folders.of(TRAIN).scalars(points, steps)

    def _gradient_points(self, prefix: str, points: Mapping[str, float]) -> dict[str, float]:
        """What is known of gradients; a metric of the loop's own of that name wins."""
        facts = self.run.host.gradient_facts() if self.write_gradients else None
        if facts is None or facts.norm is None or facts.largest is None:
            return {}
        name = f"{prefix}{GRADIENT_NORM}"
        if prefix == "batch_":
            return {name: points.get(name, facts.norm)}
        return {
            name: points.get(name, facts.largest),
            "epoch_nonfinite_gradients": float(facts.n_nonfinite),
        }

    def _steps(self) -> int:
        steps = self.run.host.steps_done()
        return self._done if steps is None else steps

    def _test_ends(self, logs: Mapping[str, Any]) -> None:
        counts = self.run.host.steps_done() is not None or self.update_freq != "epoch"
        with self._writing() as folders:
            if counts:
                self._evaluated = self._steps()
                points = _points("evaluation_", logs, "_vs_iterations")
                folders.of(VALIDATION).scalars(points, self._evaluated)
            if not self._in_epochs:  # `evaluate` alone
                folders.close()

    def _epoch_ends(self, moment: Moment, logs: Mapping[str, Any]) -> None:
        epoch, index = moment.at.epoch, moment.at.number - 1
        training = {key: value for key, value in logs.items() if not key.startswith("val_")}
        validation = {key[4:]: value for key, value in logs.items() if key.startswith("val_")}
        # Rates as they were before anybody changed them: what this epoch was trained with.
        rates = {rate_key(key): rate for key, rate in moment.rates.items()}
        points = _points("epoch_", {**rates, **training})
        if self.write_steps_per_second:
            seconds = time.perf_counter() - self._epoch_clock
            points["epoch_steps_per_second"] = _rate(self._steps() - self._before, seconds)
        points |= self._gradient_points("epoch_", points)
        with self._writing() as folders:
            folders.of(TRAIN).scalars(points, epoch)
            if validation:
                folders.of(VALIDATION).scalars(_points("epoch_", validation), epoch)
            if self.histogram_freq and index % self.histogram_freq == 0:
                self._record_weights(folders, epoch)
                if self.write_gradients:
                    self._record_gradients(folders, epoch)
            if self.embeddings_freq and index % self.embeddings_freq == 0:
                self._record_embeddings()
            folders.flush_later()

    def _record_embeddings(self) -> None:
        from peakhold.tensorboard import write_projector

        embeddings = self._embeddings()
        if embeddings:
            write_projector(self.log_dir, embeddings)

    def _record_weights(self, folders: RunFolders, epoch: int) -> None:
        import numpy as np

        from peakhold.tensorboard.weight_images import as_images

        writer = folders.of(TRAIN)
        for path, values in self.run.host.named_weights():
            name, array = path.replace(":", "_"), np.asarray(values)
            if array.dtype.kind not in "fiubV":
                continue
            writer.histogram(f"{name}/histogram", array, epoch)
            images = as_images(array, self._channels_last()) if self.write_images else None
            if images is not None:
                writer.image(f"{name}/image", images, epoch)

    def _record_gradients(self, folders: RunFolders, epoch: int) -> None:
        writer, found = folders.of(TRAIN), False
        for path, values in self.run.host.gradients() or ():
            found = True
            writer.histogram(f"{path.replace(':', '_')}/gradient", values, epoch)
        if not found and not self._missed_gradients:
            self._missed_gradients = True
            self.run.warn(
                "TensorBoard found no gradients at the end of the epoch. Call zero_grad() before "
                "backward(), not after step(), to have their histograms.",
                AdviceWarning,
            )

    def _train_ends(self) -> None:
        with self._writing() as folders:
            folders.end()
        self._in_epochs = False

    # Words and files

    def _runs(self) -> RunFolders:
        if self._folders is None:
            from peakhold.tensorboard import RunFolders

            self._folders = RunFolders(self.log_dir, self._make_sink())
        return self._folders

    @contextlib.contextmanager
    def _writing(self) -> Iterator[RunFolders]:
        try:
            yield self._runs()
        except OSError as error:
            if not self._said:
                self._said = True
                self.run.warn(
                    f"TensorBoard could not write to {self.log_dir!r}: {error}. "
                    "Training goes on; it is tried again with what comes next.",
                    SaveWarning,
                )

    # State

    def state_dict(self) -> dict[str, Any]:
        """How many batches were counted, for loops whose optimizer does not count; plain JSON.

        A run that goes on from it takes what is written of them for written.
        """
        if self.update_freq != "epoch" and self._folders is not None:
            with self._writing() as folders:
                folders.flush()
        evaluated = -1 if self._evaluated is None else self._evaluated
        return {**self.header(), "steps": self._done, "evaluated": evaluated}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from a state; it counts for the next run."""
        checked = self.check_header(state)
        self._steps_loaded = int(checked["steps"])
        evaluated = checked.get("evaluated")  # earlier versions did not say
        self._evaluated = None if evaluated is None else int(evaluated)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_folders": None, "_in_epochs": False}


class TensorBoard(BatchHooks):
    """Write metrics, weights and the graph of a run for TensorBoard, without TensorFlow.

    Show them with `tensorboard --logdir <log_dir>`. The folder gets two runs, `train` and
    `validation`: `epoch_<metric>` and `epoch_learning_rate` by epoch (as hooks count),
    `evaluation_<metric>_vs_iterations` and `batch_<metric>` by the optimizer's count of updates.

    A fit that goes on (`initial_epoch > 0`), or follows one that was killed, takes back what lies
    beyond its beginning: TensorBoard draws one line. A fit after one that ended, from epoch 0, is
    drawn over it, as in Keras: give each run a folder of its own.

    Args:
        log_dir: The folder, a string or path. Defaults to `"logs"`.
        histogram_freq: Epochs between histograms of all weights; 0: none. Defaults to `0`.
        write_graph: Whether to write the model's graph (in Keras). Defaults to `True`.
        write_images: Whether weights are shown as images, too, with the histograms; zero is grey.
            Defaults to `False`.
        write_steps_per_second: Whether to write the speed, by epoch, and by batch where batches are
            written. Defaults to `False`.
        update_freq: `"epoch"`; `"batch"`, or a number of batches: then the metrics so far are
            written after each so many batches, too. Defaults to `"epoch"`.
        profile_batch: A batch to profile, counted from 1 in each fit, or a pair (first, last);
            0: none. In Keras only. Defaults to `0`.
        embeddings_freq: Epochs between copies of the embedding layers for the projector; 0: none.
            In Keras only. Defaults to `0`.
        embeddings_metadata: File of labels in `log_dir` for each embedding layer by name, or one
            for all. Defaults to `None`.
        write_gradients: Whether to write `epoch_gradient_norm`, the largest L2 norm of the epoch's
            batches; `epoch_nonfinite_gradients`, how many of them were NaN or infinite;
            `batch_gradient_norm` where batches are written; and, with the histograms, those of the
            last batch's gradients. In Keras the optimizer must be watched
            (`peakhold.keras.watch_gradients`). Defaults to `False`.

    Raises:
        InvalidArgumentError: If an argument is none of these.
        HostError: On train begin, if gradients are wanted and cannot be seen.
        SaveError: On train begin, if the folder cannot be made or written.

    Example:
        >>> import os, tempfile
        >>> from peakhold import CallbackList
        >>> board = TensorBoard(tempfile.mkdtemp())
        >>> callbacks = CallbackList(board, verbose=0)
        >>> callbacks.on_train_begin()
        >>> for epoch in range(3):
        ...     callbacks.on_epoch_begin(epoch)
        ...     callbacks.on_epoch_end(epoch, {"loss": 0.5, "val_loss": 0.6})
        >>> callbacks.on_train_end()
        >>> sorted(os.listdir(board.log_dir))
        ['train', 'validation']

    Source:
        `keras.callbacks.TensorBoard` of Keras 3.15; K-T1 to K-T4.
    """

    _peakhold_kind: type[Boarding] = Boarding
    """What the session asks; a framework's own class names its own."""

    log_dir = Setting[str]()
    histogram_freq = Setting[int]()
    write_graph = Setting[bool]()
    write_images = Setting[bool]()
    write_steps_per_second = Setting[bool]()
    update_freq = Setting[str | int]()
    profile_batch = Setting[tuple[int, int]]()
    embeddings_freq = Setting[int]()
    embeddings_metadata = Setting[str | Mapping[str, str] | None]()
    write_gradients = Setting[bool]()

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "logs",
        histogram_freq: int = 0,
        write_graph: bool = True,
        write_images: bool = False,
        write_steps_per_second: bool = False,
        update_freq: str | int = "epoch",
        profile_batch: int | tuple[int, int] | str = 0,
        embeddings_freq: int = 0,
        embeddings_metadata: str | Mapping[str, str] | None = None,
        *,
        write_gradients: bool = False,
    ) -> None:
        boarding = self._peakhold_kind()
        super().__init__(boarding)
        self.log_dir = local_path(
            "log_dir", log_dir, "the path of a folder", hint="pass a path such as 'logs/run-1'."
        )
        self.histogram_freq = _check_freq("histogram_freq", histogram_freq)
        self.write_graph = bool(write_graph)
        self.write_images = bool(write_images)
        self.write_steps_per_second = bool(write_steps_per_second)
        self.update_freq = _check_update_freq(update_freq)
        self.profile_batch = boarding.profilable(_check_profile_batch(profile_batch))
        self.embeddings_freq = _check_freq("embeddings_freq", embeddings_freq)
        self.embeddings_metadata = embeddings_metadata
        self.write_gradients = bool(write_gradients)


def _check_freq(name: str, value: Any) -> int:
    if isinstance(value, bool):  # `True` is every epoch, as in Keras
        return int(value)
    return check_count(name, value, hint="pass 1 for every epoch, 0 for none.")


def _points(prefix: str, logs: Mapping[str, Any], suffix: str = "") -> dict[str, float]:
    numbers = ((key, to_number(value)) for key, value in logs.items())
    return {f"{prefix}{key}{suffix}": n for key, n in numbers if n is not None}


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds else float("nan")


def _check_update_freq(update_freq: Any) -> str | int:
    if update_freq == "epoch":
        return "epoch"
    if update_freq == "batch":
        return 1
    hint = "pass 'epoch', 'batch', or 100 for every 100 batches."
    if isinstance(update_freq, (bool, str)):
        raise InvalidArgumentError.for_argument(
            "update_freq", update_freq, "'epoch', 'batch' or an int of at least 1", hint=hint
        )
    return check_count("update_freq", update_freq, at_least=1, hint=hint)


def _check_profile_batch(profile_batch: Any) -> tuple[int, int]:
    expected = (
        "profile_batch must be a non-negative integer or 2-tuple of positive integers. A pair of "
        "positive integers signifies a range of batches to profile"
    )
    given = profile_batch.split(",") if isinstance(profile_batch, str) else profile_batch
    pair = given if isinstance(given, (tuple, list)) else (given, given)
    try:
        first, last = (int(one) for one in (pair * 2 if len(pair) == 1 else pair))
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError.for_argument(
            "profile_batch", profile_batch, "a batch or a pair of batches", hint=f"{expected}."
        ) from error
    if first < 0 or last < first or (first == 0 and last != 0):
        raise InvalidArgumentError.for_argument(
            "profile_batch", profile_batch, "a batch or a pair of batches", hint=f"{expected}."
        )
    return first, last
