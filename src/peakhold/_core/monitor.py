"""Which metric, which direction, what counts as better, and what follows when it is not logged.

Rules of this file:

1. Every comparison of two metric values in Peakhold happens here (a test over the syntax trees
   of all other modules says so).
2. A value that is missing, NaN or infinite is never better than anything, not even than nothing.
3. Direction is known or asked for, never guessed: a name decides only if its last word means the
   same in every codebase (`loss`, `accuracy`, `auc`, …). Without a direction nothing is ranked; it
   may come later, and the state stays.
4. A user's own comparison comes as an answer with the moment, for values that are finite. Where
   there is an answer, it counts, with or without a direction.
5. A metric that was logged once in a run is never missed in it: `validation_freq=2` leaves it out
   of every other epoch.
6. A training metric is missed at the end of the first epoch, a `val_` metric at the end of the
   first that validated. If none did, it is missed when it is known that none will; while nobody can
   tell, that is said. In a loop of somebody's own nobody tells that it validates: it has, where it
   logs another metric of that kind.
7. What never came by the end of a run is said once more, if an epoch has ended.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, final

from peakhold._core.decisions import Missing
from peakhold._core.moments import Moment
from peakhold._core.observation import is_finite

__all__ = [
    "Criterion",
    "Direction",
    "Relative",
    "Seen",
    "Watched",
    "base_name",
    "closest_mode",
    "closest_name",
    "infer_direction",
    "is_of_validation",
]

Seen: TypeAlias = bool | None
"""Whether a metric was logged in this run; None before an epoch of it has ended without."""
_IMPROVES, _BEATS = " improves", " beats the baseline"
"""What a user's code may answer, behind the metric's name."""


@final
class Direction(enum.StrEnum):
    """Which values are better."""

    MIN = "min"
    MAX = "max"


@final
@dataclass(frozen=True, slots=True)
class Relative:
    """A `min_delta` as a fraction of the best value so far.

    Args:
        fraction: Smallest change that counts, as a part of `|best|`: `Relative(0.01)` asks for
            one percent. At least 0.

    Example:
        >>> Criterion(Direction.MIN, 0.01, relative=True).improves(0.98, 1.0)
        True
        >>> Criterion(Direction.MIN, 0.01, relative=True).improves(0.995, 1.0)
        False
    """

    fraction: float


@final
@dataclass(frozen=True, slots=True)
class Criterion:
    """What "better" means for one metric.

    Args:
        direction: Whether smaller or larger values are better.
        min_delta: Smallest change that counts, in the metric's unit (or as a fraction of the
            reference's magnitude, if `relative`). At least 0.
        relative: Whether `min_delta` is a fraction.
    """

    direction: Direction
    min_delta: float = 0.0
    relative: bool = False

    def improves(self, value: float | None, reference: float | None) -> bool:
        """Whether `value` beats `reference` by more than `min_delta`; equal never does.

        Args:
            value: The new value. Missing, NaN or infinite: never better.
            reference: The value to beat; `None` if there is none yet. May be infinite
                (a threshold that everything beats).
        """
        if value is None or not math.isfinite(value):
            return False
        if reference is None or reference != reference:  # noqa: PLR0124 - NaN is no reference
            return True
        margin = self.min_delta
        if self.relative and is_finite(reference):
            margin *= abs(reference)
        # Keras's arithmetic, so that ties at the last bit fall the same way.
        if self.direction is Direction.MIN:
            return value + margin < reference
        return value - margin > reference

    def less_its_margin(self, value: float, reference: float) -> float:
        """The value, made worse by the margin: for a comparison of somebody's own."""
        margin = self.min_delta
        if self.relative and is_finite(reference):
            margin *= abs(reference)
        return value + margin if self.direction is Direction.MIN else value - margin

    def better(self, value: float | None, reference: float | None) -> bool:
        """Like `improves`, without a margin: for ranking what was recorded."""
        return Criterion(self.direction).improves(value, reference)


_VALIDATED_BY: Final = 10
"""A loop that has not validated by the end of this epoch is told that a `val_` metric is missing.
Before, it may be one that validates seldom: then nothing is wrong, or the epoch that logs another
`val_` metric raises, and a warning would have been the second message for one cause. Every tenth
epoch is as seldom as we have seen."""


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
        return self.monitor + _IMPROVES

    @property
    def baseline_answer(self) -> str:
        """The answer of a user's code: whether the value beats the baseline."""
        return self.monitor + _BEATS

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
        if moment.answers:
            return self._better(moment, _IMPROVES, value, best)
        return self.criterion is not None and self.criterion.improves(value, best)

    def beats_baseline(self, moment: Moment, value: float | None) -> bool:
        """Whether a value of this moment reaches the baseline; where there is none, it does."""
        if self.baseline is None:
            return True
        return self._better(moment, _BEATS, value, self.baseline)

    def _better(
        self, moment: Moment, question: str, value: float | None, reference: float | None
    ) -> bool:
        if moment.answers and (answer := self.monitor + question) in moment.answers:
            return is_finite(value) and bool(moment.answers[answer])
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
                if moment.at.number < _VALIDATED_BY:
                    return None
                return Missing("not logged so far", self.monitor, fatal=False)
        return Missing("not logged where it should be", self.monitor, fatal=True)

    def never_came(self, seen: Seen) -> Missing | None:
        """What to say when training ends."""
        if seen is not False or self.derived:
            return None
        return Missing("never logged", self.monitor, fatal=False)


# Names

# Last words whose direction is the same wherever they are used. Everything else must be told.
_SMALLER = frozenset({
    "loss", "mae", "mse", "rmse", "msle", "mape", "error", "perplexity", "ppl", "wer", "cer",
    "crossentropy", "brier", "hinge", "logcosh", "kl_divergence", "false_positives",
    "false_negatives", "mean_absolute_error", "mean_squared_error", "root_mean_squared_error",
    "mean_absolute_percentage_error", "mean_squared_logarithmic_error", "categorical_crossentropy",
    "binary_crossentropy", "sparse_categorical_crossentropy",
})  # fmt: skip
_LARGER = frozenset({
    "accuracy", "acc", "auc", "precision", "recall", "f1", "f1_score", "fbeta_score", "iou", "miou",
    "mean_iou", "mean_io_u", "dice", "bleu", "rouge", "map", "ndcg", "mrr", "r2", "r2_score",
    "psnr", "ssim", "true_positives", "true_negatives", "binary_accuracy", "categorical_accuracy",
    "sparse_categorical_accuracy", "top_k_categorical_accuracy",
    "sparse_top_k_categorical_accuracy",
})  # fmt: skip
# Of these, only the following still mean the same behind any prefix (`out1_mae`, `dev_f1`).
_SMALLER_SUFFIXES = ("loss", "mae", "mse", "rmse", "perplexity")
_LARGER_SUFFIXES = ("accuracy", "acc", "auc", "precision", "recall", "f1", "f1_score")

_ALIASES = (
    frozenset({"acc", "accuracy", "binary_accuracy", "categorical_accuracy",
               "sparse_categorical_accuracy"}),
    frozenset({"f1", "f1_score", "f1score"}),
    frozenset({"mae", "mean_absolute_error"}),
    frozenset({"mse", "mean_squared_error"}),
    frozenset({"lr", "learning_rate"}),
    frozenset({"iou", "mean_io_u", "miou", "mean_iou"}),
)  # fmt: skip


def base_name(monitor: str) -> str:
    """The metric's name without what stands before it, and without Keras's counter.

    Example:
        >>> base_name("val_auc_1"), base_name("val/loss"), base_name("eval/val_f1")
        ('auc', 'loss', 'f1')
    """
    return re.sub(r"_\d+$", "", re.split(r"[/.]", monitor)[-1].removeprefix("val_"))


def is_of_validation(monitor: str) -> bool:
    """Whether a metric's name says that only a validation logs it: `val_loss`, `val/loss`."""
    return monitor.startswith(("val_", "val/", "val."))


def infer_direction(
    monitor: str, known: Mapping[str, Direction | None] | None = None
) -> Direction | None:
    """The direction of a metric, or None if nothing tells.

    Args:
        monitor: Name as logged, with or without `val_`; of `eval/accuracy` and `test.f1` the last
            word tells.
        known: What the host knows, by training name; None as a value means that the host knows
            the metric but not its direction.
    """
    training_name = monitor.removeprefix("val_")
    told = (known or {}).get(training_name)
    if told is not None:
        return told
    name = base_name(monitor).lower()
    if name in _SMALLER:
        return Direction.MIN
    if name in _LARGER:
        return Direction.MAX
    if name.endswith(tuple(f"_{word}" for word in _SMALLER_SUFFIXES)):
        return Direction.MIN
    if name.endswith(tuple(f"_{word}" for word in _LARGER_SUFFIXES)):
        return Direction.MAX
    return None


def closest_mode(mode: object) -> str | None:
    """The mode that was most likely meant, by how it begins: `maximum`, `MAX`, `minimize`."""
    word = str(mode).strip().lower()
    return next((known for known in ("min", "max", "auto") if word.startswith(known)), None)


_SPLIT = re.compile(
    r"(?:(val|valid|validation|dev|test|eval)|train|training)[_/.\- ]+", re.IGNORECASE
)


def _split(name: str) -> tuple[bool, str]:
    """Whether a name is of validation, and the metric's own."""
    found = _SPLIT.match(name)
    if found is None:
        return False, base_name(name).lower()
    return found[1] is not None, base_name(name[found.end() :]).lower()


def closest_name(monitor: str, available: Iterable[str]) -> str | None:
    """The available name that was most likely meant, or None.

    Other spellings of the same metric come first (`acc` for `accuracy`), then the same name with
    Keras's counter or in other case, then a near miss in typing. A metric of training is never
    taken for one of validation, nor the other way round, however the split is spelt.

    Example:
        >>> logged = ["loss", "accuracy", "val_loss", "val_accuracy"]
        >>> closest_name("val_acc", logged), closest_name("validation/acuracy", logged)
        ('val_accuracy', 'val_accuracy')
        >>> closest_name("train_loss", logged), closest_name("val_f1", logged)
        ('loss', None)
    """
    import difflib  # needed only on the way to an error

    names = [name for name in available if name != monitor]
    is_validation, wanted = _split(monitor)

    def rank(name: str) -> tuple[int, float, str]:
        of_validation, candidate = _split(name)
        if of_validation != is_validation:
            return (9, 0.0, name)
        if candidate == wanted:
            return (0, 0.0, name)
        if any(candidate in group and wanted in group for group in _ALIASES):
            return (1, 0.0, name)
        ratio = difflib.SequenceMatcher(None, wanted, candidate).ratio()
        return (2, -ratio, name) if ratio >= 0.6 else (9, 0.0, name)

    best = min(map(rank, names), default=(9, 0.0, ""))
    return best[2] if best[0] != 9 else None
