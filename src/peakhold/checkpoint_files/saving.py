"""What `ModelCheckpoint` does in a run: it asks the policy, and has written what it decides.

Rules of this file:

1. The policies decide when and whether, the folder commits, and only a committed file has a path.
2. What is about to be written is checked: the loss (computed before the last update) and every
   float variable. Nothing that is not finite is written over anything.
3. What stood under the name before this run is given a second name first, unless this run goes on
   from it. What Peakhold did not write is never lost; what somebody makes of a file of this run is.
4. A save that fails is said aloud and changes nothing; training goes on.
5. The value to beat includes what is under way; paths, messages and the sidecar speak of committed
   files. What has become of a save is heard at the next event, on the thread that trains.
6. An object that has begun a fit on this very model goes on in its next one (`turns.py`): what is
   best stays, batches are counted on, and the files of its earlier turns are its own.
7. A best state that the disk refused is tried once more, at the next save or at the end, unless a
   better one has come. The next save does not wait for that: it is judged by what is committed.
"""

from __future__ import annotations

import contextlib
import copy
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, cast, final

from peakhold._core.decisions import Decision, Missing, Save, Skip
from peakhold._core.facts import Committed, Fact, Failed, Found, NotFinite
from peakhold._core.moments import Moment
from peakhold._core.monitor import Direction, Watched
from peakhold._core.observation import Event
from peakhold._core.policies.checkpoint import CheckpointPolicy, CheckpointState
from peakhold._core.policies.keep import KeepBest
from peakhold._core.policies.keep_files import keep_files
from peakhold._core.policies.save_when import AtEnd, Every, SaveSchedule, trigger_of
from peakhold.advice import Folder, RunSettings, Saver
from peakhold.checkpoint_files import words
from peakhold.checkpoint_files.handing_over import Destination, HandingOver
from peakhold.checkpoint_files.requests import SaveOutcome, SaveRequest, about_to_be_saved
from peakhold.checkpoint_files.retention import Retention
from peakhold.checkpoint_files.run_files import BestFile, RunFiles
from peakhold.checkpoint_files.template import CheckpointTemplate, counts_in, static_folder
from peakhold.checkpoint_files.turns import Turns
from peakhold.checkpoint_files.writer import CheckpointWriter, Placement, bad_now
from peakhold.errors import (
    InvalidArgumentError,
    MonitorNotFoundError,
    SaveError,
    SaveWarning,
)
from peakhold.files.sidecar import SavedFile
from peakhold.runtime.participant import Needs, Start
from peakhold.runtime.run_view import RunView
from peakhold.runtime.summary import Best
from peakhold.runtime.watching import Watch

__all__ = ["Saving"]

_SAVES_AT: Final = {Event.TRAIN_BATCH_END, Event.EPOCH_END, Event.TRAIN_END}
"""When the policy may ask for a save."""


@final
class Saving(HandingOver):
    """Asks the policy, and has written what it decides.

    Args:
        name: The class of its callback, for messages.
        watch: The metric that ranks.
        accepted: Suffixes that the callback's class takes for any model; None: it takes all.
    """

    ranks_epochs = True
    verbose = 0
    save_best_only = save_weights_only = False
    initial_value_threshold: float | None = None
    check_finite = True
    on_save_error = "warn"
    background: bool | None = None
    memory_budget: int | None = None
    keep_last: int | None = None
    keep_best: int | None = None
    buffers = "rank0"
    saves_weights = True
    _is_given = False
    """Whether somebody has set `best` since the last run."""

    def __init__(self, name: str, watch: Watch, accepted: tuple[str, ...] | None) -> None:
        self._accepted = accepted
        self._settings: tuple[Any, ...] = ()
        """What the policy at hand was made of."""
        self._made: CheckpointPolicy | None = None
        self._files = RunFiles("")
        self._writer = CheckpointWriter(name)
        self._turns = Turns()
        self._ranked_by = watch.monitor, watch.direction
        """The metric that the best is of, and its direction, as far as it is known."""
        self._goes_on = False
        self._save_freq: Any = "epoch"
        self._schedule = SaveSchedule(trigger_of("epoch"))
        self._counts_batches = False
        self._forget_run()
        super().__init__(name, [watch])

    def __getstate__(self) -> dict[str, Any]:
        # What is set on a copy must not be set on the original.
        return {
            **super().__getstate__(),
            "_files": copy.copy(self._files),
            "_writer": copy.copy(self._writer),
            "_turns": Turns(),
        }

    def _forget_run(self) -> None:
        """What belongs to one run, at its beginning."""
        if not self._goes_on:
            self._files = RunFiles(self.filepath)
            self._best_file: BestFile | None = None
            self.latest_path: str | None = None
        else:
            self._files = RunFiles(self.filepath, self._files)
            if self._best_file is not None:
                self._best_file = self._best_file._replace(is_earlier=True)
        self._writer.placement = Placement()
        self._exempt: frozenset[str] = frozenset()
        self._took_over = False
        self._missing: MonitorNotFoundError | None = None  # raised when the next epoch begins
        self._why_not = ""
        self._n_saved = 0
        self._beaten: float | None = None
        self._outcomes: dict[int, SaveOutcome] = {}
        self._passed: int | None = None

    # The configuration

    @property
    def filepath(self) -> str:
        """The template."""
        return self._files.filepath

    @filepath.setter
    def filepath(self, value: str) -> None:
        self._files.template = CheckpointTemplate(value)

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
        self._counts_batches = self._schedule.needs_batches
        self.set_state(replace(self.state, due=self._schedule.init()))

    @property
    def ranks(self) -> bool:
        """Whether files are ranked at all."""
        return self.save_best_only or self.keep_best is not None

    @property
    def policy(self) -> CheckpointPolicy:
        """With the settings as they are now; made anew when one of them is another."""
        watch, ranks = self.watches[0], self.ranks
        settings = (
            self._schedule, watch.monitor, watch.direction, watch.min_delta, ranks,
            self.save_best_only, self.initial_value_threshold, self.check_finite, self.hands_over,
        )  # fmt: skip
        made = self._made
        if made is None or settings != self._settings:
            made = CheckpointPolicy(
                self._schedule,
                Watched(watch.monitor, watch.criterion) if ranks else None,
                best_only=self.save_best_only,
                threshold=self.initial_value_threshold,
                check_finite=self.check_finite,
                hands_over=self.hands_over,
            )
            self._settings, self._made = settings, made
        return made

    @property
    def suffix(self) -> str:
        """The suffix of the template, which names the format."""
        return self._files.template.suffix

    @property
    def best(self) -> float | None:
        """The value to beat: of the best file, one that is being written included."""
        return self.policy.to_beat(self.state)

    @best.setter
    def best(self, value: float | None) -> None:
        self.set_state(replace(self.state, best=value, pending=(), replayed=None))
        self._ranked_by = self.watches[0].monitor, None
        self._is_given = True

    @property
    def best_path(self) -> str | None:
        """Path of the best committed file."""
        return None if self._best_file is None else self._best_file.path

    @property
    def best_epoch(self) -> int | None:
        """Index of its epoch."""
        return None if self._best_file is None else self._best_file.epoch

    # With several workers: one writes, all know what there is

    @property
    def needs_finite(self) -> bool:  # type: ignore[override]
        """What is written must be finite on all workers."""
        return self.check_finite

    @property
    def averages_statistics(self) -> bool:  # type: ignore[override]
        """Before anything is kept of an epoch."""
        return self.buffers == "mean"

    @property
    def writes(self) -> bool:
        """Whether this worker writes: rank 0 does, and each where its rank is in the name."""
        return not self.run.follows or self.has_own_files

    @property
    def has_own_files(self) -> bool:  # type: ignore[override]
        """Whether the worker's rank is in the name."""
        return "{worker" in self.filepath

    def shared_state(self) -> Any:
        """The policy's state, and what files there are."""
        best = None if self._best_file is None else list(self._best_file)
        return {"state": self.state.to_json(), "best": best, "latest": self.latest_path}

    def follow(self, state: Any, moment: Moment, decided: Sequence[Decision]) -> None:
        """Rank 0 has decided; where it writes for all, its files are those there are."""
        self.set_state(CheckpointState.from_json(state["state"]))
        if not self.writes:
            self._best_file = None if state["best"] is None else BestFile(*state["best"])
            self.latest_path = state["latest"]

    # Before training

    def needs(self, run: RunView) -> Needs:
        """Begin anew; what is wrong with the name or the folder is said now."""
        self.wait()  # a fit that raised may have left some
        self._writer.queue.give_up()
        self._begin_turn(run)
        self._forget_run()
        self._check_all_save_alike(run)
        if self.writes:
            self._files.prepare(run, self.name, self._accepted, counts_batches=self._counts_batches)
        self._tell_going_on(run)
        self._tell_damage(self._files.damage())
        if self.check_finite:
            self._exempt = run.pool.look_for_exempt()
            if self._exempt:
                self.warn_once(words.exempt(self.name, self._exempt), SaveWarning)
        return Needs(memory_budget=self.memory_budget)

    def _check_all_save_alike(self, run: RunView) -> None:
        """Saves that all workers gather for must be due on all of them at once.

        Raises:
            InvalidArgumentError: If a clock, or each worker's own metrics, would say when.
        """
        trigger = self._schedule.trigger
        by_clock = isinstance(trigger, Every) and trigger.seconds is not None
        by_own_metrics = self._schedule.needs_batches and self.ranks
        if run.n_workers > 1 and run.host.is_sharded() and (by_clock or by_own_metrics):
            raise InvalidArgumentError.for_argument(
                "save_freq",
                self.save_freq,
                "saves at the ends of epochs, or each so many batches without ranking: the weights "
                "lie on several workers, which gather them together",
                hint="pass save_freq='epoch'.",
            )

    def _begin_turn(self, run: RunView) -> None:
        """From nothing, or from where the last fit on this very model has ended."""
        before, is_given, self._is_given = self.state, self._is_given, False
        self._goes_on = not self.is_loaded and self._turns.continue_on(run.subject)
        super().needs(run)
        self._earlier = None  # what `initial_epoch` goes on from stands in files
        if self.is_loaded:
            return
        watch = self.watches[0]
        if self._goes_on:
            if self._passed is not None:
                due, _ = self._schedule.batch_end(before.due, self._passed)
                before = replace(before, due=due)
            self.set_state(self.policy.go_on(before))
            monitor, direction = self._ranked_by
            if monitor != watch.monitor or {watch.direction, direction} == set(Direction):
                self._best_file = None  # a best by another metric is none
                self.set_state(replace(self.state, best=None))
        if is_given:  # somebody has set `best` since the last run
            self.set_state(replace(self.state, best=before.best))

    def buffers_needed(self, run: RunView) -> Mapping[str, int]:
        """As many copies of what a file holds as are written and taken at a time."""
        later = self.background
        if later is None:
            fit_alone = run.driven and run.trained.runs_fit()
            later = fit_alone and not self.hands_over and not run.user_callbacks_follow()
        elif later and self.hands_over:
            later = False
            self._tell_why_here(self.why_handed_over)
        self._writer.placement = Placement(in_background=later)
        return self._writer.placement.buffers_needed(
            run.host, run.pool, self._files.template.suffix, self._tell_why_here
        )

    def advise(self, settings: RunSettings) -> RunSettings:
        """Its path, and what it saves."""
        path, watch = os.path.abspath(self.filepath), self.watches[0]
        one_name = self._files.template.is_fixed_in_a_run
        overwrites = one_name and not isinstance(self.save_freq, AtEnd)
        saver = Saver(self.filepath, watch.monitor, watch.mode, self.save_best_only, overwrites)
        return replace(
            settings,
            savers=(*settings.savers, saver),
            paths=(*settings.paths, path),
            folders=(*settings.folders, self._kept_at(path, settings)),
        )

    def _kept_at(self, path: str, settings: RunSettings) -> Folder:
        """Where its files are, and how many at the same time, the one being written included."""
        n_saves = self._schedule.most_saves(settings.epochs, settings.steps)
        if self.keep_last is not None or self.keep_best is not None:
            n_kept = (self.keep_last or 1) + (self.keep_best or 0)
        elif self._files.template.is_fixed_in_a_run or self.save_best_only or n_saves is None:
            n_kept = 1  # how many epochs will be the best so far, nobody knows
        else:
            n_kept = n_saves - 1
        copies = n_kept + 1 if n_saves is None else min(n_kept + 1, n_saves)
        weights = self.save_weights_only or self.suffix == ".weights.h5"
        holds: Literal["weights", "state"] = "weights" if weights else "state"
        return Folder(self.name, static_folder(path), holds, copies)

    def begin(self, run: RunView, start: Start) -> None:
        """Whether files of an earlier run are gone on from."""
        super().begin(run, start)
        self._turns.begin_on(run.subject)
        if not self._goes_on:
            self._files.goes_on = start.goes_on

    def listens(self, event: Event) -> bool:
        """Whether batches must be looked at."""
        return self._counts_batches and event is Event.TRAIN_BATCH_END

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
            at = moment.at._replace(batch=batch)
            self.step(Moment(Event.TRAIN_BATCH_END, at, spent=moment.spent))

    # What became of saves

    @property
    def awaits_news(self) -> bool:  # type: ignore[override]
        """Whether a save is under way, or unheard of."""
        return not self._writer.queue.is_empty

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
            return NotFinite(ticket, words.bad_variables(outcome.bad))
        if outcome.error is not None:
            kept = self._writer.queue.refused is outcome.request
            return Failed(ticket, words.reason_of(outcome.error), may_retry=kept)
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
        if outcome.bad:
            self._refuse(request.number, words.bad_variables(outcome.bad))
        elif outcome.error is not None:
            self._failed(request, outcome.error)
        else:
            self._committed(request, outcome)

    def _committed(self, request: SaveRequest, outcome: SaveOutcome) -> None:
        self.latest_path = request.path
        self._n_saved += 1
        if request.value is not None:
            self._best_file = BestFile(request.path, request.value, request.saved.epoch)
        if outcome.best is not None and not self.save_best_only:
            self._know_best(*outcome.best)
        if outcome.aside is not None:
            self._tell_once(words.kept_aside(outcome))
        if outcome.rewritten:
            self._tell_once(words.rewritten(request.path))
        if outcome.again and not self._files.template.is_fixed_in_a_run:
            self._tell_once(words.replaced(request.path, self.filepath))
        self._tell_damage(outcome.damage)
        if outcome.trouble is not None:
            self.warn_once(words.undeleted(self.name, outcome), SaveWarning)
        if self.verbose:
            self.run.say(words.committed(request))

    def _know_best(self, path: str, saved: SavedFile) -> None:
        """With `keep_best` alone, what is best follows the files."""
        value = cast("float", saved.value)
        is_earlier = self._goes_on and saved.run_id != self.run.id
        self._best_file = BestFile(self._files.spelled(path), value, saved.epoch, is_earlier)
        super().learn(Found(value))

    def _hear(self) -> None:
        for outcome in self._writer.queue.news():
            self.learn(self._fact(outcome))

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until every save is on disk, or has failed and was reported."""
        ended = self._writer.queue.wait(timeout_s)
        self._hear()
        return ended

    def _failed(self, request: SaveRequest, error: BaseException) -> None:
        self._why_not = words.reason_of(error)
        queue = self._writer.queue
        if self.on_save_error == "raise":
            queue.give_up()
            raise SaveError.for_path(
                request.path, self._why_not, expected="a file that can be written"
            ) from error
        kept = queue.refused is request
        self.run.warn(words.failed(self.name, request, self._why_not, kept=kept), SaveWarning)
        if not isinstance(error, (OSError, MemoryError)):
            # The next one is written by the framework's own functions.
            self._writer.placement.in_background = False

    # Deciding

    def decide(self, moment: Moment) -> Sequence[Decision]:
        """What the policy decides; in a run that goes on, it knows the files that are there."""
        if self._files.goes_on and moment.event in _SAVES_AT:
            self._take_over()
        if self._passed is not None:
            self._count_passed(moment)
        self._beaten = self.best if self.verbose else None
        decisions = self.step(moment)  # no answer of a user's code is for these moments
        if self._writer.queue.kept is not None:
            self._let_go(decisions)
        return decisions

    def _let_go(self, decisions: Sequence[Decision]) -> None:
        """Where the policy wants what was refused no more, its copy may go."""
        asked = any(isinstance(one, Save) and one.retry is not None for one in decisions)
        queue = self._writer.queue
        if queue.kept is not None and self.state.refused is None and not asked:
            queue.give_up()

    def _take_over(self) -> None:
        """In a run that goes on: take the best from the files that are there, once."""
        watch = self.watches[0]
        if not self._files.goes_on or self._goes_on or self._took_over:
            return
        if self.ranks and watch.direction is None:
            return
        self._took_over = True
        self.latest_path = self._files.find_newest(self.run.id)
        if not self.ranks or watch.direction is None:
            return
        found = self._files.find_best(self.run.id, watch.monitor, watch.direction)
        self._tell_damage(self._files.damage())
        if found is None:
            self.learn(Found(None))
            return
        path, saved = found
        self._ranked_by = watch.monitor, watch.direction
        self._best_file = BestFile(path, cast("float", saved.value), saved.epoch)
        self.learn(Found(saved.value, saved.epoch))

    # Acting

    def apply(self, decision: Decision, moment: Moment, logs: dict[str, Any]) -> None:
        """Write, or say why not."""
        if isinstance(decision, Save) and moment.defect is not None and self.check_finite:
            self._refuse(moment.at.number, moment.defect)
            super().learn(NotFinite(decision.ticket, moment.defect))
        elif isinstance(decision, Save) and not self.writes:
            self.run.enter_save()
        elif isinstance(decision, Save):
            if decision.handed_over:
                batch = self.state.due.last_batch if self._counts_batches else None
                self.hand_over(moment, batch, logs)
            elif decision.retry is not None:
                self._write_once_more(decision)
            else:
                with self.run.gathering():
                    self._write(decision, moment, logs)
        elif isinstance(decision, Skip) and decision.bad:
            self._refuse(moment.at.number, decision.reason)
        elif isinstance(decision, Skip):
            self._pass_over(moment, decision.reason)
        elif isinstance(decision, Missing):
            self._miss(decision, moment, logs)

    def _miss(self, decision: Missing, moment: Moment, logs: Mapping[str, Any]) -> None:
        logs = self.logged(logs)
        if decision.fatal:
            error, self._missing = self._missing, None
            self.wait()  # whoever catches it finds the file
            raise error or self.not_found(decision.monitor, logs)
        self._why_not = f"{decision.monitor!r} was not logged"
        if moment.event is not Event.TRAIN_END and self.state.missing:
            self._missing = self.not_found(decision.monitor, logs)
            return
        self.miss(decision, logs)
        if moment.event is Event.TRAIN_END:
            self.forget_said()

    def path_of(
        self, number: int, batch: int | None, logs: Mapping[str, Any], moment: Moment
    ) -> tuple[str, list[str]]:
        """The path of a save by the template, and the places in it that nothing fills."""
        run_id, timestamp, worker = self.run.id, self.run.timestamp, self.run.rank
        return self._files.template.fill(
            number - 1,  # which it adds
            batch,
            {**logs, **moment.metrics, **counts_in(logs)},
            run_id=run_id,
            timestamp=timestamp,
            worker=worker,
        )

    def _write(
        self,
        decision: Save,
        moment: Moment,
        logs: Mapping[str, Any],
        place: Destination | None = None,
    ) -> None:
        run, files, number = self.run, self._files, moment.at.number
        host, pool, run_id = run.host, run.pool, run.id
        batch = self.state.due.last_batch if self._counts_batches else None
        if place is not None:
            batch = place.batch
        path, unfilled = self.path_of(number, batch, logs, moment)
        if place is not None and place.path is not None:
            path, unfilled = place.path, []
        if unfilled:
            files.check_placeholders(run, counts_batches=self._counts_batches)
            self._tell_once(words.nothing_fills(self.name, unfilled[0], self.filepath))
        plan = None
        if place is None:  # else somebody waits for the file
            suffix, tell = files.template.suffix, self._tell_why_here
            plan = self._writer.placement.plan(host, pool, suffix, tell)
        request = self._request(path, decision, moment, number, batch, run_id, host.versions())
        bad = bad_now(request, host) if plan is None else frozenset()
        if bad:
            self._refuse(number, words.bad_variables(bad))
            super().learn(NotFinite(decision.ticket, words.bad_variables(bad)))
            return
        if self.verbose:
            run.say(words.begun(number, path, self.monitor, self._beaten, decision.value))
        try:
            for outcome in self._writer.carry_out(
                request,
                plan,
                host=host,
                pool=pool,
                folder=files.folder(run_id),
                tell=self._tell_why_here,
            ):
                self.learn(self._fact(outcome))
        except BaseException as error:  # what came to nothing is not the value to beat
            super().learn(Failed(request.ticket, words.reason_of(error)))
            raise
        refused = self.state.refused
        if refused is not None and self._writer.queue.refused is None:
            super().learn(Failed(refused.ticket, "its copy was let go"))

    def _request(
        self,
        path: str,
        decision: Save,
        moment: Moment,
        number: int,
        batch: int | None,
        run_id: str,
        versions: Mapping[str, str],
    ) -> SaveRequest:
        """What is to be written."""
        watch, files = self.watches[0], self._files
        direction = watch.direction if self.ranks else None
        self._ranked_by = watch.monitor, watch.direction
        retention = None
        if self.keep_last is not None or self.keep_best is not None:
            policy = keep_files(self.keep_last, self.keep_best, watch.monitor, direction)
            ranks = None if direction is None else KeepBest(watch.monitor, direction.value)
            retention = Retention(policy, files.goes_on, ranks)
        return SaveRequest(
            path,
            files.absolute(path),
            about_to_be_saved(
                moment.at.epoch,
                batch,
                moment.metrics,
                monitor=watch.monitor,
                mode=None if direction is None else direction.value,
                run_id=run_id,
                versions=versions,
            ),
            goes_on=files.goes_on or self.initial_value_threshold is not None,
            value=decision.value,
            retention=retention,
            replaces=files.template.is_fixed,
            exempt=self._exempt if self.check_finite else None,
            ticket=decision.ticket,
            number=number,
        )

    def _write_once_more(self, decision: Save) -> None:
        request = self._writer.queue.refused
        if request is None:  # its copy was let go meanwhile
            super().learn(Failed(decision.ticket, "its copy was let go"))
            return
        if self.verbose:
            self.run.say(words.once_more(request))
        self._writer.queue.try_again(decision.ticket)

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
        self.catch_up(moment)
        state, decisions = self.policy.ask(self.state, moment)
        self.set_state(state)
        self._let_go(decisions)
        for decision in decisions:
            self.apply(decision, moment, dict(logs))

    def catch_up(self, moment: Moment) -> None:
        """Before a save outside of an event: what was passed over, taken over or heard of."""
        self._take_over()
        self._count_passed(moment)
        for fact in self.news(moment):
            self.learn(fact)
        self._beaten = self.best if self.verbose else None

    def carry_out(
        self,
        decisions: Sequence[Decision],
        moment: Moment,
        logs: dict[str, Any],
        place: Destination,
    ) -> None:
        """Write at once what was decided, or say why not."""
        self._let_go(decisions)
        for decision in decisions:
            if isinstance(decision, Save) and decision.retry is None:
                self._write(decision, moment, logs, place)
            elif self.was_told(moment, decision):
                self._why_not = "_should_save_model said no"
            else:
                self.apply(decision, moment, logs)

    # The end

    def record(self, moment: Moment, logs: dict[str, Any], decided: Sequence[Decision]) -> None:
        """At the end of training, all that was asked for is waited for."""
        if moment.event is Event.TRAIN_END:
            self.wait()
            unraised, self._missing = self._missing, None
            if unraised is not None:  # no epoch has begun after the one that missed it
                self.warn_missing(unraised.monitor, str(unraised))

    def settle(self) -> None:
        """What the disk refused is tried once more."""
        self.wait()
        self._is_given = False  # what was set in this run counted in it
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

    def _tell_going_on(self, run: RunView) -> None:
        """Once for each object: that it goes on, and from what."""
        file, best = self._best_file, self.state.best if self.save_best_only else None
        path = self.latest_path
        if best is not None:  # somebody may have set it
            path = file.path if file is not None and file.value == best else None
        if not self._goes_on or self._turns.told or (best is None and path is None):
            return
        self._turns.told = True
        there = self._files.is_there(path)
        run.say(words.goes_on(self.name, self.monitor, best, path, is_there=there))

    def _tell_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self.run.notice(message, always=True)

    def _tell_damage(self, found: Iterable[str]) -> None:
        for said in found:
            self.warn_once(f"{self.name}: {said}", SaveWarning)

    def _tell_why_here(self, reason: str) -> None:
        if not self.run.quiet:
            self._tell_once(words.written_here(self.name, self.filepath, reason))

    def missing_words(self, monitor: str, logs: Mapping[str, Any]) -> str:
        """Keras's words."""
        return (
            f"Can save best model only with {monitor} available. "
            f"Available metrics are: {','.join(logs)}"
        )

    def _pass_over(self, moment: Moment, reason: str) -> None:
        monitor = self.watches[0].monitor
        self._why_not = f"{monitor} {reason}"
        if self.verbose:
            self.run.say(words.not_improved(moment.at.number, monitor, self._beaten))

    def _refuse(self, number: int, defect: str) -> None:
        self._why_not = defect
        self.warn_once(words.refused(self.name, number, defect, self.latest_path), SaveWarning)

    def summary(self) -> Best | str | None:
        """The best file, or how many were saved, or why none was."""
        if self.ranks and self._best_file is not None:
            return self._best(self._best_file)
        nothing_due = "no save was due" if self.run.n_epochs_done else "no epoch has ended"
        why = self._why_not or nothing_due
        if self.latest_path is None:
            there = ""
            if self._files.template.is_fixed_in_a_run and os.path.exists(self.filepath):
                there = " (the file that is there is an earlier run's)"
            return f"ModelCheckpoint saved nothing to {self.filepath!r}{there}: {why}"
        if not self._n_saved:
            there = words.where(self.latest_path, is_there=self._files.is_there(self.latest_path))
            return f"ModelCheckpoint saved nothing: {why}; its newest file is {there}"
        times = "once, in" if self._n_saved == 1 else f"{self._n_saved} times, last in"
        return f"ModelCheckpoint saved {times} {self.latest_path}"

    def _best(self, file: BestFile) -> Best:
        """The best file, and one of another run that is better."""
        watch, note = self.watches[0], ""
        if watch.direction is not None:
            with contextlib.suppress(OSError):  # what only talks ends no training
                found = self._files.find_better(
                    self.run.id, file.value, watch.monitor, watch.direction
                )
                note = "" if found is None else words.better(watch.monitor, *found)
        where = words.where(file.path, is_there=self._files.is_there(file.path))
        return Best(
            watch.monitor, file.value, file.epoch, f"saved in {where}", file.is_earlier, note
        )

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
