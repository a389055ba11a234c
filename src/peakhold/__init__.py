"""Peakhold holds the peak of every training run.

Callbacks for loops live here; those for Keras's `fit` in `peakhold.keras`. Importing this package
loads no framework.
"""

from peakhold._core.monitor import Relative
from peakhold._core.policies.save_when import AtEnd, Every
from peakhold._version import __version__
from peakhold.advice import silence
from peakhold.callbacks import (
    Callback,
    CallbackList,
    CSVLogger,
    EarlyStopping,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TensorBoard,
    TerminateOnNaN,
)
from peakhold.host import LoopHost

__all__ = [
    "AtEnd",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "Every",
    "LearningRateScheduler",
    "LoopHost",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "Relative",
    "TensorBoard",
    "TerminateOnNaN",
    "__version__",
    "silence",
]
