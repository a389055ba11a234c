"""What the callbacks of one training run share, and the order in which they act.

Rules of this file:

1. The first of a segment (`segments.py`) to be called for an event runs the handlers of the whole
   segment, in an order that does not depend on the list; when the others are called, their part is
   done.
2. If one handler raises, the others of the segment still run; then the first error is raised.
3. What must wait for everybody (the summary, KeyboardInterrupt) is done by the last one.
4. What an interrupted run left is put back before any callback, users' too, sees an epoch begin (or
   training end, if no epoch is left): the list itself is made to wait for it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, final

from peakhold._core.observation import Event
from peakhold.advice import Facts, Schedule, give
from peakhold.errors import AdviceWarning, HostError
from peakhold.host.contract import Host
from peakhold.runtime.callback import Participant
from peakhold.runtime.interrupt import Interrupt
from peakhold.runtime.segments import is_strange, reports_end, segments_of
from peakhold.runtime.summary import Ending, summarize
from peakhold.runtime.termination import Termination
from peakhold.snapshots.pool import SnapshotPool

__all__ = ["Session", "run_ahead", "session_of"]

_TERMINATION_S = 20.0

_HANDLERS = {
    Event.TRAIN_BEGIN: ("_begin",),
    Event.EPOCH_BEGIN: ("_epoch_begin",),
    Event.TEST_BEGIN: ("_test_begin",),
    Event.TEST_END: ("_test_end",),
    Event.EPOCH_END: ("_measure", "_act", "_keep", "_record"),
}
_sessions: weakref.WeakKeyDictionary[Any, Session] = weakref.WeakKeyDictionary()


def session_of(member: Participant, event: Event | None = None) -> Session:
    """The session that a participant is in now; a new one on train begin.

    A driver (Keras's `CallbackList` or ours) has one session for each `on_train_begin`; a
    participant without a driver, whose hooks somebody calls by hand, has one of its own.
    """
    session = member._session
    if event is Event.TRAIN_BEGIN:
        driver = member._driver() if member._driver is not None else None
        shared = _sessions.get(driver) if driver is not None else None
        if shared is None or shared.has_called(member):
            shared = Session(driver.callbacks if driver is not None else [member], driver=driver)
            if driver is not None:
                _sessions[driver] = shared
        session = shared
        for other in session.members:
            other._session = session
    elif session is None:
        session = member._session = Session([member], driver=None)
    return session


@final
class Session:
    """One training run, from train begin to train end.

    Args:
        callbacks: All callbacks of the run, users' too, in the order of the list.
        driver: The list that calls them, or None if somebody calls one by hand.
    """

    def __init__(self, callbacks: Sequence[Any], *, driver: Any) -> None:
        self.callbacks = list(callbacks)
        self.members = [cb for cb in self.callbacks if isinstance(cb, Participant)]
        self.driven = driver is not None
        self._driver = None if driver is None else weakref.ref(driver)
        self.run_id = os.urandom(4).hex()
        self.timestamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self.stop_reasons: list[str] = []
        self.start_epoch: int | None = None
        """Index of the first epoch, once it has begun; above 0 in a resumed run."""
        self.epoch = 0
        """Index of the running epoch."""
        self.last_epoch: int | None = None
        """Index of the last epoch that ended."""
        self.n_epochs_done = 0
        self.tested = False
        """Whether validation has run in this epoch."""
        self.ended_badly = False
        """Whether training was stopped because its state is worth nothing (NaN), or failed."""
        self.test_logs: Any = None
        """Metrics of the last evaluation that ended."""
        self.interrupted = False
        self.broken_epoch = False
        """Whether Ctrl-C cut the running epoch short."""
        self._in_batches = False
        self._clock = time.monotonic()
        self._called: set[int] = set()
        self._begun: set[int] = set()
        self._checked = False
        self._ended: set[int] = set()
        self._finished = False
        self._kept_last = False
        self._segments = segments_of(self.callbacks)
        self._arrived: dict[int, tuple[Event, set[int]]] = {}
        self._interrupt: Interrupt | None = None
        self._termination: Termination | None = None
        self._resumed = False
        self._has_put_back = False
        reference = weakref.ref(self)
        self.pool = SnapshotPool(lambda: _host_of(reference))
        """Snapshots that the callbacks of this run share."""
        self._uncommitted: tuple[int, Any] | None = None
        self._seen_epoch_end: set[int] = set()

    # What participants ask

    @property
    def host(self) -> Host:
        """The model, as callbacks see it."""
        return self.members[0].host

    @property
    def params(self) -> dict[str, Any]:
        """`epochs`, `steps`, `verbose`, as far as they are known."""
        return dict(next((m.params for m in self.members if m.params), {}))

    @property
    def epochs(self) -> int | None:
        """Epochs asked for."""
        epochs = self.params.get("epochs")
        return epochs if isinstance(epochs, int) else None

    @property
    def quiet(self) -> bool:
        """Whether nothing beyond a callback's own `verbose` is to be printed."""
        return not self.driven or self.params.get("verbose", 1) == 0

    @property
    def worker(self) -> int:
        """This worker's number among its fellows."""
        rank = os.environ.get("RANK", "0")
        return int(rank) if rank.isdigit() else 0

    @property
    def has_strangers(self) -> bool:
        """Whether a user's callback could add to `logs` or change the model."""
        return any(map(is_strange, self.callbacks))

    def strangers_follow(self, member: Participant) -> bool:
        """Whether a user's hook may look, in the same event, at what this member has done."""
        mine = next((i for i, one in enumerate(self.callbacks) if one is member), 0)
        return any(map(is_strange, self.callbacks[mine:]))

    def seconds(self) -> float:
        """Seconds since this run began."""
        return time.monotonic() - self._clock

    def steps(self) -> tuple[int | None, ...]:
        """Steps done, by each of those who may count them; None from those who cannot.

        The list, told of each batch; the model's optimizer; and the epochs, if their length is
        known. A batch hook of ours would know, too, and cost Keras its asynchronous dispatch.
        """
        driver = self._driver() if self._driver is not None else None
        length = self.params.get("steps")
        return (
            getattr(driver, "n_batches_done", None),
            self.host.steps_done(),
            length * self.n_epochs_done if isinstance(length, int) else None,
        )

    def has_called(self, member: Participant) -> bool:
        """Whether this member's `on_train_begin` was called in this session."""
        return id(member) in self._called

    def stop(self, reason: str, *, bad: bool = False) -> None:
        """Ask for the end of training; `bad`: the state it ends with is not one to go on from."""
        self.stop_reasons.append(reason)
        self.ended_badly |= bad
        self.host.request_stop()

    def warn(self, message: str, category: type[Warning]) -> None:
        """Warn, as from the user's own line."""
        warnings.warn(message, category, stacklevel=_depth_of_user())

    # Events

    def arrive(self, member: Participant, event: Event, *args: Any) -> None:
        """A member was called for an event."""
        if event in (Event.EPOCH_BEGIN, Event.TRAIN_END):
            self._commit()  # at the latest: somebody's override kept its arrival to itself
        self._note(event, args)
        if event is Event.TRAIN_BEGIN:
            self._called.add(id(member))
        if event is Event.TRAIN_END:
            self._end(member, args[0])
        elif event is Event.EPOCH_END and self.broken_epoch:
            return
        elif event in _HANDLERS and self._is_first(member, event):
            segment = self._segments[id(member)]
            self.pool.new_moment()  # a user's callback may have run since the last one
            if event is not Event.TRAIN_BEGIN:
                self._begin_late(segment)
            else:
                self._prepare()
                self._begun.update(map(id, segment))
            _run(segment, _HANDLERS[event], args)
        if event is Event.EPOCH_END:
            self._note_epoch_end(member, args)

    def _note_epoch_end(self, member: Participant, args: tuple[Any, ...]) -> None:
        """The last of ours to see the end of an epoch starts the commit of what all have done."""
        if not self._seen_epoch_end:
            self._uncommitted = (args[0], args[1])
        self._seen_epoch_end.add(id(member))
        if len(self._seen_epoch_end) == len(self.members):
            self._commit()

    def _commit(self) -> None:
        waiting, self._uncommitted = self._uncommitted, None
        self._seen_epoch_end = set()
        if waiting is None or all(type(m)._commit is Participant._commit for m in self.members):
            return
        _run(self.members, ("_before_commit",), ())
        try:
            _run(self.members, ("_commit",), waiting)
        finally:
            _run(self.members, ("_after_commit",), ())

    def _is_first(self, member: Participant, event: Event) -> bool:
        """Whether this is the first of its segment to be called for this event."""
        segment = id(self._segments[id(member)][0])
        current, arrived = self._arrived.get(segment, (None, set()))
        if current is event and id(member) not in arrived:
            arrived.add(id(member))
            return False
        self._arrived[segment] = (event, {id(member)})
        return True

    def _note(self, event: Event, args: tuple[Any, ...]) -> None:
        if event is Event.EPOCH_BEGIN:
            if self.start_epoch is None:
                self.start_epoch = args[0]
                self.put_back()
            self.epoch, self.tested = args[0], False
            # `fit` looks at the flag only after a batch: an epoch begun after Ctrl-C is cut short.
            self._in_batches, self.broken_epoch = True, self.interrupted
        elif event is Event.TEST_BEGIN:
            self._in_batches = False
        elif event is Event.TEST_END:
            self.tested = True
        elif event is Event.EPOCH_END:
            self._in_batches = False
            if self.last_epoch == args[0]:
                return
            self.epoch = self.last_epoch = args[0]
            if not self.broken_epoch:
                self.n_epochs_done += 1

    def _prepare(self) -> None:
        """Once, before anything has a side effect: reset, check, take Ctrl-C over."""
        if self._checked:
            return
        self._checked = True
        self.resume()
        for handler in ("_reset", "_check"):
            for member in self.members:
                getattr(member, handler)()
        self.pool.prepare_for(self.members)
        self._advise()
        if self.driven and self.members:
            reference = weakref.ref(self)
            self._interrupt = Interrupt(
                lambda frame: (s := reference()) is not None and s.host.owns_frame(frame),
                lambda: s._on_interrupt() if (s := reference()) is not None else None,
            )
            self._install_termination()
            if not self._interrupt.install() and not self.quiet:
                self.host.say(
                    "Ctrl-C cannot be caught outside the main thread: "
                    "it will end this training without restoring the best weights."
                )

    def resume(self) -> None:
        """Once, before anybody's train begin: take over what an interrupted run left."""
        if not self._resumed:
            self._resumed = True
            self.host.resumption().set_first_epoch(None)  # of a fit that raised before it began
            for member in self.members:
                member._resume()

    def put_back(self) -> None:
        """Once, before the first epoch or, if none is left, the end: what was interrupted."""
        if not self._has_put_back:
            self._has_put_back = True
            _run(self.members, ("_put_back",), ())

    def ahead_of_all(self, hook: str, work: Callable[[], Any]) -> None:
        """Have work done before any callback of the list is called for a hook the next time."""
        driver = self._driver() if self._driver is not None else None
        if driver is not None:
            run_ahead(driver, hook, work)

    def _install_termination(self) -> None:
        if all(type(m)._terminate is Participant._terminate for m in self.members):
            return
        reference = weakref.ref(self)
        self._termination = Termination(
            lambda frame: (s := reference()) is not None and s.host.owns_frame(frame),
            lambda: s._terminate() if (s := reference()) is not None else None,
        )
        self._termination.install()

    def _terminate(self) -> None:
        # On a thread of its own, while training goes on.
        now = time.monotonic()
        for member in self.members:
            with contextlib.suppress(Exception):  # the others must have their time, and the signal
                member._terminate(now + getattr(member, "sigterm_timeout", _TERMINATION_S))

    def _begin_late(self, segment: Iterable[Participant]) -> None:
        """For hooks that somebody calls by hand, without `on_train_begin`."""
        fresh = [m for m in segment if id(m) not in self._begun]
        if fresh:
            self._prepare()
            self._begun.update(map(id, fresh))
            _run(fresh, ("_begin",), ())

    def _advise(self) -> None:
        steps, host = self.params.get("steps"), self.host
        schedule = host.rate_schedule()
        facts = Facts(
            epochs=self.epochs,
            steps=steps if isinstance(steps, int) else None,
            validates=host.validates(),
            first_validation=host.first_validation(),
            directions=host.metric_directions(),
            schedules=() if schedule is None else (Schedule(*schedule),),
        )
        for member in self.members:
            facts = member._tell(facts)
        for advice in give(facts) if self.driven else ():
            if advice.level == "warning":
                self.warn(str(advice), AdviceWarning)
            elif not self.quiet:
                self.host.say(str(advice))

    def _on_interrupt(self) -> None:
        # In a signal handler: set flags, nothing else.
        self.interrupted = True
        self.broken_epoch = self._in_batches
        self.host.request_stop()

    def keep_last(self, logs: Any) -> None:
        """What saves the last state does so now: before the best weights are put back."""
        if not self._kept_last:
            self._kept_last = True
            _run(self.members, ("_keep_last",), (logs,))

    def _end(self, member: Participant, logs: Any) -> None:
        if self._finished:
            return
        self.put_back()
        segment = self._segments[id(member)]
        self.pool.new_moment()
        self._begin_late(segment)
        error: BaseException | None = None
        try:
            self._end_members(segment, logs)
        except Exception as caught:
            error = caught
        if all(id(m) in self._ended or not reports_end(m) for m in self.members):
            self._finish(logs, error)
        elif error is not None:
            raise error

    def _end_members(self, members: Iterable[Participant], logs: Any) -> None:
        waiting = [m for m in members if id(m) not in self._ended]
        self._ended.update(map(id, waiting))
        if not self.broken_epoch:
            self.keep_last(logs)
        _run(waiting, ("_end",), (logs,))

    def _finish(self, logs: Any, error: BaseException | None) -> None:
        self._finished = True
        try:
            # A user's override may not have called super() yet, and must not come too late.
            self._end_members(self.members, logs)
            _run(self.members, ("_settle",), ())
        except Exception as caught:
            error = error or caught
        self.ended_badly |= error is not None or self.interrupted
        try:
            _run(self.members, ("_conclude",), ())
        except Exception as caught:
            error = error or caught
        self.pool.close()
        for handler in (self._interrupt, self._termination):
            if handler is not None:
                handler.uninstall()
        if not self.quiet:
            for line in summarize(self._ending(), self.members):
                self.host.say(line)
        if error is not None:
            raise error
        if self.interrupted:
            raise KeyboardInterrupt

    def _ending(self) -> Ending:
        return Ending(
            n_epochs_done=self.n_epochs_done,
            last_epoch=self.last_epoch,
            epochs=self.epochs,
            seconds=self.seconds(),
            reason=self.stop_reasons[0] if self.stop_reasons else None,
            interrupted=self.interrupted,
        )


def run_ahead(driver: Any, hook: str, work: Callable[[], Any]) -> None:
    """Have work done before a list calls its callbacks for a hook the next time, once."""
    before = vars(driver).get(hook)
    own = getattr(driver, hook)

    def ahead(*args: Any, **kwargs: Any) -> Any:
        if before is None:
            vars(driver).pop(hook, None)
        else:
            setattr(driver, hook, before)
        work()
        return own(*args, **kwargs)

    setattr(driver, hook, ahead)


def _host_of(reference: weakref.ref[Session]) -> Host:
    session = reference()
    if session is None:
        raise HostError.lacks(
            "a snapshot", "the run it was taken in", None, hint="keep the callback."
        )
    return session.host


def _run(members: Iterable[Participant], handlers: Sequence[str], args: tuple[Any, ...]) -> None:
    first: Exception | None = None
    members = list(members)
    for handler in handlers:
        for member in members:
            try:
                getattr(member, handler)(*args)
            except Exception as error:
                if first is None:
                    first = error
                else:
                    first.add_note(f"and in {type(member).__name__}: {error!r}")
    if first is not None:
        raise first


def _depth_of_user() -> int:
    """The `stacklevel` of the first frame that is neither ours nor the framework's."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(("peakhold.", "keras.")) or name.startswith("peakhold.demo"):
            break
        depth, frame = depth + 1, frame.f_back
    return depth
