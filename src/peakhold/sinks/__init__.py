"""Sinks of a run's events: trackers of experiments, each an extra.

    run.add_sink(WandbSink("digits"))       # pip install 'peakhold[wandb]'

None is needed, and none is waited for. Importing this package loads no tracker.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peakhold.sinks.mlflow_sink import MLflowSink
    from peakhold.sinks.rows import EpochRow
    from peakhold.sinks.tracker import About, RunEnding, Tracker
    from peakhold.sinks.trackio_sink import TrackioSink
    from peakhold.sinks.wandb_sink import WandbSink

__all__ = ["About", "EpochRow", "MLflowSink", "RunEnding", "Tracker", "TrackioSink", "WandbSink"]

if not TYPE_CHECKING:
    from peakhold._names import lazily

    __getattr__ = lazily(
        globals(),
        {
            "About": "peakhold.sinks.tracker",
            "RunEnding": "peakhold.sinks.tracker",
            "MLflowSink": "peakhold.sinks.mlflow_sink",
            "EpochRow": "peakhold.sinks.rows",
            "Tracker": "peakhold.sinks.tracker",
            "TrackioSink": "peakhold.sinks.trackio_sink",
            "WandbSink": "peakhold.sinks.wandb_sink",
        },
    )
