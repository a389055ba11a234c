"""One training run: what happens at each event, for whom, in which order.

`script.py` has all of it, as a table. A row is one event; its phases are gone through in order, for
all participants or for those of the segment whose turn it is (`dispatch.py` says which).

Rules of this file:

1. If one participant raises, the others still have their turn; then the first error is raised.
2. What must wait for everybody (commit, summary, KeyboardInterrupt) is done by the last one.
3. What an interrupted run left is put back before any callback, users' too, sees an epoch begin (or
   training end, if no epoch is left): the list itself is made to wait for it.
4. Only the session asks the coordinator: when a run begins, to aggregate and to decide at each
   moment between batches, and at a commit.
"""

from __future__ import annotations

import contextlib
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import Any, final

from peakhold._core.moments import Moment, Position, Spent
from peakhold._core.observation import Event
from peakhold.distributed import Coordinator, LocalCoordinator
from peakhold.errors import AdviceWarning, HostError
from peakhold.host.contract import Host, to_number
from peakhold.runtime.callback import host_of, is_unaltered, link_of, reports_end
from peakhold.runtime.dispatch import Dispatch
from peakhold.runtime.driver import implicit_session, remember_implicit, run_ahead
from peakhold.runtime.filing import filed
from peakhold.runtime.identity import Identity
from peakhold.runtime.narration import advice_for
from peakhold.runtime.participant import (
    CONTINUES,
    FRESH,
    RESUMED,
    Deciding,
    Keeper,
    Lender,
    Participant,
)
from peakhold.runtime.progress import Progress, StepCounter
from peakhold.runtime.script import SCRIPT
from peakhold.runtime.seat import Seat
from peakhold.runtime.signals import Signals
from peakhold.runtime.summary import Ending, summarize
from peakhold.runtime.turn import Errors, Turn
from peakhold.runtime.user_frame import depth_of_user
from peakhold.snapshots.pool import SnapshotPool

__all__ = ["Session", "report", "session_of"]

_BATCHES = {
    Event.TRAIN_BATCH_BEGIN, Event.TRAIN_BATCH_END, Event.TEST_BATCH_BEGIN, Event.TEST_BATCH_END,
}  # fmt: skip

_sessions: weakref.WeakKeyDictionary[Any, Session] = weakref.WeakKeyDictionary()
"""The running session of each list."""


def session_of(callback: Any, event: Event | None = None) -> Session:
    """The session that a callback of ours is in now; a new one on train begin.

    A list (Keras's or ours) has one session for each `on_train_begin`. Callbacks whose list cannot
    be found, and that were given one model, share one (`driver.py`).
    """
    link = link_of(callback)
    if link is None:
        raise TypeError(f"{callback!r} is none of Peakhold's")
    if event is Event.TRAIN_BEGIN:
        driver = link.driver
        shared = _sessions.get(driver) if driver is not None else implicit_session(callback)
        if shared is not None and not shared.takes_in(callback):
            shared = None
        if shared is None:
            shared = Session([callback] if driver is None else driver.callbacks, driver=driver)
            if driver is not None:
                _sessions[driver] = shared
            else:
                remember_implicit(callback, shared)
        else:
            shared.admit(callback)
        return shared
    if link.session is None:
        link.session = Session([callback], driver=None)
    return link.session


def report(callback: Any, event: Event, number: int | None, logs: Any) -> None:
    """A callback of ours was called.

    Args:
        callback: Which.
        event: For what.
        number: Index of the epoch or of the batch; None for events that have none.
        logs: As they were given; None counts as empty.
    """
    session: Session | None = callback._peakhold_link.session
    if session is None or event is Event.TRAIN_BEGIN:
        session = session_of(callback, event)
    session.arrive(callback, event, number, logs)


@final
class Session:
    """One training run, from train begin to train end.

    Args:
        callbacks: All callbacks of the run, users' too, in the order of the list.
        driver: The list that calls them, or None if it cannot be found.
        coordinator: What the workers of this run agree by. Defaults to one worker's.
    """

    def __init__(
        self, callbacks: Iterable[Any], *, driver: Any, coordinator: Coordinator | None = None
    ) -> None:
        self.callbacks: list[Any] = []
        self.seats: list[Seat] = []
        self.identity, self.progress = Identity(), Progress()
        self.coordinator: Coordinator = coordinator or LocalCoordinator()
        self.stop_reasons: list[str] = []
        self.state_unusable = False
        """Whether training was stopped because its state is worth nothing (NaN), or failed."""
        self.interrupted = False
        self._driver = None if driver is None else weakref.ref(driver)
        self._clock = time.monotonic()
        self._first_epoch_at: float | None = None
        self._steps = StepCounter(self._batches_told, self._updates_done, self._steps_of_epochs)
        self._steps_before_epoch = 0
        self._counted_epoch: int | None = None
        self._host: Host | None = None
        self._called: set[int] = set()
        self.is_prepared = False
        """Whether everybody's needs are met."""
        self._wants_rates = False
        self._validates: tuple[bool | None] | None = None
        self._has_put_back = False
        self._signals: Signals | None = None
        self._uncommitted: tuple[Moment, dict[str, Any]] | None = None
        self._seen_epoch_end: set[int] = set()
        self._at_end: Turn | None = None
        self._fresh: list[Seat] = []
        self._finished = False
        self._pools: dict[int, SnapshotPool] = {}
        self._take_in(callbacks)

    # Who takes part

    def _take_in(self, callbacks: Iterable[Any]) -> None:
        self.callbacks += callbacks
        self.dispatch = Dispatch(self.callbacks)
        hosts: dict[int, Host] = {
            id(seat.callback._model): seat.host
            for seat in self.seats
            if seat.callback._model is not None
        }
        seated = {id(seat.callback) for seat in self.seats}
        for callback in self.callbacks:
            link = link_of(callback)
            if link is None or id(callback) in seated:
                continue
            host = host_of(callback)
            if callback._model is not None:  # one host for each model, whoever was given it
                host = callback._peakhold_host = hosts.setdefault(id(callback._model), host)
            pool = self._pools.get(id(host))
            if pool is None:
                pool = self._pools[id(host)] = SnapshotPool(_host_getter(host))
            seat = Seat(self, callback, link.participant, host, pool)
            self.seats.append(seat)
            link.session, link.participant._run = self, seat.view
        self._by_callback = {id(seat.callback): seat for seat in self.seats}
        names = filed(seat.callback for seat in self.seats)
        for name, callback in names.items():
            self._by_callback[id(callback)].name = name

    def takes_in(self, callback: Any) -> bool:
        """Whether a callback that begins now belongs to this run; else it begins another one."""
        if id(callback) in self._called or self._finished:
            return False
        return id(callback) in self._by_callback or self.progress.start_epoch is None

    def admit(self, callback: Any) -> None:
        """Take in a callback that has begun training in the same loop."""
        if id(callback) not in self._by_callback:
            self._take_in([callback])

    # What participants ask

    @property
    def driver(self) -> Any:
        """The list that calls the callbacks, or None."""
        return None if self._driver is None else self._driver()

    @property
    def driven(self) -> bool:
        """Whether a list calls the callbacks, or the framework's own loop runs around them."""
        return self._driver is not None or self.host.runs_fit()

    @property
    def host(self) -> Host:
        """The model that the loop trains, as callbacks see it."""
        if self._host is None:
            host = self._find_host()
            if self.progress.start_epoch is None:
                return host  # whoever begins later may have been given the model that is trained
            self._host = host
        return self._host

    def _find_host(self) -> Host:
        model = getattr(self.driver, "_model", None)
        if model is not None:
            for seat in self.seats:
                if seat.callback._model is model:
                    return seat.host
        own: Host | None = getattr(self.driver, "_peakhold_host", None)
        return own if own is not None else self.seats[0].host

    @property
    def run_id(self) -> str:
        """Eight hexadecimal digits that name this run."""
        return self.identity.run_id

    @property
    def pool(self) -> SnapshotPool:
        """Snapshots of the model that is trained."""
        return self._pools[id(self.host)]

    @property
    def params(self) -> dict[str, Any]:
        """`epochs`, `steps`, `verbose`, as far as they are known."""
        return dict(next((s.callback.params for s in self.seats if s.callback.params), {}))

    @property
    def epochs(self) -> int | None:
        """Epochs asked for."""
        epochs = self.params.get("epochs")
        return epochs if isinstance(epochs, int) else None

    @property
    def quiet(self) -> bool:
        """Whether nothing beyond a callback's own `verbose` is to be printed."""
        return not self.driven or self.params.get("verbose", 1) == 0

    def seconds(self) -> float:
        """Seconds since this run began."""
        return time.monotonic() - self._clock

    def stop(self, reason: str, *, bad: bool = False) -> None:
        """Ask for the end of training; `bad`: the state it ends with is not one to go on from."""
        self.stop_reasons.append(reason)
        self.state_unusable |= bad
        self.host.request_stop()

    def warn(self, message: str, category: type[Warning]) -> None:
        """Warn, as from the user's own line."""
        warnings.warn(message, category, stacklevel=depth_of_user())

    def new_moment(self) -> None:
        """The model may have changed since the last snapshot."""
        for pool in self._pools.values():
            pool.new_moment()

    def ahead_of_all(self, hook: str, work: Callable[[], Any]) -> None:
        """Have work done before any callback of the list is called for a hook the next time."""
        if self.driver is not None:
            run_ahead(self.driver, hook, work)

    def ending(self) -> Ending:
        """How the run stands, as if it ended now."""
        progress = self.progress
        return Ending(
            n_epochs_done=progress.n_epochs_done,
            last_epoch=progress.last_epoch,
            epochs=self.epochs,
            seconds=self.seconds(),
            reason=self.stop_reasons[0] if self.stop_reasons else None,
            interrupted=self.interrupted,
        )

    # Events

    def arrive(self, callback: Any, event: Event, number: int | None, logs: Any) -> None:
        """A callback of ours was called for an event; see `report`."""
        if event in _BATCHES:
            self._batch(self._by_callback[id(callback)], event, number or 0, logs)
            return
        if event in {Event.EPOCH_BEGIN, Event.TRAIN_END}:
            # At the latest: a user's override of a hook may have kept some from reporting.
            self._commit()
        self._note(event, number)
        if event is Event.TRAIN_BEGIN:
            self._called.add(id(callback))
        if event is Event.TRAIN_END:
            self._end(callback, logs)
        elif event is Event.EPOCH_END and self.progress.epoch_cut_short:
            return
        elif self.dispatch.arrive(callback, event):
            self.new_moment()  # a user's callback may have run since the last one
            self._prepare()
            if event is not Event.TRAIN_BEGIN:
                self._go(Turn(self, self._segment(callback), event, None, logs))
        if event is Event.EPOCH_END:
            self._note_epoch_end(callback, logs)

    def _batch(self, seat: Seat, event: Event, batch: int, logs: Any) -> None:
        if self.progress.epoch_cut_short:
            return
        logs = {} if logs is None else logs
        if not (seat.has_begun and seat.participant.passes(event, batch, logs)):
            self._go(Turn(self, [seat], event, batch, logs))

    def spent_seconds(self) -> float:
        """Seconds of training in this run so far."""
        return 0.0 if self._first_epoch_at is None else time.monotonic() - self._first_epoch_at

    @staticmethod
    def _go(turn: Turn) -> None:
        turn.go_through(SCRIPT[turn.moment.event].each)

    def _segment(self, callback: Any) -> list[Seat]:
        return [self._by_callback[id(one)] for one in self.dispatch.segment_of(callback)]

    def _note(self, event: Event, number: int | None) -> None:
        first = event is Event.EPOCH_BEGIN and self.progress.start_epoch is None
        self.progress.note(event, number, interrupted=self.interrupted)
        if first:
            self.put_back()
        if event is Event.EPOCH_BEGIN and number != self._counted_epoch:
            self._counted_epoch = number
            self._steps.look()
            if not self._steps.has_started:
                self._first_epoch_at = time.monotonic()
                self._steps.start()
            self._steps_before_epoch = self._steps.total

    def _batches_told(self) -> int | None:
        return getattr(self.driver, "n_batches_done", None)

    def _updates_done(self) -> int | None:
        return self.host.steps_done()

    def _steps_of_epochs(self) -> int | None:
        length = self.params.get("steps")
        return length * self.progress.n_epochs_done if isinstance(length, int) else None

    def moment(self, event: Event, batch: int | None, logs: Any) -> Moment:
        """What there is to know now."""
        progress, rates = self.progress, {}
        if batch is None:
            if event in {Event.EPOCH_END, Event.TEST_END}:
                self._steps.look()
            step = self._steps.total
            wants = self._wants_rates and event in {Event.EPOCH_BEGIN, Event.EPOCH_END}
            rates = self.host.learning_rates() if wants else {}
        else:
            step = self._steps_before_epoch + batch + 1
        return Moment(
            event,
            Position(progress.epoch, batch, step),
            self.numbers(logs),
            rates,
            Spent(
                self.spent_seconds(),
                self._steps_spent(event) if batch is None else None,
            ),
            validated=progress.validated,
            validates=self._will_validate() if event is Event.EPOCH_END else None,
            epoch_cut_short=progress.epoch_cut_short,
        )

    def _steps_spent(self, event: Event) -> int | None:
        spent = self._steps.spent
        if spent is None and event is not Event.EPOCH_END and self._steps.has_started:
            return 0  # nobody has counted a step, for there was none yet
        return spent

    def _will_validate(self) -> bool | None:
        if self._validates is None:
            self._validates = (self.host.validates(),)
        return self._validates[0]

    # Before the first epoch

    def _prepare(self) -> None:
        """Once for each participant, before anything has a side effect."""
        self._fresh = [seat for seat in self.seats if not seat.is_prepared]
        if self._fresh:
            for phase in SCRIPT[Event.TRAIN_BEGIN].first:
                getattr(self, phase)()
            self.is_prepared = True

    def agree(self) -> None:
        """One name for the run, on all workers."""
        own = {"run_id": self.identity.run_id, "timestamp": self.identity.timestamp}
        agreed = self.coordinator.begin(own)
        self.identity.take_over(agreed["run_id"], agreed["timestamp"])

    def needs(self) -> None:
        """Each forgets its earlier run, and raises what cannot work."""
        for seat in self._fresh:
            seat.is_prepared = True
        needs = [seat.participant.needs(seat.view) for seat in self._fresh]
        self._wants_rates |= any(need.rates for need in needs)
        budgets = [need.memory_budget for need in needs if need.memory_budget is not None]
        for pool in self._pools.values():
            known = [] if pool.budget is None else [pool.budget]
            pool.budget = min([*budgets, *known], default=None)

    def buffers(self) -> None:
        """What will be held in memory is booked and allocated."""
        for seat in self._fresh:
            seat.pool.prepare(seat.participant.buffers_needed(seat.view))

    def advise(self) -> None:
        """Settings that work against each other are said."""
        if self.driven:
            for advice in advice_for(self.host, self.params, [s.participant for s in self.seats]):
                if advice.level == "warning":
                    self.warn(str(advice), AdviceWarning)
                elif not self.quiet:
                    self.host.say(str(advice))

    def resume(self) -> None:
        """Ahead of anybody's train begin: take over what an interrupted run left."""
        fresh = [seat for seat in self.seats if not seat.is_prepared]
        if not any(seat.has_resumed for seat in self.seats):
            self.host.resumption().set_first_epoch(None)  # of a fit that raised before it began
        for seat in self.seats:
            if not isinstance(seat.participant, Keeper):
                continue
            if seat in fresh and not seat.has_resumed:
                seat.participant.resume(seat.view)
            elif any(not other.has_resumed for other in fresh):
                seat.participant.welcome(seat.view)
        for seat in fresh:
            seat.has_resumed = True

    def put_back(self) -> None:
        """Once, before the first epoch or, if none is left, the end: what was interrupted."""
        if not self._has_put_back:
            self._has_put_back = True
            errors = Errors()
            for seat in self.seats:
                if isinstance(seat.participant, Keeper):
                    errors.guard(seat, seat.participant.put_back, seat.view)
            errors.raise_first()

    def begin(self, seats: Sequence[Seat], errors: Errors) -> None:
        """How this run starts is known now: tell those who have not heard."""
        if not seats:
            return
        self._prepare()  # for hooks that somebody calls by hand, without `on_train_begin`
        for seat in seats:
            seat.has_begun = True
            errors.guard(seat, self._begin_one, seat)
        turn = Turn(self, seats, Event.TRAIN_BEGIN, None, {})
        for seat in seats:
            errors.guard(seat, seat.participant.decide, turn.moment)
        turn.tell()

    def _begin_one(self, seat: Seat) -> None:
        loaded, seat.participant.is_loaded = seat.participant.is_loaded, False
        start = RESUMED if loaded else CONTINUES if self.progress.start_epoch else FRESH
        seat.participant.begin(seat.view, start)
        if isinstance(seat.participant, Deciding):
            seat.participant.set_state(seat.participant.state)  # no step has led to it

    def signals(self) -> None:
        """Ctrl-C and SIGTERM are listened to, as long as this run trains."""
        if self._signals is not None or not self.driven:
            return
        reference = weakref.ref(self)

        def owns_frame(frame: FrameType) -> bool:
            session = reference()
            return session is not None and session.host.owns_frame(frame)

        def ask(method: str) -> Callable[[], Any]:
            def call() -> None:
                session = reference()
                if session is not None:
                    getattr(session, method)()

            return call

        finishers = [
            seat for seat in self.seats
            if type(seat.participant).finish_by is not Participant.finish_by
        ]  # fmt: skip
        self._signals = Signals(
            owns_frame, ask("on_interrupt"), ask("on_termination") if finishers else None
        )
        if not self._signals.install() and not self.quiet:
            self.host.say(
                "Ctrl-C cannot be caught outside the main thread: "
                "it will end this training without restoring the best weights."
            )

    def on_interrupt(self) -> None:
        """Ctrl-C came. In a signal handler: set flags, nothing else."""
        self.interrupted = True
        self.progress.epoch_cut_short = self.progress.in_batches
        self.host.request_stop()

    def on_termination(self) -> None:
        """SIGTERM came. On a thread of its own, while training goes on."""
        now = time.monotonic()
        for seat in self.seats:
            with contextlib.suppress(Exception):  # the others must have their time, and the signal
                seat.participant.finish_by(now + seat.participant.sigterm_timeout)

    @staticmethod
    def numbers(logs: Any) -> dict[str, float]:
        """The numbers in logs; what is no number is never decided upon."""
        if not isinstance(logs, Mapping):
            return {}
        numbers: dict[str, float] = {}
        for key, value in logs.items():
            number = value if type(value) is float else to_number(value)
            if number is not None:
                numbers[str(key)] = number
        return numbers

    # The commit

    def _note_epoch_end(self, callback: Any, logs: Any) -> None:
        """The last of ours to see the end of an epoch starts the commit of what all have done."""
        if not self._seen_epoch_end and self._has(Keeper):
            self._uncommitted = (
                self.moment(Event.EPOCH_END, None, logs), {} if logs is None else logs,
            )  # fmt: skip
        self._seen_epoch_end.add(id(callback))
        if len(self._seen_epoch_end) == len(self.seats):
            self._commit()

    def _has(self, kind: type[Participant]) -> bool:
        return any(isinstance(seat.participant, kind) for seat in self.seats)

    def _commit(self) -> None:
        waiting, self._uncommitted = self._uncommitted, None
        self._seen_epoch_end = set()
        if waiting is None:
            return
        errors = Errors()
        for phase in SCRIPT[Event.EPOCH_END].last:
            kind, arguments = (Keeper, waiting) if phase == "commit" else (Lender, ())
            for seat in self.seats:
                if isinstance(seat.participant, kind):
                    errors.guard(seat, getattr(seat.participant, phase), *arguments)
            if phase == "commit":
                self.coordinator.commit(waiting[0])
        errors.raise_first()

    # The end

    def _end(self, callback: Any, logs: Any) -> None:
        if self._finished:
            return
        self.new_moment()
        errors = Errors()
        segment = self._segment(callback)
        errors.guard(segment[0], self._end_for, segment, logs)
        if all(seat.has_ended or not reports_end(seat.callback) for seat in self.seats):
            self._finish(logs, errors)
        else:
            errors.raise_first()

    def _end_for(self, seats: Sequence[Seat], logs: Any) -> None:
        """What was decided for all is carried out for those whose turn it is."""
        waiting = [seat for seat in seats if not seat.has_ended]
        for seat in waiting:
            seat.has_ended = True
        scene, errors = SCRIPT[Event.TRAIN_END], Errors()
        if self._at_end is None:
            self.put_back()
            if not any(is_unaltered(seat.callback) for seat in self.seats):
                self.progress.note_end()  # only overridden hooks would tell of it
            self._at_end = Turn(self, self.seats, Event.TRAIN_END, None, logs)
            phases = [phase for phase in scene.first if phase != "put_back"]
            errors.guard(self.seats[0], self._at_end.go_through, phases)
        errors.guard(self.seats[0], self._at_end.part(waiting).go_through, scene.each)
        errors.raise_first()

    def _finish(self, logs: Any, errors: Errors) -> None:
        self._finished = True
        # A user's override may not have called super() yet, and must not come too late.
        errors.guard(self.seats[0], self._end_for, self.seats, logs)
        for phase in SCRIPT[Event.TRAIN_END].last:
            getattr(self, phase)(errors)
        errors.raise_first()
        if self.interrupted:
            raise KeyboardInterrupt

    def settle(self, errors: Errors) -> None:
        """What is being written is waited for."""
        for seat in self.seats:
            errors.guard(seat, seat.participant.settle)
        self.state_unusable |= errors.first is not None or self.interrupted

    def end(self, errors: Errors) -> None:
        """Everything is on disk."""
        ending = self.ending()
        for seat in self.seats:
            errors.guard(seat, seat.participant.end, ending)

    def release(self, errors: Errors) -> None:
        """Memory and signals are let go."""
        for pool in self._pools.values():
            pool.close()
        if self._signals is not None:
            self._signals.uninstall()

    def summarize(self, errors: Errors) -> None:
        """The last lines."""
        if not self.quiet:
            for line in summarize(self.ending(), [seat.participant for seat in self.seats]):
                self.host.say(line)


def _host_getter(host: Host) -> Callable[[], Host]:
    reference = weakref.ref(host)

    def get() -> Host:
        known = reference()
        if known is None:
            raise HostError.lacks(
                "a snapshot", "the run it was taken in", None, hint="keep the callback."
            )
        return known

    return get
