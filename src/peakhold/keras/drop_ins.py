"""The drop-ins: each neutral class is a Keras callback, too, and says that it is Keras's own."""

# mypy: disable-error-code="misc"
# Keras has no types: mypy takes each of its classes for Any.

import keras
from peakhold import callbacks as neutral
from peakhold.keras.callback import KerasCallback
from peakhold.keras.lending import lends

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
    "RunRecord",
    "SlackAlert",
    "TerminateOnNaN",
]


class Callback(KerasCallback):
    __doc__ = KerasCallback.__doc__


@lends
class BackupAndRestore(neutral.BackupAndRestore, KerasCallback, keras.callbacks.BackupAndRestore):
    __doc__ = neutral.BackupAndRestore.__doc__


@lends
class EarlyStopping(neutral.EarlyStopping, KerasCallback, keras.callbacks.EarlyStopping):
    __doc__ = neutral.EarlyStopping.__doc__


@lends
class ModelCheckpoint(neutral.ModelCheckpoint, KerasCallback, keras.callbacks.ModelCheckpoint):
    __doc__ = neutral.ModelCheckpoint.__doc__


@lends
class ReduceLROnPlateau(
    neutral.ReduceLROnPlateau, KerasCallback, keras.callbacks.ReduceLROnPlateau
):
    __doc__ = neutral.ReduceLROnPlateau.__doc__


@lends
class CSVLogger(neutral.CSVLogger, KerasCallback, keras.callbacks.CSVLogger):
    __doc__ = neutral.CSVLogger.__doc__


@lends
class TerminateOnNaN(neutral.TerminateOnNaN, KerasCallback, keras.callbacks.TerminateOnNaN):
    __doc__ = neutral.TerminateOnNaN.__doc__


@lends
class LearningRateScheduler(
    neutral.LearningRateScheduler, KerasCallback, keras.callbacks.LearningRateScheduler
):
    __doc__ = neutral.LearningRateScheduler.__doc__


class SlackAlert(neutral.SlackAlert, KerasCallback):
    __doc__ = neutral.SlackAlert.__doc__


class Alert(neutral.Alert, KerasCallback):
    __doc__ = neutral.Alert.__doc__


@lends
class RemoteMonitor(neutral.RemoteMonitor, KerasCallback, keras.callbacks.RemoteMonitor):
    __doc__ = neutral.RemoteMonitor.__doc__


class RunRecord(neutral.RunRecord, KerasCallback):
    __doc__ = neutral.RunRecord.__doc__
