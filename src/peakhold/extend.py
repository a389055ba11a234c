"""For people who write callbacks of their own that decide, and come back after an interruption.

A *policy* (pure: a frozen configuration and three functions) reads moments and makes decisions. A
*participant* carries them out. A *callback* is what people see of it. Most need a policy only:

    class StopAfter(Participating):
        def __init__(self, seconds):
            super().__init__(Deciding(TimeLimit(seconds)))

For `fit`, derive from `peakhold.keras.Callback`, too, or pass `peakhold.keras.adapt(callback)`.
CONTRIBUTING has a whole one, and a picture of one epoch with who is called.

A *host* is the border to what is trained. `Host` is its contract, for a kind of model that is not
known here; `peakhold.testing.HostTests` proves one.
"""

from peakhold._core.decisions import (
    Continue,
    Decision,
    Missing,
    Remember,
    Restore,
    Save,
    SetLearningRate,
    Skip,
    Stop,
    Tell,
)
from peakhold._core.facts import Committed, Fact, Failed, Found, NotFinite
from peakhold._core.moments import Moment, Position, Spent
from peakhold._core.monitor import Criterion, Direction
from peakhold._core.observation import Event
from peakhold._core.policy import Policy, speculate
from peakhold.host.contract import CannotPlanError, Host, PlannedFile
from peakhold.host.resume import Resumption
from peakhold.runtime.listening import Told, listening
from peakhold.runtime.participant import (
    CONTINUES,
    FRESH,
    RESUMED,
    Deciding,
    Keeper,
    Lender,
    Measured,
    Needs,
    Participant,
    Start,
)
from peakhold.runtime.participating import BatchHooks, Participating, Setting, View
from peakhold.runtime.run_view import RunView
from peakhold.runtime.watching import Watch, Watching

__all__ = [
    "CONTINUES",
    "FRESH",
    "RESUMED",
    "BatchHooks",
    "CannotPlanError",
    "Committed",
    "Continue",
    "Criterion",
    "Deciding",
    "Decision",
    "Direction",
    "Event",
    "Fact",
    "Failed",
    "Found",
    "Host",
    "Keeper",
    "Lender",
    "Measured",
    "Missing",
    "Moment",
    "Needs",
    "NotFinite",
    "Participant",
    "Participating",
    "PlannedFile",
    "Policy",
    "Position",
    "Remember",
    "Restore",
    "Resumption",
    "RunView",
    "Save",
    "SetLearningRate",
    "Setting",
    "Skip",
    "Spent",
    "Start",
    "Stop",
    "Tell",
    "Told",
    "View",
    "Watch",
    "Watching",
    "listening",
    "speculate",
]
