"""Go on after a crash as if nothing had happened.

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
from typing import TYPE_CHECKING, Any

from peakhold._core.arguments import check_count, check_number, check_text
from peakhold._core.observation import is_finite
from peakhold.backup import callback_states
from peakhold.errors import (
    BackupMismatchError,
    CheckpointDamagedError,
    InvalidArgumentError,
    PeakholdError,
    SaveWarning,
)
from peakhold.host.contract import AVERAGE, OPTIMIZER, WEIGHTS, to_number
from peakhold.host.resume import Passed, Resumption
from peakhold.runtime.callback import Participant, no_op
from peakhold.runtime.random_state import random_state, set_random_state
from peakhold.snapshots.pool import Held

if TYPE_CHECKING:
    from peakhold.backup.folder import BackupFolder, Place

__all__ = ["BackupAndRestore"]

_FORMAT = 1
_STATE = "train_state"
_PARTS = frozenset({WEIGHTS, OPTIMIZER, AVERAGE})


class BackupAndRestore(Participant):
    """Back the whole training up, and go on from there if it is interrupted.

    The same line starts a run and resumes it. Together come back: the model, the optimizer, metric
    variables, seed generators, the random generators of Python, NumPy and the framework, the
    learning rate, the epoch, `History`, the rows of `CSVLogger`, and the `state_dict` of every
    callback of the run that has one, with best weights held in memory. So a resumed run stops at
    the same epoch, keeps the same best and ends with the same weights as one that was never
    interrupted. Where it stands in the list does not matter.

    After a run that ended well the backup is deleted. It stays after Ctrl-C, an exception, or a
    stop because of NaN. If it says that training was over, nothing is trained any more: state, best
    weights and history are put back.

    Args:
        backup_dir: The folder; one for each run. What else is in it is not touched.
        save_freq: `"epoch"`: after each epoch, exact. A number of batches: within epochs, too; the
            epoch is then begun anew with the weights of that batch, as in Keras. `False`: only when
            SIGTERM comes, at the end of the batch. Defaults to `"epoch"`.
        double_checkpoint: The two newest backups are kept in any case. Defaults to `False`.
        delete_checkpoint: Whether to delete the backup when training has ended. Defaults to `True`.
        sigterm_timeout: Seconds that SIGTERM waits for a backup under way, at least 0, before it
            takes its usual course. Defaults to `20.0`.

    Attributes:
        initial_epoch: Index of the epoch that this run begins with, from 0; loops of your own ask
            for it, `fit` is told.

    Raises:
        InvalidArgumentError: For an empty `backup_dir`, `save_freq="batch"`, ….
        StoreOwnedError: On train begin, if another run writes its backups there.
        BackupMismatchError: On train begin, if the backup is of another model.
        CheckpointDamagedError: On train begin, if no backup there is whole. If only the newest is
            damaged, the one before is used, and a warning says so.

    Example:
        >>> import numpy as np, tempfile
        >>> from peakhold import BackupAndRestore, CallbackList, LoopHost
        >>> params, folder = {"w": np.zeros(2)}, tempfile.mkdtemp() + "/backup"
        >>> host = LoopHost(get_state=lambda: params, set_state=params.update)
        >>> def train(epochs, crash_at=None):
        ...     backup = BackupAndRestore(folder)
        ...     callbacks = CallbackList(backup, host=host, epochs=epochs, verbose=0)
        ...     callbacks.on_train_begin()
        ...     for epoch in range(backup.initial_epoch, epochs):
        ...         callbacks.on_epoch_begin(epoch)
        ...         if epoch == crash_at:
        ...             raise RuntimeError("power cut")
        ...         params["w"] = params["w"] + 1
        ...         callbacks.on_epoch_end(epoch, {"loss": 0.5})
        ...     callbacks.on_train_end()
        >>> try:
        ...     train(5, crash_at=3)
        ... except RuntimeError:
        ...     params["w"] = np.zeros(2)  # lost
        >>> train(5)
        >>> params["w"]
        array([5., 5.])

    Source:
        `keras.callbacks.BackupAndRestore` of Keras 3.15; K-R1 to K-R14.
    """

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: str | int = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
        *,
        sigterm_timeout: float = 20.0,
    ) -> None:
        super().__init__()
        given: Any = backup_dir
        path = os.fspath(given) if isinstance(given, (str, os.PathLike)) else given
        self.backup_dir = check_text(
            "backup_dir",
            path,
            "the path of a folder",
            hint="Empty `backup_dir` argument passed; pass a folder such as 'backup/run-1'.",
        )
        self.save_freq = _check_save_freq(save_freq)
        self.double_checkpoint = bool(double_checkpoint)
        self.delete_checkpoint = bool(delete_checkpoint)
        self.sigterm_timeout = check_number("sigterm_timeout", sigterm_timeout, at_least=0)
        self.initial_epoch = 0
        self._current_epoch = 0
        self._last_batch_seen = 0
        self._run: _Run | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_run": None}

    # Train begin: before anybody else's

    def _attached(self, driver: Any) -> None:
        from peakhold._core.observation import Event
        from peakhold.runtime.session import run_ahead, session_of

        run_ahead(driver, "on_train_begin", lambda: session_of(self, Event.TRAIN_BEGIN).resume())

    def _resume(self) -> None:
        # Here, for it loads NumPy: importing Peakhold does not.
        from peakhold.backup.folder import BackupFolder

        if self._run is not None:  # of a fit that raised
            self._run.folder.close()
        host = self.host
        self._run = run = _Run(BackupFolder(self.backup_dir, host.owns_frame), host.resumption())
        self.initial_epoch = self._current_epoch = self._last_batch_seen = 0
        try:
            self._take_over(run)
        except BaseException:
            run.folder.close()
            self._run = None
            raise

    def _take_over(self, run: _Run) -> None:
        self._tell_what_is_not_exact(run)
        checkpoint = run.folder.newest()
        if checkpoint is None:
            self._take_foreign(run)
            return
        state = checkpoint.parts.pop(_STATE)
        if state["format"] != _FORMAT:
            raise CheckpointDamagedError.for_path(
                str(checkpoint.entry.path), f"its format is {state['format']}, known is {_FORMAT}"
            )
        session = self.session
        session.run_id, session.timestamp = state["run_id"], state["timestamp"]
        run.state, run.parts = state, checkpoint.parts
        if state["begins"]:
            self._give_states(run, of_ours=True)
            run.state, run.parts = {}, {}
            return
        self._fit_model(run)
        epoch = int(state["epoch"])
        self._current_epoch, run.passed = epoch, _unpack(state["passed"])
        stopped = state["stopped"]
        self.initial_epoch = max(epoch, session.epochs or 0) if stopped else epoch
        run.resumption.set_first_epoch(self.initial_epoch)
        if self._is_over():
            session.last_epoch = epoch - 1 if epoch else None
            session.stop_reasons.extend(stopped)
        self._give_states(run, of_ours=True)
        self._give_held(run)
        session.ahead_of_all("on_epoch_begin", session.put_back)
        session.ahead_of_all("on_train_end", session.put_back)
        self._say(self._where_it_goes_on(run, epoch))

    def _fit_model(self, run: _Run) -> None:
        """Build the model if need be, see that the backup is of this one, and fill it."""
        if not run.resumption.build(run.state["build"]):
            return  # the first epoch's begin sees to it
        words = run.resumption.misfits(run.parts, run.state["names"])
        if words:
            raise BackupMismatchError.for_tensors(self.backup_dir, words)
        run.resumption.put_back(run.parts, run.state["more"])

    def _give_states(self, run: _Run, *, of_ours: bool) -> None:
        states: dict[str, Any] = run.state["callbacks"]
        known = self._filed()
        for name, callback in known.items():
            if name in states and isinstance(callback, Participant) == of_ours:
                callback.load_state_dict(states[name])
        if of_ours:
            lost = [name for name in states if name not in known]
            if lost:
                self.session.warn(
                    f"BackupAndRestore: no callback of this run takes the state of "
                    f"{', '.join(sorted(lost))}, which was in the run that is resumed.",
                    SaveWarning,
                )

    def _give_held(self, run: _Run) -> None:
        known = self._filed()
        for name, snapshots in run.state["held"].items():
            if name not in known:
                continue
            taken: dict[str, Held] = {}
            for called, places in snapshots.items():
                try:
                    parts = {part: run.part(tuple(place)) for part, place in places.items()}
                except PeakholdError as error:
                    self.session.warn(
                        f"BackupAndRestore lost what {name} held in memory ({called}): {error}",
                        SaveWarning,
                    )
                    continue
                taken[called] = held = Held.of(parts)
                run.places[held.token] = {p: (int(w[0]), w[1]) for p, w in places.items()}
            if taken:
                known[name]._load_held(taken)

    def _take_foreign(self, run: _Run) -> None:
        files = run.resumption.foreign_backup(self.backup_dir)
        if not files:
            return
        run.foreign = files
        run.resumption.build(None)
        epoch = run.resumption.take_foreign_backup(self.backup_dir)
        self.initial_epoch = self._current_epoch = epoch
        run.resumption.set_first_epoch(epoch)
        self._say(
            f"goes on with epoch {epoch + 1} from a backup that Keras's own class wrote, which "
            "holds the model and the optimizer, and no state of callbacks."
        )

    def _is_over(self) -> bool:
        epochs = self.session.epochs
        return epochs is not None and self.initial_epoch >= epochs

    # Before the first epoch, or at the end if there is none

    def _put_back(self) -> None:
        run, session = self._run, self.session
        if run is None:
            return
        run.resumption.set_first_epoch(None)  # `fit` has read it
        if not run.state:
            if run.folder.last_step < 0 and self.save_freq is not False and session.driven:
                self._record_beginning(run)
            return
        if session.start_epoch is not None or not self._is_over():
            if not run.resumption.build(run.state["build"]):
                raise BackupMismatchError.for_tensors(
                    self.backup_dir, ["the model is not built, and shapes are not enough to do it"]
                )
            self._fit_model(run)
        self._give_states(run, of_ours=False)
        if run.passed is not None:
            run.resumption.set_passed(session.callbacks, run.passed)
        set_random_state(run.state["random"])
        run.state, run.parts = {}, {}

    # Saving

    def _commit(self, epoch: int, logs: dict[str, Any]) -> None:
        run, session = self._run, self.session
        if run is None:
            return
        self._current_epoch, self._last_batch_seen = epoch + 1, 0
        run.note(epoch, logs, session.callbacks)
        saved_within, run.saved_within = run.saved_within, False
        stops = bool(session.stop_reasons) or run.resumption.stop_requested()
        loss = to_number(logs.get("loss"))
        if stops and (session.ended_badly or (loss is not None and not is_finite(loss))):
            session.ended_badly = True
            self._say(f"keeps the backup of an earlier epoch: epoch {epoch + 1} is not finite.")
        elif self.save_freq == "epoch" or saved_within or run.wanted.is_set():
            self._save(epoch + 1, None, stops)

    def _batch_end(self, batch: int, logs: Any = None) -> None:
        run = self._run
        if run is None or self.session.broken_epoch:
            return
        fresh = batch <= self._last_batch_seen
        run.batches += batch + 1 if fresh else batch - self._last_batch_seen
        self._last_batch_seen = batch
        every = self.save_freq if isinstance(self.save_freq, int) and self.save_freq else None
        wanted = run.wanted.is_set() and not run.saved.is_set()
        if wanted or (every is not None and run.batches >= every):
            run.batches = 0
            run.saved_within = True
            self.session.pool.new_moment()
            self._save(self.session.epoch, batch, False)

    @no_op
    def _no_batch_end(self, batch: int, logs: Any = None) -> None: ...

    @property
    def on_train_batch_end(self) -> Any:
        """The batch hook: a no-op in Keras's sense unless batches count, or SIGTERM has come."""
        counts = self.save_freq != "epoch" and self.save_freq is not False
        acts = counts or (self._run is not None and self._run.wanted.is_set())
        return self._batch_end if acts else self._no_batch_end

    def _save(self, epoch: int, batch: int | None, stops: bool) -> None:
        run, session = self._run, self.session
        if run is None:
            return
        folder, step = run.folder, run.folder.next_step()
        folder.wait()  # also tells whether what this one would refer to is there
        held = session.pool.take(self._parts())
        keep = [held]
        members = self._filed()
        best, extra = self._held_places(run, members, held, step, keep)
        state = {
            "format": _FORMAT,
            "begins": False,
            "epoch": epoch,
            "batch": batch,
            "stopped": (session.stop_reasons or ["something set stop_training"]) if stops else [],
            "run_id": session.run_id,
            "timestamp": session.timestamp,
            "versions": self.host.versions(),
            "build": run.resumption.build_config(),
            "names": run.resumption.names(),
            "more": run.resumption.more(),
            "random": random_state(),
            "callbacks": callback_states.collect(members),
            "held": best,
            "passed": _pack(run.passed),
        }
        reason = (
            f"after epoch {epoch}" if batch is None else f"batch {batch + 1} of epoch {epoch + 1}"
        )
        try:
            folder.save(
                {**run.resumption.to_write(held.parts), **extra, _STATE: state},
                keep,
                epoch=epoch,
                refers_to=[step for places in run.places.values() for step, _ in places.values()],
                reason=reason,
            )
        except InvalidArgumentError as error:
            error.add_note("A state_dict holds something that cannot be saved.")
            raise
        if run.wanted.is_set():
            run.saved.set()

    def _record_beginning(self, run: _Run) -> None:
        """Which rows were in the logs before: a run killed in its first epoch writes again."""
        writers = {
            name: one
            for name, one in self._filed().items()
            if isinstance(one, Participant) and one.adds_to_files
        }
        state = {
            "format": _FORMAT,
            "begins": True,
            "run_id": self.session.run_id,
            "timestamp": self.session.timestamp,
            "callbacks": callback_states.collect(writers),
        }
        run.folder.save({_STATE: state}, [], epoch=0, refers_to=[], reason="the beginning")
        run.folder.wait()  # before the first row is written

    def _held_places(
        self, run: _Run, members: Mapping[str, Any], now: Held, step: int, keep: list[Held]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Where what callbacks hold in memory is, or will be, on disk; and what to write for it."""
        best: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        places: dict[int, dict[str, Place]] = {}
        for name, member in members.items():
            if not isinstance(member, Participant):
                continue
            for called, held in member._held().items():
                known = run.places.get(held.token, {})
                parts: dict[str, Place] = {}
                for part in held.parts:
                    if held.token == now.token and part in now.parts:
                        parts[part] = (step, part)
                    elif part in known and run.folder.has(known[part][0]):
                        parts[part] = known[part]
                    else:
                        parts[part] = (step, f"held-{len(extra)}")
                        extra[parts[part][1]] = held.parts[part]
                        keep.append(held.share())
                places[held.token] = {**places.get(held.token, {}), **parts}
                best.setdefault(name, {})[called] = {p: list(w) for p, w in parts.items()}
        places.setdefault(now.token, {part: (step, part) for part in now.parts})
        run.places = places
        return best, extra

    def _parts(self) -> list[str]:
        return [part for part in self.host.parts() if part in _PARTS]

    def _holds(self) -> Mapping[str, int]:
        return dict.fromkeys(self._parts(), 2)

    def _filed(self) -> dict[str, Any]:
        return callback_states.filed(cb for cb in self.session.callbacks if cb is not self)

    # The end

    def _terminate(self, deadline: float) -> None:
        run = self._run
        if run is None:
            return
        if self.save_freq != "epoch":
            run.wanted.set()
            driver = self._driver() if self._driver is not None else None
            if driver is not None:
                run.resumption.call_batch_hooks(driver)
            run.saved.wait(max(0.0, deadline - time.monotonic()))
        run.folder.wait(deadline)

    def _conclude(self) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        run.resumption.set_first_epoch(None)
        if self.delete_checkpoint and not self.session.ended_badly:
            run.folder.remove(run.foreign)
        else:
            run.folder.close()

    # Words

    def _say(self, text: str) -> None:
        if not self.session.quiet:
            self.host.say(f"Peakhold: BackupAndRestore {text}")

    def _where_it_goes_on(self, run: _Run, epoch: int) -> str:
        epochs = self.session.epochs
        if self._is_over():
            why = "; ".join(run.state["stopped"]) or "no epoch is left"
            return (
                f"trains nothing: training was over after epoch {epoch} ({why}). Delete "
                f"{self.backup_dir!r} to train anew."
            )
        text = f"goes on with epoch {epoch + 1}" + (f" of {epochs}" if epochs else "")
        batch = run.state["batch"]
        if batch is not None:
            text += f", from its first batch, with the weights it had after batch {batch + 1}"
        return f"{text}, from {self.backup_dir!r}."

    def _tell_what_is_not_exact(self, run: _Run) -> None:
        words = run.resumption.unrepeatable()
        if words is not None:
            self._say(words)
        names = callback_states.without_state(self.session.callbacks, run.resumption.is_stateless)
        if names:
            self._say(
                f"does not bring back what {', '.join(names)} may remember; give it "
                "state_dict() and load_state_dict(), or use the class of peakhold.keras."
            )

    # Names that Keras's own tests look at. They wait for the writer.

    def _file(self, which: int, name: str) -> str:
        if self._run is None:
            return os.path.join(self.backup_dir, name)
        return self._run.folder.file(which, name)

    _weights_path = property(lambda self: self._file(0, f"{WEIGHTS}.safetensors"))
    _training_metadata_path = property(lambda self: self._file(0, f"{_STATE}.json"))
    _prev_weights_path = property(lambda self: self._file(1, f"{WEIGHTS}.safetensors"))
    _prev_training_metadata_path = property(lambda self: self._file(1, f"{_STATE}.json"))


class _Run:
    """What belongs to one run."""

    def __init__(self, folder: BackupFolder, resumption: Resumption) -> None:
        self.folder, self.resumption = folder, resumption
        self.state: dict[str, Any] = {}
        self.parts: dict[str, Any] = {}
        self.passed: Passed | None = None
        self.places: dict[int, dict[str, Place]] = {}
        """Where on disk the parts of a snapshot are, by its token."""
        self.foreign: tuple[str, ...] = ()
        self.batches = 0
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
        passed = own or self.passed or Passed([], {})
        passed.epochs.append(epoch)
        for key, value in logs.items():
            passed.metrics.setdefault(key, []).append(value)
        self.passed = passed


def _pack(passed: Passed | None) -> dict[str, Any] | None:
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


def _unpack(packed: Mapping[str, Any] | None) -> Passed | None:
    if packed is None:
        return None
    return Passed(
        packed["epochs"].tolist(),
        {k: v.tolist() if hasattr(v, "tolist") else list(v) for k, v in packed["metrics"].items()},
    )


def _check_save_freq(save_freq: Any) -> str | int:
    if save_freq == "epoch" or save_freq is False:
        return save_freq  # type: ignore[no-any-return]  # one of the two
    hint = (
        f"Invalid value for argument `save_freq`. Received: save_freq={save_freq}. "
        "Expected either 'epoch' or an integer value."
    )
    if isinstance(save_freq, (bool, str, float)):
        raise InvalidArgumentError.for_argument(
            "save_freq", save_freq, "'epoch', a number of batches, or False", hint=hint
        )
    return check_count("save_freq", save_freq, at_least=1, hint=hint)
