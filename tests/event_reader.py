"""Event files as TensorBoard's own code reads them; nothing of ours."""

import os

import numpy as np
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.compat.proto import event_pb2
from tensorboard.util import tensor_util

ALL = {"tensors": 0}


def files(folder):
    return sorted(name for name in os.listdir(folder) if "tfevents" in name)


def raw_events(folder):
    """All events of a folder, file by file, with what was taken back later."""
    for name in files(folder):
        for record in RawEventFileLoader(os.path.join(folder, name)).Load():
            yield event_pb2.Event.FromString(record)


def values(folder):
    """All `Summary.Value`s, in order: `(step, value)`."""
    return [(event.step, value) for event in raw_events(folder) for value in event.summary.value]


def opened(folder):
    reader = EventAccumulator(str(folder), size_guidance=ALL)
    reader.Reload()
    return reader


def multiplexed(log_dir):
    reader = EventMultiplexer(size_guidance=ALL).AddRunsFromDirectory(str(log_dir))
    reader.Reload()
    return reader


def array(event):
    return tensor_util.make_ndarray(event.tensor_proto)


def series(reader, tag):
    """`[(step, value)]` of a line, as a reader shows it."""
    return [(event.step, array(event).item()) for event in reader.Tensors(tag)]


def steps(reader, tag):
    return [event.step for event in reader.Tensors(tag)]


def tags(reader):
    return set(reader.Tags()["tensors"])


def float32(numbers):
    return [np.float32(number).item() for number in numbers]
