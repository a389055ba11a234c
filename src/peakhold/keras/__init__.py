"""Keras's callbacks, rebuilt: swap one import line.

```python
from peakhold.keras import EarlyStopping, ModelCheckpoint, ReduceLROnPlateau, CSVLogger, TensorBoard
```

Each class is the neutral one of `peakhold` *and* a `keras.callbacks.Callback`. `LambdaCallback`,
`History` and `ProgbarLogger` are Keras's own: there is nothing to improve. Needs
`pip install peakhold[keras]` and a backend of Keras 3.
"""

from keras.callbacks import History, LambdaCallback, ProgbarLogger

from peakhold._core.monitor import Relative
from peakhold._core.patience import Epochs, Seconds, Steps
from peakhold._core.policies.save_when import AtEnd, Every
from peakhold.keras.adapter import adapt
from peakhold.keras.drop_ins import (
    Alert,
    BackupAndRestore,
    Callback,
    CSVLogger,
    EarlyStopping,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    RemoteMonitor,
    RunRecord,
    SlackAlert,
    TerminateOnNaN,
)
from peakhold.keras.fit.batches import Batches
from peakhold.keras.fit.callback_list import CallbackList
from peakhold.keras.host.gradients import watch_gradients
from peakhold.keras.host.keras_host import KerasHost, host_for
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
    "RunRecord",
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
