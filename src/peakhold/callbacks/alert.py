"""Tell people: when a condition holds, at a new best, at the end, on failure, on resume.

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
from peakhold._core.observation import Observation, is_finite
from peakhold._core.policies.alert import AlertPolicy, AlertState, Limit, LimitState
from peakhold.alerts.failure import Watch
from peakhold.alerts.message import Standing, compose
from peakhold.alerts.outbox import Outbox
from peakhold.alerts.outcome import Sender
from peakhold.alerts.secret import Secret
from peakhold.callbacks.monitored import Monitored
from peakhold.errors import AdviceWarning, AlertWarning, InvalidArgumentError, MonitorWarning
from peakhold.host import rate_key, to_number
from peakhold.runtime.summary import why

__all__ = ["Alert", "SlackAlert"]

EVENTS = ("best", "stop", "failure", "resume")


class _Alerting(Monitored):
    """What all alerts have in common; the subclasses say where to."""

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
        if names is None or self.session.has_strangers or self._condition is None:
            return
        known = {*names, *(f"val_{name}" for name in names), "epoch"}
        known |= set(map(rate_key, self.host.learning_rates()))
        for name in self._condition.names:
            likely = None if name in known else closest_name(name, known)
            if likely is not None:
                self._warn_once(
                    f"{self._name} looks at {name!r}, which is not among the metrics of this "
                    f"model; did you mean {likely!r}?",
                    AdviceWarning,
                )

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
        if not self._running and epoch > 0 and "resume" in self.on:
            self._push(f"training goes on from {self._place(epoch)}")
        self._running = True

    def _record(self, epoch: int, logs: dict[str, Any]) -> None:
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
        state = asdict(self._state)
        if not is_finite(self._state.value):
            state["value"] = None
        return {**self._header(), "state": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; counts for the next run.

        Raises:
            InvalidArgumentError: If the state is of another class or another monitor.
        """
        self._check_header(state)
        self._state, self._loaded = AlertState(**state["state"]), True


class SlackAlert(_Alerting):
    """Send messages to Slack, or to whatever takes Slack's webhooks.

    The webhook's URL is a password: better in the environment than in a program. It is shown
    nowhere and not pickled. Messages are sent in the background, in order; a webhook that refuses,
    hangs or redirects costs training nothing, and is named in one warning.

    Args:
        webhook: The URL, `https` (or `http` to this machine). None: the environment variable
            `PEAKHOLD_SLACK_WEBHOOK`. Defaults to `None`.
        when: A condition over an epoch's metrics, such as `"val_accuracy > 0.92 and epoch >= 3"`,
            with epochs from 1; or a function `when(epoch, logs)`, with epochs from 0. It is told
            when it becomes true, not while it stays so. A metric that is not logged is "not yet".
            Defaults to `None`.
        on: Of `"best"` (a new best of `monitor`), `"stop"` (training ended, and why), `"failure"`
            (it ended by an exception), `"resume"` (it began at a later epoch), one or several.
            None: nothing else if `when` is given, otherwise `("stop", "failure")`.
            Defaults to `None`.
        monitor: The metric whose value and best are shown. None: the first one of `when`, or
            `"val_loss"`. Defaults to `None`.
        mode: `"min"`, `"max"` or `"auto"`. Defaults to `"auto"`.
        name: What to call the run, beside its id. Defaults to `None`.
        min_interval_s: Seconds between two messages on `when`, and between two on `"best"`; the
            newest is held back until then, or to the end. Defaults to `60.0`.
        tries: How often a message is tried. Defaults to `5`.
        timeout_s: Seconds for one try. Defaults to `10.0`.
        exit_timeout_s: Seconds that the end of the process waits for messages under way.
            Defaults to `5.0`.

    Raises:
        InvalidArgumentError: For a condition that cannot be read, no webhook, one without https, ….

    Example:
        >>> webhook = "https://hooks.slack.com/services/T0/B0/x"
        >>> SlackAlert(webhook, when="val_accuracy > 0.92", on="stop")
        SlackAlert(hooks.slack.com, when='val_accuracy > 0.92', on=('stop',))
        >>> SlackAlert(webhook, when="accuracy = 0.92")
        Traceback (most recent call last):
        ...
        peakhold.errors.InvalidArgumentError: expected a condition ..., got when='accuracy = 0.92'.
        Hint: write == to compare.

    Source:
        "Incoming webhooks" of Slack's documentation, for the JSON and what must be escaped.
    """

    _argument, _variable = "webhook", "PEAKHOLD_SLACK_WEBHOOK"

    def __init__(
        self,
        webhook: str | None = None,
        when: str | Function[[int, Mapping[str, Any]], Any] | None = None,
        on: str | Iterable[str] | None = None,
        *,
        monitor: str | None = None,
        mode: str = "auto",
        name: str | None = None,
        min_interval_s: float = 60.0,
        tries: int = 5,
        timeout_s: float = 10.0,
        exit_timeout_s: float = 5.0,
    ) -> None:
        address: Any = Secret(webhook) if isinstance(webhook, str) else webhook
        webhook = None  # no frame of ours holds the URL when something is raised
        super().__init__(
            address,
            when,
            on,
            monitor=monitor,
            mode=mode,
            name=name,
            min_interval_s=min_interval_s,
            tries=tries,
            timeout_s=timeout_s,
            exit_timeout_s=exit_timeout_s,
        )

    def _sender(self) -> Sender:
        from peakhold.alerts.slack import SlackSender  # sockets and TLS: for those who use them

        return SlackSender(self._secret)


class Alert(_Alerting):
    """Send messages through any service that Apprise knows: mail, Teams, Discord, Telegram, ….

    Like `SlackAlert` in everything but the address. Needs `pip install 'peakhold[alerts]'`. What
    Apprise and the libraries below it log while a message is sent is withheld.

    Args:
        url: A URL of Apprise's, such as `"mailto://user:password@example.com"`. None: the
            environment variable `PEAKHOLD_ALERT_URL`. Defaults to `None`.
        when: See `SlackAlert`. Defaults to `None`.
        on: See `SlackAlert`. Defaults to `None`.
        monitor: See `SlackAlert`. Defaults to `None`.
        mode: `"min"`, `"max"` or `"auto"`. Defaults to `"auto"`.
        name: What to call the run, beside its id. Defaults to `None`.
        min_interval_s: See `SlackAlert`. Defaults to `60.0`.
        tries: How often a message is tried. Defaults to `5`.
        timeout_s: Seconds to wait for one try. Defaults to `10.0`.
        exit_timeout_s: Seconds that the end of the process waits for messages under way.
            Defaults to `5.0`.

    Raises:
        ExtraMissingError: If Apprise is not installed.
        InvalidArgumentError: For a URL that Apprise does not know, ….

    Source:
        Apprise (`caronc/apprise`), which knows the services.
    """

    _argument, _variable = "url", "PEAKHOLD_ALERT_URL"

    def __init__(
        self,
        url: str | None = None,
        when: str | Function[[int, Mapping[str, Any]], Any] | None = None,
        on: str | Iterable[str] | None = None,
        *,
        monitor: str | None = None,
        mode: str = "auto",
        name: str | None = None,
        min_interval_s: float = 60.0,
        tries: int = 5,
        timeout_s: float = 10.0,
        exit_timeout_s: float = 5.0,
    ) -> None:
        address: Any = Secret(url) if isinstance(url, str) else url
        url = None  # no frame of ours holds the URL when something is raised
        super().__init__(
            address,
            when,
            on,
            monitor=monitor,
            mode=mode,
            name=name,
            min_interval_s=min_interval_s,
            tries=tries,
            timeout_s=timeout_s,
            exit_timeout_s=exit_timeout_s,
        )

    def _sender(self) -> Sender:
        from peakhold.alerts.apprise_sender import AppriseSender

        return AppriseSender(self._secret)


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
