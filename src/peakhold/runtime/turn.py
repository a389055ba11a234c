"""One event, for the participants whose turn it is: the phases of a moment.

Rules of this file:

1. If one participant raises, the others still have their turn; then the first error is raised.
2. Decisions are carried out kind by kind: what is saved is saved under the rates of the next epoch,
   and before anything else is put into the model.
3. Between batches the coordinator is asked to aggregate and to decide; within an epoch nobody is.
   With several workers rank 0 goes through the phases as one alone would, on the metrics of all;
   the others take over what it has made of them, and carry it out (`exchange.py`).
4. Who has nothing to do in a phase is not asked: a verb that a participant does not override does
   nothing, and that is known before the first moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, final

from peakhold._core.decisions import (
    Continue,
    Decision,
    Missing,
    Remember,
    Restore,
    Save,
    SetLearningRate,
    Skip,
    Stop,
    Tell,
)
from peakhold._core.facts import Fact
from peakhold._core.moments import Answer, Moment
from peakhold._core.observation import Event
from peakhold.errors import MonitorError
from peakhold.runtime import listening
from peakhold.runtime.participant import NOTHING, Deciding, Participant
from peakhold.runtime.progress import numbers_in
from peakhold.runtime.script import SCRIPT

if TYPE_CHECKING:
    from peakhold.runtime.exchange import Exchange
    from peakhold.runtime.seat import Seat
    from peakhold.runtime.session import Session

__all__ = ["Cast", "Errors", "Turn"]

_ORDER: Final[tuple[type, ...]] = (
    SetLearningRate, Remember, Save, Skip, Restore, Missing, Stop, Tell,
)  # fmt: skip
_SAVES: Final = (Save, Skip)
_REST: Final = tuple(kind for kind in _ORDER if kind not in _SAVES)


@final
class Errors:
    """One participant's error does not keep the others from their turn; the first is raised."""

    first: Exception | None = None

    def guard(self, seat: Seat, call: Callable[..., Any], *args: Any) -> Any:
        """What a call returns; None if it raised."""
        try:
            return call(*args)
        except Exception as error:
            self.note(seat, error)
            return None

    def note(self, seat: Seat, error: Exception) -> None:
        """One has raised."""
        if self.first is None:
            self.first = error
        elif str(error) != str(self.first):  # as where all hear of one that failed
            self.first.add_note(_also(self.first, seat.participant.name, error))

    def raise_first(self) -> None:
        """Raise it, if there is one."""
        if self.first is not None:
            raise self.first


def _also(first: Exception, name: str, error: Exception) -> str:
    """What to add to an error of another's; of one missing metric there is no more to say."""
    told = isinstance(first, MonitorError) and isinstance(error, type(first))
    if told and getattr(error, "monitor", None) == getattr(first, "monitor", None):
        return f"The same holds for {name}."
    return f"and in {name}: {error!r}"


@final
class Cast:
    """Participants whose turn it is, and who of them has something to do in which phase.

    Args:
        seats: Theirs, in the order of the list.
    """

    def __init__(self, seats: Sequence[Seat]) -> None:
        self.seats = seats
        self.learning = _who(seats, "news")
        self.measuring = sorted(
            _who(seats, "measure"), key=lambda seat: seat.participant.measures_last
        )
        """Those that look at the others' metrics last."""
        self.deciding = _who(seats, "decide")
        self.recording = _who(seats, "record")
        self.exchanging = [seat for seat in seats if seat.exchanges]
        """Those that all workers have."""
        self.has_begun = False
        """Whether all have heard how the run starts."""
        self._phases: dict[Event, tuple[str, ...]] = {}

    def phases(self, event: Event) -> tuple[str, ...]:
        """The phases of an event in which one of these has something to do."""
        phases = self._phases.get(event)
        if phases is None:
            who = {"learn": self.learning, "measure": self.measuring, "record": self.recording}
            idle = {phase for phase, seats in who.items() if not seats}
            if self.has_begun:
                idle.add("begin")
            phases = tuple(phase for phase in SCRIPT[event].each if phase not in idle)
            self._phases[event] = phases
        return phases

    def note_begun(self) -> None:
        """All have heard how the run starts."""
        self.has_begun = True
        self._phases.clear()


def _who(seats: Sequence[Seat], verb: str) -> list[Seat]:
    nothing = getattr(Participant, verb)
    return [seat for seat in seats if getattr(type(seat.participant), verb) is not nothing]


@final
class Turn:
    """One event, for some of the participants.

    Args:
        session: The run.
        cast: Whose turn it is.
        event: Of which event.
        batch: Index of the batch; None between batches.
        logs: Metrics as they were given; what is measured is added to them.
    """

    decided: Mapping[str, Sequence[Decision]] = MappingProxyType({})
    exchange: Exchange | None = None
    """With other workers, at moments at which they decide as one."""
    follows = False
    """Whether rank 0, on another worker, decides this moment."""
    _has_saved = False

    def __init__(
        self, session: Session, cast: Cast, event: Event, batch: int | None, logs: Any
    ) -> None:
        self.session, self.cast, self.logs = session, cast, {} if logs is None else logs
        self.moment = session.progress.moment(event, batch, self.logs)
        self.facts: dict[str, tuple[Fact, ...]] = {}
        self.errors = Errors()

    def go_through(self, phases: Iterable[str]) -> None:
        """Go through phases, in order; then the first error is raised."""
        for phase in phases:
            getattr(self, phase)()
        self.errors.raise_first()

    def begin(self) -> None:
        """How this run starts is known now: tell those who have not heard."""
        if not self.cast.has_begun:
            self.session.opening.begin([s for s in self.cast.seats if not s.has_begun], self.errors)
            self.cast.note_begun()

    def aggregate(self) -> None:
        """One moment for all workers."""
        if self.session.coordinator.size > 1:
            from peakhold.runtime.exchange import exchange_for  # of several workers alone

            self.exchange = exchange_for(self)
            self.follows = self.exchange is not None and self.exchange.follows

    def learn(self) -> None:
        """Facts since the moment before reach those who decided."""
        if self.follows and self.exchange is not None:
            self.exchange.learn(self)
            return
        for seat in self.cast.learning:
            participant = seat.participant
            if participant.awaits_news:
                news = self.errors.guard(seat, _news, participant, self.moment) or ()
                for fact in news:
                    self.errors.guard(seat, participant.learn, fact)
                if news:
                    self.facts[seat.name] = news

    def measure(self) -> None:
        """Metrics and answers are added, those that look at the others' last.

        Nobody keeps the moment before it is complete: it is not made again for what is added.
        """
        metrics: dict[str, float] = self.moment.metrics  # type: ignore[assignment]
        answers: dict[str, Answer] = self.moment.answers  # type: ignore[assignment]
        for seat in self.cast.measuring:
            try:
                result = seat.participant.measure(self.moment, self.logs)
            except Exception as error:
                self.errors.note(seat, error)
                continue
            if result is NOTHING or result is None:
                continue
            if self.follows:
                continue  # what rank 0 has measured counts
            if result.metrics:
                self.logs.update(result.metrics)
                numbers = numbers_in(result.metrics)
                metrics.update(numbers)
                if len(numbers) < len(result.metrics):  # what is no number any more
                    for key in result.metrics.keys() - numbers.keys():
                        metrics.pop(key, None)
            if result.answers:
                answers.update(result.answers)

    def decide(self) -> None:
        """Each decides; between batches, rank 0's answer counts."""
        if self.follows and self.exchange is not None:
            self.exchange.follow(self)
            return
        decided: dict[str, tuple[Decision, ...]] = {}
        for seat in self.cast.deciding:
            decisions: Sequence[Decision] | None = None
            try:
                decisions = seat.participant.decide(self.moment)
            except Exception as error:
                self.errors.note(seat, error)
            decided[seat.name] = tuple(decisions or ())
        self.decided = decided
        if self.exchange is not None:
            self.exchange.publish(self)
        if self.moment.at.batch is not None and any(
            type(one) is Save for each in decided.values() for one in each
        ):
            self.session.new_moment()

    def save(self) -> None:
        """Carry out what is to be saved, before the turn of anything else."""
        self._carry_out(_SAVES)
        self._has_saved = True

    def apply(self) -> None:
        """Carry decisions out."""
        if self.exchange is not None:
            self.exchange.stop(self)
        self._carry_out(_REST if self._has_saved else _ORDER)

    def _carry_out(self, kinds: Sequence[type]) -> None:
        due: list[tuple[Seat, Decision]] = []
        for seat in self.cast.seats:
            for decision in self.decided.get(seat.name, ()):
                if type(decision) is not Continue:  # there is nothing to do
                    due += ((seat, decision),)
        if not due:
            return
        session = self.session
        session.is_agreed = self.exchange is not None
        for kind in kinds:
            for seat, decision in due:
                if type(decision) is kind:
                    self.errors.guard(
                        seat, seat.participant.apply, decision, self.moment, self.logs
                    )
        session.is_agreed = False

    def record(self) -> None:
        """Each writes the moment down."""
        for seat in self.cast.recording:
            try:
                seat.participant.record(self.moment, self.logs, self.decided.get(seat.name, ()))
            except Exception as error:
                self.errors.note(seat, error)

    def tell(self) -> None:
        """Tell those who listen."""
        if not listening.LISTENERS:
            return
        traces = {}
        for seat in self.cast.seats:
            if isinstance(seat.participant, Deciding):
                traces[seat.name] = tuple(seat.participant.traces)
                seat.participant.traces = []
        decided = {s.name: tuple(self.decided.get(s.name, ())) for s in self.cast.seats}
        listening.tell(
            listening.Told(
                self.session.run_id,
                self.moment,
                decided,
                self.facts,
                traces,
                self.session.coordinator.rank,
            )
        )

    def part(self, cast: Cast) -> Turn:
        """What was decided for all, as the turn of some of them."""
        turn = Turn.__new__(Turn)
        turn.__dict__ = {**self.__dict__, "cast": cast, "errors": Errors()}
        return turn


def _news(participant: Participant, moment: Moment) -> tuple[Fact, ...]:
    return tuple(participant.news(moment))
