"""Keras's callbacks, rebuilt: swap one import line.

```python
from peakhold.keras import EarlyStopping, ModelCheckpoint, ReduceLROnPlateau, CSVLogger, TensorBoard
```

Each class is the neutral one of `peakhold` *and* a `keras.callbacks.Callback`. `LambdaCallback`,
`History` and `ProgbarLogger` are Keras's own: there is nothing to improve. Needs
`pip install peakhold[keras]` and a backend of Keras 3.
"""

from keras.callbacks import History, LambdaCallback, ProgbarLogger

from peakhold import callbacks as neutral
from peakhold._core.monitor import Relative
from peakhold._core.patience import Epochs, Seconds, Steps
from peakhold._core.policies.save_when import AtEnd, Every
from peakhold.keras.adapter import adapt
from peakhold.keras.batches import Batches
from peakhold.keras.callback import KerasCallback
from peakhold.keras.callback_list import CallbackList
from peakhold.keras.gradients import watch_gradients
from peakhold.keras.host import KerasHost, host_for
from peakhold.keras.production import production_callbacks
from peakhold.keras.swap_ema_weights import SwapEMAWeights
from peakhold.keras.tensorboard import TensorBoard

__all__ = [
    "Alert",
    "AtEnd",
    "BackupAndRestore",
    "Batches",
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "Epochs",
    "Every",
    "History",
    "KerasHost",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ProgbarLogger",
    "ReduceLROnPlateau",
    "Relative",
    "RemoteMonitor",
    "Seconds",
    "SlackAlert",
    "Steps",
    "SwapEMAWeights",
    "TensorBoard",
    "TerminateOnNaN",
    "adapt",
    "host_for",
    "production_callbacks",
    "watch_gradients",
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
