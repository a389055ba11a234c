"""Send a message through Apprise: mail, Teams, Discord, Telegram, and a hundred services more.

Problem. Apprise's URLs hold passwords; Apprise, and the HTTP client below it, write them into their
logs. And it knows limits for parts of what it does, but cannot be interrupted.

Solution. Each try runs in a thread of its own, for which we wait as long as the limit says. While
that thread lives, no other is started: a late success counts for the message that is tried again,
and a service that never answers costs one thread. All that is logged in it is withheld, by whatever
library; the record stays, its text goes.

What still shows: what a service itself writes to a place of its own. Apprise says only whether it
worked; for the reason, try the URL with Apprise's own command.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import threading
from collections.abc import Callable
from typing import Any, final

from peakhold.alerts.outcome import Outcome
from peakhold.alerts.secret import Secret
from peakhold.errors import ExtraMissingError, InvalidArgumentError

__all__ = ["AppriseSender"]


@final
class AppriseSender:
    """Sends through a service that Apprise knows.

    Args:
        url: A URL of Apprise's, such as `"mailto://user:password@example.com"`.

    Raises:
        ExtraMissingError: If Apprise is not installed.
        InvalidArgumentError: If Apprise does not know such a URL; it is not in the message.
    """

    def __init__(self, url: str | Secret) -> None:
        self.where = ""
        self._secret = Secret(url)
        url = self._secret
        if importlib.util.find_spec("apprise") is None:
            raise ExtraMissingError.for_package("Alert", "apprise", "alerts")
        self.where = _scheme(self._secret)
        self._service: Any = _quietly(self._make) if self.where else None
        self._thread: threading.Thread | None = None
        self._delivered: bool | None = None
        if self._service is None:
            raise InvalidArgumentError.for_argument(
                "url",
                self._secret,
                "a URL of a service that Apprise knows",
                hint="see the list of Apprise's services "
                "(the value is not shown: it holds passwords).",
            )

    def __repr__(self) -> str:
        return f"AppriseSender({self.where})"

    def _make(self) -> Any:
        apprise: Any = importlib.import_module("apprise")
        try:  # since 2.0 a limit of Apprise's own moves each try into a thread that we do not know
            asset = apprise.AppriseAsset(async_mode=False, service_timeout=0)
        except (AttributeError, TypeError):
            asset = apprise.AppriseAsset(async_mode=False)
        service = apprise.Apprise(asset=asset)
        return service if service.add(self._secret.reveal()) else None

    def send(self, text: str, timeout_s: float) -> Outcome:
        """Send once.

        Args:
            text: The message, as plain text.
            timeout_s: Seconds to wait for the service.
        """
        if self._thread is None:
            self._delivered = None
            self._thread = threading.Thread(
                target=self._notify, args=(text,), name="peakhold-apprise", daemon=True
            )
            self._thread.start()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return Outcome(False, f"no answer within {timeout_s:.3g} s", retry=True)
        self._thread = None
        if self._delivered:
            return Outcome(True)
        return Outcome(False, "the service did not take it", retry=True)

    def _notify(self, text: str) -> None:
        self._delivered = bool(
            _quietly(lambda: self._service.notify(body=text, title="Peakhold", body_format="text"))
        )


def _scheme(secret: Secret) -> str:
    """What may be shown of a URL; in a frame of its own, that is gone when something is raised."""
    scheme, found, _ = secret.reveal().partition("://")
    return scheme.lower() if found and scheme.isascii() and scheme.isalnum() else ""


# Withheld logs

_quiet_threads: set[int] = set()
_lock = threading.Lock()
_installed = False


def _quietly(work: Callable[[], Any]) -> Any:
    """Do something without a word in the logs; None if it raises."""
    _install()
    thread = threading.get_ident()
    _quiet_threads.add(thread)
    try:
        return work()
    except Exception:  # its text may hold the URL
        return None
    finally:
        _quiet_threads.discard(thread)


def _install() -> None:
    """Once for the process; a factory that somebody puts on top of ours keeps it."""
    global _installed  # noqa: PLW0603 - there is one factory for the process
    with _lock:
        if _installed:
            return
        _installed = True
        make = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        if threading.get_ident() in _quiet_threads:
            record.msg, record.args = "withheld while an alert is sent", ()
            record.exc_info = record.exc_text = record.stack_info = None
        return record

    logging.setLogRecordFactory(factory)
