"""What a run leaves behind to be read: its record, what it is, that it is alive.

Usable alone: nothing here knows a framework, or a session. Names load when they are used.
"""

from typing import TYPE_CHECKING

from peakhold._names import lazily

if TYPE_CHECKING:
    from peakhold.ledger.folder import OwnedFolder, RunFolder, RunStatus
    from peakhold.ledger.heartbeat import Heartbeat, read_heartbeat
    from peakhold.ledger.reader import RecordedHistory, history, read_events
    from peakhold.ledger.run_file import read_run_file, write_run_file
    from peakhold.ledger.told import decisions_of, facts_of, moment_of, steps_of
    from peakhold.ledger.writer import Ledger

__all__ = [
    "Heartbeat",
    "Ledger",
    "OwnedFolder",
    "RecordedHistory",
    "RunFolder",
    "RunStatus",
    "decisions_of",
    "facts_of",
    "history",
    "moment_of",
    "read_events",
    "read_heartbeat",
    "read_run_file",
    "steps_of",
    "write_run_file",
]

__getattr__ = lazily(
    globals(),
    {
        "Heartbeat": "peakhold.ledger.heartbeat",
        "Ledger": "peakhold.ledger.writer",
        "OwnedFolder": "peakhold.ledger.folder",
        "RecordedHistory": "peakhold.ledger.reader",
        "RunFolder": "peakhold.ledger.folder",
        "RunStatus": "peakhold.ledger.folder",
        "decisions_of": "peakhold.ledger.told",
        "facts_of": "peakhold.ledger.told",
        "history": "peakhold.ledger.reader",
        "moment_of": "peakhold.ledger.told",
        "read_events": "peakhold.ledger.reader",
        "read_heartbeat": "peakhold.ledger.heartbeat",
        "read_run_file": "peakhold.ledger.run_file",
        "steps_of": "peakhold.ledger.told",
        "write_run_file": "peakhold.ledger.run_file",
    },
)
