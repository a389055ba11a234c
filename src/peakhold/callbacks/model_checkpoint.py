"""Save the model, or only its weights, to a file.

Rules of this file:

1. The policies decide when and whether, the folder commits, and only a committed file has a path.
2. What is about to be written is checked: the loss (computed before the last update) and every
   float variable. Nothing that is not finite is written over anything.
3. What stood under the name before this run is given a second name first, unless this run goes on
   from it. What Peakhold did not write is never lost.
4. A save that fails is said aloud and changes nothing; training goes on.
5. The value to beat includes what is under way; paths, messages and the sidecar speak of committed
   files. What has become of a save is heard at the next event, on the thread that trains.
6. A best state that the disk refused is tried once more, at the next save or at the end, unless a
   better one has come. The next save does not wait for that: it is judged by what is committed.

What it is made of stands in `checkpoint_files/`; here is what is particular to a run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from peakhold._core.arguments import check_number, check_verbose
from peakhold._core.decisions import Skip
from peakhold._core.observation import Observation, is_finite
from peakhold._core.policies.keep_files import keep_files
from peakhold._core.policies.save_when import (
    AtEnd,
    Every,
    SaveBest,
    SaveBestState,
    SaveSchedule,
    SaveScheduleState,
    trigger_of,
)
from peakhold.advice import Checkpoint, Facts
from peakhold.checkpoint_files import arguments
from peakhold.checkpoint_files.folder import CheckpointFolder
from peakhold.checkpoint_files.placement import Placement
from peakhold.checkpoint_files.queue import wait_for_saves_to
from peakhold.checkpoint_files.requests import (
    SaveBegun,
    SaveOutcome,
    SaveRequest,
    about_to_be_saved,
)
from peakhold.checkpoint_files.retention import Retention
from peakhold.checkpoint_files.template import CheckpointTemplate, static_folder
from peakhold.checkpoint_files.writer import CheckpointWriter
from peakhold.errors import (
    HostError,
    InvalidArgumentError,
    MonitorNotFoundError,
    MonitorWarning,
    SaveError,
    SaveWarning,
)
from peakhold.host.contract import PlannedFile, to_number
from peakhold.runtime.callback import no_op
from peakhold.runtime.monitored import Monitored
from peakhold.runtime.summary import Best

__all__ = ["ModelCheckpoint"]


class ModelCheckpoint(Monitored):
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
        self._writer = CheckpointWriter()
        self._state = SaveBestState(best=self.initial_value_threshold)
        self._loaded = False
        self._forget_run()

    def _forget_run(self) -> None:
        """What belongs to one run, at its beginning."""
        self.best_path: str | None = None
        self.latest_path: str | None = None
        self.best_epoch: int | None = None
        self._files: CheckpointFolder | None = None
        self._writer.placement = Placement()
        self._exempt: frozenset[str] = frozenset()
        self._goes_on = self._took_over = self._owed = False
        self._replayed: int | None = None  # the epoch of the best file, if an earlier run wrote it
        self._missing: MonitorNotFoundError | None = None  # raised when the next epoch begins
        self._why_not = "no epoch ended"
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
        self._schedule, self._counted = SaveSchedule(trigger), SaveScheduleState()

    @property
    def best(self) -> float | None:
        """The value to beat: of the best file, one that is being written included."""
        return self._state.to_beat

    @best.setter
    def best(self, value: float | None) -> None:
        self._state = SaveBestState(best=value)

    @property
    def _best_text(self) -> str:
        return "None" if self.best is None else f"{self.best:.5f}"

    @property
    def _policy(self) -> SaveBest:
        return SaveBest(self._criterion, self.initial_value_threshold)

    @property
    def _ranks(self) -> bool:
        return self.save_best_only or self.keep_best is not None

    @property
    def _template(self) -> CheckpointTemplate:
        return CheckpointTemplate(self.filepath)

    def _folder(self) -> CheckpointFolder:
        if self._files is None:  # hooks called by hand, without train begin
            filepath = os.path.abspath(self.filepath)
            self._files = CheckpointFolder(filepath, self._template.suffix, self.session.run_id)
        return self._files

    # Handlers

    def _reset(self) -> None:
        self.wait()  # a fit that raised may have left some
        self._writer.queue.give_up()
        super()._reset()
        self._forget_run()
        if not self._loaded:
            self._state = SaveBestState(best=self.initial_value_threshold)
            self._counted = SaveScheduleState()

    def _check(self) -> None:
        super()._check()
        self._template.check_suffix(self.host, self._name, self._file_suffixes)
        if not self.session.has_strangers:  # a user's callback may log what fills a place
            counts_batches = self._schedule.needs_batches
            self._template.check_placeholders(self.host, counts_batches=counts_batches)
        self._folder().check(self.host.state_bytes())

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

    def _holds(self) -> Mapping[str, int]:
        later = self.background
        if later is None:
            fit_alone = self.session.driven and self.host.runs_fit()
            later = fit_alone and not self.session.strangers_follow(self)
        self._writer.placement = Placement(in_background=later)
        return self._writer.placement.buffers_needed(
            self.host, self.session.pool, self._template.suffix, self._tell_why_here
        )

    def _epoch_begin(self, epoch: int) -> None:
        self._hear()
        if self._missing is not None:
            error, self._missing = self._missing, None
            self.wait()  # whoever catches it finds the file
            raise error
        if self.session.n_epochs_done == 0:
            self._goes_on = epoch > 0 or self._loaded
            self._loaded = False

    def _seconds(self) -> float:
        """Seconds of training since the last time this was asked, if seconds were asked for."""
        before, self._looked = self._looked, time.monotonic()
        trigger = self._schedule.trigger
        counts = isinstance(trigger, Every) and trigger.seconds is not None
        return self._looked - before if counts else 0.0  # a state holds no chance numbers

    def _batch_end(self, batch: int, logs: Any = None) -> None:
        if self.session.broken_epoch:
            return
        self._counted, due = self._schedule.batch_end(self._counted, batch, self._seconds())
        if due:
            self.session.pool.new_moment()
            self._save(self.session.epoch, batch, logs or {})

    @no_op
    def _no_batch_end(self, batch: int, logs: Any = None) -> None: ...

    @property
    def on_train_batch_end(self) -> Any:
        """The batch hook: a no-op in Keras's sense unless batches must be looked at (K-D1)."""
        return self._batch_end if self._schedule.needs_batches else self._no_batch_end

    @property
    def _batch(self) -> int | None:
        """Index of the last batch, if batches are looked at."""
        return self._counted.last_batch if self._schedule.needs_batches else None

    def _keep(self, epoch: int, logs: dict[str, Any]) -> None:
        self._counted, due = self._schedule.epoch_end(self._counted, self._seconds())
        if due or self._owed:  # owed: a save came due when its metric was not there; now it may be
            self._save(epoch, self._batch, logs)
        else:
            self._hear()
            self._try_again()

    def _keep_last(self, logs: Any) -> None:
        self._counted, due = self._schedule.end(self._counted)
        if due:
            self._save(self.session.epoch, self._batch, logs or {})

    def _end(self, logs: Any) -> None:
        self.wait()
        if self._missing is None:
            super()._end(logs)

    def _settle(self) -> None:
        self.wait()
        if self._try_again():
            self.wait()

    def _terminate(self, deadline: float) -> None:
        # Training goes on meanwhile: only what is under way now is waited for.
        self._writer.queue.wait(max(deadline - time.monotonic(), 0.0))

    # For those who call

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
        self._counted = self._schedule.reset(self._counted)

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
        ended = self._writer.queue.wait(timeout_s)
        self._hear()
        return ended

    # Whether an epoch is worth a file

    def _save(self, epoch: int, batch: int | None, logs: Mapping[str, Any]) -> None:
        self._take_over()
        self._hear(looks=self.save_best_only)
        self._save_if_worth_it(epoch, batch, logs)
        self._try_again()

    def _save_if_worth_it(self, epoch: int, batch: int | None, logs: Mapping[str, Any]) -> None:
        self._owed = False
        path = self._path(epoch, batch, logs)
        value = self._value(epoch, logs) if self._ranks else to_number(logs.get(self.monitor))
        counts, text = False, f"saving model to {path}"
        if self.save_best_only and value is None:
            self._owed = not self._schedule.at_every_epoch
            error = self._missed(logs)
            if error is None:
                return
            known = self._missing is not None or self.latest_path is not None
            self._tell_missing(error)
            if known or self.best is not None:
                return  # else it is saved once: better a file that nobody ranked than none
        elif self.save_best_only and value is not None:
            reason = self._why_no_better(epoch, value)
            if reason is not None:
                self._pass_over(epoch, reason)
                return
            counts = True
            text = f"{self.monitor} improved from {self._best_text} to {value:.5f}, {text}"
        request = self._request(path, epoch, batch, logs, value, counts=counts)
        defect, plan = self._loss_defect(logs), None
        if defect is None:
            plan = self._plan()
            if plan is None and (bad := request.bad_among(self.host.nonfinite)):
                defect = _words_of(bad)
        if defect is not None:
            self._refuse(epoch, defect)
            return
        self._say(f"\nEpoch {epoch + 1}: {text}")
        self._carry_out(request, plan)

    def _why_no_better(self, epoch: int, value: float) -> str | None:
        """Why this epoch does not beat every file, those under way included; None if it does."""
        _, decision = self._policy.step(self._state, Observation(epoch, value))
        if not isinstance(decision, Skip) or self._replays(epoch, value):
            return None
        return decision.reason

    def _replays(self, epoch: int, value: float) -> bool:
        """Whether the best file is of this very epoch, from before the interruption, and no better.

        Then the epoch is trained again, and what comes of it replaces the file.
        """
        best = self._state.best
        return (
            self._replayed == epoch
            and self._state.pending is None
            and is_finite(value)
            and not self._criterion.better(best, value)
        )

    def _take_over(self) -> None:
        """In a run that goes on: take the best from the files that are there, once."""
        if not self._goes_on or self._took_over or self._files is None:
            return
        self._took_over = True
        if not self.save_best_only or self._direction is None:
            return
        found = self._files.best(self.monitor, self._direction)
        if found is None:
            self._state = SaveBestState(best=self.initial_value_threshold)
            return
        path, saved = found
        folder, name = static_folder(self.filepath), os.path.basename(path)
        self.best_path = name if folder == "." else os.path.join(folder, name)
        self.best_epoch = saved.epoch
        if not self._criterion.better(self.initial_value_threshold, saved.value):
            self._state, self._replayed = SaveBestState(best=saved.value), saved.epoch

    def _loss_defect(self, logs: Mapping[str, Any]) -> str | None:
        """What the loss tells against a save, or None."""
        loss = to_number(logs.get("loss")) if self.check_finite else None
        return None if loss is None or is_finite(loss) else f"the loss is {loss}"

    # A save

    def _path(self, epoch: int, batch: int | None, logs: Mapping[str, Any]) -> str:
        template, session = self._template, self.session
        values = template.values(
            epoch,
            batch,
            logs,
            run_id=session.run_id,
            timestamp=session.timestamp,
            worker=session.worker,
        )
        missing = template.missing(values)
        if missing:
            self._tell_once(
                f"{self._name}: nothing fills {{{missing[0]}}} in {self.filepath!r} here; "
                "the name reads NA there."
            )
        return template.fill(values)

    def _request(
        self,
        path: str,
        epoch: int,
        batch: int | None,
        logs: Mapping[str, Any],
        value: float | None,
        *,
        counts: bool,
    ) -> SaveRequest:
        """What is to be written; `counts`: whether it becomes the best."""
        direction = self._direction if self._ranks else None
        retention = None
        if self.keep_last is not None or self.keep_best is not None:
            policy = keep_files(self.keep_last, self.keep_best, self.monitor, direction)
            retention = Retention(policy, self._goes_on)
        return SaveRequest(
            path,
            os.path.abspath(path),
            about_to_be_saved(
                epoch,
                batch,
                {key: to_number(one) for key, one in logs.items()},
                monitor=self.monitor,
                mode=None if direction is None else direction.value,
                value=value,
                run_id=self.session.run_id,
                versions=self.host.versions(),
            ),
            goes_on=self._goes_on or self.initial_value_threshold is not None,
            value=value if counts else None,
            retention=retention,
            replaces=self._template.is_fixed,
            exempt=self._exempt if self.check_finite else None,
        )

    def _plan(self) -> PlannedFile | None:
        return self._writer.placement.plan(
            self.host, self.session.pool, self._template.suffix, self._tell_why_here
        )

    def _carry_out(self, request: SaveRequest, plan: PlannedFile | None) -> None:
        try:
            for fact in self._writer.carry_out(
                request,
                plan,
                host=self.host,
                pool=self.session.pool,
                folder=self._folder(),
                tell=self._tell_why_here,
            ):
                self._learn(fact)
        except BaseException:  # what came to nothing is not the value to beat
            self._state = replace(self._state, pending=self._writer.queue.value)
            raise

    def _try_again(self) -> bool:
        """Try once more to save the best state that the disk refused; False if there is none."""
        request = self._writer.queue.refused
        if request is None:
            return False
        if not self._criterion.better(request.value, self._state.to_beat):
            self._writer.queue.give_up()
            return False
        self._say(f"\nEpoch {request.saved.epoch + 1}: saving model to {request.path}, once more")
        self._learn(SaveBegun(request))
        self._writer.queue.try_again()
        return True

    # What became of it

    def _hear(self, *, looks: bool = False) -> None:
        """Take in what has become of saves; with `looks`, whether their states are finite, too."""
        for outcome in self._writer.queue.news(looks=looks):
            self._learn(outcome)

    def _learn(self, fact: SaveBegun | SaveOutcome) -> None:
        request, state = fact.request, self._state
        if request.value is not None:
            state = replace(state, pending=request.value)
        if isinstance(fact, SaveBegun):
            self._state = state
            return
        if request.value is not None:
            ended = self._policy.committed if fact.committed else self._policy.failed
            self._state = replace(ended(state), pending=self._writer.queue.value)
            if fact.committed:
                self.best_path, self.best_epoch = request.path, request.saved.epoch
        if fact.bad:
            self._refuse(request.saved.epoch, _words_of(fact.bad))
        elif fact.error is not None:
            self._failed(request, fact.error)
        else:
            self.latest_path = request.path
            self._tell_committed(fact)

    def _failed(self, request: SaveRequest, error: BaseException) -> None:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        self._why_not = reason
        if self.on_save_error == "raise":
            self._writer.queue.give_up()
            raise SaveError.for_path(
                request.path, reason, expected="a file that can be written"
            ) from error
        is_kept = self._writer.queue.refused is request
        again = " A copy of its state is kept, to try once more." if is_kept else ""
        self.session.warn(
            f"{self._name} could not save epoch {request.saved.epoch + 1} to {request.path!r}: "
            f"{reason}. What was saved before is as it was; training goes on.{again}",
            SaveWarning,
        )
        if not isinstance(error, (OSError, MemoryError)):
            # The next one is written by the framework's own functions.
            self._writer.placement.in_background = False

    # Words

    def _say(self, message: str) -> None:
        if self.verbose:
            self.host.say(message)

    def _tell_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self.host.say(message)

    def _tell_why_here(self, reason: str) -> None:
        if not self.session.quiet:
            self._tell_once(f"{self._name} writes {self.filepath} while training waits: {reason}.")

    def _tell_missing(self, error: MonitorNotFoundError) -> None:
        self._missing, self._why_not = error, f"{self.monitor!r} was not logged"
        self._warn_once(
            f"Can save best model only with {self.monitor} available. {error}", MonitorWarning
        )

    def _missing_message(self, logs: Mapping[str, Any]) -> str:
        return (
            f"Can save best model only with {self.monitor} available. "
            f"Available metrics are: {','.join(logs)}"
        )

    def _pass_over(self, epoch: int, reason: str) -> None:
        self._why_not = f"{self.monitor} {reason}"
        self._say(f"\nEpoch {epoch + 1}: {self.monitor} did not improve from {self._best_text}")

    def _refuse(self, epoch: int, defect: str) -> None:
        self._why_not = defect
        kept = f" {self.latest_path!r} stays as it is." if self.latest_path else ""
        self._warn_once(
            f"{self._name} does not save epoch {epoch + 1}: {defect}.{kept} "
            "Pass check_finite=False to save such states.",
            SaveWarning,
        )

    def _tell_committed(self, outcome: SaveOutcome) -> None:
        path = outcome.request.path
        if outcome.aside is not None:
            self._tell_once(f"{path} was there before this run; it is kept as {outcome.aside}.")
        if outcome.again and not self._template.is_fixed_in_a_run:
            self.host.say(
                f"{path} is the name of an earlier save of this run, too, and was replaced; put "
                "{epoch} or {batch} into the name to keep both."
            )
        if outcome.trouble is not None:
            self._warn_once(
                f"{self._name} could not delete older files: {outcome.trouble}. {path!r} is safe.",
                SaveWarning,
            )
        self._say(f"\nEpoch {outcome.request.saved.epoch + 1}: finished saving model to {path}")

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


def _words_of(bad: frozenset[str]) -> str:
    first, *others = sorted(bad)
    more = f" and {len(others)} more" if others else ""
    return f"{first}{more} holds NaN or infinity"
