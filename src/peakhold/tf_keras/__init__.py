"""The callbacks of Keras 2 (`tf_keras`), rebuilt: swap one import line.

```python
from peakhold.tf_keras import EarlyStopping, ModelCheckpoint, ReduceLROnPlateau, CSVLogger
```

Each class is the neutral one of `peakhold` *and* a `tf_keras.callbacks.Callback`. This is the `fit`
for `tf.distribute.MultiWorkerMirroredStrategy`, which Keras 3's cannot train under. Files are
written by Keras 2's own `save`, while training waits. Needs `pip install peakhold[tf_keras]`;
`TF_USE_LEGACY_KERAS` may be set, and need not be.
"""

from tf_keras.callbacks import History, LambdaCallback, ProgbarLogger

from peakhold._core.monitor import Relative
from peakhold._core.patience import Epochs, Seconds, Steps
from peakhold._core.policies.save_when import AtEnd, Every
from peakhold.tf_keras.adapter import adapt
from peakhold.tf_keras.drop_ins import (
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
from peakhold.tf_keras.host.tf_keras_host import TFKerasHost, host_for

__all__ = [
    "Alert",
    "AtEnd",
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "Epochs",
    "Every",
    "History",
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
    "TFKerasHost",
    "TerminateOnNaN",
    "adapt",
    "host_for",
]
