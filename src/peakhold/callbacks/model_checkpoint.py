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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, final

from peakhold._core.arguments import check_number, check_verbose
from peakhold._core.decisions import Decision, Missing, Save, Skip
from peakhold._core.facts import Committed, Fact, Failed, Found, NotFinite
from peakhold._core.moments import Moment, Position
from peakhold._core.observation import Event
from peakhold._core.policies.checkpoint import CheckpointPolicy, CheckpointState
from peakhold._core.policies.keep_files import keep_files
from peakhold._core.policies.save_when import AtEnd, Every, SaveSchedule, trigger_of
from peakhold._core.watched import Watched
from peakhold.advice import Checkpoint, RunSettings
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
from peakhold.runtime.participant import Needs, Start
from peakhold.runtime.participating import BatchHooks, Setting
from peakhold.runtime.run_view import RunView
from peakhold.runtime.summary import Best
from peakhold.runtime.watching import Watch, Watching

__all__ = ["ModelCheckpoint"]


class ModelCheckpoint(BatchHooks):
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
        name, accepted = type(self).__name__, self._peakhold_seam.file_suffixes
        saving = _Saving(name, Watch(name, monitor, mode), accepted)
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
        super().__init__(saving)

    filepath = Setting[str]("The file, with its placeholders.")
    monitor = Setting[str]("Name of the metric that ranks.")
    mode = Setting[str]("`min`, `max` or `auto`.")
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
    best = Setting[Any]("The value to beat: of the best file, one under way included.")
    best_path = Setting[Any]("Path of the best committed file; None before.")
    best_epoch = Setting[Any]("Index of its epoch, from 0.")
    latest_path = Setting[Any]("Path of the newest committed file; None before.")

    @property
    def monitor_op(self) -> Any:
        """The comparison in use (Keras's own function object in `fit`), None before it is known."""
        direction = self._peakhold_saving.watches[0].direction
        return None if direction is None else self._peakhold_seam.comparison(direction)

    @property
    def _peakhold_saving(self) -> _Saving:
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


@final
class _Saving(Watching[CheckpointState]):
    """Asks the policy, and has written what it decides.

    Args:
        name: The class of its callback, for messages.
        watch: The metric that ranks.
        accepted: Suffixes that the callback's class takes for any model; None: it takes all.
    """

    ranks_epochs = True
    filepath = ""
    verbose = 0
    save_best_only = save_weights_only = False
    initial_value_threshold: float | None = None
    check_finite = True
    on_save_error = "warn"
    background: bool | None = None
    memory_budget: int | None = None
    keep_last: int | None = None
    keep_best: int | None = None

    def __init__(self, name: str, watch: Watch, accepted: tuple[str, ...] | None) -> None:
        self._accepted = accepted
        self._writer = CheckpointWriter()
        self._save_freq: Any = "epoch"
        self._schedule = SaveSchedule(trigger_of("epoch"))
        self._forget_run()
        super().__init__(name, [watch])

    def _forget_run(self) -> None:
        """What belongs to one run, at its beginning."""
        self.best_path: str | None = None
        self.latest_path: str | None = None
        self.best_epoch: int | None = None
        self._files: CheckpointFolder | None = None
        self._writer.placement = Placement()
        self._exempt: frozenset[str] = frozenset()
        self._goes_on = self._took_over = False
        self._missing: MonitorNotFoundError | None = None  # raised when the next epoch begins
        self._why_not = "no epoch ended"
        self._beaten: float | None = None
        self._outcomes: dict[int, SaveOutcome] = {}
        self._passed: int | None = None

    # The configuration

    @property
    def save_freq(self) -> Any:
        """When to save."""
        return self._save_freq

    @save_freq.setter
    def save_freq(self, value: str | int | Every | AtEnd) -> None:
        trigger = trigger_of(value)
        is_count = isinstance(trigger, Every) and not isinstance(value, (Every, str))
        self._save_freq = trigger.batches if is_count else value  # type: ignore[union-attr]
        self._schedule = SaveSchedule(trigger)
        self.set_state(replace(self.state, due=self._schedule.init()))

    @property
    def ranks(self) -> bool:
        """Whether files are ranked at all."""
        return self.save_best_only or self.keep_best is not None

    @property
    def policy(self) -> CheckpointPolicy:
        """With the settings as they are now."""
        watch = self.watches[0]
        return CheckpointPolicy(
            self._schedule,
            Watched(watch.monitor, watch.criterion) if self.ranks else None,
            best_only=self.save_best_only,
            threshold=self.initial_value_threshold,
            check_finite=self.check_finite,
        )

    @property
    def best(self) -> float | None:
        """The value to beat: of the best file, one that is being written included."""
        return self.policy.to_beat(self.state)

    @best.setter
    def best(self, value: float | None) -> None:
        self.set_state(replace(self.state, best=value, pending=(), replayed=None))

    @property
    def _template(self) -> CheckpointTemplate:
        return CheckpointTemplate(self.filepath)

    def _folder(self) -> CheckpointFolder:
        if self._files is None:
            filepath = os.path.abspath(self.filepath)
            self._files = CheckpointFolder(filepath, self._template.suffix, self.run.id)
        return self._files

    # Before training

    def needs(self, run: RunView) -> Needs:
        """Begin anew; what is wrong with the name or the folder is said now."""
        self.wait()  # a fit that raised may have left some
        self._writer.queue.give_up()
        super().needs(run)
        self._forget_run()
        self._template.check_suffix(run.host, self.name, self._accepted)
        if not run.has_user_callbacks:  # a user's callback may log what fills a place
            counts_batches = self._schedule.needs_batches
            self._template.check_placeholders(run.host, counts_batches=counts_batches)
        self._folder().check(run.host.state_bytes())
        wait_for_saves_to(self.filepath)  # another callback's fit may have raised
        self._folder().sweep()
        if self.check_finite:
            self._exempt = run.host.nonfinite()
            if self._exempt:
                self.warn_once(
                    f"{self.name}: {', '.join(sorted(self._exempt)[:5])} hold NaN or infinity "
                    "before training; they are not checked.",
                    SaveWarning,
                )
        return Needs(memory_budget=self.memory_budget)

    def buffers_needed(self, run: RunView) -> Mapping[str, int]:
        """As many copies of what a file holds as are written and taken at a time."""
        later = self.background
        if later is None:
            fit_alone = run.driven and run.trained.runs_fit()
            later = fit_alone and not run.user_callbacks_follow()
        self._writer.placement = Placement(in_background=later)
        return self._writer.placement.buffers_needed(
            run.host, run.pool, self._template.suffix, self._tell_why_here
        )

    def advise(self, settings: RunSettings) -> RunSettings:
        """Its path, and what it saves."""
        path, watch = os.path.abspath(self.filepath), self.watches[0]
        one_name = self._template.is_fixed_in_a_run
        overwrites = one_name and not isinstance(self.save_freq, AtEnd)
        checkpoint = Checkpoint(
            self.filepath, watch.monitor, watch.mode, self.save_best_only, overwrites
        )
        return replace(
            settings,
            checkpoints=(*settings.checkpoints, checkpoint),
            paths=(*settings.paths, path),
        )

    def begin(self, run: RunView, start: Start) -> None:
        """Whether files of an earlier run are gone on from."""
        super().begin(run, start)
        self._goes_on = start.goes_on
        if self._files is None or self._files.run_id != run.id:  # a backup has named the run anew
            self._files = None

    def listens(self, event: Event) -> bool:
        """Whether batches must be looked at."""
        return event is Event.TRAIN_BATCH_END and self._schedule.needs_batches

    def passes(self, event: Event, batch: int, logs: dict[str, Any]) -> bool:
        """A batch at which nothing is due is no moment; it is counted with the next that is."""
        mark, trigger = self.state.mark, self._schedule.trigger
        counts = mark is not None and isinstance(trigger, Every) and trigger.seconds is not None
        seconds = self.run.spent_seconds() - mark if counts and mark is not None else 0.0
        if self._schedule.is_due_at(self.state.due, batch, seconds):
            return False
        self._passed = batch
        return True

    def _count_passed(self, moment: Moment) -> None:
        """The last batch that was passed over counts before what comes after its epoch."""
        batch, self._passed = self._passed, None
        if batch is not None and moment.event is not Event.TRAIN_BATCH_END:
            at = Position(moment.at.epoch, batch, moment.at.step)
            self.step(Moment(Event.TRAIN_BATCH_END, at, spent=moment.spent))

    # What became of saves

    def news(self, moment: Moment) -> Iterable[Fact]:
        """What has become of saves; before one is ranked, whether their states are finite, too."""
        looks = self.save_best_only and (
            moment.event in {Event.EPOCH_END, Event.TRAIN_END} or self._is_due(moment)
        )
        for outcome in self._writer.queue.news(looks=looks):
            yield self._fact(outcome)

    def _is_due(self, moment: Moment) -> bool:
        """Whether a batch is the last before a save; asked while something is under way."""
        if moment.event is not Event.TRAIN_BATCH_END or self._writer.queue.is_empty:
            return False
        return bool(self.policy.step(self.state, moment)[1])

    def _fact(self, outcome: SaveOutcome) -> Fact:
        ticket = outcome.request.ticket
        self._outcomes[ticket] = outcome
        if outcome.bad:
            return NotFinite(ticket, _words_of(outcome.bad))
        if outcome.error is not None:
            kept = self._writer.queue.refused is outcome.request
            return Failed(ticket, _reason_of(outcome.error), may_retry=kept)
        return Committed(ticket)

    def learn(self, fact: Fact) -> None:
        """Tell the policy, and then people.

        Raises:
            SaveError: If a save failed and that was to end training.
        """
        super().learn(fact)
        outcome = self._outcomes.pop(fact.ticket, None)
        if outcome is None:
            return
        request = outcome.request
        if outcome.committed and request.value is not None:
            self.best_path, self.best_epoch = request.path, request.saved.epoch
        if outcome.bad:
            self._refuse(request.saved.epoch, _words_of(outcome.bad))
        elif outcome.error is not None:
            self._failed(request, outcome.error)
        else:
            self.latest_path = request.path
            self._tell_committed(outcome)

    def _hear(self) -> None:
        for outcome in self._writer.queue.news():
            self.learn(self._fact(outcome))

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until every save is on disk, or has failed and was reported."""
        ended = self._writer.queue.wait(timeout_s)
        self._hear()
        return ended

    def _failed(self, request: SaveRequest, error: BaseException) -> None:
        self._why_not = _reason_of(error)
        if self.on_save_error == "raise":
            self._writer.queue.give_up()
            raise SaveError.for_path(
                request.path, self._why_not, expected="a file that can be written"
            ) from error
        is_kept = self._writer.queue.refused is request
        again = " A copy of its state is kept, to try once more." if is_kept else ""
        self.run.warn(
            f"{self.name} could not save epoch {request.saved.epoch + 1} to {request.path!r}: "
            f"{self._why_not}. What was saved before is as it was; training goes on.{again}",
            SaveWarning,
        )
        if not isinstance(error, (OSError, MemoryError)):
            # The next one is written by the framework's own functions.
            self._writer.placement.in_background = False

    # Deciding

    def decide(self, moment: Moment) -> Sequence[Decision]:
        """What the policy decides; in a run that goes on, it knows the files that are there."""
        if moment.event in {Event.TRAIN_BATCH_END, Event.EPOCH_END, Event.TRAIN_END}:
            self._take_over()
        self._count_passed(moment)
        self._beaten = self.best
        decisions = super().decide(moment)
        self._let_go(decisions)
        return decisions

    def _let_go(self, decisions: Sequence[Decision]) -> None:
        """Where the policy wants what was refused no more, its copy may go."""
        asked = any(isinstance(one, Save) and one.retry is not None for one in decisions)
        if self.state.refused is None and not asked:
            self._writer.queue.give_up()

    def _take_over(self) -> None:
        """In a run that goes on: take the best from the files that are there, once."""
        watch = self.watches[0]
        if not self._goes_on or self._took_over:
            return
        if self.save_best_only and watch.direction is None:
            return
        self._took_over = True
        if not self.save_best_only or watch.direction is None:
            return
        found = self._folder().best(watch.monitor, watch.direction)
        if found is None:
            self.learn(Found(None))
            return
        path, saved = found
        folder, name = static_folder(self.filepath), os.path.basename(path)
        self.best_path = name if folder == "." else os.path.join(folder, name)
        self.best_epoch = saved.epoch
        self.learn(Found(saved.value, saved.epoch))

    # Acting

    def apply(self, decision: Decision, moment: Moment, logs: dict[str, Any]) -> None:
        """Write, or say why not."""
        if isinstance(decision, Save):
            if decision.retry is not None:
                self._write_once_more(decision)
            else:
                self._write(decision, moment, logs)
        elif isinstance(decision, Skip) and decision.bad:
            self._refuse(moment.at.epoch, decision.reason)
        elif isinstance(decision, Skip):
            self._pass_over(moment.at.epoch, decision.reason)
        elif isinstance(decision, Missing):
            self._miss(decision, moment, logs)

    def _miss(self, decision: Missing, moment: Moment, logs: Mapping[str, Any]) -> None:
        if decision.fatal:
            error, self._missing = self._missing, None
            self.wait()  # whoever catches it finds the file
            raise error or self.not_found(decision.monitor, logs)
        if moment.event is Event.TRAIN_END:
            self.forget_said()
        elif self.state.missing:
            self._missing = self.not_found(decision.monitor, logs)
            self._why_not = f"{decision.monitor!r} was not logged"
            self.warn_once(
                f"Can save best model only with {decision.monitor} available. {self._missing}",
                MonitorWarning,
            )
            return
        self.miss(decision, logs)

    def _batch(self) -> int | None:
        """Index of the last batch, if batches are looked at."""
        return self.state.due.last_batch if self._schedule.needs_batches else None

    def _write(self, decision: Save, moment: Moment, logs: Mapping[str, Any]) -> None:
        epoch, path = moment.at.epoch, self._path(moment.at.epoch, logs)
        plan, request = self._plan(), self._request(path, epoch, logs, decision)
        bad = request.bad_among(self.run.host.nonfinite) if plan is None else frozenset()
        if bad:
            self._refuse(epoch, _words_of(bad))
            super().learn(NotFinite(decision.ticket, _words_of(bad)))
            return
        text = f"saving model to {path}"
        if decision.value is not None:
            before = "None" if self._beaten is None else f"{self._beaten:.5f}"
            text = f"{self.monitor} improved from {before} to {decision.value:.5f}, {text}"
        self._say(f"\nEpoch {epoch + 1}: {text}")
        self._carry_out(request, plan)

    def _write_once_more(self, decision: Save) -> None:
        request = self._writer.queue.refused
        if request is None:  # its copy was let go meanwhile
            super().learn(Failed(decision.ticket, "its copy was let go"))
            return
        self._say(f"\nEpoch {request.saved.epoch + 1}: saving model to {request.path}, once more")
        self._writer.queue.try_again(decision.ticket)

    def _path(self, epoch: int, logs: Mapping[str, Any]) -> str:
        template, run = self._template, self.run
        values = template.values(
            epoch, self._batch(), logs, run_id=run.id, timestamp=run.timestamp, worker=run.rank
        )
        missing = template.missing(values)
        if missing:
            self._tell_once(
                f"{self.name}: nothing fills {{{missing[0]}}} in {self.filepath!r} here; "
                "the name reads NA there."
            )
        return template.fill(values)

    def _request(
        self, path: str, epoch: int, logs: Mapping[str, Any], decision: Save
    ) -> SaveRequest:
        """What is to be written."""
        watch = self.watches[0]
        direction = watch.direction if self.ranks else None
        retention = None
        if self.keep_last is not None or self.keep_best is not None:
            policy = keep_files(self.keep_last, self.keep_best, watch.monitor, direction)
            retention = Retention(policy, self._goes_on)
        return SaveRequest(
            path,
            os.path.abspath(path),
            about_to_be_saved(
                epoch,
                self._batch(),
                {key: to_number(one) for key, one in logs.items()},
                monitor=watch.monitor,
                mode=None if direction is None else direction.value,
                value=to_number(logs.get(watch.monitor)),
                run_id=self.run.id,
                versions=self.run.host.versions(),
            ),
            goes_on=self._goes_on or self.initial_value_threshold is not None,
            value=decision.value,
            retention=retention,
            replaces=self._template.is_fixed,
            exempt=self._exempt if self.check_finite else None,
            ticket=decision.ticket,
        )

    def _plan(self) -> PlannedFile | None:
        return self._writer.placement.plan(
            self.run.host, self.run.pool, self._template.suffix, self._tell_why_here
        )

    def _carry_out(self, request: SaveRequest, plan: PlannedFile | None) -> None:
        try:
            for event in self._writer.carry_out(
                request,
                plan,
                host=self.run.host,
                pool=self.run.pool,
                folder=self._folder(),
                tell=self._tell_why_here,
            ):
                if not isinstance(event, SaveBegun):
                    self.learn(self._fact(event))
        except BaseException as error:  # what came to nothing is not the value to beat
            super().learn(Failed(request.ticket, _reason_of(error)))
            raise
        refused = self.state.refused
        if refused is not None and self._writer.queue.refused is None:
            super().learn(Failed(refused.ticket, "its copy was let go"))

    def save_now(self, logs: Mapping[str, Any]) -> None:
        """Save at once, whatever the schedule says.

        Raises:
            InvalidArgumentError: If files are ranked and `logs` does not hold the metric.
        """
        monitor = self.watches[0].monitor
        if self.save_best_only and logs.get(monitor) is None:
            raise InvalidArgumentError.for_argument(
                "logs",
                dict(logs),
                f"a value of {monitor!r}, by which save_best_only ranks",
                hint="pass the logs of your hook, or save with another ModelCheckpoint.",
            )
        self.run.new_moment()
        moment = self.run.moment(logs)
        if self.ranks:
            self.look(self.watches[0], moment, logs)
        self._take_over()
        self._count_passed(moment)
        for fact in self.news(moment):
            self.learn(fact)
        self._beaten = self.best
        state, decisions = self.policy.ask(self.state, moment)
        self.set_state(state)
        self._let_go(decisions)
        for decision in decisions:
            self.apply(decision, moment, dict(logs))

    # The end

    def record(self, moment: Moment, logs: dict[str, Any], decided: Sequence[Decision]) -> None:
        """At the end of training, all that was asked for is waited for."""
        if moment.event is Event.TRAIN_END:
            self.wait()

    def settle(self) -> None:
        """What the disk refused is tried once more."""
        self.wait()
        state, decisions = self.policy.try_again(self.state)
        self.set_state(state)
        self._let_go(decisions)
        for decision in decisions:
            if isinstance(decision, Save):
                self._write_once_more(decision)
        if decisions:
            self.wait()

    def finish_by(self, deadline: float) -> None:
        """Training goes on meanwhile: only what is under way now is waited for."""
        self._writer.queue.wait(max(deadline - time.monotonic(), 0.0))

    # Words

    def _say(self, message: str) -> None:
        if self.verbose:
            self.run.say(message)

    def _tell_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self.run.say(message)

    def _tell_why_here(self, reason: str) -> None:
        if not self.run.quiet:
            self._tell_once(f"{self.name} writes {self.filepath} while training waits: {reason}.")

    def missing_words(self, monitor: str, logs: Mapping[str, Any]) -> str:
        """Keras's words."""
        return (
            f"Can save best model only with {monitor} available. "
            f"Available metrics are: {','.join(logs)}"
        )

    def _pass_over(self, epoch: int, reason: str) -> None:
        self._why_not = f"{self.monitor} {reason}"
        before = "None" if self._beaten is None else f"{self._beaten:.5f}"
        self._say(f"\nEpoch {epoch + 1}: {self.monitor} did not improve from {before}")

    def _refuse(self, epoch: int, defect: str) -> None:
        self._why_not = defect
        kept = f" {self.latest_path!r} stays as it is." if self.latest_path else ""
        self.warn_once(
            f"{self.name} does not save epoch {epoch + 1}: {defect}.{kept} "
            "Pass check_finite=False to save such states.",
            SaveWarning,
        )

    def _tell_committed(self, outcome: SaveOutcome) -> None:
        path = outcome.request.path
        if outcome.aside is not None:
            self._tell_once(f"{path} was there before this run; it is kept as {outcome.aside}.")
        if outcome.again and not self._template.is_fixed_in_a_run:
            self.run.say(
                f"{path} is the name of an earlier save of this run, too, and was replaced; put "
                "{epoch} or {batch} into the name to keep both."
            )
        if outcome.trouble is not None:
            self.warn_once(
                f"{self.name} could not delete older files: {outcome.trouble}. {path!r} is safe.",
                SaveWarning,
            )
        self._say(f"\nEpoch {outcome.request.saved.epoch + 1}: finished saving model to {path}")

    def summary(self) -> Best | str | None:
        """The best file, or why there is none."""
        if self.latest_path is None and self.best_path is None:
            return f"ModelCheckpoint saved nothing to {self.filepath!r}: {self._why_not}"
        best = self.best
        if self.best_path is None or best is None or self.best_epoch is None:
            return None
        return Best(self.monitor, best, self.best_epoch, f"saved in {self.best_path}")

    # State

    def place(self) -> str | None:
        """States are filed by the template, too."""
        return self.filepath

    def state_dict(self) -> dict[str, Any]:
        """Counters and the value to beat, as plain JSON.

        In the next run the value counts only if the sidecar proves a file with it: what is known
        of files comes from files.
        """
        return {**self.header(), **self.state.to_json()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; it counts for the next run."""
        self.check_header(state)
        self.set_state(CheckpointState.from_json(state))
        self.is_loaded = True


def _words_of(bad: frozenset[str]) -> str:
    first, *others = sorted(bad)
    more = f" and {len(others)} more" if others else ""
    return f"{first}{more} holds NaN or infinity"


def _reason_of(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
