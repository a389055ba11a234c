"""Tell people: when a condition holds, at a new best, at the end, on failure, on resume."""

from __future__ import annotations

from collections.abc import Callable as Function
from collections.abc import Iterable, Mapping
from typing import Any

from peakhold.alerts.outcome import Sender
from peakhold.alerts.secret import Secret
from peakhold.callbacks.alerting import Alerting

__all__ = ["Alert", "SlackAlert"]


class SlackAlert(Alerting):
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


class Alert(Alerting):
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
