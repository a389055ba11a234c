"""The files that TensorBoard shows, written and understood without it.

`EventWriter` can be used alone, in any loop. The callback on top of it is `peakhold.TensorBoard`.
"""

from peakhold.tensorboard.histogram import histogram
from peakhold.tensorboard.layer_graph import layer_graph
from peakhold.tensorboard.projector import Embedding, write_projector
from peakhold.tensorboard.resume import Left, left_by
from peakhold.tensorboard.run_folders import TRAIN, VALIDATION, RunFolders
from peakhold.tensorboard.writer import EventWriter

__all__ = [
    "TRAIN",
    "VALIDATION",
    "Embedding",
    "EventWriter",
    "Left",
    "RunFolders",
    "histogram",
    "layer_graph",
    "left_by",
    "write_projector",
]
