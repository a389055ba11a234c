"""One moment of several workers: rank 0 decides on the metrics of all, the others follow.

    rank 0                                  the others
    ------                                  ----------
    collects the reports of all   <-------  report what they have measured
    learns, measures, decides               wait
    publishes moment, facts,      ------->  take them over
        decisions, states
    applies, records                        apply

Rules of this file:

1. A round is keyed by who decides in it, and all workers go through the same ones: segments are cut
   alike when the run begins (`meeting.py`). What only records stands on rank 0, wherever it likes.
2. Metrics, and whether the state is finite, are those of all workers; all else in a moment (clocks,
   rates, answers of a user's code) is rank 0's.
3. What one worker wants to end training for, Ctrl-C too, becomes a stop of all at the next round,
   if they have not ended within the epoch (`proposals.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast, final

from peakhold._core.aggregates import aggregate, metric_from_json, metric_to_json
from peakhold._core.moments import Moment
from peakhold._core.observation import Event
from peakhold._core.states import moved
from peakhold._core.wire import (
    decisions_from_json,
    decisions_to_json,
    facts_from_json,
    facts_to_json,
    moment_from_json,
    moment_to_json,
)
from peakhold.errors import AdviceWarning
from peakhold.host.contract import AVERAGE, WEIGHTS
from peakhold.runtime.progress import numbers_in
from peakhold.runtime.proposals import carry_out
from peakhold.runtime.statistics import average, checksum, statistics, tell

if TYPE_CHECKING:
    from peakhold.runtime.proposals import Proposals
    from peakhold.runtime.session import Session
    from peakhold.runtime.turn import Errors, Turn

__all__ = ["Exchange", "exchange_for", "tell_the_end"]

_WORDS: Final = {
    Event.EPOCH_BEGIN: "the beginning of epoch {}",
    Event.EPOCH_END: "the end of epoch {}",
    Event.TRAIN_END: "the end of training, after epoch {}",
}


def exchange_for(turn: Turn) -> Exchange | None:
    """The exchange of a moment; None where each worker is by itself."""
    moment, seats = turn.moment, turn.cast.exchanging
    if moment.event not in _WORDS or not seats:
        return None
    if moment.event is Event.EPOCH_BEGIN and not any(s.participant.decides_early for s in seats):
        return None
    place = _WORDS[moment.event].format(moment.at.number)
    what = f"{place} ({', '.join(seat.name for seat in seats)})"
    return Exchange(turn, what)


@final
class Exchange:
    """One round, of one moment.

    Args:
        turn: Whose moment it is; it has the moment of all from now on.
        what: Where workers are, for messages.
    """

    def __init__(self, turn: Turn, what: str) -> None:
        session = turn.session
        self._what, self._coordinator = what, session.coordinator
        self.follows = session.coordinator.rank > 0
        self._answer: Mapping[str, Any] = {}
        self._wanted: Sequence[Any] = ()
        proposals = cast("Proposals", session.proposals)
        if turn.moment.event is Event.EPOCH_END:
            proposals.epoch_ended(turn.moment.at.epoch)
        elif turn.moment.event is Event.TRAIN_END:
            proposals.training_ended()
        if _asks(turn, "averages_statistics"):
            average(session, f"{what}, statistics")
            session.statistics_are_told = True
        reports = session.coordinator.aggregate(what, _report(turn))
        if reports is None:
            self._take(turn, session.coordinator.decide(what))
        else:
            self._merge(turn, reports)

    # Rank 0

    def _merge(self, turn: Turn, reports: Sequence[Mapping[str, Any]]) -> None:
        """Make one moment of all that was reported."""
        measured = [
            {name: metric_from_json(one) for name, one in each["metrics"].items()}
            for each in reports
        ]
        metrics, partial = aggregate(measured)
        if partial:
            _tell_partial(turn.session, partial, measured)
        _show(turn.logs, metrics)
        session = turn.session
        if not session.statistics_are_told:
            session.statistics_are_told = tell(session, [each["statistics"] for each in reports])
        bad = [(rank, each["bad"]) for rank, each in enumerate(reports) if each["bad"]]
        turn.moment = moved(
            turn.moment,
            metrics=metrics,
            validated=any(each["validated"] for each in reports),
            epoch_cut_short=any(each["cut_short"] for each in reports),
            defect=f"weights are not finite ({bad[0][1]}, on rank {bad[0][0]})" if bad else None,
        )
        self._wanted = [each["wants"] for each in reports]

    def publish(self, turn: Turn) -> None:
        """Rank 0 has decided."""
        seats = turn.cast.exchanging
        answer = {
            "moment": moment_to_json(turn.moment),
            "facts": {name: facts_to_json(facts) for name, facts in turn.facts.items()},
            "decided": {
                seat.name: decisions_to_json(turn.decided.get(seat.name, ())) for seat in seats
            },
            "states": {seat.name: seat.participant.shared_state() for seat in turn.cast.deciding},
            "wanted": self._wanted,
            "statistics": turn.session.statistics_are_told,
        }
        self._coordinator.decide(self._what, answer)

    # The others

    def _take(self, turn: Turn, answer: Mapping[str, Any]) -> None:
        self._answer = answer
        turn.session.statistics_are_told = answer["statistics"]
        turn.moment = moment_from_json(answer["moment"])
        _show(turn.logs, turn.moment.metrics)
        self._wanted = answer["wanted"]

    def learn(self, turn: Turn) -> None:
        """What has become known to rank 0."""
        for seat in turn.cast.exchanging:
            facts = facts_from_json(self._answer["facts"].get(seat.name, ()))
            for fact in facts:
                turn.errors.guard(seat, seat.participant.learn, fact)
            if facts:
                turn.facts[seat.name] = facts

    def follow(self, turn: Turn) -> None:
        """What rank 0 has decided."""
        decided = {}
        for seat in turn.cast.exchanging:
            decisions = decided[seat.name] = decisions_from_json(
                self._answer["decided"].get(seat.name, ())
            )
            state = self._answer["states"].get(seat.name)
            if state is not None:
                turn.errors.guard(seat, seat.participant.follow, state, turn.moment, decisions)
        turn.decided = decided

    # All

    def stop(self, turn: Turn) -> None:
        """End training, if one of all wants to."""
        wanted, self._wanted = self._wanted, ()
        if wanted:
            carry_out(turn.session, wanted, may_go_on=turn.moment.event is not Event.TRAIN_END)


def _report(turn: Turn) -> dict[str, Any]:
    """What this worker has measured, and what it wants."""
    session, moment = turn.session, turn.moment
    return {
        "metrics": {name: metric_to_json(value) for name, value in moment.metrics.items()},
        "validated": moment.validated,
        "cut_short": moment.epoch_cut_short,
        "bad": _not_finite(turn),
        "wants": cast("Proposals", session.proposals).withdraw(),
        "statistics": _checksums(turn),
    }


def _asks(turn: Turn, flag: str) -> bool:
    """Whether somebody wants something of statistics, at the end of an epoch."""
    if turn.moment.event is not Event.EPOCH_END:
        return False
    return any(getattr(seat.participant, flag) for seat in turn.cast.exchanging)


def _checksums(turn: Turn) -> dict[str, str]:
    """Of statistics that may differ, as long as nobody knows that they do."""
    if turn.session.statistics_are_told or not _asks(turn, "saves_weights"):
        return {}
    return {name: checksum(one) for name, one in statistics(turn.session.host).items()}


def _not_finite(turn: Turn) -> str | None:
    """A variable of this worker's that is not finite, where something hangs on that."""
    event, seats = turn.moment.event, turn.cast.exchanging
    if event is Event.EPOCH_BEGIN or not any(seat.participant.needs_finite for seat in seats):
        return None
    host, pool = turn.session.host, turn.session.pool
    parts = [part for part in host.parts() if part in {WEIGHTS, AVERAGE}]
    return min(pool.nonfinite_in(host.borrow(parts)), default=None) if parts else None


def _show(logs: Any, metrics: Mapping[str, float]) -> None:
    """Let those who look at the logs see the metrics of all."""
    own = numbers_in(logs)
    for name, value in metrics.items():
        mine = own.get(name)
        if mine is None or type(mine) is not float or not _same(mine, value):
            logs[name] = float(value)


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _tell_partial(
    session: Session, names: Sequence[str], measured: Sequence[Mapping[str, Any]]
) -> None:
    for name in names:
        if name in session.told_partial:
            continue
        session.told_partial.add(name)
        ranks = [str(rank) for rank, each in enumerate(measured) if name in each]
        whose = f"rank {ranks[0]} has" if len(ranks) == 1 else f"ranks {', '.join(ranks)} have"
        session.warn(
            f"only {whose} logged {name!r}; it counts for all {len(measured)} workers.",
            AdviceWarning,
        )


def tell_the_end(session: Session, errors: Errors) -> None:
    """What has become of the last saves."""
    seats = [seat for seat in session.seats if seat.exchanges]
    states = {seat.name: seat.participant.shared_state() for seat in seats}
    proposals = cast("Proposals", session.proposals)
    proposals.training_ended()
    shared = session.coordinator.gather("the end of the run", [states, proposals.withdraw()])
    carry_out(session, [each for _, each in shared], may_go_on=False)
    states = shared[0][0]
    if session.coordinator.rank == 0:
        return
    moment = Moment(Event.TRAIN_END, session.progress.moment(Event.TRAIN_END, None, {}).at)
    for seat in seats:
        state = states.get(seat.name)
        if state is not None:
            errors.guard(seat, seat.participant.follow, state, moment, ())
