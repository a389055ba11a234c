"""The drop-ins: each neutral class is a Keras callback, too. One line each."""

from peakhold import callbacks as neutral
from peakhold.keras.callback import KerasCallback

__all__ = [
    "Alert",
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "RemoteMonitor",
    "SlackAlert",
    "TerminateOnNaN",
]


class Callback(KerasCallback):
    __doc__ = KerasCallback.__doc__


class BackupAndRestore(neutral.BackupAndRestore, KerasCallback):
    __doc__ = neutral.BackupAndRestore.__doc__


class EarlyStopping(neutral.EarlyStopping, KerasCallback):
    __doc__ = neutral.EarlyStopping.__doc__


class ModelCheckpoint(neutral.ModelCheckpoint, KerasCallback):
    __doc__ = neutral.ModelCheckpoint.__doc__


class ReduceLROnPlateau(neutral.ReduceLROnPlateau, KerasCallback):
    __doc__ = neutral.ReduceLROnPlateau.__doc__


class CSVLogger(neutral.CSVLogger, KerasCallback):
    __doc__ = neutral.CSVLogger.__doc__


class TerminateOnNaN(neutral.TerminateOnNaN, KerasCallback):
    __doc__ = neutral.TerminateOnNaN.__doc__


class LearningRateScheduler(neutral.LearningRateScheduler, KerasCallback):
    __doc__ = neutral.LearningRateScheduler.__doc__


class SlackAlert(neutral.SlackAlert, KerasCallback):
    __doc__ = neutral.SlackAlert.__doc__


class Alert(neutral.Alert, KerasCallback):
    __doc__ = neutral.Alert.__doc__


class RemoteMonitor(neutral.RemoteMonitor, KerasCallback):
    __doc__ = neutral.RemoteMonitor.__doc__
