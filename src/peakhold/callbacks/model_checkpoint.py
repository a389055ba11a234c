"""Save the model, or only its weights, to a file.

What can be set, and what it means. What happens in a run stands in `checkpoint_files/saving.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from peakhold._core.arguments import check_number, check_verbose
from peakhold._core.policies.save_when import AtEnd, Every
from peakhold.checkpoint_files import arguments
from peakhold.checkpoint_files.saving import Saving
from peakhold.errors import (
    HostError,
)
from peakhold.runtime.callback import Shown, asked
from peakhold.runtime.comparing import Comparing
from peakhold.runtime.participating import BatchHooks, Setting
from peakhold.runtime.watching import Watch

__all__ = ["ModelCheckpoint"]


class ModelCheckpoint(Comparing, BatchHooks):
    """Save the model, or only its weights, at some frequency, or when it is the best so far.

    A file under its final name is whole at every moment: it is written beside it, flushed, renamed,
    and the folder flushed. A small file of JSON lines beside it (`<name>.peakhold.json`) holds for
    each its checksum, metrics and epoch.

    In `fit`, training waits only until the state is copied; a thread writes the file, and `fit`
    returns when all files are there. No file is left out, and each holds the epoch it names.

    In a fit that begins at epoch 0 a new object starts afresh: a file that an earlier run left
    under the name is first kept as `previous/<name>` (the better one, if there is one already). A
    fit that begins later (`initial_epoch > 0`) goes on from the best file that the sidecar proves.

    An object that has begun a fit on this very model goes on in its next one (an outer loop around
    `fit(epochs=1)`): `best` stays, the files of its earlier turns are its own, which is said once.
    Another model, a copy of the object or another process: afresh.

    Args:
        filepath: The file, a string or path. May hold `{epoch}` and `{batch}` (from 1), any logged
            metric, `{run_id}`, `{timestamp}` (UTC) and `{worker}`, each with a format
            (`{epoch:02d}`). In Keras: `.keras` or `.h5` for models, `.weights.h5` for weights; in
            other loops `.safetensors`, or any suffix with `LoopHost(save=...)`.
        monitor: Name of the metric that ranks. Unused unless `save_best_only` or `keep_best`.
            Defaults to `"val_loss"`.
        verbose: 0 is silent, 1 says each save. Defaults to `0`.
        save_best_only: Whether to save only what is better than every saved file. Defaults to
            `False`.
        save_weights_only: Whether to save weights (with the optimizer's state, as Keras does)
            instead of the model. Defaults to `False`.
        mode: `"min"`, `"max"` or `"auto"`. Defaults to `"auto"`.
        save_freq: `"epoch"`; a number of batches, counted over epochs; `Every(epochs=)`,
            `Every(batches=)`, `Every(seconds=)` of training; `AtEnd()`. What the last save does not
            hold is saved at the end, too. Batches and seconds are looked at after each batch.
            Defaults to `"epoch"`.
        initial_value_threshold: Value to beat before anything is saved. Defaults to `None`.
        check_finite: Whether to refuse states with NaN or infinity. Variables that hold them from
            the start are exempt. Defaults to `True`.
        on_save_error: `"warn"`: say it and go on; `"raise"`: end training. Defaults to `"warn"`.
        background: `True`: files are written while training goes on; `False`: training waits for
            them; `None`: in the background in `fit`, unless a callback that is neither Keras's nor
            Peakhold's stands after this one and may want the file. Defaults to `None`.
        memory_budget: Bytes that copies of the state may take. Up to two are needed; with room for
            one, training waits for the save before; with less, files are written directly. `None`:
            no limit. Defaults to `None`.
        keep_last: Number of newest files to keep, of a name with placeholders. `None`: all.
        keep_best: Number of best files to keep, by `monitor`, of a name with placeholders. With
            both, a file stays that either of the two keeps. `None`: all.
        sigterm_timeout: Seconds for which SIGTERM waits for a file that is being written. Defaults
            to `20.0`.
        buffers: Of several workers whose statistics differ (batch normalization): `"rank0"`: those
            of rank 0 are saved, which is said; `"mean"`: at the end of each epoch the mean of all
            is put into the model, on all workers. Defaults to `"rank0"`.

    Attributes:
        best: With `save_best_only` the value to beat: that of the best file, one that is being
            written included, or the threshold. With `keep_best` alone the value of the best file
            that is kept. None before, and where nothing ranks.
        best_path: Path of the best committed file; None before.
        latest_path: Path of the newest committed file; None before.

    Raises:
        InvalidArgumentError: For a folder, a wrong suffix, `save_freq=0`, a malformed template, ….
        SaveError: On train begin, if the folder cannot be made or written, or is full.

    Example:
        >>> import numpy as np, tempfile
        >>> from peakhold import CallbackList, LoopHost, ModelCheckpoint
        >>> params = {"w": np.zeros(3)}
        >>> saver = ModelCheckpoint(
        ...     f"{tempfile.mkdtemp()}/best.safetensors", "loss", save_best_only=True
        ... )
        >>> callbacks = CallbackList(
        ...     saver, host=LoopHost(get_state=lambda: params, set_state=params.update), verbose=0
        ... )
        >>> callbacks.on_train_begin()
        >>> for epoch, loss in enumerate((0.5, 0.4, 0.6)):
        ...     callbacks.on_epoch_begin(epoch)
        ...     callbacks.on_epoch_end(epoch, {"loss": loss})
        >>> callbacks.on_train_end()
        >>> saver.best, saver.best_path.endswith("best.safetensors")
        (0.4, True)

    Source:
        `keras.callbacks.ModelCheckpoint` of Keras 3.15; K-M1 to K-M11.
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int | Every | AtEnd = "epoch",
        initial_value_threshold: float | None = None,
        *,
        check_finite: bool = True,
        on_save_error: str = "warn",
        background: bool | None = None,
        memory_budget: int | None = None,
        keep_last: int | None = None,
        keep_best: int | None = None,
        sigterm_timeout: float = 20.0,
        buffers: str = "rank0",
    ) -> None:
        name, accepted = type(self).__name__, self._peakhold_seam.file_suffixes
        saving = Saving(name, Watch(name, monitor, mode), accepted)
        saving.save_best_only = bool(save_best_only)
        saving.save_weights_only = bool(save_weights_only)
        saving.filepath = arguments.check_filepath(
            filepath, accepted, weights_only=saving.save_weights_only
        )
        saving.verbose = check_verbose(verbose)
        saving.save_freq = save_freq
        if initial_value_threshold is not None:
            saving.initial_value_threshold = check_number(
                "initial_value_threshold", initial_value_threshold, infinite=True
            )
        saving.check_finite = bool(check_finite)
        saving.on_save_error = arguments.check_on_save_error(on_save_error)
        saving.background = arguments.check_background(background)
        saving.memory_budget = arguments.check_budget(memory_budget)
        saving.keep_last = arguments.check_keep("keep_last", keep_last, saving.filepath)
        saving.keep_best = arguments.check_keep("keep_best", keep_best, saving.filepath)
        saving.sigterm_timeout = arguments.check_sigterm_timeout(sigterm_timeout)
        saving.buffers = arguments.check_buffers(buffers)
        super().__init__(saving)

    filepath = Setting[str]("The file, with its placeholders.")
    monitor = Setting[str]("Name of the metric that ranks.")
    mode = Setting[str]("`min`, `max` or `auto`.")
    min_delta = Setting[Any]("Smallest change that counts; 0 unless it is set.")
    _peakhold_asks = (
        "_save_model", "_get_file_path", "_should_save_model", *Comparing._peakhold_asks
    )  # fmt: skip
    verbose = Setting[int]("0 is silent, 1 says each save.")
    save_best_only = Setting[bool]("Whether only what is better than every file is saved.")
    save_weights_only = Setting[bool]("Whether weights are saved instead of the model.")
    save_freq = Setting[Any]("When to save.")
    initial_value_threshold = Setting[Any]("Value to beat before anything is saved.")
    check_finite = Setting[bool]("Whether to refuse states with NaN or infinity.")
    on_save_error = Setting[str]("`warn` or `raise`.")
    background = Setting[Any]("Whether files are written while training goes on.")
    memory_budget = Setting[Any]("Bytes that copies of the state may take.")
    keep_last = Setting[Any]("Number of newest files to keep.")
    keep_best = Setting[Any]("Number of best files to keep.")
    sigterm_timeout = Setting[float]("Seconds for which SIGTERM waits for a file.")
    buffers = Setting[str]("`rank0` or `mean`: whose statistics count, of several workers.")
    best = Setting[Any]("The value to beat: of the best file, one under way included.")
    best_path = Setting[Any]("Path of the best committed file; None before.")
    best_epoch = Setting[Any]("Its epoch, from 0, or as the loop counts.")
    latest_path = Setting[Any]("Path of the newest committed file; None before.")

    @property
    def _peakhold_saving(self) -> Saving:
        participant: Any = self._peakhold_link.participant
        return participant  # type: ignore[no-any-return]

    def save_now(self, logs: Mapping[str, Any] | None = None) -> None:
        """Save at once, under the same template, whatever `save_freq` says.

        To be called while training runs, from a callback of yours for instance. With
        `save_best_only` nothing is saved that is not better than every saved file.

        Args:
            logs: Metrics, for placeholders and the sidecar, and to rank by. Defaults to none.

        Raises:
            HostError: If no run has begun.
            InvalidArgumentError: If `save_best_only` and `logs` does not hold the metric.

        Example:
            >>> import peakhold
            >>> class SaveAtStart(peakhold.Callback):
            ...     def __init__(self, saver):
            ...         super().__init__()
            ...         self.saver = saver
            ...     def on_epoch_begin(self, epoch, logs=None):
            ...         if epoch == 0:
            ...             self.saver.save_now()
        """
        if not self._peakhold_saving.has_run:
            raise HostError.lacks(
                f"{self._peakhold_saving.name}.save_now()",
                "a run that has begun",
                self._model,
                hint="call it while training runs, from a callback's hook.",
            )
        self._peakhold_saving.save_now(logs or {})

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until every save that was asked for is on disk, or has failed and was reported.

        `fit` does it when it ends. For code that reads a file in mid-run, and after a `fit` that
        raised; on the thread that trains.

        Args:
            timeout_s: Seconds to wait at most; None waits as long as it takes.

        Returns:
            Whether nothing is under way any more.

        Raises:
            SaveError: If a save failed and `on_save_error="raise"`.
        """
        return self._peakhold_saving.wait(timeout_s)

    # Under Keras's names, for subclasses: each may be overridden, and is asked then

    @Shown
    def _current_epoch(self) -> int:
        """Index of the running epoch."""
        if not self._peakhold_saving.has_run:
            raise AttributeError("'_current_epoch' is not there before the first epoch")
        return self._peakhold_saving.run.epoch

    @asked
    def _save_model(self, epoch: int, batch: int | None, logs: Mapping[str, Any] | None) -> None:
        """Save now, if the state is worth a file; the file is there when this returns.

        Args:
            epoch: Index of the epoch, from 0.
            batch: Index of the batch, from 0; None at the end of an epoch.
            logs: Metrics, to rank by, for placeholders and the sidecar.
        """
        self._peakhold_saving.save_for(epoch, batch, logs)

    @asked
    def _should_save_model(
        self, epoch: int, batch: int | None, logs: Mapping[str, Any] | None, filepath: str
    ) -> bool:
        """Whether the state would be saved now, by the rules; nothing is changed or said."""
        return self._peakhold_saving.is_worth_it(epoch, batch, logs)

    @asked
    def _get_file_path(self, epoch: int, batch: int | None, logs: Mapping[str, Any] | None) -> str:
        """The path of a save, by `filepath`."""
        return self._peakhold_saving.file_path(epoch, batch, logs)
