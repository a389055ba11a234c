"""The callbacks that people know by name, for loops. One per file; this page is the catalogue."""

from peakhold.callbacks.alert import Alert, SlackAlert
from peakhold.callbacks.backup_and_restore import BackupAndRestore
from peakhold.callbacks.callback_list import CallbackList
from peakhold.callbacks.csv_logger import CSVLogger
from peakhold.callbacks.early_stopping import EarlyStopping
from peakhold.callbacks.learning_rate_scheduler import LearningRateScheduler
from peakhold.callbacks.model_checkpoint import ModelCheckpoint
from peakhold.callbacks.reduce_lr_on_plateau import ReduceLROnPlateau
from peakhold.callbacks.remote_monitor import RemoteMonitor
from peakhold.callbacks.tensorboard import TensorBoard
from peakhold.callbacks.terminate_on_nan import TerminateOnNaN
from peakhold.runtime.callback import Callback

__all__ = [
    "Alert",
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "RemoteMonitor",
    "SlackAlert",
    "TensorBoard",
    "TerminateOnNaN",
]
