"""What `BackupAndRestore` does in a run: it takes over what was interrupted, and backs up.

Rules of this file:

1. Everything that a resume needs is in one commit: there is no moment at which two files disagree.
2. What is put back is what an unbroken run would have at this place, so that it decides the same.
   Callbacks get their states before their `_reset`, the model before anybody's train begin, and
   once more, exactly, with the random generators last, before anybody sees the first epoch begin.
3. The commit is started by the last of our callbacks to see an epoch's end, and written while
   training goes on.
4. A state that is worth nothing (stopped because of NaN) does not take the place of a good one.
5. Before the first epoch only the beginning is recorded: the run's name, and how many rows were in
   its logs. A run that is killed in its first epoch begins anew, also with another model.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, final

from peakhold._core.moments import Moment
from peakhold._core.observation import Event, is_finite
from peakhold._core.policies.save_when import (
    AtEnd,
    SaveSchedule,
    SaveScheduleState,
    trigger_of,
)
from peakhold.backup.state import FORMAT, checked, used
from peakhold.errors import (
    BackupMismatchError,
    InvalidArgumentError,
    PeakholdError,
    SaveWarning,
)
from peakhold.host.contract import AVERAGE, OPTIMIZER, WEIGHTS, to_number
from peakhold.host.resume import EpochRecord, Resumption
from peakhold.runtime import filing
from peakhold.runtime.callback import link_of
from peakhold.runtime.driver import run_ahead
from peakhold.runtime.participant import Keeper
from peakhold.runtime.random_state import random_state, set_random_state
from peakhold.runtime.run_view import RunView
from peakhold.runtime.session import session_of
from peakhold.runtime.summary import Ending
from peakhold.snapshots.pool import Held

if TYPE_CHECKING:
    from peakhold.backup.folder import BackupFolder, Place

__all__ = ["STATE", "Keeping"]

STATE = "train_state"
_PARTS = frozenset({WEIGHTS, OPTIMIZER, AVERAGE})


@final
class Keeping(Keeper):
    """The keeper of a session.

    Args:
        backup_dir: The folder.
        save_freq: `"epoch"`, a number of batches, or False.
    """

    double_checkpoint = False
    delete_checkpoint = True

    def __init__(self, backup_dir: str, save_freq: str | int) -> None:
        self.backup_dir, self.save_freq = backup_dir, save_freq
        self.initial_epoch = 0
        self.current_epoch = 0
        self.last_batch_seen = 0
        self._kept: _Run | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_kept": None}

    # Train begin: before anybody else's

    def attached(self, driver: Any, callback: Any) -> None:
        """Have the session resume before the list calls anybody for train begin."""

        def resume() -> None:
            session_of(callback, Event.TRAIN_BEGIN).opening.resume()

        run_ahead(driver, "on_train_begin", resume)

    def resume(self, run: RunView) -> None:
        """Take over what an interrupted run left."""
        # Here, for it loads NumPy: importing Peakhold does not.
        from peakhold.backup.folder import BackupFolder

        if self._kept is not None:  # of a fit that raised
            self._kept.folder.close()
        host = run.host
        folder = BackupFolder(self.backup_dir, run.trained.owns_frame)
        self._kept = kept = _Run(folder, host.resumption())
        self.initial_epoch = self.current_epoch = self.last_batch_seen = 0
        try:
            self._take_over(kept, run)
        except BaseException:
            kept.folder.close()
            self._kept = None
            raise

    def _take_over(self, kept: _Run, run: RunView) -> None:
        self._tell_what_is_not_exact(kept, run)
        checkpoint = kept.folder.newest()
        if checkpoint is None:
            self._take_foreign(kept)
            return
        kept.path = str(checkpoint.entry.path)
        state = checked(checkpoint.parts.pop(STATE, None), kept.path)
        run.resumes(state["run_id"], state["timestamp"])
        kept.state, kept.parts = state, checkpoint.parts
        if state["begins"]:
            self._give_states(kept, of_ours=True)
            return
        self._fit_model(kept)
        epoch, stopped = int(state["epoch"]), state["stopped"]
        with used("its record of epochs", kept.path):
            self.current_epoch, kept.passed = epoch, _unpack(state["passed"])
        self.initial_epoch = max(epoch, run.epochs or 0) if stopped else epoch
        kept.resumption.set_first_epoch(self.initial_epoch)
        if self._is_over():
            run.set_last_epoch(epoch - 1 if epoch else None, stopped)
        self._give_states(kept, of_ours=True)
        self._give_snapshots(kept)
        run.ahead_of_all("on_epoch_begin", run.put_back)
        run.ahead_of_all("on_train_end", run.put_back)
        self._say(self._where_it_goes_on(kept, epoch))

    def welcome(self, run: RunView) -> None:
        """Others have joined the run since `resume`: give them what is theirs."""
        kept = self._kept
        if kept is not None and kept.state:
            self._give_states(kept, of_ours=True)
            self._give_snapshots(kept)

    def _fit_model(self, kept: _Run) -> None:
        """Build the model if need be, see that the backup is of this one, and fill it."""
        with used("how its model is built", kept.path):
            if not kept.resumption.build(kept.state["build"]):
                return  # the first epoch's begin sees to it
        words = kept.resumption.mismatches(kept.parts, kept.state["names"])
        if words:
            raise BackupMismatchError.for_tensors(self.backup_dir, words)
        with used("what belongs to its model", kept.path):
            kept.resumption.put_back(kept.parts, kept.state["more"])

    def _give_states(self, kept: _Run, *, of_ours: bool) -> None:
        """Give the states to those whose they are and who have none yet."""
        states: dict[str, Any] = kept.state["callbacks"]
        for name, callback in self._filed().items():
            if name in states and name not in kept.given and _is_ours(callback) == of_ours:
                # What a user's own callback raises is the user's.
                with used(f"the state of {name}", kept.path) if of_ours else nullcontext():
                    callback.load_state_dict(states[name])
                kept.given.add(name)

    def _tell_what_is_lost(self, kept: _Run) -> None:
        lost = sorted(kept.state["callbacks"].keys() - kept.given)
        if lost:
            self.run.warn(
                f"BackupAndRestore: no callback of this run takes the state of "
                f"{', '.join(lost)}, which was in the run that is resumed.",
                SaveWarning,
            )

    def _give_snapshots(self, kept: _Run) -> None:
        known = self._filed()
        for name, snapshots in (kept.state.get("held") or {}).items():
            if name not in known or name in kept.held_given:
                continue
            kept.held_given.add(name)
            taken: dict[str, Held] = {}
            for called, places in snapshots.items():
                try:
                    parts = {part: kept.part(tuple(place)) for part, place in places.items()}
                except PeakholdError as error:
                    self.run.warn(
                        f"BackupAndRestore lost what {name} held in memory ({called}): {error}",
                        SaveWarning,
                    )
                    continue
                taken[called] = held = Held.of(parts)
                kept.places[held.token] = {p: (int(w[0]), w[1]) for p, w in places.items()}
            link = link_of(known[name])
            if taken and link is not None:
                link.participant.load_snapshots(taken)

    def _take_foreign(self, kept: _Run) -> None:
        files = kept.resumption.foreign_backup(self.backup_dir)
        if not files:
            return
        kept.foreign = files
        kept.resumption.build(None)
        epoch = kept.resumption.take_foreign_backup(self.backup_dir)
        self.initial_epoch = self.current_epoch = epoch
        kept.resumption.set_first_epoch(epoch)
        self._say(
            f"goes on with epoch {epoch + 1} from a backup that Keras's own class wrote, which "
            "holds the model and the optimizer, and no state of callbacks."
        )

    def _is_over(self) -> bool:
        epochs = self.run.epochs
        return epochs is not None and self.initial_epoch >= epochs

    # Before the first epoch, or at the end if there is none

    def put_back(self, run: RunView) -> None:
        """Put the interrupted run's state back, exactly; the random generators last."""
        kept = self._kept
        if kept is None:
            return
        kept.resumption.set_first_epoch(None)  # `fit` has read it
        if not kept.state:
            if kept.folder.last_step < 0 and self.save_freq is not False and run.driven:
                self._record_beginning(kept)
            return
        if kept.state["begins"]:
            self._tell_what_is_lost(kept)
            kept.state, kept.parts = {}, {}
            return
        if run.start_epoch is not None or not self._is_over():
            if not kept.resumption.build(kept.state["build"]):
                raise BackupMismatchError.for_tensors(
                    self.backup_dir, ["the model is not built, and shapes are not enough to do it"]
                )
            self._fit_model(kept)
        self._give_states(kept, of_ours=False)
        self._tell_what_is_lost(kept)
        if kept.passed is not None:
            kept.resumption.set_passed(run.callbacks, kept.passed)
        with used("the state of its random generators", kept.path):
            set_random_state(kept.state["random"])
        kept.state, kept.parts = {}, {}

    # Saving

    def buffers_needed(self, run: RunView) -> Mapping[str, int]:
        """Two copies of all that a backup holds: one is written, one taken."""
        return dict.fromkeys(self._parts(), 2)

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
            self._say(f"keeps the backup of an earlier epoch: epoch {epoch + 1} is not finite.")
        elif self.save_freq == "epoch" or saved_within or kept.wanted.is_set():
            self._save(epoch + 1, None, stops)

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
        kept.due, due = self._schedule.batch_end(kept.due, batch)
        self.last_batch_seen = batch
        if due or (kept.wanted.is_set() and not kept.saved.is_set()):
            kept.due = self._schedule.reset(kept.due)
            kept.saved_within = True
            self.run.new_moment()
            self._save(moment.at.epoch, batch, False)

    @property
    def _schedule(self) -> SaveSchedule:
        """Counts batches for backups within epochs; those at their ends are `commit`'s."""
        return SaveSchedule(trigger_of(self.save_freq or AtEnd()))

    def _save(self, epoch: int, batch: int | None, stops: bool) -> None:
        kept, run = self._kept, self.run
        if kept is None:
            return
        folder, step = kept.folder, kept.folder.next_step()
        folder.wait()  # also tells whether what this one would refer to is there
        held = run.pool.take(self._parts())
        keep = [held]
        members = self._filed()
        best, extra = self._held_places(kept, members, held, step, keep)
        state = {
            "format": FORMAT,
            "begins": False,
            "epoch": epoch,
            "batch": batch,
            "stopped": (run.stop_reasons or ["something set stop_training"]) if stops else [],
            "run_id": run.id,
            "timestamp": run.timestamp,
            "versions": run.host.versions(),
            "build": kept.resumption.build_config(),
            "names": kept.resumption.names(),
            "more": kept.resumption.more(),
            "random": random_state(),
            "callbacks": filing.collect(members),
            "held": best,
            "passed": _pack(kept.passed),
        }
        reason = (
            f"after epoch {epoch}" if batch is None else f"batch {batch + 1} of epoch {epoch + 1}"
        )
        try:
            folder.save(
                {**kept.resumption.to_write(held.parts), **extra, STATE: state},
                keep,
                epoch=epoch,
                refers_to=[step for places in kept.places.values() for step, _ in places.values()],
                reason=reason,
            )
        except InvalidArgumentError as error:
            error.add_note("A state_dict holds something that cannot be saved.")
            raise
        if kept.wanted.is_set():
            kept.saved.set()

    def _record_beginning(self, kept: _Run) -> None:
        """Which rows were in the logs before: a run killed in its first epoch writes again."""
        writers = {
            name: one
            for name, one in self._filed().items()
            if (link := link_of(one)) is not None and link.participant.adds_to_files
        }
        state = {
            "format": FORMAT,
            "begins": True,
            "run_id": self.run.id,
            "timestamp": self.run.timestamp,
            "callbacks": filing.collect(writers),
        }
        kept.folder.save({STATE: state}, [], epoch=0, refers_to=[], reason="the beginning")
        kept.folder.wait()  # before the first row is written

    def _held_places(
        self, kept: _Run, members: Mapping[str, Any], now: Held, step: int, keep: list[Held]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Where what callbacks hold in memory is, or will be, on disk; and what to write for it."""
        best: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        places: dict[int, dict[str, Place]] = {}
        for name, member in members.items():
            link = link_of(member)
            if link is None:
                continue
            for called, held in link.participant.snapshots().items():
                known = kept.places.get(held.token, {})
                parts: dict[str, Place] = {}
                for part in held.parts:
                    if held.token == now.token and part in now.parts:
                        parts[part] = (step, part)
                    elif part in known and kept.folder.has(known[part][0]):
                        parts[part] = known[part]
                    else:
                        parts[part] = (step, f"held-{len(extra)}")
                        extra[parts[part][1]] = held.parts[part]
                        keep.append(held.share())
                places[held.token] = {**places.get(held.token, {}), **parts}
                best.setdefault(name, {})[called] = {p: list(w) for p, w in parts.items()}
        places.setdefault(now.token, {part: (step, part) for part in now.parts})
        kept.places = places
        return best, extra

    def _parts(self) -> list[str]:
        return [part for part in self.run.host.parts() if part in _PARTS]

    def _filed(self) -> dict[str, Any]:
        own = self.run.callback
        return filing.filed(cb for cb in self.run.callbacks if cb is not own)

    # The end

    def finish_by(self, deadline: float) -> None:
        """Have a backup made at the end of the batch, where there is none at each epoch's end."""
        kept = self._kept
        if kept is None:
            return
        if self.save_freq != "epoch":
            kept.wanted.set()
            driver = self.run.driver
            if driver is not None:
                kept.resumption.call_batch_hooks(driver)
            kept.saved.wait(max(0.0, deadline - time.monotonic()))
        kept.folder.wait(deadline)

    def end(self, ending: Ending) -> None:
        """Training ended well: nothing is left to go on from."""
        kept, self._kept = self._kept, None
        if kept is None:
            return
        kept.resumption.set_first_epoch(None)
        if self.delete_checkpoint and not self.run.state_unusable:
            kept.folder.remove(kept.foreign)
        else:
            kept.folder.close()

    # Words

    def _say(self, text: str) -> None:
        if not self.run.quiet:
            self.run.say(f"Peakhold: BackupAndRestore {text}")

    def _where_it_goes_on(self, kept: _Run, epoch: int) -> str:
        epochs = self.run.epochs
        if self._is_over():
            why = "; ".join(kept.state["stopped"]) or "no epoch is left"
            return (
                f"trains nothing: training was over after epoch {epoch} ({why}). Delete "
                f"{self.backup_dir!r} to train anew."
            )
        text = f"goes on with epoch {epoch + 1}" + (f" of {epochs}" if epochs else "")
        batch = kept.state["batch"]
        if batch is not None:
            text += f", from its first batch, with the weights it had after batch {batch + 1}"
        return f"{text}, from {self.backup_dir!r}."

    def _tell_what_is_not_exact(self, kept: _Run, run: RunView) -> None:
        words = kept.resumption.unrepeatable()
        if words is not None:
            self._say(words)
        names = filing.without_state(run.callbacks, kept.resumption.is_stateless)
        if names:
            self._say(
                f"does not bring back what {', '.join(names)} may remember; give it "
                "state_dict() and load_state_dict(), or use the class of peakhold.keras."
            )

    def file(self, which: int, name: str) -> str:
        """Path of a file of the newest backup (0) or the one before (1)."""
        if self._kept is None:
            return os.path.join(self.backup_dir, name)
        return self._kept.folder.file(which, name)


def _is_ours(callback: Any) -> bool:
    return link_of(callback) is not None


class _Run:
    """What belongs to one run."""

    def __init__(self, folder: BackupFolder, resumption: Resumption) -> None:
        self.folder, self.resumption = folder, resumption
        self.path = ""
        """The backup that is gone on from."""
        self.state: Mapping[str, Any] = {}
        self.parts: dict[str, Any] = {}
        self.passed: EpochRecord | None = None
        self.places: dict[int, dict[str, Place]] = {}
        """Where on disk the parts of a snapshot are, by its token."""
        self.given: set[str] = set()
        """Whose states were given back, by the names that they are filed under."""
        self.held_given: set[str] = set()
        """The same for snapshots."""
        self.foreign: tuple[str, ...] = ()
        self.due = SaveScheduleState()
        self.saved_within = False
        self.wanted, self.saved = threading.Event(), threading.Event()
        """Whether SIGTERM wants a backup, and whether one has been begun since."""

    def part(self, place: Place) -> Any:
        return self.folder.part(place)

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


def _pack(passed: EpochRecord | None) -> dict[str, Any] | None:
    """A record as a tree; what are floats all along, as arrays: small and quick to write."""
    import numpy as np

    if passed is None:
        return None
    return {
        "epochs": np.array(passed.epochs, np.int64),
        "metrics": {
            key: np.array(values, np.float64)
            if all(type(value) is float for value in values)
            else [_plain(value) for value in values]
            for key, values in passed.metrics.items()
        },
    }


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    number = to_number(value)
    if number is not None and not hasattr(value, "dtype"):
        return number
    try:
        import numpy as np

        array = np.array(value)  # a copy: whoever logged it may go on changing it
    except (TypeError, ValueError, RuntimeError):
        return repr(value)
    return repr(value) if array.dtype.kind == "O" else array


def _unpack(packed: Mapping[str, Any] | None) -> EpochRecord | None:
    if packed is None:
        return None
    return EpochRecord(
        packed["epochs"].tolist(),
        {k: v.tolist() if hasattr(v, "tolist") else list(v) for k, v in packed["metrics"].items()},
    )
