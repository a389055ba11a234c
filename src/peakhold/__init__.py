"""Peakhold holds the peak of every training run.

Callbacks for loops live here; those for Keras's `fit` in `peakhold.keras`. Importing this package
loads no framework, and of Peakhold itself only what is asked for: the first name that is used
brings its module along.
"""

from typing import TYPE_CHECKING

from peakhold._version import __version__

if TYPE_CHECKING:
    from peakhold._core.monitor import Relative
    from peakhold._core.patience import Epochs, Seconds, Steps
    from peakhold._core.policies.save_when import AtEnd, Every
    from peakhold.advice.said import silence
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
        RunRecord,
        SlackAlert,
        TensorBoard,
        TerminateOnNaN,
    )
    from peakhold.doctor import diagnose
    from peakhold.host.loop import LoopHost
    from peakhold.host.onto_live import like_live
    from peakhold.host.state_dicts import give_back
    from peakhold.run.pace import Budget
    from peakhold.run.run import Run

__all__ = [
    "Alert",
    "AtEnd",
    "BackupAndRestore",
    "Budget",
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
    "Run",
    "RunRecord",
    "Seconds",
    "SlackAlert",
    "Steps",
    "TensorBoard",
    "TerminateOnNaN",
    "__version__",
    "diagnose",
    "give_back",
    "like_live",
    "silence",
]

if not TYPE_CHECKING:
    from peakhold._names import lazily

    _HOMES = {
        **dict.fromkeys(__all__, "peakhold.callbacks"),
        "AtEnd": "peakhold._core.policies.save_when",
        "Budget": "peakhold.run.pace",
        "Epochs": "peakhold._core.patience",
        "Every": "peakhold._core.policies.save_when",
        "LoopHost": "peakhold.host.loop",
        "Relative": "peakhold._core.monitor",
        "Run": "peakhold.run.run",
        "Seconds": "peakhold._core.patience",
        "Steps": "peakhold._core.patience",
        "diagnose": "peakhold.doctor",
        "give_back": "peakhold.host.state_dicts",
        "like_live": "peakhold.host.onto_live",
        "silence": "peakhold.advice.said",
    }

    # Modules that may be named after `import peakhold` alone; a framework's must be imported.
    _MODULES = {"callbacks", "errors", "store", "testing"}
    _get = lazily(globals(), _HOMES)

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            from importlib import import_module

            return import_module(f"peakhold.{name}")
        return _get(name)

    def __dir__() -> list[str]:
        return [*{*globals(), *__all__, *_MODULES}]  # `dir` sorts
