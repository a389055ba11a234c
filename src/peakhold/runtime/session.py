"""One training run: who takes part, what they may ask, and the commit.

What happens at each event, for whom, in which order, `script.py` has as a table. A row is one
event; its phases are gone through in order, for all participants or for those of the segment whose
turn it is (`dispatch.py` says which). Phases of the start are in `opening.py`, those of a moment in
`turn.py`, those of the end in `closing.py`.

Rules of this file:

1. If one participant raises, the others still have their turn; then the first error is raised.
2. What must wait for everybody (commit, summary, KeyboardInterrupt) is done by the last one.
3. What an interrupted run left is put back before any callback, users' too, sees an epoch begin (or
   training end, if no epoch is left): the list itself is made to wait for it.
4. Only the session asks the coordinator: when a run begins, to aggregate and to decide at each
   moment between batches, at a commit, and at the end.
"""

from __future__ import annotations

import contextlib
import math
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

from peakhold import speech
from peakhold._core.moments import Moment, number_of
from peakhold._core.observation import Event
from peakhold.distributed import Coordinator, LocalCoordinator, coordinator_for, is_alone
from peakhold.host.contract import Host
from peakhold.runtime.callback import host_of, link_of
from peakhold.runtime.closing import Closing
from peakhold.runtime.driver import implicit_session, remember_implicit, run_ahead
from peakhold.runtime.filing import filed
from peakhold.runtime.identity import Identity
from peakhold.runtime.opening import Opening
from peakhold.runtime.participant import Keeper, Lender
from peakhold.runtime.progress import Progress, StepCounter
from peakhold.runtime.script import SCRIPT
from peakhold.runtime.seat import Seat
from peakhold.runtime.segments import Segments
from peakhold.runtime.signals import Signals
from peakhold.runtime.summary import Ending
from peakhold.runtime.turn import Cast, Errors
from peakhold.snapshots.pool import SnapshotPool, held_weakly

if TYPE_CHECKING:
    from peakhold.runtime.proposals import Proposals

__all__ = ["Session", "session_of"]

_RUNNING: Final = "_peakhold_running"
"""The name on a list under which its session lies."""


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
        shared: Session | None = (
            implicit_session(callback) if driver is None else _running(driver).session
        )
        if shared is not None and not shared.takes_in(callback):
            shared = None
        if shared is None:
            shared = Session([callback] if driver is None else driver.callbacks, driver=driver)
            shared.find_workers()
            if driver is not None:
                _running(driver).session = shared
            else:
                remember_implicit(callback, shared)
        else:
            shared.admit(callback)
        return shared
    if link.session is None:
        link.session = Session([callback], driver=None)
    return link.session


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
        self.identity = Identity()
        self._driver = None if driver is None else weakref.ref(driver)
        steps = StepCounter(self._driver or _nobody, self._steps_done, self._epoch_length)
        self.progress = Progress(steps, self._will_validate)
        self.progress.may_count_from_one = self._may_count_from_one
        self.progress.first_epoch = getattr(driver, "first_epoch", None)
        self.proposals: Proposals | None = None
        """Of several workers: what this one wants to stop for, until all have agreed to."""
        self._agrees_by(coordinator or LocalCoordinator())
        self.stop_reasons: list[str] = []
        self.stopped_by: list[str] = []
        """By whom, of each reason: the name that its state is filed under; empty if by nobody."""
        self.state_unusable = False
        """Whether training was stopped because its state is worth nothing (NaN), or failed."""
        self.interrupted = False
        self.is_agreed = False
        """Whether what is carried out now, all workers carry out."""
        self.missed: set[str] = set()
        """Metrics of which it was said that nobody logs them."""
        self.is_first_epoch = True
        """Whether no epoch has ended yet."""
        self._follows_epoch_0 = False
        """Whether a callback of this run has seen one that ended with epoch 0."""
        self._clock = time.monotonic()
        self._host: Host | None = None
        self.called: set[int] = set()
        """Whose train begin has come, by `id`."""
        self.is_prepared = False
        """Whether everybody's needs are met."""
        self.unprepared: list[Seat] = []
        """Who has joined since."""
        self.signals: Signals | None = None
        """Handlers that are installed while it trains."""
        self.opening, self.closing = Opening(self), Closing(self)
        self._uncommitted: tuple[Moment, dict[str, Any]] | None = None
        self._seen_epoch_end: set[int] = set()
        self.pools: dict[int, SnapshotPool] = {}
        """Snapshots by model, under the `id` of its host."""
        self.told_partial: set[str] = set()
        """Metrics of which it has been said that not all workers have them."""
        self.statistics_are_told = False
        """Whether it has been said that those of the workers differ."""
        self._take_in(callbacks)

    # Who takes part

    def find_workers(self) -> None:
        """A run begins: find those who share it."""
        reference = weakref.ref(self)

        def where() -> str:
            session = reference()
            return "" if session is None else session.where()

        given = getattr(self.driver, "workers", None)
        self._agrees_by(coordinator_for(given, self.host.versions(), where))
        if self.coordinator.size > 1 and self.driver is not None:
            self.driver._peakhold_is_shared = True  # its logs show the metrics of all
        self._cast()

    @property
    def has_workers(self) -> bool:
        """Whether it is known who shares this run, or that nobody does."""
        return self.coordinator.size > 1 or is_alone()

    def _agrees_by(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        self.identity.rank = coordinator.rank if coordinator.size > 1 else None
        if coordinator.size > 1:
            from peakhold.runtime.proposals import Proposals  # of several workers alone

            self.proposals = Proposals(self, coordinator.border)

    def where(self) -> str:
        """Where this worker is, for those who wait for it; may be asked in any thread."""
        progress = self.progress
        if progress.start_epoch is None:
            return "before the first epoch"
        epoch = f"in epoch {number_of(progress.epoch, progress.first)}"
        batch = getattr(self.driver, "n_batches_done", None)
        return epoch if not batch else f"{epoch}, after {batch} batches"

    @property
    def acting(self) -> list[Seat]:
        """Those who take part; with several workers, what only records is idle on all but one."""
        return [seat for seat in self.seats if not seat.is_idle]

    def cut_before(self, names: Iterable[str]) -> None:
        """Begin a segment before each of these, as another worker's list does."""
        wanted = set(names)
        self.segments.cut_before([s.callback for s in self.seats if s.name in wanted])
        self._cast()

    def _cast(self) -> None:
        """Who acts with whom; what only records is idle where another worker does it."""
        if self.coordinator.rank:
            for seat in self.seats:
                if not seat.exchanges:
                    seat.idle()
        for seat in self.seats:
            seat.segment = self.segments.of(seat.callback)
            members = [self._by_callback[id(c)] for c in seat.segment.callbacks]
            seat.segment.cast = Cast([one for one in members if not one.is_idle])

    def _take_in(self, callbacks: Iterable[Any]) -> None:
        self.callbacks += callbacks
        self.segments = Segments(self.callbacks)
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
            pool = self.pools.get(id(host))
            if pool is None:
                pool = self.pools[id(host)] = SnapshotPool(held_weakly(host))
            seat = Seat(self, callback, link.participant, host, pool)
            self.seats.append(seat)
            self.unprepared.append(seat)
            self._follows_epoch_0 |= (
                link.session is not None and link.session.progress.last_epoch == 0
            )
            link.session, link.seat, link.participant.run = self, seat, seat.view
        self._by_callback = {id(seat.callback): seat for seat in self.seats}
        self.progress.step_readers = [seat.participant for seat in self.seats]
        self.has_keeper = any(isinstance(seat.participant, Keeper) for seat in self.seats)
        self._cast()
        names = filed(seat.callback for seat in self.seats)
        for name, callback in names.items():
            self._by_callback[id(callback)].name = name

    def takes_in(self, callback: Any) -> bool:
        """Whether a callback that begins now belongs to this run; else it begins another one."""
        if id(callback) in self.called or self.closing.is_over:
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
    def is_lists(self) -> bool:
        """Whether this is the run of its list, and not an earlier one, which raised."""
        return not self.closing.is_over and _running(self.driver).session is self

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
        return self.pools[id(self.host)]

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
        if self.coordinator.rank:
            return True  # rank 0 says it
        return not self.driven or self.params.get("verbose", 1) == 0

    def seconds(self) -> float:
        """Seconds since this run began."""
        return time.monotonic() - self._clock

    def stop(self, reason: str, *, bad: bool = False, by: str = "") -> None:
        """Ask for the end of training; `bad`: the state it ends with is not one to go on from."""
        if self.proposals is not None and not self.is_agreed:
            self.proposals.propose(reason, bad, by)
            return
        self.stop_reasons.append(reason)
        self.stopped_by.append(by)
        self.state_unusable |= bad
        self.host.request_stop()

    def say(self, text: str) -> None:
        """Show a text, on lines of its own; of several workers, rank 0 does."""
        if self.coordinator.rank:
            return
        starts_anew = self._is_within_a_line() and not text.startswith("\n")
        self.host.say(f"\n{text}" if starts_anew else text)

    def notice(self, text: str, *, always: bool = False) -> None:
        """Say something of the run; at `verbose=0` only what changes the result (`always`)."""
        if always or not self.quiet:
            self.say(f"Peakhold: {text}")

    def warn(self, message: str, category: type[Warning], *, own: bool = False) -> None:
        """Warn, as from the user's own line; of several workers, rank 0 does.

        Args:
            message: What is wrong, and what to do.
            category: The class of the warning.
            own: Whether it is about what each worker has for itself.
        """
        if self.coordinator.rank and not own:
            return
        if self._is_within_a_line():
            self.host.say("")
        speech.warn(message, category)

    def _is_within_a_line(self) -> bool:
        """Whether a progress bar waits for its line's end: the list's last callback draws it."""
        draws = self.progress.line_is_open and self.params.get("verbose") in {1, "auto"}
        return draws and self.host.runs_fit()

    def new_moment(self) -> None:
        """The model may have changed since the last snapshot."""
        for pool in self.pools.values():
            pool.is_stale = True

    def ahead_of_all(self, hook: str, work: Callable[..., Any]) -> None:
        """Have work done before any callback of the list is called for a hook the next time.

        It is given what the hook is given.
        """
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
            running_epoch=progress.running_epoch,
            was_asked=self.host.runs_fit() or self.host.stop_requested(),
            first_epoch=progress.first,
        )

    def note_rates(self) -> None:
        """An epoch has begun in a loop of somebody's own: with which rates is it trained?

        A loop may step its scheduler before it tells of the end. What it sets after the beginning
        is seen at the optimizer's first step, where that can be seen.
        """
        self._look_at_rates()
        reference = weakref.ref(self)  # a step may never come

        def look() -> None:
            session = reference()
            if session is not None:
                session._look_at_rates()

        self.host.at_next_step(look)

    def _look_at_rates(self) -> None:
        self.progress.trained_with = self.learning_rates()

    # What its progress asks: the host may be another until the first epoch has begun

    def learning_rates(self) -> Mapping[str, float]:
        """Learning rates of the model that is trained, by optimizer."""
        return (self._host or self.host).learning_rates()

    def _may_count_from_one(self) -> bool:
        """Whether a first epoch of 1 is a loop's own way to count: nothing is gone on from."""
        is_list = hasattr(self.driver, "first_epoch")
        goes_on = self._follows_epoch_0 or any(seat.participant.is_loaded for seat in self.seats)
        return is_list and not goes_on and not self.host.runs_fit()

    def _steps_done(self) -> int | None:
        return self.host.steps_done()

    def _will_validate(self) -> bool | None:
        return self.host.validates()

    def _epoch_length(self) -> int | None:
        length = self.params.get("steps")
        return length if isinstance(length, int) else None

    # What the signals do

    def on_interrupt(self) -> None:
        """Ctrl-C came. In a signal handler: set flags, nothing else."""
        if self.proposals is not None:
            self.proposals.propose_interrupt()
        else:
            self.interrupt_now()

    def interrupt_now(self) -> None:
        """Ctrl-C is to end this run, at the batch that runs."""
        self.interrupted = True
        self.progress.epoch_cut_short = self.progress.in_batches
        self.host.request_stop()

    def on_termination(self) -> bool:
        """SIGTERM came. On a thread of its own, while training goes on.

        Returns:
            Whether all workers have finished, and the main thread lets the signal take its course.
        """
        if self.proposals is not None:
            from peakhold.runtime.ending_by_signal import finish  # of several workers alone

            return finish(self, self.proposals)
        self.finish_within(math.inf)
        return False

    def finish_within(self, seconds: float) -> None:
        """Have all finish what is under way, each within its own time, and no more than this."""
        now = time.monotonic()
        for seat in self.acting:
            with contextlib.suppress(Exception):  # the others must have their time, and the signal
                seat.participant.finish_by(now + min(seat.participant.sigterm_timeout, seconds))

    # The commit

    def note_epoch_end(self, callback: Any, moment: Moment | None, logs: Any) -> None:
        """The last of ours to see the end of an epoch starts the commit of what all have done.

        Args:
            callback: Who was called.
            moment: What there was to know, if it acted for its segment.
            logs: As they were given.
        """
        if not self._seen_epoch_end:
            moment = moment or self.progress.moment(Event.EPOCH_END, None, logs)
            self._uncommitted = (moment, {} if logs is None else logs)
        self._seen_epoch_end.add(id(callback))
        if len(self._seen_epoch_end) == len(self.seats):
            self.commit()

    def new_errors(self) -> Errors:
        """For those whose turn it is, one after the other."""
        return Errors()

    def commit(self) -> None:
        """Commit what was done by the end of an epoch, if that is still to come."""
        waiting, self._uncommitted = self._uncommitted, None
        self._seen_epoch_end.clear()
        if waiting is None:
            return
        errors = Errors()
        for phase in SCRIPT[Event.EPOCH_END].last:
            kind, arguments = (Keeper, waiting) if phase == "commit" else (Lender, ())
            if phase == "commit" and self.coordinator.size > 1:
                self.share(waiting[0])
            for seat in self.seats:
                if isinstance(seat.participant, kind):
                    errors.guard(seat, getattr(seat.participant, phase), *arguments)
        errors.raise_first()

    def share(self, moment: Moment) -> None:
        """What each worker has for itself is kept with what all have."""
        place = f"the commit of epoch {moment.at.number}"
        for seat in self.seats:
            if isinstance(seat.participant, Keeper):
                seat.participant.share(partial(self.coordinator.gather, f"{place} ({seat.name})"))


@final
class _Running:
    """The running session of a list, which lives no longer than the list; a copy runs none.

    A table of all would keep a list alive whose session leads back to it, as by `LoopHost`'s
    functions, if nobody tells it that training has ended.
    """

    def __init__(self) -> None:
        self.session: Session | None = None

    def __reduce__(self) -> tuple[type[_Running], tuple[()]]:
        return _Running, ()


def _running(driver: Any) -> _Running:
    running: _Running = vars(driver).setdefault(_RUNNING, _Running())
    return running


def _nobody() -> None:
    """In the place of a reference to a list."""
