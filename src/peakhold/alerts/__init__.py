"""Messages to people: senders, and the thread that keeps them out of the way. Usable alone.

Names load when they are used: most runs need no sender, and none needs two.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peakhold.alerts.apprise_sender import AppriseSender
    from peakhold.alerts.outbox import Outbox
    from peakhold.alerts.outcome import Outcome, Sender
    from peakhold.alerts.secret import Secret
    from peakhold.alerts.slack import SlackSender

__all__ = ["AppriseSender", "Outbox", "Outcome", "Secret", "Sender", "SlackSender"]

_HOME = {
    "AppriseSender": "peakhold.alerts.apprise_sender",
    "Outbox": "peakhold.alerts.outbox",
    "Outcome": "peakhold.alerts.outcome",
    "Secret": "peakhold.alerts.secret",
    "Sender": "peakhold.alerts.outcome",
    "SlackSender": "peakhold.alerts.slack",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
