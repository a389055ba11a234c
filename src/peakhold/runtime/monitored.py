"""A callback that ranks epochs by a metric: its direction, and who is told when it is missing.

Rules of this file, which give the fewest false alarms (docs/explanation/keras-defects.md, "When the
names of metrics are known"):

1. An unknown `mode` warns at construction, in Keras's words, and means "auto".
2. The direction is known, or asked for as soon as the metrics are known: on train begin where the
   host can list them, else after the first evaluation, at the latest at the end of the first epoch.
3. A monitor that nobody logs is at most a warning on train begin, for a user's callback may add it.
   A training metric is missed at the end of the first epoch. A `val_` metric is missed at the end
   of the first epoch that validated; if none did, when the host sees that none will; and if nobody
   can tell, it is said once, and again at the end.
4. An epoch that had no reason to log the metric is no check: nothing is counted, nothing is said.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable as Function
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Generic, TypeVar, cast, overload

from peakhold._core.arguments import check_delta, check_monitor
from peakhold._core.monitor import Criterion, Direction, Relative, closest_name, infer_direction
from peakhold._core.observation import is_finite
from peakhold.errors import (
    AdviceWarning,
    DirectionUnknownError,
    MonitorNotFoundError,
    MonitorWarning,
    NotAScalarError,
)
from peakhold.host.contract import Host, to_number
from peakhold.runtime.callback import Participant
from peakhold.runtime.session import Session

__all__ = ["Monitored", "OneOfSeveral", "View"]

T = TypeVar("T")


class View(Generic[T]):
    """A public attribute that shows, and sets, a field of a callback's frozen `_state`."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._field = name

    @overload
    def __get__(self, callback: None, owner: type) -> View[T]: ...
    @overload
    def __get__(self, callback: Any, owner: type) -> T: ...
    def __get__(self, callback: Any, owner: type) -> View[T] | T:
        return self if callback is None else cast("T", getattr(callback._state, self._field))

    def __set__(self, callback: Any, value: T) -> None:
        callback._state = replace(callback._state, **{self._field: value})


class Monitored(Participant):
    """What `EarlyStopping`, `ReduceLROnPlateau` and `ModelCheckpoint` have in common.

    Args:
        monitor: Name of the metric, as it stands in the logs.
        mode: `"min"`, `"max"` or `"auto"`.
        min_delta: Smallest change that counts, absolute or `Relative(fraction)`.
    """

    def __init__(self, monitor: str, mode: str, min_delta: float | Relative = 0.0) -> None:
        super().__init__()
        self.monitor = check_monitor(monitor)
        if mode not in {"auto", "min", "max"}:
            warnings.warn(
                f"{self._name} mode '{mode}' is unknown, fallback to auto mode.",
                UserWarning,
                stacklevel=3,
            )
            mode = "auto"
        self.mode = mode
        size, relative = check_delta("min_delta", min_delta)
        self.min_delta: float | Relative = Relative(size) if relative else size
        self._direction: Direction | None = None
        self._seen = False
        self._said: set[str] = set()

    @property
    def _name(self) -> str:
        return type(self).__name__

    @property
    def monitor_op(self) -> Function[[Any, Any], Any] | None:
        """The comparison in use (Keras's own function object in `fit`), None before it is known."""
        return None if self._direction is None else self._comparison(self._direction)

    @property
    def _criterion(self) -> Criterion:
        if self._direction is None:
            raise DirectionUnknownError.for_monitor(self._name, self.monitor)
        relative = isinstance(self.min_delta, Relative)
        size = self.min_delta.fraction if isinstance(self.min_delta, Relative) else self.min_delta
        return Criterion(self._direction, size, relative)

    @property
    def _ranks(self) -> bool:
        """Whether this callback compares anything at all."""
        return True

    # Before the first batch

    def _reset(self) -> None:
        self._seen, self._said = False, set()
        self._direction = None if self.mode == "auto" else Direction(self.mode)

    def _check(self) -> None:
        if not self._ranks:
            return
        names = self.host.metric_names()
        self._resolve(names)
        training_name = self.monitor.removeprefix("val_")
        if names is None or training_name in names or self.session.has_strangers:
            return
        prefix = "val_" if self.monitor.startswith("val_") else ""
        known = [f"{prefix}{name}" for name in names]
        suggestion = closest_name(self.monitor, known)
        if suggestion is not None:
            self._warn_once(
                f"{self._name} monitors {self.monitor!r}, which is not among the metrics of this "
                f"model ({', '.join(known)}); did you mean {suggestion!r}?",
                AdviceWarning,
            )

    def _test_end(self) -> None:
        if self._ranks and self._direction is None:
            self._resolve(self.host.metric_names())

    def _resolve(self, names: tuple[str, ...] | None) -> None:
        """Find the direction; an error only for a metric that is known to be there."""
        if self._direction is None:
            self._direction = infer_direction(self.monitor, self.host.metric_directions())
        if self._direction is None and names and self.monitor.removeprefix("val_") in names:
            raise DirectionUnknownError.for_monitor(self._name, self.monitor)

    # At each check

    def _value(self, epoch: int, logs: Mapping[str, Any]) -> float | None:
        """The monitored value as a number, or None if this epoch is no check.

        Raises:
            NotAScalarError: If it is an array.
            DirectionUnknownError: If it is there and nothing tells which way is better.
        """
        raw = logs.get(self.monitor)
        if raw is None:
            return None
        value = to_number(raw)
        if value is None:
            raise NotAScalarError.for_value(self._name, self.monitor, raw)
        if self._direction is None:
            self._resolve((self.monitor.removeprefix("val_"),))
        if not self._seen and not is_finite(value):
            self._warn_once(
                f"{self._name}: {self.monitor} is {value} at epoch {epoch + 1}, the first that "
                "has it; it will never count as best.",
                MonitorWarning,
            )
        self._seen = True
        return value

    def _missed(self, logs: Mapping[str, Any]) -> MonitorNotFoundError | None:
        """The error for a metric that this epoch should have logged; None if it need not have."""
        if self._seen:
            return None
        validates = self.host.validates()
        if self.monitor.startswith("val_") and not self.session.tested and validates is not False:
            if validates is None:
                self._warn_missing(logs)
            return None
        hint = None
        if validates is False and not any(name.startswith("val_") for name in logs):
            hint = (
                "pass validation_data or validation_split to fit, or monitor a training metric."
                if self.host.first_validation() is None
                else "pass a validation_freq that this run reaches."
            )
        return MonitorNotFoundError.for_monitor(
            self._name,
            self.monitor,
            logs,
            suggestion=closest_name(self.monitor, logs),
            hint=hint if self.monitor.startswith("val_") else None,
        )

    def _warn_missing(self, logs: Mapping[str, Any]) -> None:
        self._warn_once(self._missing_message(logs), MonitorWarning)

    def _missing_message(self, logs: Mapping[str, Any]) -> str:
        return self._missing_words(self.monitor, logs)

    def _missing_words(self, monitor: str, logs: Mapping[str, Any]) -> str:
        return (
            f"{self._name} is conditioned on metric `{monitor}` which is not available. "
            f"Available metrics are: {','.join(logs)}"
        )

    def _warn_once(self, message: str, category: type[Warning]) -> None:
        if message not in self._said:
            self._said.add(message)
            self.session.warn(message, category)

    def _end(self, logs: Any) -> None:
        if self._ranks and not self._seen and self.session.n_epochs_done:
            self._said.clear()
            self._warn_missing(logs or {})

    # State

    def _header(self) -> dict[str, Any]:
        return {**super()._header(), "monitor": self.monitor}


class OneOfSeveral(Monitored):
    """One of the metrics that a callback watches: it is in no list, and acts for its owner.

    Args:
        owner: The callback.
        monitor: Name of the metric.
        mode: `"min"`, `"max"` or `"auto"`.
        min_delta: Smallest change that counts, absolute or `Relative(fraction)`.
    """

    def __init__(
        self, owner: Monitored, monitor: str, mode: str, min_delta: float | Relative
    ) -> None:
        self._owner = owner
        super().__init__(monitor, mode, min_delta)

    @property
    def _name(self) -> str:
        return self._owner._name

    @property
    def host(self) -> Host:
        """The owner's."""
        return self._owner.host

    @property
    def session(self) -> Session:
        """The owner's."""
        return self._owner.session

    @property
    def monitor_op(self) -> Function[[Any, Any], Any] | None:
        """The comparison in use, of the owner's kind."""
        return None if self._direction is None else self._owner._comparison(self._direction)

    def _missing_message(self, logs: Mapping[str, Any]) -> str:
        return self._owner._missing_words(self.monitor, logs)
