"""Peakhold holds the peak of every training run.

Callbacks for loops live here; those for Keras's `fit` in `peakhold.keras`. Importing this package
loads no framework.
"""

from peakhold._core.monitor import Relative
from peakhold._version import __version__
from peakhold.advice import silence
from peakhold.callbacks import (
    Alert,
    Callback,
    CallbackList,
    CSVLogger,
    EarlyStopping,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    SlackAlert,
    TerminateOnNaN,
)
from peakhold.host import LoopHost

__all__ = [
    "Alert",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "LearningRateScheduler",
    "LoopHost",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "Relative",
    "SlackAlert",
    "TerminateOnNaN",
    "__version__",
    "silence",
]
