"""A run as one of its participants may see it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, final

from peakhold._core.moments import Moment, number_of
from peakhold._core.observation import Event
from peakhold.host.contract import Host
from peakhold.host.loop import LoopHost
from peakhold.runtime.callback import host_of
from peakhold.snapshots.pool import SnapshotPool

if TYPE_CHECKING:
    from peakhold.errors import MonitorNotFoundError
    from peakhold.host.extras import Extras
    from peakhold.runtime.seat import Seat
    from peakhold.runtime.session import Session

__all__ = ["RunView"]

_GATHER: Final = "a save of weights that lie on several workers"


@final
class RunView:
    """A run, seen from one participant's seat.

    Args:
        session: The run.
        seat: Whose view it is.
    """

    def __init__(self, session: Session, seat: Seat) -> None:
        self._session, self._seat = session, seat

    # What is trained

    @property
    def host(self) -> Host:
        """The model of this participant's callback: usually the one that is trained.

        After `fit`, an evaluation or a prediction may be of another model.
        """
        callback = self._seat.callback
        host: Host | None = callback._peakhold_host
        return host_of(callback) if host is None else host

    @property
    def pool(self) -> SnapshotPool:
        """Snapshots of that model, shared by all who have it."""
        return self._seat.pool

    @property
    def trained(self) -> Host:
        """The model that the loop trains."""
        return self._session.host

    @property
    def is_of_trained(self) -> bool:
        """Whether these two are one, as they usually are."""
        host = self._seat.callback._peakhold_host
        return (host is not None and host is self._session._host) or self.host is self.trained

    @property
    def model(self) -> Any:
        """The model that this participant's callback was given."""
        return self._seat.callback.model

    @property
    def subject(self) -> Any:
        """The very object that is trained, to be known again: a host where there is no model.

        Only what can be held weakly is one; a slotted model is known by its host.
        """
        given, model = self.host, self._seat.callback._model
        if model is None and isinstance(given, LoopHost):
            model = given.model
        return given if model is None or not type(model).__weakrefoffset__ else model

    @property
    def callback(self) -> Any:
        """What people see of this participant: the object that they made."""
        return self._seat.callback

    @property
    def name(self) -> str:
        """What this participant's state is filed under."""
        return self._seat.name

    @property
    def extras(self) -> Extras:
        """What the list was given to be backed up besides model and optimizer."""
        from peakhold.host.extras import Extras  # of backups alone

        extras: Extras | None = getattr(self._session.driver, "extras", None)
        return Extras() if extras is None else extras

    def evidently_missing(self) -> str | None:
        """What the loop has, and nobody holds, with what to do; None if there is nothing."""
        driver, host = self._session.driver, self._session.host
        if not hasattr(driver, "extras") or host.runs_fit():
            return None
        from peakhold.host.evident import missing_words

        return missing_words(host, self.extras)

    # Which run this is

    @property
    def id(self) -> str:
        """Eight hexadecimal digits; a resumed run has those of the run it goes on from."""
        return self._session.identity.run_id

    @property
    def timestamp(self) -> str:
        """When it began, UTC, for names of files."""
        return self._session.identity.timestamp

    @property
    def rank(self) -> int:
        """This worker's number among its fellows."""
        return self._session.identity.rank

    @property
    def n_workers(self) -> int:
        """How many workers share this run."""
        return self._session.coordinator.size

    @property
    def follows(self) -> bool:
        """Whether another worker decides and writes, and this one carries out."""
        return self._session.coordinator.rank > 0

    def enter_save(self) -> None:
        """Another worker writes the state of all; reading it may be collective: take part."""
        if not self.host.is_sharded() or self._session.coordinator.agree(_GATHER, False):
            self.host.enter_save()

    @contextlib.contextmanager
    def gathering(self) -> Iterator[None]:
        """A save that may gather what lies on several workers.

        The others wait to hear whether it does: it may fail before, and nobody would come.
        """
        host = self.host
        if self.n_workers == 1 or not host.is_sharded():
            yield
            return
        gathers = False

        def begin() -> None:
            nonlocal gathers
            if not gathers:
                gathers = True
                self._session.coordinator.agree(_GATHER, True)

        host.call_before_gathering(begin)
        try:
            yield
        finally:
            host.call_before_gathering(None)
            if not gathers:
                self._session.coordinator.agree(_GATHER, False)

    def gather(self, what: str, value: Any) -> list[Any]:
        """The values of all workers, by rank, plain JSON. Outside of a moment; all must ask.

        Args:
            what: What it is, for messages.
            value: This worker's.
        """
        return self._session.coordinator.gather(what, value)

    def agree(self, what: str, value: Any) -> Any:
        """Rank 0's value for all workers, plain JSON. Before the first epoch; all must ask.

        Args:
            what: What it is, for messages.
            value: This worker's.
        """
        return self._session.coordinator.agree(what, value)

    def resumes(self, run_id: str, timestamp: str) -> None:
        """This run is another process's, which was interrupted."""
        self._session.identity.take_over(run_id, timestamp)

    @property
    def params(self) -> dict[str, Any]:
        """`epochs`, `steps`, `verbose`, as far as they are known."""
        return self._session.params

    @property
    def epochs(self) -> int | None:
        """Epochs asked for."""
        return self._session.epochs

    @property
    def driven(self) -> bool:
        """Whether a list calls the callbacks; otherwise somebody calls hooks by hand."""
        return self._session.driven

    @property
    def driver(self) -> Any:
        """The list that calls the callbacks, or None."""
        return self._session.driver

    @property
    def callbacks(self) -> list[Any]:
        """All callbacks of the run, users' too, in the order of the list."""
        return self._session.callbacks

    @property
    def others(self) -> Sequence[Any]:
        """All participants but this one."""
        return [seat.participant for seat in self._session.seats if seat is not self._seat]

    @property
    def has_user_callbacks(self) -> bool:
        """Whether a user's callback could add to `logs` or change the model."""
        return self._session.segments.has_user_callbacks

    def user_callbacks_follow(self) -> bool:
        """Whether a user's hook may look, in the same event, at what this participant has done."""
        return self._session.segments.user_callbacks_follow(self._seat.callback)

    # How far it is

    @property
    def is_prepared(self) -> bool:
        """Whether everybody's needs are met: training has begun, or may."""
        return self._session.is_prepared

    @property
    def start_epoch(self) -> int | None:
        """The first epoch that began, as the loop counts; None before."""
        return self._session.progress.start_epoch

    @property
    def first_epoch(self) -> int:
        """What the loop calls its first epoch: 0, or 1 in a loop that counts from 1."""
        return self._session.progress.first

    def number(self, epoch: int) -> int:
        """An epoch's number for people, from 1.

        Args:
            epoch: As the loop counts.
        """
        return number_of(epoch, self.first_epoch)

    @property
    def is_told_how_it_counts(self) -> bool:
        """Whether the list was given `first_epoch`, or the run that is resumed has said it."""
        return self._session.progress.first_epoch is not None

    def counts_from(self, first_epoch: int) -> None:
        """The run that is resumed counted so; raises if the list was told otherwise.

        Raises:
            InvalidArgumentError: If the list was given another `first_epoch`.
        """
        self._session.progress.counts_from(first_epoch)

    @property
    def epoch(self) -> int:
        """The running epoch, as the loop counts."""
        return self._session.progress.epoch

    @property
    def last_epoch(self) -> int | None:
        """The last epoch that ended, as the loop counts."""
        return self._session.progress.last_epoch

    @property
    def n_epochs_done(self) -> int:
        """Epochs of this run that ended."""
        return self._session.progress.n_epochs_done

    @property
    def validated(self) -> bool:
        """Whether validation has run in this epoch."""
        return self._session.progress.validated

    @property
    def epoch_cut_short(self) -> bool:
        """Whether Ctrl-C cut the running epoch short."""
        return self._session.progress.epoch_cut_short

    @property
    def rates_are_of_epoch(self) -> bool:
        """Whether moments say the rates that an epoch was trained with, not those of now."""
        return self._session.progress.trained_with is not None

    def spent_seconds(self) -> float:
        """Seconds of training in this run so far."""
        return self._session.progress.spent_seconds()

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C came."""
        return self._session.interrupted

    @property
    def state_unusable(self) -> bool:
        """Whether training was stopped because its state is worth nothing (NaN), or failed."""
        return self._session.state_unusable

    @property
    def stop_reasons(self) -> list[str]:
        """Why training ends, the first first."""
        return self._session.stop_reasons

    @property
    def stopped_by(self) -> list[str]:
        """By whom, of each of these reasons: the name that its state is filed under."""
        return self._session.stopped_by

    def set_last_epoch(self, epoch: int | None, reasons: Sequence[str]) -> None:
        """The run that is resumed was over: what it ended with."""
        self._session.progress.last_epoch = epoch
        self._session.stop_reasons.extend(reasons)

    def moment(self, logs: Any) -> Moment:
        """What there is to know now, with these logs: for what is asked outside of an event."""
        return self._session.progress.moment(Event.EPOCH_END, None, logs)

    # What it may ask for

    def stop(self, reason: str, *, bad: bool = False) -> None:
        """Ask for the end of training; `bad`: the state it ends with is not one to go on from."""
        self._session.stop(reason, bad=bad, by=self.name)

    def mark_unusable(self) -> None:
        """The state that training ends with is not one to go on from."""
        self._session.state_unusable = True

    def new_moment(self) -> None:
        """The model may have changed: what is copied from now on is another snapshot."""
        self._session.new_moment()

    def ahead_of_all(self, hook: str, work: Any) -> None:
        """Have work done before any callback of the list is called for a hook the next time."""
        self._session.ahead_of_all(hook, work)

    def put_back(self) -> None:
        """Have the interrupted run's state put back now, if that is still to come."""
        self._session.opening.put_back()

    # Words

    @property
    def quiet(self) -> bool:
        """Whether nothing beyond a callback's own `verbose` is to be printed."""
        return self._session.quiet

    def say(self, message: str) -> None:
        """Show a message, in Keras's words or under a callback's own `verbose`."""
        self._session.say(message)

    def notice(self, text: str, *, always: bool = False) -> None:
        """Say something of the run, as all that is Peakhold's own is said.

        Args:
            text: What to say.
            always: Whether it is said at `verbose=0`, too: what changes the result is.
        """
        self._session.notice(text, always=always)

    def warn(self, message: str, category: type[Warning]) -> None:
        """Warn, as from the user's own line."""
        own = self._seat.participant.has_own_files
        self._session.warn(message, category, own=own)

    def suspect(self, monitor: str, suggestion: str, known: Sequence[str]) -> None:
        """A metric that somebody looks at seems mistyped; said once for all who do.

        Args:
            monitor: Its name, as it was given.
            suggestion: What was most likely meant.
            known: The names of the model's metrics.
        """
        self._session.opening.suspect(self._seat.participant.name, monitor, suggestion, known)

    def mistyped(self, error: MonitorNotFoundError) -> None:
        """A metric's name is certainly mistyped; raised once for all who look at it."""
        self._session.opening.mistyped(self._seat.participant.name, error)

    def others_missing(self, monitor: str) -> list[str] | None:
        """Who else misses a metric; None if that was said in this run.

        Args:
            monitor: Its name.
        """
        missed, own = self._session.missed, self._seat.participant.name
        if monitor in missed:
            return None
        missed.add(monitor)
        looking = [seat.participant for seat in self._session.seats]
        names = dict.fromkeys(one.name for one in looking if one.looks_at(monitor))
        return [name for name in names if name != own]

    def ending(self) -> Any:
        """How the run stands, as if it ended now."""
        return self._session.ending()
