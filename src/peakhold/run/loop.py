"""The loop of one run: its epochs, its passes over data, and what it logs.

Rules of this file:

1. A border is where the loop asks for its next batch: what was done with the last one is done, and
   the state is whole. What is not the loop's own happens there (`border.py`), or where an epoch
   ends.
2. Batches are looked at only if a callback does: else no hook is called, and no value is read.
3. Epochs are counted from 0 here, and in what is written; people see them from 1. In a loop without
   epochs, what lies between two checks is one.
4. A check comes in the middle of a batch's body: all look at it at once, but what it makes due is
   backed up at the border that follows.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from peakhold.backup.state import used
from peakhold.errors import HostError, InvalidArgumentError
from peakhold.run.batch_size import batch_size
from peakhold.run.border import BatchBorder
from peakhold.run.ending import EndingSignals
from peakhold.run.means import Means
from peakhold.run.pace import Pace
from peakhold.run.place import TRAIN, DataPass, RunPlace
from peakhold.run.settings import Settings
from peakhold.run.sources import Source, source_for
from peakhold.runtime.callback import is_no_op
from peakhold.runtime.session import session_of

if TYPE_CHECKING:
    from peakhold.backup.keeping import Keeping
    from peakhold.callbacks.callback_list import CallbackList
    from peakhold.distributed import Coordinator
    from peakhold.runtime.progress import Progress
    from peakhold.runtime.session import Session

__all__ = ["Around", "Loop"]

_BATCH_HOOKS: Final = (
    "on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end",
)  # fmt: skip


class Around(Protocol):
    """What is around a loop: the run that it belongs to."""

    def begins(self, n_epochs: int | None, n_steps: int | None) -> None:
        """Training begins: of so many epochs, or of so many steps."""

    def has_begun(
        self, saved: Mapping[str, Any] | None, place: RunPlace, *, within_epoch: bool
    ) -> None:
        """It is known where the loop goes on; None: it begins."""

    def notice(self, text: str, *, always: bool = False) -> None:
        """Say something of the run; `always`: at `verbose=0`, too."""

    def pass_begins(self, one: DataPass) -> None:
        """A pass over data begins."""

    def pass_ends(self, one: DataPass) -> None:
        """It is over."""

    def looks(self, place: RunPlace, running: DataPass) -> None:
        """Told now and then how far it is."""

    def epoch_begins(self, epoch: int) -> None:
        """An epoch begins, or what lies between two checks."""

    def epoch_ends(self, place: RunPlace, metrics: Mapping[str, Any]) -> None:
        """It has ended, and all have seen it."""

    def is_ending(self, reason: str, *, failed: bool) -> None:
        """Training ends, and why, if that is not the callbacks' own doing."""

    def ends(self, reason: str, *, is_over: bool) -> None:
        """Training has ended: because it is over, or because it is interrupted."""

    def offset(self) -> int:
        """Where the record stands."""

    def make_durable(self) -> None:
        """What stands in the record is on the disk when this returns."""


@final
class Loop:
    """The loop of one run.

    Args:
        around: The run.
        callbacks: The list that it calls.
        keeper: Who backs it up.
        pace: When.
        stop_file: What somebody puts there to end the run.
        time_limit: Seconds from now on; None: no limit.
        signals: Of this run.
        settings: What the script says of schedulers and optimizers.
        workers: Of this run.
    """

    anew = "pass resume='new'"

    def __init__(
        self,
        around: Around,
        callbacks: CallbackList,
        keeper: Keeping,
        pace: Pace,
        stop_file: str,
        time_limit: float | None,
        signals: EndingSignals,
        settings: Settings,
        workers: Coordinator,
    ) -> None:
        self._around, self._list, self._keeper = around, callbacks, keeper
        self._workers = workers
        self._settings: Settings | None = settings
        self.place = place = RunPlace(around.offset, program=settings.first)
        ends_at = None if time_limit is None else time.monotonic() + time_limit
        asked = place, keeper, pace, signals, stop_file, ends_at, around.looks, self.finish
        if workers.size == 1:
            self.border = BatchBorder(*asked)
        else:
            from peakhold.run.shared_border import SharedBorder  # of several workers alone

            self.border = SharedBorder(*asked, session=lambda: self._session)
        callbacks.place = self
        self._saved: Mapping[str, Any] | None = None
        """Where an interrupted run was, until the loop is there again."""
        self._lost = ""
        """What of that place means nothing to this worker, in words."""
        self._sources: dict[str, tuple[Any, Source]] = {}
        self._told: set[str] = set()
        """Limits of sources that were said."""
        self._ends: dict[str, Any] = {}
        """By pass: where its source was when the interrupted run had gone through it last."""
        self._passes: list[DataPass] = []
        """Passes of this epoch that have begun."""
        self._running: list[DataPass] = []
        """Passes that the loop is in, one inside another."""
        self._hooks = False
        """Whether somebody looks at batches."""
        self._batch_logs: dict[str, Any] = {}
        self._n_epochs: int | None = None
        self._counts_checks = False
        self._is_checked = False
        """Whether the batch that runs was done at a check."""
        self._since_check = Means()
        """What was logged of batches since the last check, over passes."""
        self._in_epoch = False
        self._has_skipped = -1
        """At which batch the pass that an interrupted run was in went on."""
        self.skipped: str | None = None
        """A pass of this epoch that was over when the run was interrupted: its body has not run."""
        self._has_later = True
        """Whether epochs have passes behind their first: not known before one has ended."""
        self._has_begun = False
        self._is_finished = False

    # What a backup asks (`runtime/loop_list.py: LoopPlace`)

    def is_due(self, *, ends: bool) -> bool:
        """Whether an epoch that ends now is backed up; a check is, at the next border."""
        border = self.border
        due = border.epoch_is_due(ends=ends or self.place.epoch + 1 == self._n_epochs)
        due = bool(self._workers.agree(f"whether epoch {self.place.epoch + 1} is backed up", due))
        if self._counts_checks:
            if due:
                border.save_next()
            return False
        border.wants_save &= not due
        return due

    def state(self) -> dict[str, Any]:
        """Where the loop is."""
        return self.place.to_save(self._progress.trained_with)

    def make_durable(self) -> None:
        """What the place refers to is the record."""
        self._around.make_durable()

    def take(self, state: Mapping[str, Any], *, is_own: bool) -> None:
        """The run goes on from there."""
        self.place.restore(state)
        self._saved = state
        if is_own:
            self._ends = dict(self.place.ends)
        else:
            self._take_what_counts(state)
        if self._settings is not None:
            self._settings.first = self.place.program

    def _take_what_counts(self, state: Mapping[str, Any]) -> None:
        """The place of a worker that had another part of the data."""
        running, self.place.ends = state["running"], {}
        self._saved = {**state, "running": None, "logged": None, "rates": None}
        if self._counts_checks:
            self._lost = "It goes through the data from their beginning."
        elif running is not None:
            self._lost = (
                f"Epoch {self.place.epoch + 1} is begun anew, with the weights that it had after "
                f"batch {running['n_batches']}."
            )

    def lost(self) -> str:
        """What it could not take, in words."""
        return self._lost

    def note_cost(self, seconds: float) -> None:
        """A backup was begun."""
        self.border.note_cost(seconds)

    def watch(self, watches: bool) -> None:
        """Whether all workers agree on a border now; in any thread."""
        self.border.watch(watches)

    def agreed(self, wanted: Sequence[Mapping[str, Any]]) -> None:
        """All workers do now what any of their loops wanted."""
        self.border.agreed(wanted)

    def words(self) -> str:
        """How it goes on."""
        saved = self._saved
        if saved is None:
            return ""
        if self._counts_checks:
            return f", after batch {self.place.step}"
        done = (saved["running"] or {}).get("n_batches")
        return f", after its batch {done}" if done else ""

    @property
    def _progress(self) -> Progress:
        return self._session.progress

    @property
    def _session(self) -> Session:
        return session_of(self._list.callbacks[0])

    # Loops

    def epochs(self, n: int, frame_depth: int) -> Iterator[int]:
        """The epochs that are left.

        Args:
            n: Of the whole run.
            frame_depth: How far up the loop's own frame is.
        """
        self._begin(n, None, sys._getframe(frame_depth))
        epoch = n - 1
        for epoch in range(self._list.initial_epoch, n):
            self._epoch_begins(epoch)
            yield epoch
            self._running.clear()  # one that the loop has left with `break` is over, too
            self.place.running = None
            self._in_epoch = False
            self.skipped, border = None, self.border
            border.epoch_ends(is_last=epoch + 1 == n)
            self._has_later = len(self._passes) > 1
            self._epoch_ends()
            if self._list.stop_training or border.ending is not None:
                break
        self._end(is_complete=epoch == n - 1)

    def steps(self, loader: Any, n: int, frame_depth: int) -> Iterator[Any]:
        """Batches until so many are done, over and over the data.

        Args:
            loader: Where they come from.
            n: Of the whole run.
            frame_depth: How far up the loop's own frame is.
        """
        self._counts_checks = True
        self._begin(None, n, sys._getframe(frame_depth))
        self._epoch_begins(self._list.initial_epoch)
        place = self.place
        while place.step < n and not self._list.stop_training:
            before, goes_on = place.step, self._saved is not None
            yield from self._pass(TRAIN, loader, place.data_epoch, n)
            if place.step == before and not goes_on:
                raise InvalidArgumentError.for_argument(
                    "loader", type(loader).__name__, "a loader that gives batches, again and again"
                )
            if place.step < n:
                place.data_epoch += 1
        self._in_epoch = False
        self._end(is_complete=place.step >= n)

    def _end(self, *, is_complete: bool) -> None:
        """No epoch, or no step, is left (`is_complete`), or somebody has asked for the end."""
        border, by_itself = self.border, is_complete or self._list.stop_training
        reason, is_over = border.ending or (None, True)
        if border.leaves_at_once(is_over=by_itself):
            border.leave(reason, is_over=is_over)
        if by_itself and not is_over:  # it came too late to end anything
            reason, is_over = None, True
        self.finish(reason, is_over=is_over)

    def batches(self, loader: Any, name: str) -> Iterator[Any]:
        """The batches of one pass over data, those that are left.

        Args:
            loader: Where they come from.
            name: Of the pass.
        """
        if not self._in_epoch:
            raise HostError(
                "expected run.batches() inside an epoch, got it outside.\n"
                "Hint: for epoch in run.epochs(100): for batch in run.batches(loader): …; a loop "
                "without epochs is run.steps(loader, n)."
            )
        yield from self._pass(name, loader, self.place.epoch, None)

    # Passes

    def _pass(self, name: str, loader: Any, epoch: int, until: int | None) -> Iterator[Any]:
        one, iterator = self._begin_pass(name, loader, epoch, until)
        try:
            if name == TRAIN:
                yield from self._train(one, iterator, until)
            else:
                yield from self._evaluate(one, iterator)
            if one.is_first and until is None:
                self.border.first_pass_ends(has_later=self._has_later)
                if self._has_skipped == self.place.step:
                    self.skipped = name
        finally:  # also where the loop leaves it with `break`
            self._running.remove(one)
            if self.place.running is one:
                self.place.running = None
            self._around.pass_ends(one)
            if one.is_first and name == TRAIN and until is None:
                self.border.pass_ends()
            self.place.ends = {**self.place.ends, name: one.source.state()}

    def _begin_pass(
        self, name: str, loader: Any, epoch: int, until: int | None
    ) -> tuple[DataPass, Iterator[Any]]:
        is_first = until is not None or not self._passes
        one = DataPass(name, self._source(name, loader), is_first=is_first)
        if until is not None:
            one.means = self._since_check
        end = self._ends.pop(name, None)
        position = (self._take_saved(one) if is_first else None) or end
        source = one.source
        if position is None:
            iterator = source.begin(epoch)
        else:
            with self._using("the position in the data"):
                iterator = source.go_on(position, epoch)
        self._say_limits(source)
        if until is None or not self._passes:
            self._passes.append(one)
        self._running.append(one)
        if is_first:
            self.place.running = one
        self._around.pass_begins(one)
        self.border.plan()
        return one, iterator

    def _train(self, one: DataPass, iterator: Iterator[Any], until: int | None) -> Iterator[Any]:
        place, border, n = self.place, self.border, one.n_batches
        while True:
            try:
                one.batch = batch = next(iterator)
            except StopIteration:
                break
            except BaseException as error:
                border.has_no_batch(one, error, is_inner=self._running != [one])
                raise
            n += 1
            if self._hooks:
                self._batch_logs = {}
                self._list.on_train_batch_begin(place.step - place.step_at_epoch)
            yield batch
            one.batch, one.n_batches = None, n
            if self._is_checked:
                self._is_checked = False
            else:
                self._batch_ends()
            if place.step >= border.look_step or time.monotonic() >= border.look_at:
                ended = border.look(one, is_inner=self._running != [one])
                if ended and until is None:
                    border.leave(None, is_over=True)
            if until is not None and (self._list.stop_training or place.step >= until):
                border.back_up()
                break

    def _batch_ends(self) -> None:
        """The batch that runs is done; the list counts it."""
        place, callbacks = self.place, self._list
        if not self._hooks:
            callbacks.count_batch()
            place.step = callbacks.n_batches_done
            return
        callbacks.on_train_batch_end(place.step - place.step_at_epoch, self._batch_logs)
        place.step = callbacks.n_batches_done
        if callbacks.stop_training and not self._counts_checks:
            self.border.leave(None, is_over=True)

    def _evaluate(self, one: DataPass, iterator: Iterator[Any]) -> Iterator[Any]:
        self._list.on_test_begin()
        border, n = self.border, one.n_batches
        while True:
            try:
                one.batch = batch = next(iterator)
            except StopIteration:
                break
            except BaseException as error:
                border.has_no_batch(one, error, is_inner=self._running != [one])
                raise
            n += 1
            yield batch
            one.batch, one.n_batches = None, n
            if time.monotonic() >= border.look_at:
                border.look(one, is_inner=self._running != [one])
        self._list.on_test_end(one.means.read() if one.n_batches else {})

    def _using(self, what: str) -> AbstractContextManager[None]:
        """Errors of using a part of the checkpoint name it."""
        return used(what, self._keeper.backup_dir)

    def _take_saved(self, one: DataPass) -> Mapping[str, Any] | None:
        """Where the interrupted run was in this pass, if it was in its midst."""
        saved, self._saved = self._saved, None
        if saved is None or saved["running"] is None:
            return None
        at = saved["running"]
        if at["name"] != one.name:
            raise InvalidArgumentError.for_argument(
                "name",
                one.name,
                f"{at['name']!r}, the pass with which the interrupted run was busy",
                hint="begin the epoch with the pass that it began with; or Run(..., resume='new').",
            )
        one.n_batches = int(at["n_batches"])
        self._has_skipped = self.place.step
        with self._using("what was logged"):
            one.means.load_state(at["means"])
        source: Mapping[str, Any] = at["source"]
        return source

    def _source(self, name: str, loader: Any) -> Source:
        known = self._sources.get(name)
        if known is not None and known[0] is loader:
            return known[1]
        source = source_for(loader)
        self._sources[name] = loader, source
        return source

    def _say_limits(self, source: Source) -> None:
        for limit in source.limits:
            if limit not in self._told:
                self._told.add(limit)
                self._around.notice(limit)

    # Epochs

    def _begin(self, n_epochs: int | None, n_steps: int | None, frame: FrameType) -> None:
        if self._has_begun:
            raise HostError(
                "expected one loop of a run, got a second.\nHint: a Run is one training; make "
                "another Run, with another folder, for another."
            )
        self._n_epochs = n_epochs
        if n_epochs is not None:
            self._list.set_params({**(self._list.params or {}), "epochs": n_epochs})
        self._around.begins(n_epochs, n_steps)
        self._list._peakhold_host.remember_loop(frame)
        self._list.on_train_begin()
        self._around.has_begun(self._saved, self.place, within_epoch=self._is_within_epoch)
        self._has_begun = True
        self.border.starts(at_backup=self._saved is not None)

    @property
    def _is_within_epoch(self) -> bool:
        """Whether an interrupted run was in the midst of an epoch, and is still to be there."""
        saved = self._saved
        return saved is not None and (saved["running"] is not None or self._counts_checks)

    def _epoch_begins(self, epoch: int) -> None:
        place, saved = self.place, self._saved
        place.epoch, place.logged = epoch, Means()
        self._passes, self._in_epoch = [], True
        if saved is None or not self._is_within_epoch:
            place.step_at_epoch = place.step
            self._list.n_batches_done = place.step
            self._list.on_epoch_begin(epoch)
        else:
            if saved["logged"] is not None:
                with self._using("what was logged"):
                    place.logged.load_state(saved["logged"])
            self._epoch_goes_on(epoch, saved)
        if saved is not None:
            self._say_what_counts()
        self._settings = None
        self._hooks = any(
            not is_no_op(callback, hook)
            for callback in self._list.callbacks
            for hook in _BATCH_HOOKS
        )
        self._around.epoch_begins(epoch)
        self.border.plan()

    def _epoch_goes_on(self, epoch: int, saved: Mapping[str, Any]) -> None:
        """All see the epoch begin; it has begun before, and what was counted then counts."""
        place, note = self.place, self._list.note_rates
        self._list.note_rates, self._list.n_batches_done = None, place.step
        self._progress.batches_before = place.step - place.step_at_epoch
        self._list.on_epoch_begin(epoch)
        self._list.note_rates = note
        if saved["rates"] is not None:
            self._progress.trained_with = saved["rates"]

    def _say_what_counts(self) -> None:
        if self._settings is not None:
            for line in self._settings.apply():
                self._around.notice(line, always=True)

    def _epoch_ends(self) -> None:
        logs = self._metrics()
        self.border.round_begins()
        self._list.on_epoch_end(self.place.epoch, logs)
        self._around.epoch_ends(self.place, logs)

    def _metrics(self) -> dict[str, Any]:
        """What was logged in this epoch: means of passes, then what was logged outside of them."""
        logs: dict[str, Any] = {}
        read = Means.read if self._workers.size == 1 else Means.parts
        for one in self._passes:
            logs |= {one.prefix + key: value for key, value in read(one.means).items()}
        if self.place.logged is not None:
            logs |= read(self.place.logged)
        return logs

    # What the loop calls in between

    def log(self, values: Mapping[str, Any]) -> None:
        """Log values of this batch, or of this epoch outside of passes."""
        if not self._running:
            if self.place.logged is None or not self._in_epoch:
                raise HostError(
                    "expected run.log() inside an epoch, got it outside.\n"
                    "Hint: log within run.epochs() or run.steps()."
                )
            self.place.logged.add(values)
            return
        one = self._running[-1]
        one.means.add(values, batch_size(one.batch) or 1)
        if self._hooks and len(self._running) == 1 and not one.prefix:
            self._batch_logs |= values

    def every(self, steps: int) -> bool:
        """Whether the batch that runs is the last of so many."""
        return (self.place.step + 1) % steps == 0

    def check(self, values: Mapping[str, Any]) -> None:
        """What was logged since the last check is looked at by all."""
        if not self._counts_checks:
            raise HostError(
                "expected run.check() in a loop without epochs, got it in one of epochs.\n"
                "Hint: an epoch's end is its check; log with run.log(val_loss=…)."
            )
        if not self._running or self._is_checked:
            raise HostError(
                "expected one run.check() within a batch, got it outside, or twice.\n"
                "Hint: if run.every(steps=500): run.check(val_loss=…), in the loop's body."
            )
        place = self.place
        self._batch_ends()
        self._is_checked = True
        if place.logged is not None:
            place.logged.add(values)
        self._epoch_ends()
        del self._passes[1:]
        self._since_check.clear()
        place.epoch += 1
        place.step_at_epoch, place.logged = place.step, Means()
        self._list.on_epoch_begin(place.epoch)
        self._list.n_batches_done = place.step
        self._around.epoch_begins(place.epoch)

    def save(self) -> None:
        """Back up at the next border."""
        self.border.wants_save = True
        self.border.wake()

    def stop(self, reason: str) -> None:
        """End at the next border."""
        self.border.stops = reason
        self.border.wake()

    # The end

    def finish(self, reason: str | None, *, is_over: bool, failed: bool = False) -> None:
        """Training has ended: best weights are restored, all is written.

        Args:
            reason: Why, if it is not the callbacks' own doing.
            is_over: Whether the run is over; else the next start goes on.
            failed: Whether what was trained may be half a step.
        """
        if self._is_finished or not self._has_begun:
            return
        self._is_finished = True
        if failed and not self.border.is_cut_short:
            self._keeper.back_up_held()
        if reason is not None:
            self._around.is_ending(reason, failed=failed)
        try:
            self._list.on_train_end()
        finally:
            self._around.ends(reason or "", is_over=is_over)

    def abandon(self, reason: str) -> None:
        """An error ends this worker, and the others are elsewhere: what is open is closed.

        Nothing is agreed on any more, so nothing is restored.
        """
        if self._is_finished or not self._has_begun:
            return
        self._is_finished = True
        for seat in self._session.acting:
            with contextlib.suppress(Exception):  # the first error counts
                seat.participant.settle()
        with contextlib.suppress(Exception):
            self._keeper.abandon()
        for pool in self._session.pools.values():
            pool.close()
        self._around.ends(reason, is_over=False)

    @property
    def is_finished(self) -> bool:
        """Whether training has ended, or never begun."""
        return self._is_finished or not self._has_begun
