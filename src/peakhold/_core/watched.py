"""A metric that a policy watches, and what follows when nobody logs it.

Rules of this file:

1. A metric that was logged once in a run is never missed in it: `validation_freq=2` leaves it out
   of every other epoch.
2. A training metric is missed at the end of the first epoch, a `val_` metric at the end of the
   first that validated. If none did, it is missed when it is known that none will; while nobody can
   tell, that is said. In a loop of somebody's own nobody tells that it validates: it has, where it
   logs another metric of that kind.
3. What never came by the end of a run is said once more, if an epoch has ended.
4. Without a direction nothing is ranked. The direction may come later, and the state stays.
5. A user's own comparison comes as an answer with the moment, for values that are finite: what is
   not is never better. Where there is an answer, it counts, with or without a direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, final

from peakhold._core.decisions import Missing
from peakhold._core.moments import Moment
from peakhold._core.monitor import Criterion, is_of_validation
from peakhold._core.observation import is_finite

__all__ = ["Seen", "Watched"]

Seen: TypeAlias = bool | None
"""Whether a metric was logged in this run; None before an epoch of it has ended without."""


@final
@dataclass(frozen=True, slots=True)
class Watched:
    """A metric by its name, and what counts as better.

    Args:
        monitor: Its name, as it is logged.
        criterion: What counts as better; None while its direction is not known.
        baseline: A value to beat, for policies that have use for one; None for none.
        derived: Whether a user's own code makes it out of the logs: it knows when there is none.

    Example:
        >>> from peakhold._core.moments import Position
        >>> from peakhold._core.observation import Event
        >>> moment = Moment(Event.EPOCH_END, Position(0), {"loss": 0.5}, validates=True)
        >>> Watched("val_loss").missing(None, moment) is None
        True
        >>> Watched("f1").missing(None, moment).fatal
        True
    """

    monitor: str
    criterion: Criterion | None = None
    baseline: float | None = None
    derived: bool = False

    @property
    def improves_answer(self) -> str:
        """The answer of a user's code: whether the value beats the best so far."""
        return f"{self.monitor} improves"

    @property
    def baseline_answer(self) -> str:
        """The answer of a user's code: whether the value beats the baseline."""
        return f"{self.monitor} beats the baseline"

    def value(self, moment: Moment) -> float | None:
        """What was measured; None if it was not logged."""
        return moment.metrics.get(self.monitor)

    def ranked(self, moment: Moment) -> float | None:
        """What was measured, if anybody can say whether it is better."""
        if self.criterion is None and self.improves_answer not in moment.answers:
            return None
        return self.value(moment)

    def improves(self, moment: Moment, value: float | None, best: float | None) -> bool:
        """Whether a value of this moment beats the best so far."""
        return self._better(moment, self.improves_answer, value, best)

    def beats_baseline(self, moment: Moment, value: float | None) -> bool:
        """Whether a value of this moment reaches the baseline; where there is none, it does."""
        if self.baseline is None:
            return True
        return self._better(moment, self.baseline_answer, value, self.baseline)

    def _better(
        self, moment: Moment, question: str, value: float | None, reference: float | None
    ) -> bool:
        if question in moment.answers:
            return is_finite(value) and bool(moment.answers[question])
        return self.criterion is not None and self.criterion.improves(value, reference)

    def seen_after(self, seen: Seen, moment: Moment) -> Seen:
        """Whether it was logged in this run, the end of this epoch included."""
        if self.monitor in moment.metrics:
            return True
        return seen or False

    def missing(self, seen: Seen, moment: Moment) -> Missing | None:
        """What to say of a moment that should have had it and has not.

        Args:
            seen: Whether it was logged in this run before.
            moment: The moment without it.
        """
        if seen or self.derived or self.monitor in moment.metrics:
            return None
        if is_of_validation(self.monitor) and not moment.validated:
            if moment.validates:
                return None
            if moment.validates is None and not any(map(is_of_validation, moment.metrics)):
                return Missing("not logged so far", self.monitor, fatal=False)
        return Missing("not logged where it should be", self.monitor, fatal=True)

    def never_came(self, seen: Seen) -> Missing | None:
        """What to say when training ends."""
        if seen is not False or self.derived:
            return None
        return Missing("never logged", self.monitor, fatal=False)
