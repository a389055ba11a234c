"""What `BackupAndRestore` does in a run: it takes over what was interrupted, and backs up.

Rules of this file:

1. Everything that a resume needs is in one commit: there is no moment at which two files disagree.
2. What is put back is what an unbroken run would have at this place, so that it decides the same.
   Callbacks get their states before their `_reset`, the model before anybody's train begin, and
   once more, exactly, with the random generators last, before anybody sees the first epoch begin.
3. The commit is started by the last of our callbacks to see an epoch's end, and written while
   training goes on.
4. A state that is worth nothing (stopped because of NaN) does not take the place of a good one.
5. A backup within an epoch is made at a border between two batches where the loop can go on there
  (`EpochPlace`); what it goes on from is put back at that border once more. Where it cannot, or
  with `exact=False`, the epoch is begun anew with the weights of that batch, as in Keras.
6. Before the first epoch only the beginning is recorded: the run's name, and how many rows were in
   its logs. A run that is killed in its first epoch begins anew, also with another model.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast, final

from peakhold._core.moments import Moment, number_of
from peakhold._core.observation import Event, is_finite
from peakhold._core.policies.save_when import AtEnd, SaveSchedule, SaveScheduleState, trigger_of
from peakhold.advice import Folder, RunSettings
from peakhold.backup.configuration import Configuration
from peakhold.backup.interrupted import STATE, Interrupted
from peakhold.backup.record import Packer
from peakhold.backup.state import FORMAT, used
from peakhold.errors import BackupMismatchError, InvalidArgumentError, SaveWarning
from peakhold.host.contract import AVERAGE, OPTIMIZER, WEIGHTS
from peakhold.host.extras import EXTRA, Extras
from peakhold.host.resume import EpochPlace, EpochRecord, Resumption
from peakhold.runtime import filing
from peakhold.runtime.callback import link_of
from peakhold.runtime.driver import run_ahead
from peakhold.runtime.loop_list import LoopPlace
from peakhold.runtime.participant import Keeper
from peakhold.runtime.random_state import random_state
from peakhold.runtime.run_view import RunView
from peakhold.runtime.session import session_of
from peakhold.runtime.summary import Ending
from peakhold.snapshots.pool import Held, SnapshotPool, held_weakly

if TYPE_CHECKING:
    from peakhold.backup.folder import BackupFolder, Place
    from peakhold.backup.followed import FollowedFolder
    from peakhold.backup.sharded import ShardedFolder

__all__ = ["Keeping"]

_PARTS = frozenset({WEIGHTS, OPTIMIZER, AVERAGE})
_FILES_OF_A_BACKUP = 4
"""A folder, its manifest, weights and optimizer."""


@final
class Keeping(Keeper):
    """The keeper of a session.

    Args:
        backup_dir: The folder.
        save_freq: `"epoch"`, a number of batches, or False.
    """

    reads_steps = False
    double_checkpoint = False
    delete_checkpoint = True
    exact = True

    def __init__(self, backup_dir: str, save_freq: str | int) -> None:
        self.backup_dir, self.save_freq = backup_dir, save_freq
        self.initial_epoch = 0
        self.current_epoch = 0
        self.last_batch_seen = 0
        self._kept: _Kept | None = None
        self._shared: list[dict[str, Any]] = []
        """What each of several workers has for itself, by rank."""

    @property
    def save_freq(self) -> str | int:
        """`"epoch"`, a number of batches, or False."""
        return self._save_freq

    @save_freq.setter
    def save_freq(self, save_freq: str | int) -> None:
        # Counts batches for backups within epochs; those at their ends are `commit`'s.
        self._schedule = SaveSchedule(trigger_of(save_freq or AtEnd()))
        self._save_freq = save_freq

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_kept": None}

    # Train begin: before anybody else's

    def attached(self, driver: Any, callback: Any) -> None:
        """Have the session resume before the list calls anybody for train begin."""

        def resume(*_: Any) -> None:
            session_of(callback, Event.TRAIN_BEGIN).opening.resume()

        run_ahead(driver, "on_train_begin", resume)

    def resume(self, run: RunView) -> None:
        """Take over what an interrupted run left."""
        # Here, for it loads NumPy: importing Peakhold does not.
        from peakhold.backup.folder import BackupFolder

        if self._kept is not None:  # of a fit that raised
            self._kept.folder.close()
        host = run.host
        folder: BackupFolder | FollowedFolder | ShardedFolder
        if host.is_sharded() or os.path.isdir(os.path.join(self.backup_dir, "rank-1")):
            from peakhold.backup.sharded import ShardedFolder

            folder = ShardedFolder(self.backup_dir, run.rank, run.n_workers, run.trained.owns_frame)
        elif run.follows:
            from peakhold.backup.followed import FollowedFolder

            folder = FollowedFolder(self.backup_dir)
        else:
            folder = BackupFolder(self.backup_dir, run.trained.owns_frame)
        resumption = host.resumption()
        configured = Configuration(resumption, run.params, self._filed())
        self._kept = kept = _Kept(folder, resumption, configured, run.extras)
        kept.n_workers, kept.place = run.n_workers, getattr(run.driver, "place", None)
        self.initial_epoch = self.current_epoch = run.first_epoch
        self.last_batch_seen = 0
        try:
            self._find_place(kept, run)
            self._take_over(kept, run)
        except BaseException:
            kept.folder.close()
            self._kept = None
            raise

    def _find_place(self, kept: _Kept, run: RunView) -> None:
        """Where `fit` is inside an epoch, as far as it can go on there; else it is said."""
        if not self.exact or not run.trained.runs_fit():
            return
        found = kept.resumption.place(run.driver)
        if found is None:
            return
        why = found if isinstance(found, str) else None
        if run.n_workers > 1:
            why = "several workers train"
        elif kept.resumption.unrepeatable() is not None:
            why = "the order of its batches is not known"
        if why is None:
            kept.inside = inside = cast("EpochPlace", found)
            kept.saves_place = self.save_freq != "epoch" or inside.matters_between_epochs
            if self.save_freq != "epoch":
                kept.note_epoch = inside.note_epoch
                self._note_epoch(kept.note_epoch)
        elif self.save_freq != "epoch":
            self._say(
                "will begin an epoch anew in which it is interrupted, with the weights of the last "
                f"backup, as Keras does: {why}."
            )

    def _note_epoch(self, note: Callable[[], None] | None) -> None:
        """Have the beginning of the next epoch noted, before any hook sees it."""
        if note is not None:
            self.run.ahead_of_all("on_epoch_begin", lambda *_, **__: note())

    def _take_over(self, kept: _Kept, run: RunView) -> None:
        self._tell_what_is_not_exact(kept, run)
        found = self._newest(kept, run)
        if found is None:
            self._take_foreign(kept)
            return
        kept.interrupted = was = Interrupted(*found, run.rank, run.n_workers)
        state = was.state
        run.resumes(state["run_id"], state["timestamp"])
        if not was.begins or not run.is_told_how_it_counts:
            run.counts_from(state.get("first_epoch") or 0)
        self.initial_epoch = self.current_epoch = run.first_epoch
        if was.begins:
            was.give_states(self._filed(), of_ours=True)
            return
        kept.configured.compare_with(state.get("configured") or {})
        # What is not built yet is filled when the first epoch begins.
        is_filled = was.fit_model(kept.resumption, kept.extras, self.backup_dir)
        self._tell_what_it_lacks(kept, was, run)
        epoch = int(state["epoch"])
        self.current_epoch, kept.passed = epoch, was.passed()
        self._give(kept, was)
        at = state.get("place")
        if kept.place is not None and at is not None:
            with used("where its loop was", was.path):
                kept.place.take(at, is_own=was.n_workers == run.n_workers)
        self._take_place(kept, was)
        stopped = self._still_stopped(was)
        end = run.first_epoch + (run.epochs or 0)
        self.initial_epoch = max(epoch, end) if stopped else epoch
        kept.resumption.set_first_epoch(self.initial_epoch)
        if self._is_over():
            run.set_last_epoch(epoch - 1 if epoch > run.first_epoch else None, stopped)
        self._be_ready_to_put_back(run)
        if not run.trained.runs_fit():  # a loop need not say that an epoch begins
            was.put_random_state_back()
        self._tell_another_number(was, run)
        self._say(self._where_it_goes_on(state, epoch, stopped), always=self._is_over())
        if is_filled:
            self._tell_differences(kept)

    def _take_place(self, kept: _Kept, was: Interrupted) -> None:
        """Go on where `fit` was, if it is known and can be found again."""
        inside, at = kept.inside, was.state.get("place")
        if inside is None or at is None:
            return
        path = was.path
        with used("where its loop was", path):
            why = inside.take(
                at,
                lambda exactly: self._arrive(kept, was, exactly=exactly),
                self._say,
                lambda: used("where its loop was", path),
            )
        if why is not None and was.state["batch"] is not None:
            self._say(f"begins the epoch anew: {why}.", always=True)

    def _arrive(self, kept: _Kept, was: Interrupted, *, exactly: bool) -> None:
        """`fit` has come to the batch that is next: put all back, for hooks have run since.

        Args:
            kept: This run.
            was: What it goes on from.
            exactly: Whether the epoch goes on there; or it is begun anew, for it cannot.
        """
        was.fit_model(kept.resumption, kept.extras, self.backup_dir)
        was.give_states(self._filed(), of_ours=False, again=True)
        if exactly and kept.inside is not None:
            with used("what belongs to its model", was.path):
                kept.inside.put_metrics_back(was.state["more"]["metrics"])
                kept.inside.put_generators_back()
            kept.due = SaveScheduleState(last_batch=was.state["batch"], in_epoch=True)
        was.put_random_state_back()
        self.run.new_moment()

    def _newest(self, kept: _Kept, run: RunView) -> tuple[dict[str, Any], str] | None:
        """The newest backup; of several workers, rank 0 says which, and all take that one."""
        folder = kept.folder
        if folder.in_pieces:
            return cast("ShardedFolder", folder).agreed(run)
        folder = cast("BackupFolder | FollowedFolder", folder)
        checkpoint = None if run.follows else folder.newest()
        if run.n_workers > 1:
            step = run.agree("the backup to go on from", checkpoint and checkpoint.entry.step)
            if run.follows and step is not None:
                checkpoint = folder.at(step)
        return None if checkpoint is None else (checkpoint.parts, str(checkpoint.entry.path))

    def share(self, gather: Callable[[Any], list[Any]]) -> None:
        """Random generators are each worker's own, and what else differs.

        Where a loop says when it is backed up, they are asked for then.
        """
        if self._place() is None:
            self._collect(gather)

    def _share_place(self, what: str) -> None:
        """A loop is backed up that says when."""
        if self.run.n_workers > 1:
            self._collect(partial(self.run.gather, f"{what} ({self.run.name})"))

    def _collect(self, gather: Callable[[Any], list[Any]]) -> None:
        kept = self._kept
        if kept is not None:
            from peakhold.backup.own import collect

            if kept.folder.in_pieces:
                pieces = cast("ShardedFolder", kept.folder)
                pieces.all_have(gather(pieces.durable()))
            links = {name: link_of(one) for name, one in self._filed().items()}
            held = {name: link.participant.snapshots() for name, link in links.items() if link}
            more = kept.resumption.more()
            place = None if kept.place is None else kept.place.state()
            self._shared = collect(self.run.host, more, place, kept.extras, held, gather)

    def _still_stopped(self, was: Interrupted) -> Sequence[str]:
        """Why training was over, as far as it still is: somebody may have been given patience."""
        stopped: Sequence[str] = was.state["stopped"]
        by = was.state.get("stopped_by") or ()
        members = self._filed()
        links = [link_of(members.get(name)) for name in by]
        if not stopped or len(links) != len(stopped) or None in links:
            return stopped
        lifted = [link is not None and link.participant.lift_stop() for link in links]
        return [] if all(lifted) else stopped

    def _tell_differences(self, kept: _Kept) -> None:
        if not kept.has_compared:
            kept.has_compared = True
            for line in kept.configured.differences(self._anew(), self.initial_epoch):
                self._say(f": {line}", always=True)

    def _be_ready_to_put_back(self, run: RunView) -> None:
        def epoch_begins(epoch: int, *_: Any, **__: Any) -> None:
            self._check_first_epoch(run, epoch)
            run.put_back()

        def epoch_ends(epoch: int, *_: Any, **__: Any) -> None:
            if self._kept is not None and self._kept.interrupted is not None:
                self._check_first_epoch(run, epoch)
                self._kept.has_trained = True
                run.put_back()

        def training_ends(*_: Any, **__: Any) -> None:
            run.put_back()

        run.ahead_of_all("on_epoch_begin", epoch_begins)
        run.ahead_of_all("on_epoch_end", epoch_ends)
        run.ahead_of_all("on_train_end", training_ends)

    def _check_first_epoch(self, run: RunView, epoch: int) -> None:
        """See that a loop begins where the interrupted run goes on.

        Raises:
            InvalidArgumentError: If it begins elsewhere, as `range(n)` does.
        """
        if epoch == self.initial_epoch or run.trained.runs_fit():
            return
        hint = "for epoch in range(callbacks.initial_epoch, N)"
        if run.first_epoch:
            hint = f"{hint[:-1]} + 1), with CallbackList(..., first_epoch=1)"
        if self._is_over():
            raise InvalidArgumentError.for_argument(
                "epoch",
                epoch,
                "no further epoch, for the run that is resumed was over",
                hint=f"{hint}, runs none; or {self._anew()} to train anew.",
            )
        raise InvalidArgumentError.for_argument(
            "epoch",
            epoch,
            f"epoch={self.initial_epoch}, with which the run in {self.backup_dir!r} goes on",
            hint=f"{hint}, or delete that folder to train anew.",
        )

    def _tell_what_it_lacks(self, kept: _Kept, was: Interrupted, run: RunView) -> None:
        """What the run has and its backup has not, and the other way round."""
        now, then = OPTIMIZER in run.host.parts(), OPTIMIZER in was.parts
        new = ["the optimizer"] * (now and not then)
        new += [f"extra {name!r}" for name in kept.extras.new(was.extra)]
        gone = ["the optimizer"] * (then and not now)
        gone += [f"extra {name!r}" for name in kept.extras.gone(was.extra)]
        if new:
            self.run.warn(
                f"BackupAndRestore: the backup {was.path!r} holds no state of {', '.join(new)}; "
                "it goes on with the one it has now.",
                SaveWarning,
            )
        if gone:
            self.run.warn(
                f"BackupAndRestore: nothing in this run takes the state of {', '.join(gone)}, "
                f"which is in the backup {was.path!r}. Hint: pass to CallbackList what the run had "
                "that is resumed (optimizer=, extra=).",
                SaveWarning,
            )

    def welcome(self, run: RunView) -> None:
        """Others have joined the run since `resume`: give them what is theirs."""
        kept = self._kept
        if kept is not None and kept.interrupted is not None:
            self._give(kept, kept.interrupted)

    def _give(self, kept: _Kept, was: Interrupted) -> None:
        callbacks = self._filed()
        was.give_states(callbacks, of_ours=True)
        kept.places |= was.give_snapshots(
            callbacks, kept.folder, lambda text: self.run.warn(text, SaveWarning)
        )

    def _tell_another_number(self, was: Interrupted, run: RunView) -> None:
        then, now = was.n_workers, run.n_workers
        if then != now:
            self._say(
                f": the run that is resumed had {_workers(then)}, this one has {_workers(now)}. "
                "Model, optimizer and callbacks go on exactly; random generators and statistics of "
                "rank 0 count, and each worker gets other data than it would have had."
                f"{self._lost()}",
                always=True,
            )

    def _lost(self) -> str:
        """What cannot be taken over of where a loop was."""
        place = self._place()
        words = "" if place is None else place.lost()
        return f" {words}" if words else ""

    def _tell_what_is_lost(self, was: Interrupted) -> None:
        lost = was.lost()
        if lost:
            classes = {name.partition("(")[0] for name in lost}
            fresh = [name for name in self._filed() if name.partition("(")[0] in classes]
            afresh = [name for name in fresh if name not in was.state["callbacks"]]
            verb = "begins" if len(afresh) == 1 else "begin"
            begin = f" {', '.join(afresh)} {verb} afresh." if afresh else ""
            self.run.warn(
                f"BackupAndRestore: no callback of this run takes the state of "
                f"{', '.join(lost)}, which was in the run that is resumed.{begin}",
                SaveWarning,
            )

    def _take_foreign(self, kept: _Kept) -> None:
        files = kept.resumption.foreign_backup(self.backup_dir)
        if not files:
            return
        kept.foreign = files
        self.run.counts_from(0)
        kept.resumption.build(None)
        epoch = kept.resumption.take_foreign_backup(self.backup_dir)
        self.initial_epoch = self.current_epoch = epoch
        kept.resumption.set_first_epoch(epoch)
        self._say(
            f"goes on with epoch {epoch + 1} from a backup that Keras's own class wrote, which "
            "holds the model and the optimizer, and no state of callbacks."
        )

    def _is_over(self) -> bool:
        epochs, first = self.run.epochs, self.run.first_epoch
        return epochs is not None and self.initial_epoch >= first + epochs

    # Before the first epoch, or at the end if there is none

    def put_back(self, run: RunView) -> None:
        """Put the interrupted run's state back, exactly; the random generators last."""
        kept = self._kept
        if kept is None:
            return
        kept.resumption.set_first_epoch(None)  # `fit` has read it
        was, kept.interrupted = kept.interrupted, None
        if was is None:
            if kept.folder.is_new and self.save_freq is not False and run.driven:
                self._record_beginning(kept)
            return
        if was.begins:
            self._tell_what_is_lost(was)
            return
        trains = run.start_epoch is not None or not self._is_over()
        untouched = not kept.has_trained
        if (
            trains
            and untouched
            and not was.fit_model(kept.resumption, kept.extras, self.backup_dir)
        ):
            raise BackupMismatchError.for_tensors(
                self.backup_dir,
                ["the model is not built yet, and cannot be built from the shapes in the backup"],
            )
        self._tell_differences(kept)
        was.give_states(self._filed(), of_ours=False)
        self._tell_what_is_lost(was)
        if kept.passed is not None:
            kept.resumption.set_passed(run.callbacks, kept.passed)
        if untouched:
            was.put_random_state_back()
            if kept.inside is not None and kept.inside.is_within:
                kept.inside.show_beginning()

    def abandon(self) -> None:
        """This run ends by an error, and its workers agree on nothing any more."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.extra_pool.close()
            kept.folder.close()

    # Saving

    def buffers_needed(self, run: RunView) -> Mapping[str, int]:
        """Two copies of all that a backup holds: one is written, one taken."""
        from peakhold.snapshots.tree import check_storable  # loads NumPy

        parts = [part for part in run.host.parts() if part in _PARTS]
        if run.host.ensure_built(parts):
            check_storable(run.host.borrow(parts))
        if self._kept is not None:
            self._kept.prepare_extras()
        self._tell_what_is_not_held(run)
        return dict.fromkeys(parts, 2)

    def advise(self, settings: RunSettings) -> RunSettings:
        """Its folder: two backups, the one with the best weights, and the one being written."""
        copies = 3 + any(stopper.restores for stopper in settings.stoppers)
        path = os.path.abspath(self.backup_dir)
        folder = Folder(self.name, path, "state", copies, _FILES_OF_A_BACKUP)
        return replace(settings, folders=(*settings.folders, folder))

    def commit(self, moment: Moment, logs: dict[str, Any]) -> None:
        """Back up what all have just decided."""
        kept, run, epoch = self._kept, self.run, moment.at.epoch
        if kept is None:
            return
        self.current_epoch, self.last_batch_seen = epoch + 1, 0
        kept.due, _ = self._schedule.epoch_end(kept.due)
        kept.note(epoch, logs, run.callbacks)
        saved_within, kept.saved_within = kept.saved_within, False
        stops = bool(run.stop_reasons) or run.host.stop_requested()
        loss = moment.metrics.get("loss")
        if stops and (run.state_unusable or (loss is not None and not is_finite(loss))):
            run.mark_unusable()
            self._say(
                f"keeps the backup of an earlier epoch: epoch {moment.at.number} is not finite."
            )
        elif kept.place is not None:
            if kept.place.is_due(ends=stops):
                self._share_place(f"the backup after epoch {moment.at.number}")
                self._save(epoch + 1, None, stops)
        elif self.save_freq == "epoch" or saved_within or kept.wanted.is_set():
            self._save(epoch + 1, None, stops)
        self._note_epoch(kept.note_epoch)

    def _anew(self) -> str:
        """What to do to train anew."""
        place = self._place()
        return f"delete {self.backup_dir!r}" if place is None else place.anew

    def _place(self) -> LoopPlace | None:
        """Where the loop is, if it can go on there."""
        return getattr(self.run.driver, "place", None)

    def listens(self, event: Event) -> bool:
        """Whether batches must be looked at: they count, or SIGTERM has come."""
        if event is not Event.TRAIN_BATCH_END:
            return False
        counts = self.save_freq != "epoch" and self.save_freq is not False
        return counts or (self._kept is not None and self._kept.wanted.is_set())

    def record(self, moment: Moment, logs: dict[str, Any], decided: Any) -> None:
        """Back up within an epoch, where that was asked for or SIGTERM has come."""
        kept, batch = self._kept, moment.at.batch
        if kept is None or moment.event is not Event.TRAIN_BATCH_END or batch is None:
            return
        if kept.interrupted is not None:  # a loop that has not said that an epoch begins
            kept.has_trained = True
            self.run.put_back()
        kept.due, due = self._schedule.batch_end(kept.due, batch)
        self.last_batch_seen = batch
        if not due and (not kept.wanted.is_set() or kept.saved.is_set()):
            return
        if kept.inside is None:
            self._save_within(kept, moment.at.epoch, batch)
            return
        epoch, kept.logs = moment.at.epoch, moment.metrics
        kept.saved_within = True  # also if training ends with this batch, and no border comes
        kept.inside.at_border(lambda: self._save_within(kept, epoch, batch))

    def _save_within(self, kept: _Kept, epoch: int, batch: int) -> None:
        kept.due = self._schedule.reset(kept.due)
        kept.saved_within = True
        self.run.new_moment()
        self._save(epoch, batch, False)

    def commit_within(self, moment: Moment) -> None:
        """Back up at this batch, where there is no backup at each epoch's end."""
        kept, batch = self._kept, moment.at.batch
        if kept is not None and batch is not None and self.save_freq != "epoch":
            self.last_batch_seen = batch
            self._save_within(kept, moment.at.epoch, batch)

    def back_up(self, epoch: int, batch: int) -> None:
        """Back up between two batches, where the loop can go on.

        Args:
            epoch: The running one.
            batch: The last that is done in it.
        """
        kept = self._kept
        if kept is not None and not self.run.state_unusable:
            self.last_batch_seen = batch
            self._share_place(f"the backup after batch {batch} of epoch {self.run.number(epoch)}")
            self._save_within(kept, epoch, batch)

    def newest(self) -> str | None:
        """The newest backup."""
        from peakhold.store import Reader

        entry = Reader(self.backup_dir).latest
        return (
            None if entry is None else f"step {entry.step} in {self.backup_dir!r}, {entry.reason}"
        )

    def hold(self, epoch: int, batch: int) -> None:
        """Keep a copy of all as it is at this border, for `back_up_held`; nothing is written.

        Where there is no memory for it, or several workers would have to agree, none is kept.
        """
        kept = self._kept
        if kept is None or self.run.state_unusable or kept.n_workers > 1:
            return
        self.drop_held()
        self.run.new_moment()
        with contextlib.suppress(MemoryError):
            kept.held = self._taken(kept, epoch, batch, False)

    def drop_held(self) -> None:
        """Nothing needs the copy that is held any more."""
        kept = self._kept
        if kept is not None and kept.held is not None:
            held, kept.held = kept.held, None
            for one in held.keep:
                one.release()

    def back_up_held(self) -> None:
        """Back up what is held, if anything is."""
        kept = self._kept
        if kept is not None and kept.held is not None:
            held, kept.held = kept.held, None
            self._ready_to_write(kept)
            kept.saved_within = True
            self._write(kept, held)

    def _save(self, epoch: int, batch: int | None, stops: bool) -> None:
        kept, run = self._kept, self.run
        if kept is None:
            return
        began = time.perf_counter()
        if kept.folder.is_followed:
            run.enter_save()
            kept.note_cost(began)
            return
        self.drop_held()
        self._ready_to_write(kept)
        waits = False
        try:
            taken = self._taken(kept, epoch, batch, stops)
        except MemoryError:
            waits = True
            taken = self._taken(kept, epoch, batch, stops, borrowed=True)
        self._write(kept, taken)
        if waits:
            kept.folder.wait()
        if kept.wanted.is_set():
            kept.saved.set()
        kept.note_cost(began)

    def _ready_to_write(self, kept: _Kept) -> None:
        """Wait for the backup before; it tells whether what this one would refer to is there."""
        kept.folder.wait()
        trouble = kept.folder.trouble()
        if trouble is not None:
            self.run.warn(trouble, SaveWarning)

    def _taken(
        self, kept: _Kept, epoch: int, batch: int | None, stops: bool, *, borrowed: bool = False
    ) -> _Taken:
        """All that a backup holds, as it is now.

        Raises:
            MemoryError: If there is no memory for a copy, and it is not to be borrowed.
        """
        run = self.run
        host, resumption = run.host, kept.resumption
        if borrowed:
            model, extras = self._borrowed(kept)
        else:
            model = run.pool.take([part for part in host.parts() if part in _PARTS])
            extras = kept.take_extras()
        first, shares, members = run.first_epoch, kept.n_workers > 1, self._filed()
        state = {
            "format": FORMAT,
            "begins": False,
            "first_epoch": first,
            "epoch": epoch,
            "batch": batch,
            "stopped": (run.stop_reasons or ["something set stop_training"]) if stops else [],
            "stopped_by": run.stopped_by if stops else [],
            "configured": kept.configured.to_save(),
            "run_id": run.id,
            "timestamp": run.timestamp,
            "versions": host.versions(),
            "build": resumption.build_config(),
            "names": resumption.names(),
            "more": resumption.more(),
            "random": random_state(),
            "n_workers": kept.n_workers,
            "workers": self._shared if shares else [],
            "callbacks": filing.collect(members),
            "passed": kept.packer.pack(kept.passed),
            "place": self._shared[0]["place"] if shares else kept.place_now(batch),
        }
        number = number_of(epoch, first)
        reason = (
            f"after epoch {number - 1}" if batch is None else f"batch {batch + 1} of epoch {number}"
        )
        return _Taken(epoch, reason, model, extras, members, state)

    def _write(self, kept: _Kept, taken: _Taken) -> None:
        """Begin to write it."""
        folder, parts, keep = kept.folder, taken.model.parts, taken.keep
        step = folder.last_step + 1
        best, extra = self._held_places(kept, taken.members, taken.model, parts, step, keep)
        state = {**taken.state, "held": best}
        if kept.place is not None:
            kept.place.make_durable()
        try:
            folder.save(
                {
                    **kept.resumption.to_write(parts),
                    **_parts_of(taken.extras),
                    **extra,
                    STATE: state,
                },
                keep,
                epoch=taken.epoch,
                refers_to=[step for places in kept.places.values() for step, _ in places.values()],
                reason=taken.reason,
            )
        except InvalidArgumentError as error:
            error.add_note("A state_dict holds something that cannot be saved.")
            raise

    def _borrowed(self, kept: _Kept) -> tuple[Held, Held | None]:
        """The state itself, where no copy can be had: training waits until it is written."""
        if not kept.has_waited:
            kept.has_waited = True
            self._say("writes while training waits: there is no memory for a copy of the state.")
        host = self.run.host
        parts = host.borrow([part for part in host.parts() if part in _PARTS])
        return Held.of(parts), kept.borrow_extras()

    def _record_beginning(self, kept: _Kept) -> None:
        """Which rows were in the logs before: a run killed in its first epoch writes again."""
        if self.run.follows:
            cast("ShardedFolder", kept.folder).skip()
            return
        writers = {
            name: one
            for name, one in self._filed().items()
            if (link := link_of(one)) is not None and link.participant.adds_to_files
        }
        state = {
            "format": FORMAT,
            "begins": True,
            "first_epoch": self.run.first_epoch,
            "run_id": self.run.id,
            "timestamp": self.run.timestamp,
            "callbacks": filing.collect(writers),
        }
        kept.folder.save({STATE: state}, [], epoch=0, refers_to=[], reason="the beginning")
        kept.folder.wait()  # before the first row is written

    def _held_places(
        self,
        kept: _Kept,
        members: Mapping[str, Any],
        now: Held,
        parts_now: Mapping[str, Any],
        step: int,
        keep: list[Held],
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Where what callbacks hold in memory is, or will be, on disk; and what to write for it."""
        best: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        places: dict[int, dict[str, Place]] = {}
        links = {name: link_of(member) for name, member in members.items()}
        for name, link in links.items():
            if link is None:
                continue
            for called, held in link.participant.snapshots().items():
                known = kept.places.get(held.token, {})
                parts: dict[str, Place] = {}
                for part, tree in held.parts.items():
                    if held.token == now.token and part in parts_now:
                        parts[part] = (step, part)
                    elif part in known and kept.folder.has(known[part][0]):
                        parts[part] = known[part]
                    else:
                        parts[part] = (step, f"held-{len(extra)}")
                        extra[parts[part][1]] = tree
                        keep.append(held.share())
                places[held.token] = {**places.get(held.token, {}), **parts}
                best.setdefault(name, {})[called] = {p: list(w) for p, w in parts.items()}
        places.setdefault(now.token, {part: (step, part) for part in parts_now})
        kept.places = places
        return best, extra

    def _filed(self) -> dict[str, Any]:
        run = self.run
        own = run.callback
        return filing.filed([one for one in run.callbacks if one is not own])

    # The end

    def finish_by(self, deadline: float) -> None:
        """Have a backup made at the end of the batch, where there is none at each epoch's end."""
        kept = self._kept
        if kept is None:
            return
        if self.save_freq != "epoch" and self.run.n_workers == 1:  # several end at one batch
            kept.wanted.set()
            driver = self.run.driver
            if driver is not None:
                kept.resumption.call_batch_hooks(driver)
            kept.saved.wait(max(0.0, deadline - time.monotonic()))
        kept.folder.wait(deadline)

    def end(self, ending: Ending) -> None:
        """Training ended well: nothing is left to go on from."""
        self.drop_held()
        kept, self._kept = self._kept, None
        if kept is None:
            return
        kept.extra_pool.close()
        kept.resumption.set_first_epoch(None)
        kept.resumption.note_end()
        if self.delete_checkpoint and not self.run.state_unusable:
            in_pieces, follows = kept.folder.in_pieces, self.run.follows
            if in_pieces and not follows:  # it is deleted last: the others are in it
                self.run.gather("the end of the backups", None)
            kept.folder.remove(kept.foreign)
            if in_pieces and follows:
                self.run.gather("the end of the backups", None)
        else:
            kept.folder.close()

    # Words

    def _say(self, text: str, *, always: bool = False) -> None:
        space = "" if text.startswith(":") else " "
        self.run.notice(f"{self.name}{space}{text}", always=always)

    def _where_it_goes_on(
        self, state: Mapping[str, Any], epoch: int, stopped: Sequence[str]
    ) -> str:
        epochs, number = self.run.epochs, self.run.number(epoch)
        if self._is_over():
            why = "; ".join(stopped) or "no epoch is left"
            more = "more epochs, it goes on"
            if stopped:
                waited = all(reason.endswith("(EarlyStopping)") for reason in stopped)
                more = "a longer patience, it goes on" if waited else ""
            goes_on = f" With {more}." if more else ""
            return (
                f"trains nothing: training was over after epoch {number - 1} ({why}).{goes_on} "
                f"To train anew, {self._anew()}."
            )
        text = f"goes on with epoch {number}" + (f" of {epochs}" if epochs else "")
        batch, kept = state["batch"], self._kept
        place = None if kept is None else kept.place
        inside = None if kept is None else kept.inside
        if place is not None:
            text += place.words()
        elif inside is not None and inside.is_within:
            text += inside.words()
        elif batch is not None:
            text += f", from its first batch, with the weights it had after batch {batch + 1}"
        return f"{text}, from {self.backup_dir!r}."

    def _tell_what_is_not_exact(self, kept: _Kept, run: RunView) -> None:
        words = kept.resumption.unrepeatable()
        if words is not None:
            self._say(words)

    def _tell_what_is_not_held(self, run: RunView) -> None:
        """Said once: a loop has an optimizer, a scheduler or a scaler that no backup will hold."""
        words = run.evidently_missing()
        if words is not None:
            run.warn(f"BackupAndRestore: {words}", SaveWarning)

    def file(self, which: int, name: str) -> str:
        """Path of a file of the newest backup (0) or the one before (1)."""
        if self._kept is None:
            return os.path.join(self.backup_dir, name)
        return self._kept.folder.file(which, name)


def _workers(n: int) -> str:
    return "1 worker" if n == 1 else f"{n} workers"


def _parts_of(taken: Held | None) -> dict[str, Any]:
    return {} if taken is None else taken.parts


class _Taken:
    """A backup that is not written yet.

    Args:
        epoch: To go on with.
        reason: Why, for people.
        model: Copies of the model's parts.
        extras: Copies of what else the run has.
        members: The callbacks, by the names that their states are filed under.
        state: All else.
    """

    def __init__(
        self,
        epoch: int,
        reason: str,
        model: Held,
        extras: Held | None,
        members: Mapping[str, Any],
        state: dict[str, Any],
    ) -> None:
        self.epoch, self.reason, self.members, self.state = epoch, reason, members, state
        self.model, self.extras = model, extras
        self.keep = [model] if extras is None else [model, extras]
        """To be released when it is written."""


class _Kept:
    """What belongs to one run."""

    def __init__(
        self,
        folder: BackupFolder | FollowedFolder | ShardedFolder,
        resumption: Resumption,
        configured: Configuration,
        extras: Extras,
    ) -> None:
        self.folder, self.resumption = folder, resumption
        self.configured, self.extras = configured, extras
        # It borrows as a host does, and that is all that is asked of it here.
        self.extra_pool = SnapshotPool(held_weakly(cast("Any", extras)))
        self.has_compared = False
        """Whether it has been said what the program says otherwise than before."""
        self.has_trained = False
        """Whether a batch has run that nobody told of: too late to put the model back."""
        self.interrupted: Interrupted | None = None
        """What it goes on from, until all have what is theirs."""
        self.passed: EpochRecord | None = None
        self.held: _Taken | None = None
        """What would be written if training ended now, where no backup can be made."""
        self.packer = Packer()
        self.places: dict[int, dict[str, Place]] = {}
        """Where on disk the parts of a snapshot are, by its token."""
        self.foreign: tuple[str, ...] = ()
        self.due = SaveScheduleState()
        self.n_workers = 1
        self.saved_within = self.has_waited = False
        self.place: LoopPlace | None = None
        """Where a loop of somebody's own is, if it can go on there."""
        self.inside: EpochPlace | None = None
        """Where the framework's own loop is, if it can go on inside an epoch."""
        self.saves_place = False
        """Whether it is in backups: those at the ends of epochs may not need it."""
        self.note_epoch: Callable[[], None] | None = None
        """To be called before an epoch begins, where backups are made within epochs."""
        self.logs: Mapping[str, float] = {}
        """What the batch has logged after which a backup is made."""
        self.wanted, self.saved = threading.Event(), threading.Event()
        """Whether SIGTERM wants a backup, and whether one has been begun since."""

    def place_now(self, batch: int | None) -> Any:
        """Where the loop is, as far as a backup needs it; None between epochs."""
        if self.place is not None:
            return self.place.state()
        if self.inside is None or not self.saves_place:
            return None
        return self.inside.state(None if batch is None else self.logs)

    def note_cost(self, began: float) -> None:
        """A loop hears what its backup has cost."""
        if self.place is not None:
            self.place.note_cost(time.perf_counter() - began)

    def prepare_extras(self) -> None:
        """See that they can be saved, and have memory ready."""
        from peakhold.snapshots.tree import check_storable  # loads NumPy

        if self.extras.names:
            if self.extras.ensure_built([EXTRA]):
                check_storable(self.extras.borrow([EXTRA]))
            self.extra_pool.prepare({EXTRA: 2})

    def borrow_extras(self) -> Held | None:
        """The states themselves, where there is no memory for a copy."""
        return Held.of(self.extras.borrow([EXTRA])) if self.extras.names else None

    def take_extras(self) -> Held | None:
        """A copy of their states; None if there are none."""
        if not self.extras.names:
            return None
        self.extra_pool.is_stale = True
        return self.extra_pool.take([EXTRA])

    def note(self, epoch: int, logs: Mapping[str, Any], callbacks: Iterable[Any]) -> None:
        """Add an epoch to the record. The framework's own knows what was logged after us."""
        own = self.resumption.passed(callbacks)
        if own is not None and own.epochs[-1:] == [epoch]:
            self.passed = own
            return
        passed = own or self.passed or EpochRecord([], {})
        passed.epochs.append(epoch)
        for key, value in logs.items():
            passed.metrics.setdefault(key, []).append(value)
        self.passed = passed
