"""What all alerts have in common: what they look at, what they tell, and when.

Rules of this file:

1. An alert never changes training: nothing here waits for a network, and what cannot be sent or
   asked is a warning. Only what is wrong before the first batch is an error.
2. The address is a password. It is in one `Secret`, which shows nothing and is not pickled.
3. Conditions are looked at when an epoch's metrics are complete. There is no hook for batches.
4. One worker speaks: the first.
"""

from __future__ import annotations

import time
from collections.abc import Callable as Function
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, ClassVar

from peakhold._core.arguments import check_count, check_number, check_text
from peakhold._core.condition import Condition, ConditionError
from peakhold._core.monitor import Criterion, closest_name, infer_direction
from peakhold._core.numbers import numbers_from_json, numbers_to_json
from peakhold._core.observation import Observation
from peakhold._core.policies.alert import AlertPolicy, AlertState, Limit, LimitState
from peakhold.alerts.failure import Watch
from peakhold.alerts.message import Standing, compose
from peakhold.alerts.outbox import Outbox
from peakhold.alerts.outcome import Sender
from peakhold.alerts.secret import Secret
from peakhold.errors import (
    AdviceWarning,
    AlertWarning,
    HostError,
    InvalidArgumentError,
    MonitorWarning,
)
from peakhold.host.contract import rate_key, to_number
from peakhold.host.gradients import GRADIENT_NORM
from peakhold.runtime.monitored import Monitored
from peakhold.runtime.summary import why

__all__ = ["Alerting"]

EVENTS = ("best", "stop", "failure", "resume")


class Alerting(Monitored):
    """An alert; subclasses say where to. See `SlackAlert` for the arguments."""

    _argument: ClassVar[str]
    _variable: ClassVar[str]
    _clock = staticmethod(time.monotonic)
    _outbox: Outbox | None = None
    when: Any = None
    on: tuple[str, ...] = ()

    def __init__(
        self,
        address: Any,
        when: str | Function[[int, Mapping[str, Any]], Any] | None,
        on: str | Iterable[str] | None,
        *,
        monitor: str | None,
        mode: str,
        name: str | None,
        min_interval_s: float,
        tries: int,
        timeout_s: float,
        exit_timeout_s: float,
    ) -> None:
        secret, address = self._secret_of(address), None
        self.when = when
        self._condition = _parse(when) if isinstance(when, str) else None
        if when is not None and self._condition is None and not callable(when):
            raise InvalidArgumentError.for_argument(
                "when",
                when,
                "a condition as text, or a function of (epoch, logs)",
                hint="write when='val_accuracy > 0.92'.",
            )
        self.on = _check_events(on, when)
        if monitor is None:
            names = self._condition.names if self._condition else ()
            monitor = next((name for name in names if name != "epoch"), "val_loss")
        if mode not in {"auto", "min", "max"}:
            raise InvalidArgumentError.for_argument("mode", mode, "'min', 'max' or 'auto'")
        super().__init__(monitor, mode)
        self.name = None if name is None else check_text("name", name, "what to call the run")
        seconds = "a number of seconds, at least "
        self.min_interval_s = check_number(
            "min_interval_s", min_interval_s, f"{seconds}0", at_least=0.0
        )
        self.tries = check_count("tries", tries, at_least=1)
        self.timeout_s = check_number("timeout_s", timeout_s, f"{seconds}0.001", at_least=0.001)
        self.exit_timeout_s = check_number(
            "exit_timeout_s", exit_timeout_s, f"{seconds}0", at_least=0.0
        )
        self._secret = secret
        self._outbox = self._new_outbox()
        self._watch: Watch | None = None
        self._state = AlertState()
        self._limited = LimitState()
        self._continued: AlertState | None = None
        self._loaded = self._running = False
        self._logged: set[str] = set()
        self._norm_step: int | None = None

    def __repr__(self) -> str:
        where = self._outbox.sender.where if self._outbox else "nowhere yet"
        return f"{self._name}({where}, when={self.when!r}, on={self.on!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_outbox": None, "_watch": None, "_running": False}

    # The address

    @classmethod
    def _secret_of(cls, address: Any) -> Secret:
        """The argument, or what the environment says."""
        if address is not None and not isinstance(address, (str, Secret)):
            raise InvalidArgumentError.for_argument(
                cls._argument, type(address).__name__, "a URL as a string"
            )
        return Secret.from_environment(cls._variable) if address is None else Secret(address)

    def _sender(self) -> Sender:
        raise NotImplementedError

    def _new_outbox(self) -> Outbox:
        if not self._secret:
            raise InvalidArgumentError.for_argument(
                self._argument,
                None,
                f"a URL, here or in the environment variable {self._variable}",
                hint=f"export {self._variable}=https://… before the program starts; "
                "a pickled alert has none either.",
            )
        return Outbox(
            self._sender(),
            tries=self.tries,
            timeout_s=self.timeout_s,
            exit_timeout_s=self.exit_timeout_s,
        )

    # Before the first batch

    @property
    def _ranks(self) -> bool:
        return "best" in self.on

    def _resume(self) -> None:
        if self._watch is not None:
            self._watch.fail("it had not ended when the next run began")

    def _reset(self) -> None:
        super()._reset()
        self._limited, self._logged, self._running = LimitState(), set(), False
        if self._loaded:
            self._loaded, self._continued = False, None
            return
        self._continued, self._state = self._state, AlertState()

    def _check(self) -> None:
        super()._check()
        if self._outbox is None:
            self._secret = self._secret or self._secret_of(None)
            self._outbox = self._new_outbox()
        names = self.host.metric_names()
        if self._wants_gradients and self.host.gradient_facts() is None and names is not None:
            self._check_gradients(names)
        if names is None or self.session.has_strangers or self._condition is None:
            return
        known = {*names, *(f"val_{name}" for name in names), "epoch", GRADIENT_NORM}
        known |= set(map(rate_key, self.host.learning_rates()))
        for name in self._condition.names:
            likely = None if name in known else closest_name(name, known)
            if likely is not None:
                self._warn_once(
                    f"{self._name} looks at {name!r}, which is not among the metrics of this "
                    f"model; did you mean {likely!r}?",
                    AdviceWarning,
                )

    @property
    def _wants_gradients(self) -> bool:
        names = self._condition.names if self._condition else ()
        return GRADIENT_NORM in {self.monitor, *names}

    def _check_gradients(self, names: Iterable[str]) -> None:
        """Say what is missing, unless the user's own metric has that name."""
        if self.session.has_strangers or GRADIENT_NORM in names:
            return
        try:
            self.host.check_gradients(self._name, arrays=False)
        except HostError as error:
            self._warn_once(str(error), AdviceWarning)

    def _begin(self) -> None:
        if self._outbox is not None:
            self._outbox.attended = self.session.driven
        driver = self._driver() if self._driver is not None else None
        if driver is not None and "failure" in self.on:
            self._watch = Watch(driver, partial(self._fail, self.session, self.session.epochs))

    # While training goes on

    def _epoch_begin(self, epoch: int) -> None:
        if epoch > 0 and self._continued is not None:
            self._state = self._continued
        self._continued = None
        if self._wants_gradients:
            self.host.forget_gradients()
        if not self._running and epoch > 0 and "resume" in self.on:
            self._push(f"training goes on from {self._place(epoch)}")
        self._running = True

    def _record(self, epoch: int, logs: dict[str, Any]) -> None:
        logs = self._with_gradients(logs)
        self._logged.update(logs)
        before = self._state
        observation = Observation(epoch, self._monitored(epoch, logs))
        self._state, events = AlertPolicy(self._ranking()).step(
            before, observation, self._answer(epoch, logs)
        )
        for event in events:
            if event == "when":
                self._offer(event, f"{self._place(epoch)}: {self._title()}", logs)
            elif event in self.on:
                old = f"{before.best:.6g} before, at epoch {(before.best_epoch or 0) + 1}"
                self._offer(event, f"{self._place(epoch)}: new best {self.monitor} ({old})", logs)
        self._limited, texts = self._limit.due(self._limited, self._clock())
        self._post(texts)
        self._pass_complaint()

    def _with_gradients(self, logs: dict[str, Any]) -> dict[str, Any]:
        """The logs and, if it is asked for, the epoch's largest norm; a logged one wins."""
        self._norm_step = None
        if not self._wants_gradients or GRADIENT_NORM in logs:
            return logs
        facts = self.host.gradient_facts()
        if facts is None or facts.largest is None:
            return logs
        self._norm_step = facts.largest_step
        return {**logs, GRADIENT_NORM: facts.largest}

    def _monitored(self, epoch: int, logs: Mapping[str, Any]) -> float | None:
        """The monitored value, if it is there and a number."""
        if self._direction is None:
            self._direction = infer_direction(self.monitor, self.host.metric_directions())
        value = to_number(logs.get(self.monitor))
        if self._ranks and self._direction is None and value is not None:
            self._warn_once(
                f"{self._name} cannot tell whether larger or smaller values of {self.monitor} are "
                "better and tells of no new best; pass mode='min' or mode='max'.",
                MonitorWarning,
            )
        self._seen = self._seen or value is not None
        return value

    def _ranking(self) -> Criterion | None:
        return None if self._direction is None else Criterion(self._direction)

    def _answer(self, epoch: int, logs: Mapping[str, Any]) -> bool | None:
        """Of the condition; None is "not yet"."""
        if self._condition is not None:
            values: dict[str, float | None] = {"epoch": float(epoch + 1)}
            values |= {
                name: to_number(logs[name]) for name in self._condition.names if name in logs
            }
            return self._condition.holds(values)
        if not callable(self.when):
            return None
        try:
            return bool(self.when(epoch, logs))
        except Exception as error:
            if "when" not in self._said:
                self._said.add("when")
                reason = f"{type(error).__name__}: {self._secret.mask(str(error))}"
                self.session.warn(
                    f"{self._name}: when(epoch, logs) failed at epoch {epoch + 1} with {reason}. "
                    "Training goes on; this is said once.",
                    AlertWarning,
                )
            return None

    # When it ends

    def _end(self, logs: Any) -> None:
        super()._end(logs)
        self._warn_of_strange_names()
        self._post_rest()
        if "stop" in self.on:
            self._push(why(self.session._ending()).rstrip("."))
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _warn_of_strange_names(self) -> None:
        names = self._condition.names if self._condition else ()
        for name in names if self.session.n_epochs_done else ():
            if name not in {*self._logged, "epoch"}:
                likely = closest_name(name, self._logged)
                self._warn_once(
                    f"{self._name} looks at {name!r}, which was never logged"
                    + (f"; did you mean {likely!r}?" if likely else "."),
                    MonitorWarning,
                )

    def _settle(self) -> None:
        self._pass_complaint()
        if self._outbox is not None:
            self._outbox.attended = False
            self._outbox.complain()

    def _fail(self, session: Any, epochs: int | None, reason: str) -> None:
        # In any thread, maybe after the next run began: what it needs of the run it was given.
        self._watch = None
        self._post_rest()
        reason = self._secret.mask(reason)
        self._push(f"training failed {_where(session, epochs)}: {reason}", session)
        if self._outbox is not None:
            self._outbox.attended = False

    def _terminate(self, deadline: float) -> None:
        # On a thread of its own: nobody else will speak if the process dies of it.
        if "failure" in self.on:
            self._push(f"SIGTERM came {_where(self.session, self.session.epochs)}")
            if self._watch is not None:
                self._watch.close()
        if self._outbox is not None:
            left_s = max(deadline - time.monotonic(), 0.0)
            self._outbox.flush(min(left_s, self.exit_timeout_s))

    # Messages

    @property
    def _limit(self) -> Limit:
        return Limit(self.min_interval_s)

    def _title(self) -> str:
        if self._condition is not None:
            return " ".join(self._condition.text.split())
        name = getattr(self.when, "__name__", type(self.when).__name__)
        return "the condition holds" if name == "<lambda>" else f"{name} holds"

    def _place(self, epoch: int) -> str:
        return _place(epoch, self.session.epochs)

    def _text(self, news: str, logs: Mapping[str, Any] | None, session: Any) -> str:
        state, names = self._state, [self.monitor]
        if self._condition is not None and logs is not None:
            names += self._condition.names
        shown = {name: to_number((logs or {}).get(name)) for name in names}
        if logs is None:
            shown[self.monitor] = state.value
        run = f"run {session.run_id}"
        return compose(
            news,
            Standing(
                f"{self.name}, {run}" if self.name else run,
                {name: value for name, value in shown.items() if value is not None},
                self.monitor,
                state.best,
                state.best_epoch,
                {} if logs is None or self._norm_step is None else {GRADIENT_NORM: self._norm_step},
            ),
        )

    def _offer(self, kind: str, news: str, logs: Mapping[str, Any]) -> None:
        text = self._text(news, logs, self.session)
        self._limited, texts = self._limit.offer(self._limited, kind, text, self._clock())
        self._post(texts)

    def _post_rest(self) -> None:
        self._limited, texts = self._limit.rest(self._limited, self._clock())
        self._post(texts)

    def _push(self, news: str, session: Any = None) -> None:
        session = session or self.session
        self._post([self._text(news, None, session)], session)

    def _post(self, texts: Iterable[str], session: Any = None) -> None:
        for text in texts:
            if self._outbox is not None and (session or self.session).worker == 0:
                self._outbox.push(text)

    def _pass_complaint(self) -> None:
        told = self._outbox.complaint() if self._outbox is not None else None
        if told is not None:
            self.session.warn(f"{self._name}: {told}", AlertWarning)

    def send(self, text: str) -> None:
        """Send a message of your own, in the background.

        Args:
            text: The message.
        """
        self._push(check_text("text", text, "a text to send"))

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all messages are sent or given up; not needed at the end of a program.

        Args:
            timeout_s: Seconds to wait at most; None waits as long as it takes.

        Returns:
            Whether nothing waits any more.
        """
        return self._outbox is None or self._outbox.flush(timeout_s)

    # State

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs not to repeat itself, as plain JSON; no address."""
        return {**self._header(), "state": numbers_to_json(asdict(self._state))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; counts for the next run.

        Raises:
            InvalidArgumentError: If the state is of another class or another monitor.
        """
        self._check_header(state)
        self._state, self._loaded = AlertState(**numbers_from_json(state["state"])), True


def _place(epoch: int, epochs: int | None) -> str:
    return f"epoch {epoch + 1}" + (f" of {epochs}" if epochs else "")


def _where(session: Any, epochs: int | None) -> str:
    if session.start_epoch is None:
        return "before its first epoch"
    word = "after" if session.last_epoch == session.epoch else "in"
    return f"{word} {_place(session.epoch, epochs)}"


def _parse(when: str) -> Condition:
    try:
        return Condition.parse(when)
    except ConditionError as error:
        raise InvalidArgumentError.for_argument(
            "when", when, f"a condition over metrics ({error})", hint=error.hint
        ) from error


def _check_events(on: Any, when: Any) -> tuple[str, ...]:
    if on is None:
        return () if when is not None else ("stop", "failure")
    events = (on,) if isinstance(on, str) else tuple(on) if isinstance(on, Iterable) else (on,)
    if not all(event in EVENTS for event in events) or not (events or when is not None):
        raise InvalidArgumentError.for_argument(
            "on",
            on,
            "one or several of 'best', 'stop', 'failure', 'resume'",
            hint="a condition on metrics goes into when=.",
        )
    return tuple(event for event in EVENTS if event in events)
