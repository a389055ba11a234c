"""Tell people: when a condition holds, at a new best, at the end, on failure, on resume."""

from __future__ import annotations

from collections.abc import Callable as Function
from collections.abc import Iterable, Mapping
from typing import Any, cast

from peakhold._core.arguments import check_count, check_number, check_text
from peakhold._core.condition import Condition, ConditionError
from peakhold.alerts.outcome import Sender
from peakhold.alerts.secret import Secret
from peakhold.errors import InvalidArgumentError
from peakhold.runtime.alerting import AddressKind, Alerting
from peakhold.runtime.participating import Participating, Setting
from peakhold.runtime.session import session_of

__all__ = ["Alert", "SlackAlert"]

EVENTS = ("best", "stop", "failure", "resume")


class _ConditionalAlert(Participating):
    """An alert; subclasses say where to. See `SlackAlert` for the arguments."""

    when = Setting[Any]("The condition, as text or a function.")
    on = Setting[tuple[str, ...]]("What else is told.")
    monitor = Setting[str]("The metric whose value and best are shown.")
    mode = Setting[str]("Which values of it are better.")
    min_interval_s = Setting[float]("Seconds between two messages of one kind.")
    tries = Setting[int]("How often a message is tried.")
    timeout_s = Setting[float]("Seconds for one try.")
    exit_timeout_s = Setting[float]("Seconds that the end of the process waits for messages.")

    def __init__(
        self,
        address_kind: AddressKind,
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
        secret, address = address_kind.secret(address), None
        condition = _parse(when) if isinstance(when, str) else None
        if when is not None and condition is None and not callable(when):
            raise InvalidArgumentError.for_argument(
                "when",
                when,
                "a condition as text, or a function of (epoch, logs)",
                hint="write when='val_accuracy > 0.92'.",
            )
        events = _check_events(on, when)
        if monitor is None:
            names = condition.names if condition else ()
            monitor = next((name for name in names if name != "epoch"), "val_loss")
        if mode not in {"auto", "min", "max"}:
            raise InvalidArgumentError.for_argument("mode", mode, "'min', 'max' or 'auto'")
        seconds = "a number of seconds, at least "
        super().__init__(
            Alerting(
                type(self).__name__,
                address_kind,
                secret,
                when=when,
                condition=condition,
                on=events,
                monitor=monitor,
                mode=mode,
                run_name=None if name is None else check_text("name", name, "what to call the run"),
                min_interval_s=check_number(
                    "min_interval_s", min_interval_s, f"{seconds}0", at_least=0.0
                ),
                tries=check_count("tries", tries, at_least=1),
                timeout_s=check_number("timeout_s", timeout_s, f"{seconds}0.001", at_least=0.001),
                exit_timeout_s=check_number(
                    "exit_timeout_s", exit_timeout_s, f"{seconds}0", at_least=0.0
                ),
            )
        )

    def __repr__(self) -> str:
        link = getattr(self, "_peakhold_link", None)
        if link is None:  # its arguments are being looked at
            return f"{type(self).__name__}()"
        alerting: Alerting = link.participant
        return (
            f"{type(self).__name__}({alerting.where}, when={alerting.when!r}, on={alerting.on!r})"
        )

    @property
    def name(self) -> str | None:
        """What the run is called, beside its id."""
        return self._peakhold_alerting.run_name

    @name.setter
    def name(self, name: str | None) -> None:
        self._peakhold_alerting.run_name = name

    @property
    def _peakhold_alerting(self) -> Alerting:
        return cast("Alerting", self._peakhold_link.participant)

    def send(self, text: str) -> None:
        """Send a message of your own, in the background.

        Args:
            text: The message.
        """
        session_of(self)  # before any run it names the one that may come
        self._peakhold_alerting.send(check_text("text", text, "a text to send"))

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all messages are sent or given up; not needed at the end of a program.

        Args:
            timeout_s: Seconds to wait at most; None waits as long as it takes.

        Returns:
            Whether nothing waits any more.
        """
        outbox = self._peakhold_alerting.outbox
        return outbox is None or outbox.flush(timeout_s)


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


def _slack_sender(secret: Secret) -> Sender[str]:
    from peakhold.alerts.slack import SlackSender  # sockets and TLS: for those who use them

    return SlackSender(secret)


def _apprise_sender(secret: Secret) -> Sender[str]:
    from peakhold.alerts.apprise_sender import AppriseSender

    return AppriseSender(secret)


_SLACK = AddressKind("webhook", "PEAKHOLD_SLACK_WEBHOOK", _slack_sender)
_APPRISE = AddressKind("url", "PEAKHOLD_ALERT_URL", _apprise_sender)


class SlackAlert(_ConditionalAlert):
    """Send messages to Slack, or to whatever takes Slack's webhooks.

    The webhook's URL is a password: better in the environment than in a program. It is shown
    nowhere and not pickled. Messages are sent in the background, in order; a webhook that refuses,
    hangs or redirects costs training nothing, and is named in one warning.

    Args:
        webhook: The URL, `https` (or `http` to this machine). None: the environment variable
            `PEAKHOLD_SLACK_WEBHOOK`. Defaults to `None`.
        when: A condition over an epoch's metrics, such as `"val_accuracy > 0.92 and epoch >= 3"`,
            with epochs from 1; or a function `when(epoch, logs)`, with epochs as in hooks. It is
            told when it becomes true, not while it stays so. A metric that is not logged is "not
            yet". Defaults to `None`.
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
            _SLACK,
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


class Alert(_ConditionalAlert):
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
            _APPRISE,
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
