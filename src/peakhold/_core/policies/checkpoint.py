"""When to write a checkpoint, and whether an epoch is worth one.

Rules of this file:

1. The schedule says when a save is due; then it is looked at whether the state is worth a file. A
   save that was due when its metric was not there is owed: each end of an epoch asks again.
2. The value to beat is that of the newest ranked save that is under way, else of the best file,
   else the threshold. A save is only asked for because it beats what is before it, so the newest is
   the best. A fact that comes late changes no decision if it says "committed"; if not, the value
   to beat is again what it was, and what was passed over meanwhile is not saved afterwards.
3. A best state whose file could not be written is asked for once more if a copy of it was kept: at
   the next moment at which a save could be. If something better is there or under way by then, it
   is let go.
4. A metric that nobody logs (`monitor.py`) would be a run without a file: the first time, where
   nothing else is known, the state is saved unranked, and that is said. When the next epoch begins,
   it is an error.
5. In a run that goes on, the best file may be of an epoch that is trained once more (it was written
   after the backup). If what comes of it is no worse, it is saved in its place.
6. Where a user's own code saves (`hands_over`), a save that is due is handed over to it, and it is
   decided when that code asks, which is a moment of its own. Its answers come with that moment.
7. The loss was computed before the last update. If it is not finite, nothing is saved. Whether the
   state itself is finite comes as a fact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias, final

from peakhold._core.decisions import Decision, Missing, Save, Skip
from peakhold._core.facts import Committed, Fact, Failed, Found
from peakhold._core.moments import Moment
from peakhold._core.monitor import Criterion, Seen, Watched
from peakhold._core.numbers import number_from_json, number_to_json
from peakhold._core.observation import Event, is_finite
from peakhold._core.policies.save_when import Every, SaveSchedule, SaveScheduleState
from peakhold._core.states import moved, quickly_made

__all__ = ["ASKED", "WORTH_IT", "CheckpointPolicy", "CheckpointState", "PendingSave"]


ASKED: Final = "a save is asked for"
"""The answer of a moment in which a user's own code asks for a save."""
WORTH_IT: Final = "the state is worth a file"
"""The answer of a user's code, where it differs from what the policy would decide."""


@final
class PendingSave(NamedTuple):
    """A save that was asked for, and of which nothing is known yet."""

    ticket: int
    value: float | None = None
    """The value by which it was ranked; None if it was not."""
    is_retry: bool = False


@final
@quickly_made
@dataclass(frozen=True, slots=True)
class CheckpointState:
    """Plain numbers: its own JSON."""

    best: float | None = None
    """Value of the best file."""
    due: SaveScheduleState = field(default_factory=SaveScheduleState)
    """What was trained since the last save that was due."""
    pending: tuple[PendingSave, ...] = ()
    """Saves under way, in the order in which they were asked for."""
    refused: PendingSave | None = None
    """The best state whose file could not be written, and of which a copy was kept."""
    n_asked: int = 0
    """Saves that were asked for so far; the ticket of the last."""
    has_saved: bool = False
    """Whether a file was written in this run."""
    owed: bool = False
    """Whether a save came due when its metric was not there."""
    missing: bool = False
    """Whether the metric was missed; an error when the next epoch begins."""
    replayed: int | None = None
    """Index of the epoch of the best file, as long as an earlier run's is the best."""
    seen: Seen = None
    """Whether a save found the metric in this run; None before its first epoch has ended."""
    mark: float | None = None
    """Seconds of this run at the last look, if the schedule asks for seconds."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON: the schedule's part, and the rest; what says nothing is left out."""
        fresh = CheckpointState()
        kept: dict[str, Any] = {
            name: getattr(self, name)
            for name in self.__slots__
            if name != "due" and getattr(self, name) != getattr(fresh, name)
        }
        kept["best"] = number_to_json(self.best)  # somebody may have set it
        return {"state": kept, "due": asdict(self.due)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> CheckpointState:
        """The state that `to_json` wrote; other keys beside the two are somebody else's."""
        kept = dict(fields["state"])
        kept["best"] = number_from_json(kept["best"])
        pending = tuple(PendingSave(*one) for one in kept.pop("pending", ()))
        refused = PendingSave(*kept.pop("refused")) if "refused" in kept else None
        due = SaveScheduleState(**fields["due"])
        return cls(**kept, due=due, pending=pending, refused=refused)


Step: TypeAlias = tuple[CheckpointState, tuple[Decision, ...]]


@final
@dataclass(frozen=True, slots=True)
class CheckpointPolicy:
    """Decides when to save, and what is worth it.

    Args:
        schedule: When a save is due.
        watched: The metric that ranks files; None if nothing is ranked.
        best_only: Whether only what is better than every file is saved. Needs `watched`.
        threshold: Value to beat before anything was saved, or None.
        check_finite: Whether a loss that is not finite forbids a save.
        hands_over: Whether a user's own code carries out what is due.

    Example:
        >>> from peakhold._core.moments import Position
        >>> from peakhold._core.monitor import Criterion, Direction
        >>> loss = Watched("loss", Criterion(Direction.MIN))
        >>> policy = CheckpointPolicy(SaveSchedule(Every(epochs=1)), loss, best_only=True)
        >>> state, words = policy.init(), []
        >>> for epoch, value in enumerate((0.5, 0.6, 0.4)):
        ...     moment = Moment(Event.EPOCH_END, Position(epoch), {"loss": value})
        ...     state, decisions = policy.step(state, moment)
        ...     words.append(decisions[0].word)
        >>> words, policy.to_beat(state)
        (['save', 'skip', 'save'], 0.4)
    """

    schedule: SaveSchedule
    watched: Watched | None = None
    best_only: bool = False
    threshold: float | None = None
    check_finite: bool = True
    hands_over: bool = False

    def init(self) -> CheckpointState:
        """The state before the first moment."""
        return CheckpointState()

    def to_beat(self, state: CheckpointState) -> float | None:
        """The value that a state must beat to be saved; None if anything does."""
        for one in reversed(state.pending):
            if one.value is not None:
                return one.value
        return self.threshold if state.best is None else state.best

    def step(self, state: CheckpointState, moment: Moment) -> Step:  # noqa: PLR0911 - one for each
        """Take one moment into account."""
        if moment.answers and ASKED in moment.answers:
            return self._save(state, moment)
        match moment.event:
            case Event.TRAIN_BEGIN:
                return moved(_in_new_run(state), mark=self._seconds(moment)), ()
            case Event.EPOCH_BEGIN:
                return self._epoch_begin(state, moment)
            case Event.TRAIN_BATCH_END if self.schedule.needs_batches:
                return self._batch_end(state, moment)
            case Event.EPOCH_END:
                return self._epoch_end(state, moment)
            case Event.TRAIN_END:
                return self._train_end(state, moment)
        return state, ()

    def ask(self, state: CheckpointState, moment: Moment) -> Step:
        """A save was asked for, whatever the schedule says; it is ranked like any other."""
        state, decisions = self._save(state, moment)
        return moved(state, due=self.schedule.reset(state.due)), decisions

    def try_again(self, state: CheckpointState) -> Step:
        """What could not be written is asked for once more, or let go for something better.

        Every step that could save does so, too; by itself it is for the time after the last moment,
        when it is known what became of the last saves. Where `refused` is None afterwards and there
        is no decision, the copy may go.
        """
        refused = state.refused
        if refused is None:
            return state, ()
        state, criterion = moved(state, refused=None), self._criterion
        if criterion is None or not criterion.better(refused.value, self.to_beat(state)):
            return state, ()
        return self._asked(state, Save("once more", value=refused.value, retry=refused.ticket))

    def found(
        self, state: CheckpointState, value: float | None, epoch: int | None
    ) -> CheckpointState:
        """What is best among the files that are there, where they say it and no decision does.

        In a run that goes on it is told before the first save, when the direction is known; where
        files are ranked and none is refused for it, with each that is written.

        Args:
            state: Where we are.
            value: Value of the best file; None if there is none.
            epoch: Index of its epoch.
        """
        if self._criterion is None:
            return state
        threshold = self.threshold if self.best_only else None
        if value is None or self._criterion.better(threshold, value):
            return moved(state, best=None, replayed=None)
        return moved(state, best=value, replayed=epoch)

    def learn(self, state: CheckpointState, fact: Fact) -> CheckpointState:
        """Take in what became of a save, or what an earlier run left."""
        if isinstance(fact, Found):
            return self.found(state, fact.value, fact.epoch)
        keeps_copy = isinstance(fact, Failed) and fact.may_retry
        refused = state.refused
        if refused is not None and refused.ticket == fact.ticket:
            return state if keeps_copy else moved(state, refused=None)
        told = next((one for one in state.pending if one.ticket == fact.ticket), None)
        if told is None:
            return state
        if isinstance(fact, Committed):
            return _committed(state, told)
        pending = tuple(one for one in state.pending if one is not told)
        if keeps_copy and told.value is not None and not told.is_retry:
            # The newer one is the better one.
            refused = told if refused is None or refused.ticket < told.ticket else refused
        return moved(state, pending=pending, refused=refused)

    def go_on(self, state: CheckpointState) -> CheckpointState:
        """The next fit of the same object on the same model: what is best stays, and the count."""
        state = _in_new_run(state)
        return moved(state, due=moved(state.due, in_epoch=False))

    # Moments

    @property
    def _criterion(self) -> Criterion | None:
        return None if self.watched is None else self.watched.criterion

    def _seconds(self, moment: Moment) -> float | None:
        trigger = self.schedule.trigger
        counts = isinstance(trigger, Every) and trigger.seconds is not None
        return moment.spent.seconds if counts else None  # a state holds no chance numbers

    def _lap(self, state: CheckpointState, moment: Moment) -> tuple[float | None, float]:
        """The mark of this look, and the seconds since the last."""
        now = self._seconds(moment)
        return now, 0.0 if now is None or state.mark is None else now - state.mark

    def _epoch_begin(self, state: CheckpointState, moment: Moment) -> Step:
        if state.mark is None:
            state = moved(state, mark=self._seconds(moment))
        if not state.missing or self.watched is None:
            return state, ()
        error = Missing("not logged where it should be", self.watched.monitor, fatal=True)
        return moved(state, missing=False), (error,)

    def _batch_end(self, state: CheckpointState, moment: Moment) -> Step:
        batch = moment.at.batch
        if batch is None or moment.epoch_cut_short:
            return state, ()
        mark, seconds = self._lap(state, moment)
        counted, due = self.schedule.batch_end(state.due, batch, seconds)
        state = moved(state, due=counted, mark=mark)
        if not due:
            return state, ()
        return self._handed_over(state) if self.hands_over else self._save(state, moment)

    def _epoch_end(self, state: CheckpointState, moment: Moment) -> Step:
        trigger, mark, seconds = self.schedule.trigger, None, 0.0
        if isinstance(trigger, Every) and trigger.seconds is not None:
            mark, seconds = self._lap(state, moment)
        counted, due = self.schedule.epoch_end(state.due, seconds)
        if counted is not state.due or mark != state.mark or state.seen is None:
            state = moved(state, due=counted, mark=mark, seen=state.seen or False)
        if not (due or state.owed):
            return self.try_again(state)
        return self._handed_over(state) if self.hands_over else self._save(state, moment)

    def _train_end(self, state: CheckpointState, moment: Moment) -> Step:
        due = False
        if not moment.epoch_cut_short:
            counted, due = self.schedule.end(state.due)
            state = moved(state, due=counted)
        if due and self.hands_over:
            return self._handed_over(state)
        state, decisions = self._save(state, moment) if due else self.try_again(state)
        missing = None if self.watched is None else self.watched.never_came(state.seen)
        if missing is None or state.missing:
            return state, decisions
        return state, (*decisions, missing)

    # A save

    def _handed_over(self, state: CheckpointState) -> Step:
        return moved(state, owed=False), (Save("a save is due", handed_over=True),)

    def _save(self, state: CheckpointState, moment: Moment) -> Step:
        if state.owed:
            state = moved(state, owed=False)
        state, decisions = self._save_if_worth_it(state, moment)
        if state.refused is None:
            return state, decisions
        state, more = self.try_again(state)
        return state, (*decisions, *more)

    def _save_if_worth_it(self, state: CheckpointState, moment: Moment) -> Step:
        value = None if self.watched is None else moment.metrics.get(self.watched.monitor)
        if value is not None and state.seen is not True:
            state = moved(state, seen=True)
        if moment.answers and WORTH_IT in moment.answers:
            return self._as_told(state, moment, value)
        if self.watched is None or not self.best_only:
            return self._unless_bad(state, moment, Save("due"))
        if value is None:
            return self._unranked(state, moment, self.watched)
        decision = self._ranked(state, moment, value)
        if isinstance(decision, Skip):
            return state, (decision,)
        return self._unless_bad(state, moment, decision)

    def _as_told(self, state: CheckpointState, moment: Moment, value: float | None) -> Step:
        """A user's code has said whether the state is worth a file; the best is still the best."""
        state = moved(state, seen=True)  # whether it was there is that code's business
        if not moment.answers[WORTH_IT]:
            return state, (Skip("a user's code said no"),)
        ranks = self.best_only and self.watched is not None
        improves = ranks and self.watched.improves(moment, value, self.to_beat(state))  # type: ignore[union-attr]
        return self._unless_bad(state, moment, Save("asked for", value=value if improves else None))

    def _ranked(self, state: CheckpointState, moment: Moment, value: float) -> Save | Skip:
        """Whether a value is worth a file."""
        watched, to_beat, epoch = self.watched, self.to_beat(state), moment.at.epoch
        criterion = None if watched is None else watched.criterion
        if watched is None or (criterion is None and watched.ranked(moment) is None):
            return Skip("may be better larger or smaller: nobody knows")
        if watched.improves(moment, value, to_beat):
            return Save("better than every saved file", value=value)
        if to_beat is None or not math.isfinite(value):
            return Skip("is not a finite number")
        if state.replayed is not None and self._replays(state, epoch):
            is_worse = criterion is None or criterion.better(state.best, value)
            if not is_worse:
                return Save("trained once more", value=value)
        return Skip(f"did not improve from {to_beat:.6g}")

    def _replays(self, state: CheckpointState, epoch: int) -> bool:
        """Whether the best file is of this very epoch, from before the interruption."""
        return state.replayed == epoch and all(one.value is None for one in state.pending)

    def _unranked(self, state: CheckpointState, moment: Moment, watched: Watched) -> Step:
        """The metric is not there: save once if it should have been and nothing is known."""
        state = moved(state, owed=not self.schedule.at_every_epoch)
        missing = watched.missing(state.seen, moment)
        if missing is None or not missing.fatal:
            return state, () if missing is None else (missing,)
        nothing_known = not (
            state.missing or state.has_saved or state.pending or self.to_beat(state) is not None
        )
        state = moved(state, missing=True)
        said = moved(missing, fatal=False)
        if not nothing_known:
            return state, (said,)
        state, decisions = self._unless_bad(state, moment, Save("nothing else is saved"))
        return state, (said, *decisions)

    def _unless_bad(self, state: CheckpointState, moment: Moment, save: Save) -> Step:
        loss = moment.metrics.get("loss") if self.check_finite else None
        if loss is None or is_finite(loss):
            return self._asked(state, save)
        return state, (Skip(f"the loss is {loss}", bad=True),)

    def _asked(self, state: CheckpointState, save: Save) -> Step:
        """Give a save its ticket. Where nothing is ranked, nothing hangs on what becomes of it."""
        ticket = state.n_asked + 1
        one = PendingSave(ticket, save.value, is_retry=save.retry is not None)
        pending = (*state.pending, one) if self.best_only else state.pending
        return moved(state, n_asked=ticket, pending=pending), (moved(save, ticket=ticket),)


def _committed(state: CheckpointState, told: PendingSave) -> CheckpointState:
    if told.value is None:
        pending = tuple(one for one in state.pending if one is not told)
        return moved(state, pending=pending, has_saved=True)
    # What was asked for before is worse, whatever becomes of it.
    pending = tuple(one for one in state.pending if one.ticket > told.ticket)
    return moved(state, best=told.value, pending=pending, has_saved=True, replayed=None)


def _in_new_run(state: CheckpointState) -> CheckpointState:
    """What is best, and what the schedule counted; all else belongs to one run."""
    return CheckpointState(state.best, state.due, n_asked=state.n_asked)
