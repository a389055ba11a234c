"""A tracker of experiments as a sink: it is told in a thread of its own, and nobody waits for it.

Problem. What a tracker's library does takes as long as a network likes, and raises what it likes. A
run that goes on after a kill tells some epochs again. And trackers show the last value, where the
best is wanted.

Solution. The thread that trains makes a row of an epoch (`rows.py`) and puts it into an outbox
(`alerts/outbox.py`); the outbox's thread opens the tracker's run, or goes on with the one that an
earlier start has opened, and writes. A tracker is three methods.

Rules of this file:

1. Nothing that a tracker does ends or holds training. Only the import of its library is waited for,
   before the first batch: a thread that imports while workers are forked leaves them locks.
2. The end waits a few seconds for all trackers together. What was lost by then is counted, and said
   once.
3. What a tracker is given holds no secret, as in `run.json`.
4. No thread is started but when a run begins.
"""

from __future__ import annotations

import abc
import contextlib
import copy
import importlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Final, Literal, TypeAlias, final

from peakhold import speech
from peakhold._core.arguments import check_number
from peakhold._core.observation import Event
from peakhold.alerts.outbox import Outbox
from peakhold.alerts.outcome import Outcome
from peakhold.errors import InvalidArgumentError, SaveWarning
from peakhold.ledger.folder import RunFolder
from peakhold.ledger.masking import Masking
from peakhold.ledger.reader import read_events
from peakhold.ledger.told import is_quiet, line_of
from peakhold.runtime import listening
from peakhold.sinks.rows import BestEpoch, EpochRow, RowMaker

__all__ = ["About", "RunEnding", "Tracker", "end_all"]

_MOST: Final = 1000
"""Epochs that may wait."""
_LONGEST_TEXT: Final = 4000
"""Letters of what was decided: MLflow takes 5,000 in a tag."""


@final
@dataclass(frozen=True, slots=True)
class About:
    """The run that a tracker is told of."""

    run_id: str
    """The same in each start of the run, and in no other run."""
    name: str
    """For people: the folder's, and the id."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Settings, versions and more, plain values by name; secrets are masked."""
    goes_on_from: int | None = None
    """The epoch with which it goes on; None: it begins."""


@final
@dataclass(frozen=True, slots=True)
class RunEnding:
    """How a start of the run has ended."""

    state: Literal["finished", "interrupted", "failed"]
    """`interrupted`: the next start goes on; `failed`: that, after an exception."""
    reason: str
    best: BestEpoch | None = None
    decided: str = ""
    """All that was decided, and why, a line for each epoch; the last lines of it."""


_Message: TypeAlias = Callable[[], object]


class Tracker(abc.ABC):
    """A sink that tells a tracker of experiments; derive from it for one of your own.

    Its methods are called in a thread, one after another. What they raise costs the row.

    Args:
        config: What else the tracker shall show as the run's settings.
        name: What the tracker calls the run. Defaults to the folder's name and the run's id.
        close_timeout_s: Seconds that the end of the run waits for it.

    Example:
        >>> import numpy as np, tempfile
        >>> from peakhold import Run
        >>> class Printer(Tracker):
        ...     where = "here"
        ...     def begin(self, about): print(about.config["monitor"])
        ...     def write(self, row): print(row.epoch, row.metrics["loss"], row.best.epoch)
        ...     def end(self, ending): print(ending.state, ending.best.metrics["loss"])
        >>> folder, state = tempfile.mkdtemp() + "/run", {"w": np.zeros(1)}
        >>> with Run(folder, state=state, monitor="loss", verbose=0) as run:
        ...     run.add_sink(Printer())
        ...     for epoch in run.epochs(2):
        ...         run.log(loss=1.0 + epoch)
        loss
        0 1.0 0
        1 2.0 0
        finished 1.0
    """

    where: ClassVar[str]
    """What the tracker is called."""
    package: ClassVar[str] = ""
    """The library that it needs, and the extra of that name."""

    def __init__(
        self,
        *,
        config: Mapping[str, Any] | None = None,
        name: str | None = None,
        close_timeout_s: float = 5.0,
    ) -> None:
        self.config, self.name = dict(config or {}), name
        self.close_timeout_s = check_number(
            "close_timeout_s", close_timeout_s, "seconds, at least 0", at_least=0
        )
        self._telling: _Telling | None = None

    # What a tracker does

    @abc.abstractmethod
    def begin(self, about: About) -> None:
        """Open the tracker's run, or go on with the one that an earlier start has opened.

        Args:
            about: The run.
        """

    @abc.abstractmethod
    def write(self, row: EpochRow) -> None:
        """Write an epoch.

        Args:
            row: The epoch. Where the run goes on, those before come again, for the tracker may lack
                some; and an earlier start may have written it.
        """

    @abc.abstractmethod
    def end(self, ending: RunEnding) -> None:
        """Write how it has ended, and let go; again, for the next start may come.

        Args:
            ending: How.
        """

    # What a run tells

    def begins(self, run_id: str, folder: str | None, goes_on_from: int | None) -> None:
        """The run begins, or goes on: called by it.

        Args:
            run_id: Which.
            folder: Its folder, if it has one.
            goes_on_from: The epoch; None: it begins.
        """
        if self._telling is not None:
            raise InvalidArgumentError.for_argument(
                "sink",
                type(self).__name__,
                "a tracker of one run",
                hint="make another one for another run.",
            )
        self._telling = _Telling(self, run_id, folder, goes_on_from)

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Take an event of the run.

        Args:
            event: As in `events.jsonl`.
        """
        if self._telling is not None:
            self._telling.take(event)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Tell it of a training without `Run`, by `fit` or with a `CallbackList`, in this block.

        The first run in the block that a callback of Peakhold's is part of is told. It goes on with
        the tracker's run if `BackupAndRestore` goes on with the training.

        Example:
            >>> from peakhold import CallbackList, EarlyStopping
            >>> class Printer(Tracker):
            ...     where = "here"
            ...     def begin(self, about): pass
            ...     def write(self, row): print(row.decided)
            ...     def end(self, ending): print(ending.state)
            >>> with Printer().listening():
            ...     EarlyStopping("loss").on_epoch_end(0, {"loss": 0.5})
            EarlyStopping(loss): best so far: first value
            finished
        """
        heard: str | None = None

        def hear(told: listening.Told) -> None:
            nonlocal heard
            if told.rank or is_quiet(told):
                return
            event = line_of(told)
            if heard is None and told.moment.event is not Event.TRAIN_END:  # one left behind
                heard = told.run_id
                self.begins(heard, None, event["epoch"] or None)
            if heard == told.run_id:
                self(event)

        with listening.listening(hear):
            try:
                yield
            except BaseException as error:
                reason, is_error = f"{type(error).__name__}: {error}", isinstance(error, Exception)
                self({"kind": "interrupted", "reason": reason, "error": is_error})
                raise
            else:
                self({"kind": "end", "reason": ""})
            finally:
                end_all([self])


def end_all(trackers: Iterable[Tracker]) -> None:
    """Have all write their end, and wait a few seconds for them, together.

    Args:
        trackers: Those of one run; one that was told nothing is passed over.
    """
    telling = [one._telling for one in trackers if one._telling is not None]
    for one in telling:
        one.end()
    begun = time.monotonic()
    for one in telling:
        one.close(begun)


@final
class _Telling:
    """One run, told to one tracker.

    Args:
        tracker: The tracker.
        run_id: The run.
        folder: Its folder; None: it has none.
        goes_on_from: The epoch; None: it begins.
    """

    def __init__(
        self, tracker: Tracker, run_id: str, folder: str | None, goes_on_from: int | None
    ) -> None:
        self.where, self._tracker = tracker.where, tracker
        self._run_id, self._folder, self._goes_on_from = run_id, folder, goes_on_from
        self._masking = Masking.of_this_process()
        self._rows = RowMaker()
        self._before = RowMaker()
        """What earlier starts have told, as far as it counts."""
        self._not_looked_at: deque[EpochRow] = deque()
        """Rows of theirs: the tracker may lack some, if the process was killed."""
        self._last: Mapping[str, Any] = {}
        self._n_told = 2
        """Messages: the begin, each epoch, and the end."""
        self._has_begun = False
        self._outbox: Outbox[_Message] | None = None
        if self._is_installed():
            self._outbox = Outbox(self, tries=5, size=_MOST, what="what a run tells", stays=True)
            self._outbox.attended = True
            self._outbox.push(self._begin)

    def _is_installed(self) -> bool:
        package = self._tracker.package
        if not package:
            return True
        try:
            importlib.import_module(package)
        except Exception as error:
            speech.warn(
                f"{self.where} is told nothing of this run: {package} cannot be imported "
                f"({error}). Training goes on.\nHint: pip install 'peakhold[{package}]'",
                SaveWarning,
            )
            return False
        return True

    # In the thread that trains

    def take(self, event: Mapping[str, Any]) -> None:
        """Take an event."""
        if self._outbox is None:
            return
        if event["kind"] != "moment":
            self._last = event
            return
        row = self._rows.take(event)
        if row is not None:
            self._n_told += 1
            self._outbox.push(partial(self._write, row))

    def end(self) -> None:
        """Have it write the end."""
        if self._outbox is not None:
            self._outbox.push(self._end)

    def close(self, begun: float) -> None:
        """Wait until it is written, and say what is not.

        Args:
            begun: When waiting began, by the monotonic clock.
        """
        box = self._outbox
        if box is None:
            return
        box.close(max(0.0, begun + self._tracker.close_timeout_s - time.monotonic()))
        why = box.complaint()
        if box.n_lost:
            speech.warn(
                f"{why or ''} {box.n_lost} of {self._n_told} messages are lost (one for the begin, "
                "for each epoch, and for the end).\n"
                "Hint: events.jsonl and metrics.csv in the run's folder have all of it.",
                SaveWarning,
            )

    # In the outbox's thread

    def send(self, text: _Message, timeout_s: float) -> Outcome:
        """Tell the tracker one thing (`alerts/outcome.py: Sender`)."""
        try:
            if not self._has_begun:
                self._begin()
            while self._not_looked_at:
                self._write(self._not_looked_at[0])
                self._not_looked_at.popleft()
        except Exception as error:
            return Outcome(False, self._words(error), retry=True)
        try:
            text()
        except Exception as error:
            return Outcome(False, self._words(error))
        return Outcome(True)

    def _words(self, error: Exception) -> str:
        return self._masking.of_text(f"{type(error).__name__}: {error}"[:300])

    def _begin(self) -> None:
        if self._has_begun:
            return
        config: dict[str, Any] = {}
        name = self._run_id
        if self._folder is not None:
            folder = RunFolder(self._folder)
            config = _flat(folder.about() or {})
            name = f"{os.path.basename(os.path.abspath(self._folder))}-{self._run_id}"
            if self._goes_on_from is not None:
                self._before, self._not_looked_at = _told_before(folder)
        config = self._masking.of_tree({**config, **self._tracker.config})
        self._tracker.begin(
            About(self._run_id, self._tracker.name or name, config, self._goes_on_from)
        )
        self._has_begun = True

    def _write(self, row: EpochRow) -> None:
        best = row.best or self._before.best
        self._tracker.write(
            EpochRow(row.epoch, row.metrics, self._masking.of_text(row.decided), best)
        )

    def _end(self) -> None:
        rows, before, last = self._rows, self._before, self._last
        rest = [f"at the end: {'; '.join(rows.decided)}"] if rows.decided else []
        decided = "\n".join([*before.lines, *rows.lines, *rest])
        kind, reason = last.get("kind"), last.get("reason") or rows.stopped or "all was run"
        self._tracker.end(
            RunEnding(
                "finished" if kind == "end" else "failed" if last.get("error") else "interrupted",
                self._masking.of_text(str(reason)),
                rows.best or before.best,
                self._masking.of_text(decided)[-_LONGEST_TEXT:],
            )
        )


def _told_before(folder: RunFolder) -> tuple[RowMaker, deque[EpochRow]]:
    """What earlier starts of the run have told, up to where this one goes on."""
    rows, at_start = RowMaker(), RowMaker()
    told: list[EpochRow] = []
    n_at_start = 0
    for event in read_events(folder.events, on_damage=lambda _at, _what: None):
        if event["kind"] == "goes_on":
            at_start, n_at_start = copy.deepcopy(rows), len(told)
        row = rows.take(event)
        if row is not None:
            told.append(row)
    return at_start, deque(told[:n_at_start])


def _flat(run: Mapping[str, Any]) -> dict[str, Any]:
    """What `run.json` says, by name: settings as they are called, all else as `versions/numpy`."""
    config: dict[str, Any] = dict(run.get("settings", {}))
    for name in ("versions", "git"):
        config |= {f"{name}/{key}": value for key, value in (run.get(name) or {}).items()}
    config |= {name: run[name] for name in ("host", "python", "created") if name in run}
    config["command"] = " ".join(run.get("command", []))
    return config
