"""Save the model, or only its weights, to a file.

Rules of this file:

1. The policies decide when and whether, the store commits, and only a committed file has a path.
2. What is about to be written is checked: the loss (computed before the last update) and every
   float variable. Nothing that is not finite is written over anything.
3. What stood under the name before this run is given a second name first, unless this run goes on
   from it. What Peakhold did not write is never lost.
4. A save that fails is said aloud and changes nothing; training goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from peakhold._core.arguments import check_number, check_verbose
from peakhold._core.observation import is_finite
from peakhold._core.policies.save_when import (
    AtEnd,
    Every,
    SaveBestState,
    SaveSchedule,
    SaveScheduleState,
    trigger_of,
)
from peakhold.advice import Checkpoint, Facts
from peakhold.checkpoint_files import arguments
from peakhold.checkpoint_files.ranking import CheckpointRanking
from peakhold.checkpoint_files.saves import wait_for_saves_to
from peakhold.errors import (
    HostError,
    InvalidArgumentError,
    SaveWarning,
)
from peakhold.host.contract import to_number
from peakhold.runtime.callback import no_op
from peakhold.runtime.summary import Best

__all__ = ["ModelCheckpoint"]


class ModelCheckpoint(CheckpointRanking):
    """Save the model, or only its weights, at some frequency, or when it is the best so far.

    A file under its final name is whole at every moment: it is written beside it, flushed, renamed,
    and the folder flushed. A small JSON file beside it (`<name>.peakhold.json`) holds for each file
    its checksum, metrics and epoch.

    In `fit`, training waits only until the state is copied; a thread writes the file, and `fit`
    returns when all files are there. No file is left out, and each holds the epoch it names.

    A fit that begins at epoch 0 starts afresh: a file that an earlier run left under the name is
    first kept as `<name>.previous.<suffix>` (the better one, if there is one already). A fit that
    begins later (`initial_epoch > 0`) goes on from the best file that the sidecar proves.

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

    Attributes:
        best: The value to beat: that of the best file, one that is being written included, or the
            threshold; None before.
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

    ranks_epochs = True

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
    ) -> None:
        super().__init__(monitor, mode)
        self.save_best_only = bool(save_best_only)
        self.save_weights_only = bool(save_weights_only)
        self.filepath = arguments.check_filepath(
            filepath, self._file_suffixes, weights_only=self.save_weights_only
        )
        self.verbose = check_verbose(verbose)
        self.save_freq = save_freq
        self.initial_value_threshold = (
            None
            if initial_value_threshold is None
            else check_number("initial_value_threshold", initial_value_threshold, infinite=True)
        )
        self.check_finite = bool(check_finite)
        self.on_save_error = arguments.check_on_save_error(on_save_error)
        self.background = arguments.check_background(background)
        self.memory_budget = arguments.check_budget(memory_budget)
        self.keep_last = arguments.check_keep("keep_last", keep_last, self.filepath)
        self.keep_best = arguments.check_keep("keep_best", keep_best, self.filepath)
        self.sigterm_timeout = arguments.check_sigterm_timeout(sigterm_timeout)
        self._state = SaveBestState(best=self.initial_value_threshold)
        self._loaded = False
        self._forget_run()

    def _forget_run(self) -> None:
        """What belongs to one run, at its beginning."""
        self._forget_files()
        self._owed = False
        self._replayed = self._missing = None
        self._looked = time.monotonic()

    # Views

    @property
    def save_freq(self) -> Any:
        """When to save."""
        return self._save_freq

    @save_freq.setter
    def save_freq(self, value: str | int | Every | AtEnd) -> None:
        trigger = trigger_of(value)
        is_count = isinstance(trigger, Every) and not isinstance(value, (Every, str))
        self._save_freq: Any = trigger.batches if is_count else value  # type: ignore[union-attr]
        self._due, self._counted = SaveSchedule(trigger), SaveScheduleState()

    @property
    def _ranks(self) -> bool:
        return self.save_best_only or self.keep_best is not None

    # Handlers

    def _reset(self) -> None:
        self.wait()  # a fit that raised may have left some
        self._saves.give_up()
        super()._reset()
        self._forget_run()
        if not self._loaded:
            self._state = SaveBestState(best=self.initial_value_threshold)
            self._counted = SaveScheduleState()

    def _check(self) -> None:
        super()._check()
        self._check_suffix()
        self._check_placeholders(counts_batches=self._due.needs_batches)
        self._check_folder()

    def _begin(self) -> None:
        wait_for_saves_to(self.filepath)  # another callback's fit may have raised
        self._folder().sweep()
        if self.check_finite:
            self._exempt = self.host.nonfinite()
            if self._exempt:
                self._warn_once(
                    f"{self._name}: {', '.join(sorted(self._exempt)[:5])} hold NaN or infinity "
                    "before training; they are not checked.",
                    SaveWarning,
                )

    def _epoch_begin(self, epoch: int) -> None:
        self._hear()
        if self._missing is not None:
            error, self._missing = self._missing, None
            self.wait()  # whoever catches it finds the file
            raise error
        if self.session.n_epochs_done == 0:
            self._resumes = epoch > 0 or self._loaded
            self._loaded = False

    def _seconds(self) -> float:
        """Seconds of training since the last time this was asked, if seconds were asked for."""
        before, self._looked = self._looked, time.monotonic()
        trigger = self._due.trigger
        counts = isinstance(trigger, Every) and trigger.seconds is not None
        return self._looked - before if counts else 0.0  # a state holds no chance numbers

    def _batch_end(self, batch: int, logs: Any = None) -> None:
        if self.session.broken_epoch:
            return
        self._counted, due = self._due.batch_end(self._counted, batch, self._seconds())
        if due:
            self.session.pool.new_moment()
            self._save(self.session.epoch, batch, logs or {})

    @no_op
    def _no_batch_end(self, batch: int, logs: Any = None) -> None: ...

    @property
    def on_train_batch_end(self) -> Any:
        """The batch hook: a no-op in Keras's sense unless batches must be looked at (K-D1)."""
        return self._batch_end if self._due.needs_batches else self._no_batch_end

    @property
    def _batch(self) -> int | None:
        """Index of the last batch, if batches are looked at."""
        return self._counted.last_batch if self._due.needs_batches else None

    def _keep(self, epoch: int, logs: dict[str, Any]) -> None:
        self._counted, due = self._due.epoch_end(self._counted, self._seconds())
        if due or self._owed:  # owed: a save came due when its metric was not there; now it may be
            self._save(epoch, self._batch, logs)
        else:
            self._hear()
            self._try_again()

    def _keep_last(self, logs: Any) -> None:
        self._counted, due = self._due.end(self._counted)
        if due:
            self._save(self.session.epoch, self._batch, logs or {})

    def _end(self, logs: Any) -> None:
        self.wait()
        if self._missing is None:
            super()._end(logs)

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
        if self._session is None:
            raise HostError.lacks(
                f"{self._name}.save_now()",
                "a run that has begun",
                self._model,
                hint="call it while training runs, from a callback's hook.",
            )
        logs = logs or {}
        if self.save_best_only and logs.get(self.monitor) is None:
            raise InvalidArgumentError.for_argument(
                "logs",
                dict(logs),
                f"a value of {self.monitor!r}, by which save_best_only ranks",
                hint="pass the logs of your hook, or save with another ModelCheckpoint.",
            )
        self.session.pool.new_moment()
        self._save(self.session.epoch, self._batch, logs)
        self._counted = self._due.reset(self._counted)

    # A save

    def _save(self, epoch: int, batch: int | None, logs: Mapping[str, Any]) -> None:
        self._take_over()
        self._hear(looks=self.save_best_only)
        self._save_if_worth_it(epoch, batch, logs)
        self._try_again()

    def _save_if_worth_it(self, epoch: int, batch: int | None, logs: Mapping[str, Any]) -> None:
        self._owed = False
        path = self._template.fill(self._fillings(epoch, batch, logs))
        value = self._value(epoch, logs) if self._ranks else to_number(logs.get(self.monitor))
        counts, text = False, f"saving model to {path}"
        if self.save_best_only and value is None:
            self._owed = not self._due.at_every_epoch
            if not self._save_unranked(logs):
                return
        elif self.save_best_only and value is not None:
            counts = self._is_better(epoch, value)
            if not counts:
                return
            text = f"{self.monitor} improved from {self._best_text} to {value:.5f}, {text}"
        defect, plan = self._loss_defect(logs), None
        if defect is None:
            plan = self._plan()
            defect = self._defect_now() if plan is None else None
        if defect is not None:
            self._refuse(epoch, defect)
            return
        self._say(f"\nEpoch {epoch + 1}: {text}")
        self._carry_out(self._order(path, epoch, batch, logs, value, counts=counts), plan)

    # Words

    def _missing_message(self, logs: Mapping[str, Any]) -> str:
        return (
            f"Can save best model only with {self.monitor} available. "
            f"Available metrics are: {','.join(logs)}"
        )

    def _tell(self, facts: Facts) -> Facts:
        path = os.path.abspath(self.filepath)
        one_name = self._template.is_fixed_in_a_run
        overwrites = one_name and not isinstance(self.save_freq, AtEnd)
        checkpoint = Checkpoint(
            self.filepath, self.monitor, self.mode, self.save_best_only, overwrites
        )
        return replace(
            facts, checkpoints=(*facts.checkpoints, checkpoint), paths=(*facts.paths, path)
        )

    def _summary(self) -> Best | str | None:
        if self.latest_path is None and self.best_path is None:
            return f"ModelCheckpoint saved nothing to {self.filepath!r}: {self._why_not}"
        if self.best_path is None or self.best is None or self.best_epoch is None:
            return None
        return Best(self.monitor, self.best, self.best_epoch, f"saved in {self.best_path}")

    # State

    def state_dict(self) -> dict[str, Any]:
        """Counters and the value to beat, as plain JSON.

        In the next run the value counts only if the sidecar proves a file with it: what is known
        of files comes from files.
        """
        best = self.best
        return {
            **self._header(),
            "state": {"best": best if is_finite(best) else None},
            "due": asdict(self._counted),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; counts for the next run.

        Raises:
            InvalidArgumentError: If the state is of another class or another monitor.
        """
        self._check_header(state)
        self._state = SaveBestState(best=state["state"]["best"])
        self._counted, self._loaded = SaveScheduleState(**state["due"]), True
