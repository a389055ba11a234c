"""The callbacks that people know by name, for loops. One per file; this page is the catalogue.

A name brings its module along when it is first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peakhold.callbacks.alert import Alert, SlackAlert
    from peakhold.callbacks.backup_and_restore import BackupAndRestore
    from peakhold.callbacks.callback_list import CallbackList
    from peakhold.callbacks.csv_logger import CSVLogger
    from peakhold.callbacks.early_stopping import EarlyStopping
    from peakhold.callbacks.learning_rate_scheduler import LearningRateScheduler
    from peakhold.callbacks.model_checkpoint import ModelCheckpoint
    from peakhold.callbacks.reduce_lr_on_plateau import ReduceLROnPlateau
    from peakhold.callbacks.remote_monitor import RemoteMonitor
    from peakhold.callbacks.run_record import RunRecord
    from peakhold.callbacks.tensorboard import TensorBoard
    from peakhold.callbacks.terminate_on_nan import TerminateOnNaN
    from peakhold.runtime.callback import Callback
else:
    from peakhold._names import lazily

    __getattr__ = lazily(
        globals(),
        {
            "Alert": "peakhold.callbacks.alert",
            "BackupAndRestore": "peakhold.callbacks.backup_and_restore",
            "CSVLogger": "peakhold.callbacks.csv_logger",
            "Callback": "peakhold.runtime.callback",
            "CallbackList": "peakhold.callbacks.callback_list",
            "EarlyStopping": "peakhold.callbacks.early_stopping",
            "LearningRateScheduler": "peakhold.callbacks.learning_rate_scheduler",
            "ModelCheckpoint": "peakhold.callbacks.model_checkpoint",
            "ReduceLROnPlateau": "peakhold.callbacks.reduce_lr_on_plateau",
            "RemoteMonitor": "peakhold.callbacks.remote_monitor",
            "RunRecord": "peakhold.callbacks.run_record",
            "SlackAlert": "peakhold.callbacks.alert",
            "TensorBoard": "peakhold.callbacks.tensorboard",
            "TerminateOnNaN": "peakhold.callbacks.terminate_on_nan",
        },
    )

    def __dir__() -> list[str]:
        return [*{*globals(), *__all__}]  # `dir` sorts


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
    "RunRecord",
    "SlackAlert",
    "TensorBoard",
    "TerminateOnNaN",
]
