"""Peakhold holds the peak of every training run.

Callbacks for loops live here; those for Keras's `fit` in `peakhold.keras`. Importing this package
loads no framework.
"""

from peakhold._core.monitor import Relative
from peakhold._core.patience import Epochs, Seconds, Steps
from peakhold._core.policies.save_when import AtEnd, Every
from peakhold._version import __version__
from peakhold.advice import silence
from peakhold.callbacks import (
    Alert,
    BackupAndRestore,
    Callback,
    CallbackList,
    CSVLogger,
    EarlyStopping,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    RemoteMonitor,
    SlackAlert,
    TensorBoard,
    TerminateOnNaN,
)
from peakhold.host import LoopHost

__all__ = [
    "Alert",
    "AtEnd",
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "Epochs",
    "Every",
    "LearningRateScheduler",
    "LoopHost",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "Relative",
    "RemoteMonitor",
    "Seconds",
    "SlackAlert",
    "Steps",
    "TensorBoard",
    "TerminateOnNaN",
    "__version__",
    "silence",
]
