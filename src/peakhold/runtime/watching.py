"""Watching a metric: its direction, and who is told when it is missing.

Rules of this file, which give the fewest false alarms (docs/explanation/keras-defects.md, "When the
names of metrics are known"):

1. An unknown `mode` warns at construction, in Keras's words, and means "auto".
2. The direction is known, or asked for as soon as the metrics are known: on train begin where the
   host can list them, else after the first evaluation, at the latest at the end of the first epoch.
3. A user's subclass may read its metric, compare, and set the comparison, as with Keras's classes
   (`comparing.py`): it is asked in `measure`, and its answers are recorded with the moment. So is a
   comparison of somebody's own that was set as `monitor_op`. What it calls better is; a direction
   serves only for what it is not asked of (files of other runs) then, and need not be known.
4. One typo is one message, whoever looks at the name. A monitor that was mistyped is an error
   before the first batch only where it is known what `fit` will log, and no user's callback may add
   to that. Else when it is missed is the policy's business (`_core/monitor.py`); the words are made
   here, once for all who miss it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar, final

from peakhold._core.arguments import check_delta, check_monitor
from peakhold._core.decisions import Missing
from peakhold._core.gradient_facts import GRADIENT_NORM
from peakhold._core.moments import Answer, Moment, rate_key
from peakhold._core.monitor import (
    Criterion,
    Direction,
    Relative,
    closest_mode,
    closest_name,
    infer_direction,
)
from peakhold._core.observation import Event, is_finite
from peakhold._core.patience import Patience, Steps
from peakhold.advice import not_finite
from peakhold.errors import (
    DirectionUnknownError,
    HostError,
    InvalidArgumentError,
    MonitorNotFoundError,
    MonitorWarning,
    NotAScalarError,
)
from peakhold.host.contract import to_number
from peakhold.runtime.callback import overridden
from peakhold.runtime.participant import NOTHING, Deciding, Measured, Needs
from peakhold.runtime.run_view import RunView
from peakhold.speech import listed, warn

__all__ = ["OWN_OP", "READ", "Comparison", "Waiting", "Watch", "Watching"]

S = TypeVar("S")

READ: Final = "get_monitor_value"
"""The answer of a user's code: this callback's own metric."""

OWN_OP: Final = "monitor_op"
"""Beside the names of methods that a subclass overrides: a comparison of somebody's own was set."""

_COMPARES: Final = frozenset({"_is_improvement", OWN_OP})


@final
class Watch:
    """One metric that somebody watches.

    Args:
        name: Who watches, for messages.
        monitor: Name of the metric, as it stands in the logs.
        mode: `"min"`, `"max"` or `"auto"`.
        min_delta: Smallest change that counts, absolute or `Relative(fraction)`.

    Raises:
        InvalidArgumentError: For a monitor that is no string, or a `min_delta` that is no number.
    """

    def __init__(
        self, name: str, monitor: str, mode: str, min_delta: float | Relative = 0.0
    ) -> None:
        self.monitor = check_monitor(monitor)
        if mode not in {"auto", "min", "max"}:
            meant = closest_mode(mode)
            hint = "" if meant is None else f" Hint: did you mean {meant!r}?"
            warn(f"{name} mode '{mode}' is unknown, fallback to auto mode.{hint}")
            mode = "auto"
        self.mode = mode
        size, relative = check_delta("min_delta", min_delta)
        self.min_delta: float | Relative = Relative(size) if relative else size
        self.direction: Direction | None = None
        self.op: Callable[[float, float], Any] | None = None
        """A comparison of somebody's own, of the value and what it must beat."""
        self.seen = self.is_known = False
        """Whether it was logged in this run; and whether its direction is known, too: then there is
        nothing more to find out about it."""

    @property
    def criterion(self) -> Criterion | None:
        """What is better; None as long as the direction is not known."""
        return None if self.direction is None else self._criterion_of(self.direction)

    def _criterion_of(self, direction: Direction) -> Criterion:
        if isinstance(self.min_delta, Relative):
            return Criterion(direction, self.min_delta.fraction, relative=True)
        return Criterion(direction, self.min_delta)

    def improves(self, value: float | None, reference: float | None) -> bool:
        """Whether a value beats another, as far as anybody can tell."""
        if self.op is None or value is None:
            return self.criterion is not None and self.criterion.improves(value, reference)
        if reference is None:
            return True
        # As Keras reckons for every comparison but its own `less`.
        criterion = self.criterion or self._criterion_of(Direction.MAX)
        return bool(self.op(criterion.less_its_margin(value, reference), reference))

    def reset(self) -> None:
        """A run begins."""
        self.seen = self.is_known = False
        self.direction = None if self.mode == "auto" else Direction(self.mode)

    def resolve(self, name: str, run: RunView, names: Sequence[str] | None) -> None:
        """Find the direction.

        Args:
            name: Who watches, for messages.
            run: The run.
            names: Training names of metrics that are known to be there; None if none are known.

        Raises:
            DirectionUnknownError: If the metric is there, and nothing tells.
        """
        if self.direction is None:
            self.direction = infer_direction(self.monitor, run.trained.metric_directions())
        if self.op is not None:
            return
        if self.direction is None and names and self.monitor.removeprefix("val_") in names:
            raise DirectionUnknownError.for_monitor(name, self.monitor)


class Comparison:
    """The comparison in use, None before it is known; with several metrics, a list.

    In `fit` it is Keras's own function object. It may be set, as Keras's may: to `np.less`,
    `np.greater` or their like, which is what `mode="min"` and `"max"` say; or to any function of
    two numbers that says whether the first beats the second.
    """

    def __get__(self, callback: Any, owner: type) -> Any:
        if callback is None:
            return self
        watches: list[Watch] = callback._peakhold_link.participant.watches
        seam = callback._peakhold_seam
        shown = [
            one.op or (None if one.direction is None else seam.comparison(one.direction))
            for one in watches
        ]
        return shown if len(shown) > 1 else shown[0]

    def __set__(self, callback: Any, comparison: Any) -> None:
        watching: Watching[Any] = callback._peakhold_link.participant
        watches = watching.watches
        given = comparison if isinstance(comparison, (list, tuple)) else [comparison] * len(watches)
        for watch, one in zip(watches, map(_checked, given), strict=True):
            direction = _DIRECTIONS.get(getattr(one, "__name__", ""))
            watch.op = one if direction is None else None
            if watch.op is None:
                watch.mode = "auto" if direction is None else str(direction)
                watch.direction = direction
        watching.is_op_set = comparison is not None
        watching.note_op()


_DIRECTIONS = {
    "less": Direction.MIN, "lt": Direction.MIN, "greater": Direction.MAX, "gt": Direction.MAX,
}  # fmt: skip
"""Which way is better by a comparison that is known by its name, as NumPy's and Keras's are."""


def _checked(comparison: Any) -> Any:
    if comparison is not None and not callable(comparison):
        raise InvalidArgumentError.for_argument(
            "monitor_op",
            comparison,
            "np.less, np.greater, or a function of your own of the value and the best so far",
            hint="pass mode='min' or mode='max', and min_delta for a margin.",
        )
    return comparison


class Watching(Deciding[S]):
    """A participant that ranks epochs by a metric, or several.

    Args:
        name: The class of its callback, for messages.
        watches: The metrics; at least one.
    """

    is_op_set = False
    """Whether the comparison was set, by an attribute or by a user's `_set_monitor_op`."""
    _asks: frozenset[str] = frozenset()
    """Names under which a user's subclass is asked."""

    def __init__(self, name: str, watches: Sequence[Watch]) -> None:
        self.name = name
        self._compared = 0
        """Which of the metrics is compared when a user's code asks how."""
        self.watches = list(watches)
        self._said: set[str] = set()
        self._last_logs: Mapping[str, Any] = {}
        super().__init__()

    def __getstate__(self) -> dict[str, Any]:
        # What is set on a copy must not be set on the original.
        return {
            **super().__getstate__(),
            "watches": [copy.copy(one) for one in self.watches],
            "_last_logs": {},
        }

    # As attributes: one for the only metric, a list for several

    def _show(self, name: str) -> Any:
        shown = [getattr(watch, name) for watch in self.watches]
        return shown if len(shown) > 1 else shown[0]

    def _set(self, name: str, value: Any) -> None:
        values = list(value) if len(self.watches) > 1 else [value]
        for watch, one in zip(self.watches, values, strict=True):
            setattr(watch, name, one)

    @property
    def monitor(self) -> Any:
        """The metric's name."""
        return self._show("monitor")

    @monitor.setter
    def monitor(self, monitor: Any) -> None:
        self._set("monitor", monitor)

    @property
    def mode(self) -> Any:
        """`"min"`, `"max"` or `"auto"`."""
        return self._show("mode")

    @mode.setter
    def mode(self, mode: Any) -> None:
        self._set("mode", mode)

    @property
    def min_delta(self) -> Any:
        """Smallest change that counts."""
        return self._show("min_delta")

    @min_delta.setter
    def min_delta(self, min_delta: Any) -> None:
        self._set("min_delta", min_delta)

    @property
    def ranks(self) -> bool:
        """Whether it compares anything at all."""
        return True

    def check_steps_counted(self, moment: Moment) -> None:
        """See that the steps it waits for are counted; here it waits for none."""

    # Before the first batch

    def needs(self, run: RunView) -> Needs:
        """Begin anew; find the directions; say what looks mistyped."""
        super().needs(run)
        self._said, self._last_logs = set(), {}
        self._asks = overridden(run.callback)
        self.note_op()
        for watch in self.watches:
            watch.reset()
        if self.ranks:
            for watch in self.watches:
                self._check(watch, run)
        return Needs()

    def _check(self, watch: Watch, run: RunView) -> None:
        host = run.trained
        names = host.metric_names()
        if not self._sets_op:
            watch.resolve(self.name, run, names)
        if names is None or run.has_user_callbacks or not host.runs_fit():
            return
        known = [*names, *(f"val_{name}" for name in names if host.validates() is not False)]
        logged = {*known, GRADIENT_NORM, *map(rate_key, host.learning_rates())}
        if watch.monitor not in logged and closest_name(watch.monitor, known) is not None:
            run.mistyped(self.not_found(watch.monitor, dict.fromkeys(known)))

    # At each moment

    def measure(self, moment: Moment, logs: dict[str, Any]) -> Measured:
        """Look at the metrics before anybody ranks by them.

        Raises:
            NotAScalarError: If one is an array.
            DirectionUnknownError: If one is there and nothing tells which way is better.
        """
        if moment.event is Event.EPOCH_END:
            if self.reads_steps:
                self.check_steps_counted(moment)
            for watch in self.watches:
                if self._asks or not (watch.is_known and watch.monitor in moment.metrics):
                    break
            else:
                return NOTHING  # there is nothing to find out any more
        if not self.ranks:
            return NOTHING
        answers: dict[str, Answer] = {}
        if self._asks:
            answers = self._asked_first(moment, logs)
            moment = self._shown(moment, answers)
            logs = {**logs, self.watches[0].monitor: answers[READ]} if READ in answers else logs
        for watch in self.watches:
            if moment.event is Event.TEST_END and watch.direction is None and not self._sets_op:
                watch.resolve(self.name, self.run, self.run.trained.metric_names())
            elif moment.event in {Event.EPOCH_END, Event.TRAIN_BATCH_END} and not (
                watch.is_known and watch.monitor in moment.metrics
            ):
                self.look(watch, moment, logs)
        return self._answered(moment, answers) if self._asks else NOTHING

    # What a user's subclass is asked

    def note_op(self) -> None:
        """A comparison of somebody's own may have been set, or taken back."""
        own = {OWN_OP} if any(watch.op is not None for watch in self.watches) else set[str]()
        self._asks = (self._asks - {OWN_OP}) | own

    @property
    def compares(self) -> bool:
        """Whether a user's code says what is better."""
        return not self._asks.isdisjoint(_COMPARES)

    @property
    def _sets_op(self) -> bool:
        """Whether a user's `_set_monitor_op` is still to be called: as in Keras, once."""
        return "_set_monitor_op" in self._asks and not self.is_op_set

    def _asked_first(self, moment: Moment, logs: dict[str, Any]) -> dict[str, Answer]:
        """What a user's subclass is asked before anybody looks: the comparison, and the metric."""
        if moment.event in {Event.EPOCH_END, Event.TRAIN_BATCH_END}:
            self.set_op()
        if "get_monitor_value" in self._asks and moment.event is Event.EPOCH_END:
            return {READ: self._read(logs)}
        return {}

    def _answered(self, moment: Moment, answers: dict[str, Answer]) -> Measured:
        """All that it has answered in this moment, how the metrics compare at last."""
        if self.compares and moment.event is Event.EPOCH_END:
            answers |= self._comparisons(moment)
        return Measured(answers={f"{self.run.name}.{key}": one for key, one in answers.items()})

    def set_op(self) -> None:
        """Call a user's `_set_monitor_op`, if that is still to come."""
        if self._sets_op:
            self.run.callback._set_monitor_op()
            self.is_op_set = True

    def _read(self, logs: dict[str, Any]) -> float | None:
        value = self.run.callback.get_monitor_value(logs)
        number = None if value is None else to_number(value)
        if value is not None and number is None:
            raise NotAScalarError.for_value(self.name, self.watches[0].monitor, value)
        return number

    def _comparisons(self, moment: Moment) -> Mapping[str, Answer]:
        """What a user's `_is_improvement` says of this moment's metrics; none by itself."""
        return {}

    def is_improvement(self, at: int, value: float, reference: float | None) -> bool:
        """What a user's `_is_improvement`, or comparison, says of two values of a metric.

        Nobody is asked of what is not finite: that is never better.
        """
        if not is_finite(value):
            return False
        self._compared = at
        try:
            return bool(self.run.callback._is_improvement(value, reference))
        finally:
            self._compared = 0

    def improves(self, value: Any, reference: Any) -> bool:
        """Whether a value beats another, by `mode` and `min_delta`: what is said without it.

        Raises:
            DirectionUnknownError: If nobody knows which way is better.
        """
        watch = self.watches[self._compared]
        self.find_direction(watch)
        number, other = (None if one is None else to_number(one) for one in (value, reference))
        return watch.improves(number, other)

    def find_direction(self, watch: Watch) -> None:
        """Find which way is better.

        Raises:
            DirectionUnknownError: If nothing tells.
        """
        if watch.direction is None and watch.mode != "auto":
            watch.reset()
        elif watch.direction is None and self.has_run:
            watch.resolve(self.name, self.run, (watch.monitor.removeprefix("val_"),))
        elif watch.direction is None:
            watch.direction = infer_direction(watch.monitor)
            if watch.direction is None and watch.op is None:
                raise DirectionUnknownError.for_monitor(self.name, watch.monitor)

    def view(self, moment: Moment) -> Moment:
        """The moment with the answers of this callback's own class, and of no other."""
        if not self._asks or not moment.answers:
            return moment
        own = f"{self.run.name}."
        answers = {
            key.removeprefix(own): one
            for key, one in moment.answers.items()
            if key.startswith(own)
        }  # fmt: skip
        return self._shown(moment, answers)

    def _shown(self, moment: Moment, answers: Mapping[str, Answer]) -> Moment:
        if READ not in answers:
            return replace(moment, answers=answers)
        value, monitor = answers[READ], self.watches[0].monitor
        metrics = {name: one for name, one in moment.metrics.items() if name != monitor}
        if isinstance(value, (int, float)):
            metrics[monitor] = value
        return replace(moment, metrics=metrics, answers=answers)

    def look(self, watch: Watch, moment: Moment, logs: Mapping[str, Any]) -> float | None:
        """The value of a metric, or None if this moment does not have it."""
        raw = logs.get(watch.monitor)
        if raw is None:
            if not watch.seen:
                self.logged(logs)
            return None
        value = moment.metrics.get(watch.monitor)
        if value is None:  # it may have been measured in this very moment
            value = to_number(raw)
        if value is None:
            raise NotAScalarError.for_value(self.name, watch.monitor, raw)
        if watch.direction is None:
            watch.resolve(self.name, self.run, (watch.monitor.removeprefix("val_"),))
        if not watch.seen and not is_finite(value):
            for advice in not_finite(watch.monitor, value, moment.at.number, self.name):
                self.warn_once(str(advice), MonitorWarning)
        watch.seen, watch.is_known = True, watch.direction is not None
        return value

    # A metric that is missing

    def miss(self, decision: Missing, logs: Mapping[str, Any]) -> None:
        """Say that a metric is missing.

        Raises:
            MonitorNotFoundError: If training would be wasted.
        """
        logs = self.logged(logs)
        if decision.fatal:
            raise self.not_found(decision.monitor, logs)
        self.warn_missing(decision.monitor, self.missing_words(decision.monitor, logs))

    def warn_missing(self, monitor: str, words: str) -> None:
        """Warn of a metric that is missing, once in a run, for all who look at it."""
        others = self.run.others_missing(monitor)
        if others is None:
            return
        if others:
            words = f"{words.rstrip('.')}. The same holds for {listed(others)}."
        self.run.warn(words, MonitorWarning)

    def looks_at(self, monitor: str) -> bool:
        """Whether it ranks by a metric that somebody logs."""
        derives = READ in self._asks and self.watches[0].monitor == monitor
        return self.ranks and not derives and any(w.monitor == monitor for w in self.watches)

    def logged(self, logs: Mapping[str, Any]) -> Mapping[str, Any]:
        """What was logged when a metric was missed last: a loop's end of training logs nothing."""
        self._last_logs = logs or self._last_logs
        return self._last_logs

    def not_found(self, monitor: str, logs: Mapping[str, Any]) -> MonitorNotFoundError:
        """The error for a metric that should have been logged."""
        trained = self.run.trained
        suggestion = closest_name(monitor, logs)
        # Of fit's metrics `compile` has the list; a loop hands over what it likes.
        hint = (
            "monitor one of these, or put the metric into the logs of `on_epoch_end(epoch, logs)`."
        )
        if trained.runs_fit():
            hint = (
                "monitor one of these, or add the metric to `compile` (a callback of yours that "
                "logs it stands before this one)."
            )
        if suggestion is not None:
            hint = f"did you mean {suggestion!r}?"
        validates = trained.validates()
        unseen = monitor.startswith("val_") and validates is False
        if unseen and not any(name.startswith("val_") for name in logs):
            hint = (
                "pass validation_data or validation_split to fit, or monitor a training metric."
                if trained.first_validation() is None
                else "pass a validation_freq that this run reaches."
            )
        return MonitorNotFoundError.for_monitor(
            self.name,
            monitor,
            logs,
            suggestion=suggestion,
            hint=hint,
        )

    def missing_words(self, monitor: str, logs: Mapping[str, Any]) -> str:
        """The warning for a metric that is not there."""
        return (
            f"{self.name} is conditioned on metric `{monitor}` which is not available. "
            f"Available metrics are: {','.join(logs)}"
        )

    def warn_once(self, message: str, category: type[Warning]) -> None:
        """Warn, unless that was said in this run."""
        if message not in self._said:
            self._said.add(message)
            self.run.warn(message, category)

    def forget_said(self) -> None:
        """What is said at the end is said again."""
        self._said.clear()

    def header(self) -> dict[str, Any]:
        """States belong to those who watch the same."""
        return {**super().header(), "monitor": self.monitor}


class Waiting(Watching[S]):
    """A participant that waits for an improvement, so many epochs, steps or seconds."""

    reads_steps = False
    _patience: Patience = 0

    @property
    def patience(self) -> Patience:
        """How long; set in mid-run it counts from the next moment on."""
        return self._patience

    @patience.setter
    def patience(self, patience: Patience) -> None:
        self._patience, self.reads_steps = patience, isinstance(patience, Steps)

    def check_steps_counted(self, moment: Moment) -> None:
        """See that a patience in steps is counted by somebody.

        Raises:
            HostError: If nobody has counted a step by the end of an epoch.
        """
        run = self.run
        if self.reads_steps and moment.spent.steps is None and run.start_epoch is not None:
            raise HostError.lacks(
                f"{self.name}(patience={self.patience!r})",
                "something that counts steps",
                run.trained.describe(),
                hint="call on_train_batch_end of CallbackList, or pass steps= to it.",
            )
