"""MLflow as a sink of a run."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Final, final

from peakhold.sinks.rows import EpochRow
from peakhold.sinks.tracker import About, RunEnding, Tracker

__all__ = ["MLflowSink"]

_STATUS: Final = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_RUN: Final = "peakhold.run_id"
_NOT_IN_NAMES: Final = re.compile(r"[^\w\-./ ]")
_LONGEST: Final = 4000
"""Letters of a parameter: MLflow takes 6,000."""


@final
class MLflowSink(Tracker):
    """Shows a run in MLflow: `pip install 'peakhold[mlflow]'`, or MLflow itself.

    MLflow's steps are epochs, from 0. Its run is found again by the tag `peakhold.run_id`: a start
    that goes on goes on with it. Values that an earlier start has told are not written again where
    they are the same; where they are others, MLflow keeps both, and the later is the newer.
    The metrics `best/val_loss`, … are the best; tags say what was decided, and why it ended.

    Args:
        experiment: MLflow's experiment, made if need be.
        tracking_uri: MLflow's server or store. Defaults to what `MLFLOW_TRACKING_URI` says.
        config: What else MLflow shall show as the run's parameters.
        name: What MLflow calls the run. Defaults to the folder's name and the run's id.
        close_timeout_s: Seconds that the end of the run waits for it.
        tags: Tags of the run.
    """

    where: ClassVar[str] = "MLflow"
    package: ClassVar[str] = "mlflow"

    def __init__(
        self,
        experiment: str = "Default",
        tracking_uri: str | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        name: str | None = None,
        close_timeout_s: float = 5.0,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(config=config, name=name, close_timeout_s=close_timeout_s)
        self.experiment, self.tracking_uri, self.tags = experiment, tracking_uri, dict(tags or {})
        self.run_id: str | None = None
        """MLflow's id of the run, as soon as it is open."""
        self._client: Any = None
        self._last = 0
        self._written: dict[tuple[str, int], float] = {}
        """What MLflow has, by name and step."""

    def begin(self, about: About) -> None:
        """Open MLflow's run, or go on with it."""
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = client = MlflowClient(self.tracking_uri)
        found = client.get_experiment_by_name(self.experiment)
        experiment = (
            client.create_experiment(self.experiment) if found is None else found.experiment_id
        )
        runs = client.search_runs([experiment], f"tags.`{_RUN}` = '{about.run_id}'", max_results=1)
        if runs:
            run = runs[0]
            client.update_run(run.info.run_id, status="RUNNING")
        else:
            tags = {**self.tags, _RUN: about.run_id}
            run = client.create_run(experiment, tags=tags, run_name=about.name)
        self.run_id = run.info.run_id
        for metric in run.data.metrics:
            for one in client.get_metric_history(self.run_id, metric):
                self._written[metric, one.step] = one.value
        # A parameter of MLflow's cannot be changed: the first value stays.
        params = [
            Param(_name(key), str(value)[:_LONGEST])
            for key, value in about.config.items()
            if _name(key) not in run.data.params
        ]
        for at in range(0, len(params), 100):  # so many at once
            client.log_batch(self.run_id, params=params[at : at + 100])

    def write(self, row: EpochRow) -> None:
        """Write an epoch."""
        self._last, best = row.epoch, {} if row.best is None else row.best.flat()
        self._log({**row.metrics, **best})

    def _log(self, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now, step, written = int(time.time() * 1000), self._last, self._written
        new = [
            Metric(name, float(value), now, step)
            for name, value in ((_name(key), value) for key, value in values.items())
            if not _same(written.get((name, step)), float(value))
        ]
        for at in range(0, len(new), 1000):  # so many at once
            self._client.log_batch(self.run_id, metrics=new[at : at + 1000])
        written.update({(one.key, step): one.value for one in new})

    def end(self, ending: RunEnding) -> None:
        """Write how it has ended."""
        from mlflow.entities import RunTag

        tags = {
            "peakhold.state": ending.state,
            "peakhold.stopped_because": ending.reason,
            "peakhold.decisions": ending.decided,
        }
        if ending.best is not None:  # it may have turned out since that one could not be saved
            self._log(ending.best.flat())
        self._client.log_batch(self.run_id, tags=[RunTag(*pair) for pair in tags.items()])
        self._client.set_terminated(self.run_id, _STATUS[ending.state])


def _name(name: str) -> str:
    """A name that MLflow takes."""
    return _NOT_IN_NAMES.sub("_", name)


def _same(before: float | None, now: float) -> bool:
    return before is not None and (before == now or (math.isnan(before) and math.isnan(now)))
