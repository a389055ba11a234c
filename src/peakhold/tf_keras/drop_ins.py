"""The drop-ins: each neutral class is a callback of Keras 2, too, and says so."""

# mypy: disable-error-code="misc"
# Keras has no types: mypy takes each of its classes for Any.

import tf_keras

from peakhold import callbacks as neutral
from peakhold.keras.lending import lends
from peakhold.tf_keras.callback import TFKerasCallback

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


class Callback(TFKerasCallback):
    __doc__ = TFKerasCallback.__doc__


@lends
class BackupAndRestore(
    neutral.BackupAndRestore, TFKerasCallback, tf_keras.callbacks.BackupAndRestore
):
    __doc__ = neutral.BackupAndRestore.__doc__


@lends
class EarlyStopping(neutral.EarlyStopping, TFKerasCallback, tf_keras.callbacks.EarlyStopping):
    __doc__ = neutral.EarlyStopping.__doc__


@lends
class ModelCheckpoint(neutral.ModelCheckpoint, TFKerasCallback, tf_keras.callbacks.ModelCheckpoint):
    __doc__ = neutral.ModelCheckpoint.__doc__


@lends
class ReduceLROnPlateau(
    neutral.ReduceLROnPlateau, TFKerasCallback, tf_keras.callbacks.ReduceLROnPlateau
):
    __doc__ = neutral.ReduceLROnPlateau.__doc__


@lends
class CSVLogger(neutral.CSVLogger, TFKerasCallback, tf_keras.callbacks.CSVLogger):
    __doc__ = neutral.CSVLogger.__doc__


@lends
class TerminateOnNaN(neutral.TerminateOnNaN, TFKerasCallback, tf_keras.callbacks.TerminateOnNaN):
    __doc__ = neutral.TerminateOnNaN.__doc__


@lends
class LearningRateScheduler(
    neutral.LearningRateScheduler, TFKerasCallback, tf_keras.callbacks.LearningRateScheduler
):
    __doc__ = neutral.LearningRateScheduler.__doc__


class SlackAlert(neutral.SlackAlert, TFKerasCallback):
    __doc__ = neutral.SlackAlert.__doc__


class Alert(neutral.Alert, TFKerasCallback):
    __doc__ = neutral.Alert.__doc__


@lends
class RemoteMonitor(neutral.RemoteMonitor, TFKerasCallback, tf_keras.callbacks.RemoteMonitor):
    __doc__ = neutral.RemoteMonitor.__doc__


class RunRecord(neutral.RunRecord, TFKerasCallback):
    __doc__ = neutral.RunRecord.__doc__
