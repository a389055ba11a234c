"""`Run`: one folder, any loop, the same bits after any kill.

What people see; what happens is in `loop.py`, and who writes what into the folder in `ledger/`.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, final

from peakhold._core.arguments import check_count, check_number, check_text
from peakhold.callbacks import BackupAndRestore, CallbackList, EarlyStopping, ModelCheckpoint
from peakhold.callbacks.callback_list import flatten
from peakhold.disk.local_path import local_path
from peakhold.distributed import Channel, Coordinator, LocalCoordinator, coordinator_for
from peakhold.errors import HostError, InvalidArgumentError
from peakhold.host.contract import Host
from peakhold.host.extras import Extras
from peakhold.ledger.folder import RunFolder
from peakhold.ledger.reader import RecordedHistory
from peakhold.run import stack
from peakhold.run.ending import EndingSignals, RunEndedSignal
from peakhold.run.followed import FollowedRecord
from peakhold.run.hosts import host_of_model, host_of_state
from peakhold.run.loop import Loop
from peakhold.run.pace import Budget, Pace, SaveEvery, as_others_count, check_save_every
from peakhold.run.place import TRAIN
from peakhold.run.record import Record, set_aside
from peakhold.run.settings import Settings
from peakhold.run.together import first_opens, leave_together, meet
from peakhold.runtime.callback import link_of
from peakhold.store import Entry, Reader

__all__ = ["BestOfRun", "Run"]

_RESUME = (True, False, "extend", "new")


@final
@dataclass(frozen=True, slots=True)
class BestOfRun:
    """The best epoch of a run, and where its weights are."""

    epoch: int
    """From 0."""
    monitor: str
    value: float
    path: str | None
    """Of the file; None if no callback writes one."""

    def __str__(self) -> str:
        where = "" if self.path is None else f", {self.path}"
        return f"epoch {self.epoch + 1}, {self.monitor} {self.value:.4g}{where}"


class Run:
    """One training run in one folder; the same line starts it and goes on with it.

    A run that was killed, at any moment, goes on with the same line and ends with the bits that it
    would have had, where the framework repeats its own. Together come back: model, optimizer, what
    is in `extra`, the position in the data, random generators, callbacks, logs.

    Epochs and batches come from the run, so that there is nothing to call and nothing to remember.
    It is used in a `with`, whose end restores the best weights and closes every file.

    Several processes of one group (`torchrun`, JAX, TensorFlow) are one run: rank 0 owns the folder
    and writes, and all decide, save and end after the same batch.

    Args:
        folder: The run's: `run.json`, `events.jsonl`, `checkpoints/`, `metrics.csv`,
            `tensorboard/`, and `best.safetensors` (`best.keras`) if something ranks.
        model: A `torch.nn.Module`, a Keras model, an `nnx.Module` of Flax, anything with weights to
            get and set; a dict of several by name.
        optimizer: The optimizer, or a dict of several by name.
        state: In place of both (JAX): what the loop passes on, a tree of arrays, a `TrainState`, …;
            then `run.state`.
        extra: What else has a state, by name: schedulers, scalers, averages.
        monitor: The metric that ranks, lowers the rate and stops. None: nothing does.
        patience: Checks without improvement after which training stops. None: it does not.
        mode: `min`, `max`, or `auto`: as the metric's name says.
        callbacks: In place of what `monitor` and `patience` make: callbacks of Peakhold's, Keras's
            or your own.
        save_every: How often it is backed up: `Budget(0.035)`, `Every(...)`, or `"epoch"`: at the
            ends of epochs alone. At the end, and after SIGTERM, it always is. Defaults to
            `Budget(0.035)`.
        resume: True: a run that was interrupted goes on, one that has ended is an error.
            `"extend"`: that goes on, too. `"new"` or False: what is there is set aside first, and a
            new run begins. Defaults to True.
        time_limit: Seconds after which it is saved and ends, to go on at the next start. None: no
            limit.
        signals: Numbers of signals to end at besides SIGTERM and Ctrl-C, such as Slurm's
            `signal.SIGUSR1`.
        host: How to reach a model that has none of these methods; see `LoopHost`.
        workers: What the processes of this run agree by: a `peakhold.distributed.Coordinator`, or a
            `Channel`. Defaults to a group that the framework has set up, if there is one.
        verbose: 0 says nothing, 1 what happens. Defaults to 1.

    Raises:
        InvalidArgumentError: For a file in the folder's place, a run that has ended, a model whose
            weights cannot be reached, ….
        RunOwnedError: When the `with` begins, if another process writes to the folder; of several
            workers on all of them.

    Example:
        >>> import numpy as np, tempfile
        >>> folder, weights = tempfile.mkdtemp() + "/run", {"w": np.zeros(2)}
        >>> with Run(folder, state=weights, monitor="loss", patience=2, verbose=0) as run:
        ...     for epoch in run.epochs(3):
        ...         for x in run.batches(np.ones((4, 2))):
        ...             run.state = {"w": run.state["w"] + x}
        ...             run.log(loss=1.0 / (1 + epoch))
        >>> run.state["w"]
        array([12., 12.])
        >>> run.best.epoch
        2
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        model: Any = None,
        optimizer: Any = None,
        state: Any = None,
        extra: Mapping[str, Any] | None = None,
        monitor: str | None = None,
        patience: int | None = None,
        mode: str = "auto",
        callbacks: Any = None,
        save_every: SaveEvery | Literal["epoch"] | None = None,
        resume: bool | str = True,
        time_limit: float | None = None,
        signals: Sequence[int] = (),
        host: Host | None = None,
        workers: Coordinator | Channel | None = None,
        verbose: int = 1,
    ) -> None:
        hint = "pass a path such as 'runs/digits'."
        self.folder = local_path("folder", folder, "the path of a folder", hint=hint)
        if os.path.lexists(self.folder) and not os.path.isdir(self.folder):
            raise InvalidArgumentError.for_argument(
                "folder", self.folder, "the path of a folder, not of a file", hint=hint
            )
        if resume not in _RESUME:
            raise InvalidArgumentError.for_argument(
                "resume",
                resume,
                "True, False, 'extend' or 'new'",
                hint="True goes on if it was killed.",
            )
        if time_limit is not None:
            check_number("time_limit", time_limit, "seconds, at least 0", at_least=0)
        if state is not None and model is not None:
            raise InvalidArgumentError.for_argument(
                "state",
                type(state).__name__,
                "a model, or the state that the loop passes on, not both",
                hint="pass model= and optimizer=, or state= alone.",
            )
        self.state = state
        """What the loop passes on, if the run was given one."""
        self._resume = "new" if resume is False else resume
        self._verbose, self._time_limit = verbose, time_limit
        self._host = host = host or (
            host_of_model(model, optimizer)
            if state is None
            else host_of_state(lambda: self.state, self._set_state, optimizer)
        )
        host.let_program_count()
        Extras(extra)  # raises what is wrong with it
        self._extra = dict(extra or {})
        self._at = RunFolder(self.folder)
        chosen = (
            stack.deciding(self._at, monitor, mode, patience, host, self._extra)
            if callbacks is None
            else flatten(callbacks)
        )
        self._made = [*chosen, *stack.recording(self._at, chosen)]
        self._list = CallbackList(
            self._made, model, optimizer=optimizer, host=self._host, extra=extra, first_epoch=0,
            verbose=verbose,
        )  # fmt: skip
        self._list.root = self.folder
        self._every: SaveEvery = Budget() if save_every is None else check_save_every(save_every)
        self._settings = {
            "monitor": monitor, "patience": patience, "mode": mode, "save_every": str(self._every),
            "callbacks": [type(one).__name__ for one in self._made], "time_limit": time_limit,
        }  # fmt: skip
        self._signals = EndingSignals(self._wake, tuple(signals))
        self._given_workers = workers
        self._workers: Coordinator = LocalCoordinator()
        self._loop: Loop | None = None
        self._record: Record | FollowedRecord | None = None
        self._sinks: list[Any] = []

    # The run as a block

    def __enter__(self) -> Self:
        """Own the folder, and see what is in it."""
        if self._loop is not None:
            raise HostError(
                "expected a run to be entered once, got it again.\nHint: make another Run(...)."
            )
        record: Record | FollowedRecord | None = None
        workers = self._workers = coordinator_for(
            self._given_workers, self._host.versions(), _where(self._list)
        )
        try:
            if workers.size > 1:
                self._list.workers, self._list.keeps_workers = workers, True
                said = {"folder": self.folder, "resume": self._resume, **self._settings}
                meet(workers, {name: one for name, one in said.items() if name != "time_limit"})
            record = first_opens(workers, self._open) or FollowedRecord(self._at, self._made)
            record.sinks, self._record = self._sinks, record
            self._loop = self._loop_of(record, is_first=workers.rank == 0)
        except BaseException as error:
            workers.fail(error)
            if record is not None:
                record.close()
            workers.close()
            raise
        self._signals.install()
        return self

    def _open(self) -> Record:
        """Own the folder, and see what is in it."""
        if self._resume == "new":
            set_aside(self._at)
        extends = self._resume == "extend"
        return Record(
            self._at, self._made, self._settings, self._host.versions, self._verbose,
            extends=extends,
        )  # fmt: skip

    def _loop_of(self, record: Record | FollowedRecord, *, is_first: bool) -> Loop:
        """The loop; of several workers, rank 0 alone looks at clocks and files."""
        keeper = next(one for one in self._made if isinstance(one, BackupAndRestore))
        return Loop(
            record,
            self._list,
            keeper._peakhold_keeping,
            Pace(self._every if is_first else as_others_count(self._every), time.monotonic()),
            self._at.stop_file if is_first else "",
            self._time_limit if is_first else None,
            self._signals,
            Settings(self._extra, self._host),
            self._workers,
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        """Restore the best weights, close all files, and say why it ended."""
        loop, record, workers = self._entered("__exit__"), self._record, self._workers
        assert record is not None  # noqa: S101 - both are made when it is entered
        agrees = error is None or isinstance(error, RunEndedSignal) or loop.is_finished
        try:
            try:
                self._finish(loop, error, agrees=agrees)
            finally:
                self._signals.uninstall()
                record.close()
            if agrees and workers.size > 1:
                leave_together(workers)
        except BaseException as trouble:
            workers.fail(trouble)
            raise
        finally:
            workers.close()
        if error is None or isinstance(error, RunEndedSignal):
            self._signals.pass_on()
            return True
        return False

    def _finish(self, loop: Loop, error: BaseException | None, *, agrees: bool) -> None:
        """Training ends.

        Args:
            loop: The loop.
            error: What ends it, if it is left by one.
            agrees: Whether all workers end here, and not this one alone.
        """
        if error is None or isinstance(error, RunEndedSignal):
            loop.finish(None, is_over=True)
            return
        if loop.skipped is not None and isinstance(error, (NameError, ZeroDivisionError)):
            error.add_note(
                f"Hint: the run went on in epoch {loop.place.epoch + 1} behind the last batch of "
                f"{loop.skipped!r}, so that the body of that loop has not run: give what it sets a "
                "value before it."
            )
        reason = self._signals.name or _words(error)
        if self._record is not None:
            self._record.failed = not self._signals.name and isinstance(error, Exception)
        if self._workers.size == 1:
            loop.finish(reason, is_over=False, failed=True)
        elif not agrees:
            self._workers.fail(error)
            loop.abandon(reason)

    # Loops

    def epochs(self, n: int) -> Iterator[int]:
        """The epochs that are left of so many, counted from 0.

        Args:
            n: Epochs of the whole run, not of this start.

        Example:
            >>> import tempfile
            >>> with Run(tempfile.mkdtemp() + "/run", verbose=0) as run:
            ...     [epoch for epoch in run.epochs(3)]
            [0, 1, 2]
        """
        loop, n = self._entered("epochs"), check_count("n", n, at_least=1)
        yield from loop.epochs(n, 2)

    def batches(self, loader: Any, name: str = TRAIN) -> Iterator[Any]:
        """The batches of one pass over data, those that are left.

        Args:
            loader: A `DataLoader`, a `tf.data.Dataset`, arrays, anything that is gone through again
                and again.
            name: `train`, or what is put before the names of what is logged: with `val`,
                `run.log(loss=…)` logs `val_loss`.
        """
        loop = self._entered("batches")
        check_text("name", name, "a word, such as 'val'")
        return loop.batches(loader, name)

    def steps(self, loader: Any, n: int) -> Iterator[Any]:
        """Batches until so many are done, over and over the data: a loop without epochs.

        What looks at epochs elsewhere looks at checks here (`run.check`), patience too.

        Args:
            loader: As for `batches`; begun again when it is through.
            n: Batches of the whole run, not of this start.
        """
        loop, n = self._entered("steps"), check_count("n", n, at_least=1)
        yield from loop.steps(loader, n, 2)

    def every(self, *, steps: int) -> bool:
        """Whether the running batch is the last of so many: in `if run.every(steps=500):`."""
        return self._entered("every").every(check_count("steps", steps, at_least=1))

    def check(self, **metrics: Any) -> None:
        """Have all look at what was logged since the last check, in a loop without epochs.

        Args:
            metrics: More of them, as they are.
        """
        self._entered("check").check(metrics)

    def log(self, **metrics: Any) -> None:
        """Log values of the running batch, or outside of a pass of the epoch.

        The mean of an epoch is weighted by the sizes of batches. Values are copied, and not waited
        for: they are read at the epoch's end.

        Args:
            metrics: Numbers, or tensors with one element.
        """
        loop = self._loop
        if loop is None:
            loop = self._entered("log")
        loop.log(metrics)

    def save(self) -> None:
        """Have all backed up at the next border between two batches, or at the epoch's end."""
        self._entered("save").save()

    def stop(self, reason: str) -> None:
        """End the run at the next border; it is then over.

        Args:
            reason: Why, for people.
        """
        self._entered("stop").stop(str(reason))

    def restore_best(self) -> None:
        """Put the best weights into the model; the end of the `with` does it, too.

        Raises:
            HostError: If nothing has ranked yet, or nothing keeps weights.
        """
        for one in self._made:
            if isinstance(one, EarlyStopping):
                one.restore_best()
                return
        raise HostError.lacks(
            "run.restore_best()",
            "a callback that keeps the best weights",
            None,
            hint="pass monitor='val_loss' and patience=8.",
        )

    # What it came to

    @property
    def best(self) -> BestOfRun | None:
        """The best epoch so far; None if nothing ranks, or nothing has been ranked."""
        for one in self._made:
            if isinstance(one, ModelCheckpoint):
                best, epoch = one.best, one.best_epoch
                if one.best_path is not None and best is not None and epoch is not None:
                    return BestOfRun(epoch, one.monitor, best, one.best_path)
        for one in self._made:
            if isinstance(one, EarlyStopping) and (best := _first(one.best)) is not None:
                return BestOfRun(one.best_epoch, _first(one.monitor), best, None)
        return None

    @property
    def latest(self) -> Entry | None:
        """The newest checkpoint: what the run goes on from if it is killed now."""
        path = self._at.checkpoints
        return Reader(path).latest if os.path.isdir(path) else None

    @property
    def history(self) -> RecordedHistory:
        """What was logged at each epoch, by metric, earlier starts of the run included."""
        return self._at.history() if self._record is None else self._record.history

    @property
    def stopped_because(self) -> str | None:
        """Why it ended; None as long as it runs."""
        return None if self._record is None else self._record.reason

    def add_sink(self, sink: Any) -> None:
        """Have all that is written into `events.jsonl` told to somebody else, too.

        Args:
            sink: Called with each event, a dict of plain values, in the thread that trains; what it
                raises is said once. Or one of `peakhold.sinks`, which nobody waits for.
        """
        if not callable(sink):
            raise InvalidArgumentError.for_argument("sink", sink, "a function of one event")
        if self._record is None:
            self._sinks.append(sink)
        else:
            self._record.add_sink(sink)

    # What lies below

    def _set_state(self, state: Any) -> None:
        self.state = state

    def _wake(self) -> None:
        if self._loop is not None:
            self._loop.border.wake()

    def _entered(self, what: str) -> Loop:
        if self._loop is None:
            raise HostError(
                f"expected run.{what}() inside the run's with, got it outside.\n"
                "Hint: with Run('runs/a', model=model, optimizer=optimizer) as run: …"
            )
        return self._loop


def _where(callbacks: CallbackList) -> Callable[[], str]:
    """Says where this worker is, for those who wait for it; does not hold the run."""
    reference = weakref.ref(callbacks)

    def where() -> str:
        one = reference()
        link = None if one is None else link_of(one.callbacks[0])
        session = None if link is None else link.session
        return "before training begins" if session is None else session.where()

    return where


def _first(value: Any) -> Any:
    """Of one metric, or of several the first."""
    return value[0] if isinstance(value, (list, tuple)) else value


def _words(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "Ctrl-C"
    if isinstance(error, GeneratorExit):
        return "its loop was left"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
