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
    from peakhold.host.loop import LoopHost
else:
    # Where the names above come from that are not in the catalogue of callbacks.
    _HOMES = {
        "AtEnd": "peakhold._core.policies.save_when",
        "Epochs": "peakhold._core.patience",
        "Every": "peakhold._core.policies.save_when",
        "LoopHost": "peakhold.host.loop",
        "Relative": "peakhold._core.monitor",
        "Seconds": "peakhold._core.patience",
        "Steps": "peakhold._core.patience",
        "silence": "peakhold.advice",
    }

    # Modules that may be named after `import peakhold` alone; a framework's must be imported.
    _MODULES = {"callbacks", "errors", "store", "testing"}

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name in _MODULES:
            return import_module(f"peakhold.{name}")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = import_module(_HOMES.get(name, "peakhold.callbacks"))
        value = globals()[name] = getattr(home, name)
        return value

    def __dir__() -> list[str]:
        return [*{*globals(), *__all__, *_MODULES}]  # `dir` sorts


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
